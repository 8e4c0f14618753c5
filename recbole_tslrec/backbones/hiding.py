"""Other methods for a model, for a moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def hiding(model: nn.Module, **attributes: Any) -> Iterator[None]:
    """Within, attributes of this one model hide its own of the same names.

    So no line of a backbone of RecBole's has to be written again; its class and other instances see
    nothing of it.
    """
    own = {name: vars(model)[name] for name in attributes if name in vars(model)}
    modules = {name: model._modules[name] for name in attributes if name in model._modules}
    try:
        for name, value in attributes.items():
            setattr(model, name, value)
        yield
    finally:
        for name in attributes.keys() - modules.keys():
            delattr(model, name)
        for name, value in (own | modules).items():
            setattr(model, name, value)


class Function(nn.Module):
    """A function where a model expects a module."""

    def __init__(self, function: Callable[..., Tensor]):
        super().__init__()
        self._function = function

    def forward(self, *arguments: Tensor) -> Tensor:
        return self._function(*arguments)

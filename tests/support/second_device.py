"""A stand-in for a GPU where there is none: memory of the CPU that is marked as a second device's.

A tensor is on the second device if its storage bears a mark. Moves, factories and ``torch.load`` set
marks, and what is computed from marked tensors is marked. Mixing marked and unmarked ones raises where
CUDA would, and so does reading a marked one with NumPy. It says nothing of speed, memory and precision,
and does not look into a backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, UntypedStorage
from torch.overrides import TorchFunctionMode

CUDA = torch.device("cuda", 0)
_MARK = "is_on_the_second_device"
# They copy, or read a shape: tensors of both devices will do, and each stays where it is.
_EITHER = {"copy_", "set_", "swap_tensors", "_has_compatible_shallow_copy_type"}
_EITHER |= {"expand_as", "view_as", "reshape_as", "broadcast_tensors"}
_INDEXING = {"__getitem__", "__setitem__", "index_put", "index_put_"}
# Others take a single number from the CPU beside tensors of the device.
_NO_NUMBERS = {"stack", "embedding", "gather", "index_select", "take_along_dim"}
_ANSWERS = {
    **{"is_available": True, "device_count": 1, "current_device": 0, "set_device": None},
    **{"is_bf16_supported": False, "get_device_name": "a stand-in"},  # float32, as on the CPU
    **{"memory_allocated": 0, "max_memory_allocated": 0, "memory_reserved": 0},
    **{"max_memory_reserved": 0, "mem_get_info": (2**36, 2**36), "reset_peak_memory_stats": None},
    **{"empty_cache": None, "synchronize": None, "manual_seed": None, "manual_seed_all": None},
    **{"get_rng_state": torch.zeros(16, dtype=torch.uint8), "get_rng_state_all": []},
    **{"set_rng_state": None, "set_rng_state_all": None},
}


def _marked(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and hasattr(tensor.untyped_storage(), _MARK)


def _tensors(value: Any) -> list[Tensor]:
    """Those within lists, tuples and dictionaries."""
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return sum(map(_tensors, parts), []) if isinstance(value, (list, tuple, dict)) else []


class SecondDevice(TorchFunctionMode):
    """Looks at each call of torch; what torch calls within one is not looked at."""

    def __torch_function__(self, func: Any, types: Any, args=(), kwargs=None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in ("__get__", "__set__", "__delete__"):
            return _attribute(func, args)
        if name in ("numpy", "__array__") and _marked(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        if name in _EITHER:
            return func(*args, **kwargs)
        if name in ("to", "cpu", "cuda", "type_as"):
            func, (args, kwargs) = Tensor.to, _move(name, *args, **kwargs)
        given = _tensors([args, kwargs])
        _check(name, args, given)
        asked = kwargs.get("device")
        on_device = any(map(_marked, given[:1] if name in _INDEXING else given))
        if asked is not None:
            on_device = torch.device(asked).type == "cuda"
            kwargs["device"] = "cpu" if on_device else asked
        if on_device and kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        result = func(*args, **kwargs)
        if any(result is one for one in given) and _marked(result) != on_device:
            result = result.clone()  # moved
        for tensor in _tensors(result) if on_device else ():
            # torch keeps a storage's Python object, with its attributes, while the memory lives.
            setattr(tensor.untyped_storage(), _MARK, True)
        return result


def _attribute(func: Any, args: tuple) -> Any:
    on_device, name = _marked(args[0]), func.__self__.__name__
    if on_device and name in ("device", "is_cuda", "is_cpu"):
        return {"device": CUDA, "is_cuda": True, "is_cpu": False}[name]
    result = func(*args)
    if on_device and isinstance(result, Tensor):  # a gradient comes from a backward pass
        setattr(result.untyped_storage(), _MARK, True)
    return result


def _move(name: str, tensor: Tensor, *args: Any, copy: bool = False, **more: Any) -> tuple:
    """The arguments of ``Tensor.to``, by name."""
    if name in ("cpu", "cuda"):
        args, more = (name,), {}
    other = args[0] if args else more.pop("other", None)
    if isinstance(other, Tensor):
        args = (CUDA if _marked(other) else other.device, other.dtype)
    device, dtype, _, layout = torch._C._nn._parse_to(*args, **more)
    given = {"device": device, "dtype": dtype, "copy": copy, "memory_format": layout}
    return (tensor,), {name: value for name, value in given.items() if value is not None}


def _check(name: str, args: tuple, given: list[Tensor]) -> None:
    """Raise RuntimeError where CUDA does for tensors on both devices."""
    on_cpu = [one for one in given if not _marked(one) and not one.is_meta]
    if not on_cpu or len(on_cpu) == len(given):
        return
    if name in _INDEXING:
        mixed = _mixes_by_index(*args[:3])
    elif name in _NO_NUMBERS or (name.endswith("_") and args[0] is on_cpu[0]):  # changed in place
        mixed = True
    else:
        mixed = any(one.dim() for one in on_cpu)
    if mixed:
        shapes = [tuple(one.shape) for one in on_cpu]
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and "
            f"cpu! ({name}; on the CPU: {shapes})"
        )


def _mixes_by_index(tensor: Tensor, index: Any, value: Any = None) -> bool:
    """Any index may be on the CPU. Beside one that is a list, what is written lies where it goes."""
    lists = [one for one in (index if isinstance(index, tuple) else [index]) if _is_list(one)]
    if not _marked(tensor) and any(map(_marked, _tensors(lists))):
        return True
    return bool(lists) and _is_list(value) and _marked(value) != _marked(tensor)


def _is_list(value: Any) -> bool:
    return value.dim() > 0 if isinstance(value, Tensor) else isinstance(value, (list, np.ndarray))


def _place(storage: UntypedStorage) -> str | None:
    return "cuda:0" if hasattr(storage, _MARK) else None


def _restored(storage: UntypedStorage, place: str) -> UntypedStorage | None:
    if place.startswith("cuda"):
        setattr(storage, _MARK, True)
        return storage
    return None


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Within, ``cuda`` is there for torch, RecBole, transformers and accelerate."""
    # It asks for CUDA as it is imported, and would call it then.
    import bitsandbytes  # noqa: F401

    files = [(0, _place, _restored), *torch.serialization._package_registry]
    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate keeps what it has found
    with pytest.MonkeyPatch.context() as patch, SecondDevice():
        for module in (torch.cuda, torch.cuda.random):
            for name in _ANSWERS.keys() & vars(module).keys():
                patch.setattr(module, name, lambda *_, name=name, **__: _ANSWERS[name])
        patch.setattr(torch.serialization, "_package_registry", files)
        patch.setenv("HF_DEACTIVATE_ASYNC_LOAD", "1")  # other threads would not be looked at
        patch.setenv("CUDA_VISIBLE_DEVICES", "0")  # RecBole sets it; to be undone
        yield CUDA
    AcceleratorState._reset_state(reset_partial_state=True)

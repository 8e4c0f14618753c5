"""The models of a paradigm that come in one for each backbone, ``TSLRec_SASRec`` for one."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping

from recbole.model.abstract_recommender import SequentialRecommender

from recbole_tslrec.backbones.registry import BACKBONES, Backbone

# What the trainers ask of a model, whether its mixin has it or not.
_ASKED_BY_TRAINERS = frozenset({"frozen", "scoring_term", "term_in_training"})


class OwnNames:
    """Stands between a mixin and a backbone's class: a name that both have is refused.

    A user's layer ``fusion`` would else give way to the mixin's, and never be called.
    """

    def __init__(self, config, dataset):
        try:
            super().__init__(config, dataset)
        except Exception as error:  # it may come of just that: a property of ours cannot be set
            self._check_names(str(error) if isinstance(error, (AttributeError, KeyError)) else "")
            raise
        self._check_names()

    def _check_names(self, failure: str = "") -> None:
        """Raise ValueError for a name of the mixin's that the backbone has defined, set or missed."""
        mro = type(self).__mro__
        place = mro.index(OwnNames)
        mixin, backbone = mro[:place], mro[place + 1]
        ours = _ASKED_BY_TRAINERS.union(*map(vars, mixin), *map(inspect.get_annotations, mixin))
        ours -= set(dir(SequentialRecommender))
        theirs = {*dir(backbone), *vars(self)}
        for parts in ("_modules", "_parameters", "_buffers"):
            theirs.update(vars(self).get(parts, ()))
        theirs.update(name for name in ours if f"'{name}'" in failure)
        if both := sorted(ours & theirs):
            raise ValueError(
                f"model: [{type(self).__name__}] has [{', '.join(both)}] of its own, and so has "
                f"[{backbone.__name__}]. Rename it in {backbone.__name__}."
            )


class BackboneModels(dict[str, type[SequentialRecommender]]):
    """A paradigm's models by RecBole's name: of each kind, one for every backbone of the table.

    A backbone that a user registers later gets its models as well. No backbone's code is copied.

    Args:
        module: ``__name__`` of the module that makes this. The classes are put there too: RecBole
            pickles a class by reference.
        kinds: by what their models' names begin with. A mixin stands before the backbone's own class; a
            model that has its backbone as a part is subclassed alone. Either finds its line of the table
            in ``backbone``.
        others: the paradigm's models that come in no such family.
    """

    def __init__(
        self, module: str, kinds: Mapping[str, type], others: Mapping[str, type] | None = None
    ):
        super().__init__(others or {})
        self._module, self._kinds = module, dict(kinds)
        for backbone in BACKBONES.values():
            self.add_backbone(backbone)

    def add_backbone(self, backbone: Backbone) -> list[type[SequentialRecommender]]:
        """Make the models of a backbone, and put them where they are found."""
        made = [self._make(name, kind, backbone) for name, kind in self._kinds.items()]
        by_name = {model.__name__: model for model in made}
        self.update(by_name)
        vars(sys.modules[self._module]).update(by_name)
        return made

    def _make(self, beginning: str, kind: type, backbone: Backbone) -> type[SequentialRecommender]:
        whole = issubclass(kind, SequentialRecommender)
        own = {
            "__module__": self._module,
            "__doc__": f"{kind.__doc__} The backbone is {backbone.name}.",
            "backbone": backbone,
        }
        bases = (kind,) if whole else (kind, OwnNames, backbone.model_class)
        return type(f"{beginning}_{backbone.name}", bases, own)

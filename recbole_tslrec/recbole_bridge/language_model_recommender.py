"""A recommender whose language model is trained, through adapters or whole, as RecBole keeps it."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from logging import getLogger
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender

from recbole_tslrec.data.histories import drawn_users, latest_rows

if TYPE_CHECKING:
    from torch import nn

    from recbole_tslrec.language_model.meter import Meter
    from recbole_tslrec.language_model.source import LanguageModelSource
    from recbole_tslrec.language_model.task import Learner, Task
    from recbole_tslrec.language_model.workload import Workload
    from recbole_tslrec.stages.pipeline import Pipeline
    from recbole_tslrec.stages.stage import Stage


# Beside what identifies the language model, in a state dict: no file of a model is called so.
_TEXTS = "texts of the items"
# Users whose scores are measured at a time.
_USERS_A_GROUP = 16


class LanguageModelRecommender(SequentialRecommender):
    """A model that ``LanguageModelTrainer`` trains.

    A state dict holds what is trained, what ``kept`` names, and what identifies the language model and
    the items' texts. The language model's frozen weights and the texts are not in it: they are read when
    the model is made, and a state dict that belongs to others is refused.

    Attributes:
        learning_rate_key: the key of its learning rate.
        schedule, weight_decay: of the training, see ``TrainingSettings``.
        kept: what stays in a state dict besides, by the beginnings of names.
        source: the opened language model.
        texts_fingerprint: of the items' texts; None where none are read.
        is_tested: False while the training's own validation scores; a control acts in tests alone, so
            that it changes neither what is trained nor the choice of its epoch.
        targets_alone: True while an evaluation goes by the rank of each row's own item, so that a model
            may leave undone what cannot change it.
    """

    learning_rate_key: ClassVar[str]
    schedule: ClassVar[str] = "constant"
    weight_decay: ClassVar[float] = 0.0
    kept: ClassVar[tuple[str, ...]] = ()

    source: LanguageModelSource
    texts_fingerprint: str | None = None

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.is_tested = True
        self._sft_users, self._seed = config["sft_users"], config["seed"]
        self.targets_alone = False
        self.register_state_dict_post_hook(_leave_out_the_base_model)
        self.register_load_state_dict_post_hook(_expect_no_base_model)

    # ---- what the trainer asks ------------------------------------------------------------------

    @staticmethod
    def stages(config) -> tuple[type[Stage], ...]:
        """The stages whose results this model takes."""
        raise NotImplementedError

    def prepare(self, pipeline: Pipeline) -> None:
        """Take what the stages made."""
        raise NotImplementedError

    def task(self, dataset) -> Task:
        """What to learn from RecBole's augmented training data set, a row an interaction."""
        raise NotImplementedError

    def learned_users(self, dataset, users: np.ndarray) -> np.ndarray:
        """Positions of the share ``sft_users`` of some users, ascending.

        Args:
            users: internal ids, each once.
        """
        tokens = dataset.field2id_token[dataset.uid_field][users]
        return drawn_users(tokens, self._sft_users, self._seed)

    def learned_rows(self, dataset, most: int) -> np.ndarray:
        """Positions of the training rows to learn from, ascending: every learned user's latest ``most``.

        Args:
            dataset: RecBole's augmented training data set.
        """
        users = dataset.inter_feat[dataset.uid_field].numpy()
        latest, all_users = latest_rows(users, most), np.unique(users)
        chosen = all_users[self.learned_users(dataset, all_users)]
        return latest[np.isin(users[latest], chosen)]

    def learner(self) -> Learner:
        """What the training loop trains; it shares this model's weights."""
        raise NotImplementedError

    def made_from(self, task: Task) -> dict[str, Any]:
        """What the trained weights depend on, for a fingerprint; after ``prepare``."""
        raise NotImplementedError

    # ---- what is measured -----------------------------------------------------------------------

    def prepare_to_measure(self, pipeline: Pipeline) -> None:
        """As ``prepare``, without what takes a language model to make."""
        self.prepare(pipeline)

    def workloads(self, pipeline: Pipeline, test_data) -> Iterable[Workload]:
        """What an epoch of its training and a test ask of its language model.

        Args:
            test_data: RecBole's loader.
        """
        from recbole_tslrec.language_model.workload import training_workload

        self.prepare_to_measure(pipeline)
        config, task = pipeline.config, self.task(pipeline.dataset)
        yield training_workload(
            "training", task, self.learner(), config["sft_batch_positions"], config["seed"]
        )
        yield self._test_workload(test_data._dataset)

    def _test_workload(self, dataset) -> Workload:
        """The scores of all items for every user that is tested."""
        from recbole_tslrec.language_model.workload import When, Workload, batch_sizes, in_groups

        rows = dataset.inter_feat
        groups = in_groups(rows[self.ITEM_SEQ_LEN].numpy(), _USERS_A_GROUP)

        @torch.no_grad()
        def run(places: np.ndarray, meter: Meter) -> None:
            self.eval()
            self.full_sort_predict(rows[torch.from_numpy(places)].to(self.device))

        reader = self.learner().reader
        sizes = batch_sizes(groups)
        return Workload("test", When.INFERENCE, "users", reader, groups, sizes, run)

    # ---- what is kept, and copies ---------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """What identifies the language model and the items' texts, for the state dict."""
        texts = {} if self.texts_fingerprint is None else {_TEXTS: self.texts_fingerprint}
        return self.source.identity | texts

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Raise ValueError if a state dict belongs to another language model or to other texts."""
        texts = state.get(_TEXTS)
        if {name: value for name, value in state.items() if name != _TEXTS} != self.source.identity:
            raise ValueError(
                f"llm: the language model [{self.source.name}] is not the one that these weights "
                f"were trained on: its files or its revision differ. Give that one."
            )
        if texts is None and self.texts_fingerprint is not None:
            getLogger(__name__).warning(
                "item_text: these weights are of an earlier version and do not say which texts the "
                "items had in training. If their words were changed since, scores are of other prompts."
            )
        elif texts != self.texts_fingerprint:
            raise ValueError(
                "item_text: the items' texts are not those that these weights were trained on. Give the "
                ".item file of the training."
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> LanguageModelRecommender:
        """A copy that shares the frozen weights: RecBole copies a model to count its operations."""
        memo.update(
            {id(weight): weight for weight in self.parameters() if not weight.requires_grad}
        )
        # Of int8 layers bitsandbytes keeps the weights here, and takes them out of the parameter.
        states = [getattr(module, "state", None) for module in self.modules()]
        memo.update({id(state): state for state in states if hasattr(state, "CB")})
        duplicate = type(self).__new__(type(self))
        memo[id(self)] = duplicate
        duplicate.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return duplicate


def without_wrapper(language_model: nn.Module) -> nn.Module:
    """A model with adapters without peft's wrapper; the adapters sit in its layers.

    The wrapper passes on the attributes of what is inside, which RecBole's count of operations takes
    for its own.
    """
    return language_model.get_base_model()


def _is_kept(model: LanguageModelRecommender, name: str, trained: set[str]) -> bool:
    return name in trained or name == "_extra_state" or name.startswith(model.kept)


def _trained(model: LanguageModelRecommender) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


def _leave_out_the_base_model(
    model: LanguageModelRecommender, state: dict[str, Any], prefix: str, _
) -> None:
    trained = _trained(model)
    for name in [name for name in state if name.startswith(prefix)]:
        if not _is_kept(model, name.removeprefix(prefix), trained):
            del state[name]


def _expect_no_base_model(model: LanguageModelRecommender, incompatible) -> None:
    trained = _trained(model)
    incompatible.missing_keys[:] = [
        name for name in incompatible.missing_keys if _is_kept(model, name, trained)
    ]

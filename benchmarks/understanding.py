"""What of TSLRec matters: one change at a time, on validation, over seeds, beside the same in controls.

    python benchmarks/understanding.py --dataset=ml-100k --seeds=3 \\
        --config_files=properties/compare_ml-100k.yaml

A change is some keys, or a piece (a fusion, vectors after a stage of its own, a trainer) that
stands in the register in place of ours for as long as a run lasts: what is only tried is tried
here, and the plug-in has no options for it. Runs are cells of a comparison, kept as such: those
without a change in the folder of ``compare``, from which they are taken if it has them, the others
in a folder of their own. All runs of a seed start from the same trained backbone. ``report`` is not
for that folder: to it each change is the same method under other settings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from recbole import trainer
from scipy import sparse
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn.utils import parametrize

from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.data.histories import Histories
from recbole_tslrec.experiments.run.comparison import compare
from recbole_tslrec.experiments.run.grid import Grid
from recbole_tslrec.experiments.run.kept_cells import DONE, ResultsFolder
from recbole_tslrec.experiments.run.tables import mean_text
from recbole_tslrec.paradigms.tslrec.augmentation.columns import standardise
from recbole_tslrec.paradigms.tslrec.augmentation.controls import VECTORS, MeanPreference
from recbole_tslrec.paradigms.tslrec.augmentation.fusions import FUSIONS, AloneFusion, GateFusion
from recbole_tslrec.paradigms.tslrec.augmentation.fusions.fusion import (
    EnhancedFusion,
    initial_scale,
)
from recbole_tslrec.paradigms.tslrec.augmentation.item_vectors import EnhancedEmbedding, ItemVectors
from recbole_tslrec.paradigms.tslrec.augmentation.stages import AugmentationStage
from recbole_tslrec.paradigms.tslrec.reconstruction.fine_tuning import FineTuningSettings
from recbole_tslrec.paradigms.tslrec.reconstruction.preferences import (
    mean_preferences,
    prior_preferences,
)
from recbole_tslrec.paradigms.tslrec.reconstruction.reconstruction_model import ReconstructionModel
from recbole_tslrec.paradigms.tslrec.reconstruction.stages import FineTuningStage
from recbole_tslrec.recbole_bridge.config_files import config_file_names
from recbole_tslrec.recbole_bridge.trainers import BackboneTrainer, TwoStageTrainer
from recbole_tslrec.stages.backbone import BackboneStage
from recbole_tslrec.stages.kmeans import latent_categories
from recbole_tslrec.stages.pipeline import Pipeline

METRIC = "ndcg@10"
_RECBOLES_RATE = 1e-3  # learning_rate, where none is given


# ---- the fused model ------------------------------------------------------------------------------


def whitened(vectors: Tensor) -> Tensor:
    """All principal directions of the standardised columns with the same variance, 1.

    Directions with less than a millionth of the largest variance are rounding, and become 0.
    """
    standard = standardise(vectors).double()
    variances, directions = torch.linalg.eigh(standard.T @ standard / len(standard))  # ascending
    real = variances > 1e-6 * variances[-1]
    white = standard @ torch.where(real, directions / variances.where(real, 1.0).sqrt(), 0.0)
    return white.flip(1).to(vectors.dtype)


class OneGateAnItem(GateFusion):
    """The gate is a number an item, not one a dimension."""

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__(id_embeddings, width, scale)
        self.gate = nn.Linear(2 * id_embeddings.shape[1], 1)


class GateAtIds(GateFusion):
    """The gate starts at 0.9 for the id embedding; TSLRec's own starts at a half."""

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__(id_embeddings, width, scale)
        nn.init.constant_(self.gate.bias, np.log(0.9 / 0.1))


class ProjectionAtIdsRate(GateFusion):
    """h' = s · (W_h x + b_h), s the size at which h' enters, W_h drawn so that h' starts the same.

    Adam moves every weight by about the learning rate, whatever its size. Those of the plug-in's W_h are
    as small as the ids' embeddings over the root of the width, and a step on all of them moves h' many
    times as far as e; here, about as far.
    """

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__(id_embeddings, width, scale)
        self.size = scale * initial_scale(id_embeddings)
        with torch.no_grad():
            self.projection.weight /= self.size

    def project(self) -> Tensor:
        return self.size * super().project()


class FixedProjection(GateFusion):
    """h' stays as it starts: of what stands beside the ids, the gate alone is learned."""

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__(id_embeddings, width, scale)
        self.projection.requires_grad_(False)


class OneScaleForAllRows(torch.optim.Adam):
    """Adam whose second moment is, for the item table, the mean over the rows: one number per column.

    Adam's own divides each row's gradient by its size there, so that a rare item moves about as far as a
    popular one. Here it moves as much less as its gradient is smaller; the table as a whole as far.
    """

    def __init__(self, params, table: nn.Parameter, **settings):
        super().__init__(params, **settings)
        self.table = table

    @torch.no_grad()
    def step(self, closure=None):
        group, table = self.param_groups[0], self.table
        gradient = table.grad.add(table, alpha=group["weight_decay"])
        table.grad = None  # Adam leaves it to us
        loss = super().step(closure)
        state = self.state[table]
        if not state:
            zeros = torch.zeros_like(table)
            state.update(step=0, exp_avg=zeros, exp_avg_sq=torch.zeros_like(table[0]))
        state["step"] += 1
        first, second = group["betas"]
        state["exp_avg"].lerp_(gradient, 1 - first)
        state["exp_avg_sq"].lerp_(gradient.pow(2).mean(dim=0), 1 - second)
        size = (state["exp_avg_sq"] / (1 - second ** state["step"])).sqrt() + group["eps"]
        table.addcdiv_(state["exp_avg"], size, value=-group["lr"] / (1 - first ** state["step"]))
        return loss


class _OneStepSize:
    """Mixin for a trainer: the item table, fused or not, is trained by ``OneScaleForAllRows``."""

    def _build_optimizer(self):
        backbone = BACKBONES[self.config["model"].split("_")[-1]]
        items = self.model.get_submodule(backbone.item_table)
        fused = parametrize.is_parametrized(items, "weight")
        table = items.parametrizations.weight.original if fused else items.weight
        settings = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        return OneScaleForAllRows(self.model.parameters(), table, **settings)


class OneStepSizeBackboneTrainer(_OneStepSize, BackboneTrainer):
    """The trainer of Base."""


class OneStepSizeTrainer(_OneStepSize, TwoStageTrainer):
    """The trainer of TSLRec."""


def neighbourly_directions(vectors: Tensor, together: sparse.csr_matrix, n_columns: int) -> Tensor:
    """A recommendation-aware PCA, after arXiv 2604.20490: little variation along a graph of items.

    The directions w, at right angles, of the largest wᵀXᵀXw − wᵀXᵀLXw = wᵀXᵀSXw; S the graph's
    symmetrically normalised weights, L = 1 − S. The paper weighs the second term; here both count the
    same. Scaled as the plug-in's PCA: a mean variance of 1 a column.

    Args:
        vectors: X, h^v with standardised columns, [n, width].
        together: how often two items occur in the same history, symmetric, [n, n].
    """
    exact = vectors.double().numpy()
    degrees = np.maximum(np.asarray(together.sum(axis=1)).ravel(), 1)
    root = sparse.diags(degrees**-0.5)
    _, directions = np.linalg.eigh(exact.T @ (root @ together @ root @ exact))  # ascending
    turned = exact @ directions[:, : -n_columns - 1 : -1]
    return torch.from_numpy(turned / np.sqrt((turned**2).mean())).to(vectors.dtype)


def occurring_together(histories: Histories, n_items: int) -> sparse.csr_matrix:
    """How many histories two items share, [n_items, n_items] without padding; an item with itself 0."""
    users = np.repeat(np.arange(len(histories)), histories.lengths)
    counts = (np.ones(len(users)), (histories.items - 1, users))
    has = sparse.csr_matrix(counts, shape=(n_items, len(histories))).sign()
    together = has @ has.T
    return together - sparse.diags(together.diagonal(), format="csr")


class AsGiven(GateFusion):
    """The vectors enter as they are, their columns neither standardised nor reduced."""

    def set_enhanced(self, embeddings: Tensor) -> None:
        self.enhanced[1:] = embeddings


class Whitened(GateFusion):
    """The vectors enter whitened, as many of their principal directions as there are columns."""

    def set_enhanced(self, embeddings: Tensor) -> None:
        # The plug-in's PCA would choose among directions of equal variance.
        self.enhanced[1:] = whitened(embeddings)[:, : self.enhanced.shape[1]]


class InferredDistribution(EnhancedEmbedding):
    """ĝ^v, what the tuned language model predicts for an item, in the place of h^v.

    It is to `mean_preference` as prediction to target. [n_items, K], and K is to be `enhanced_dim`.
    """

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        return pipeline.stage(AugmentationStage).category_distributions()


class NeighbourlyDirections(EnhancedEmbedding):
    """In place of the PCA, directions of h^v in which the items of a history differ little."""

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        together = occurring_together(pipeline.histories, len(pipeline.tokens))
        vectors = standardise(EnhancedEmbedding.make(pipeline))
        n_columns = min(vectors.shape[1], pipeline.config["enhanced_dim"])
        return neighbourly_directions(vectors, together, n_columns)


# ---- fine-tuning ----------------------------------------------------------------------------------


def cut(histories: Histories, seed: int) -> tuple[Histories, Histories]:
    """The histories' beginnings and their remainders; each has one item at least of two or more.

    A history of one item is both.
    """
    random = np.random.default_rng(seed)
    lengths = histories.lengths
    # From 1 to length - 1, each as likely.
    places = np.where(lengths > 1, 1 + (random.random(len(lengths)) * (lengths - 1)).astype(int), 1)
    position = np.arange(len(histories.items)) - np.repeat(histories.offsets[:-1], lengths)
    first = position < np.repeat(places, lengths)
    rest = ~first | np.repeat(lengths == 1, lengths)
    return _chosen(histories, first), _chosen(histories, rest)


def _chosen(histories: Histories, chosen: np.ndarray) -> Histories:
    users = np.repeat(np.arange(len(histories)), histories.lengths)
    lengths = np.bincount(users[chosen], minlength=len(histories))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Histories(histories.user_ids, offsets, histories.items[chosen])


class _TunedOtherwise(FineTuningStage):
    """Fine-tuning with one thing done otherwise, and kept apart from the plug-in's own."""

    change: ClassVar[str]

    @cached_property
    def made_from(self) -> dict[str, Any]:
        return super().made_from | {"change": self.change}


class Remainder(_TunedOtherwise):
    """A prompt holds the beginning of a history; the target is the distribution of its remainder."""

    change = "target: the remainder"

    def examples(self) -> tuple[Histories, sparse.csr_matrix]:
        first, rest = cut(self.pipeline.histories, self.config["seed"])
        labels = np.concatenate([[-1], self.categories.item_categories().numpy()])
        return first, prior_preferences(rest, labels, self.config["n_categories"])


class ShortPrompts(_TunedOtherwise):
    """Besides the history, one of its items alone, drawn at random, has the user's distribution."""

    change = "one item alone as a second prompt"

    def examples(self) -> tuple[Histories, sparse.csr_matrix]:
        histories, preferences = super().examples()
        return with_single_items(histories, preferences, self.config["seed"])

    def how(self) -> FineTuningSettings:
        return SplitByUser(**asdict(super().how()))


@dataclass(frozen=True)
class SplitByUser(FineTuningSettings):
    """Of examples that are all users twice, a user who is watched is learned from under neither."""

    def split(self, n_examples: int) -> tuple[np.ndarray, np.ndarray]:
        train, valid = super().split(n_examples // 2)
        return np.concatenate([train, train + n_examples // 2]), valid


def with_single_items(
    histories: Histories, preferences: sparse.csr_matrix, seed: int
) -> tuple[Histories, sparse.csr_matrix]:
    """All histories, and after them one item of each at random, with the same preferences."""
    draw = np.random.default_rng(seed).random(len(histories))
    single = histories.items[histories.offsets[:-1] + (draw * histories.lengths).astype(int)]
    ends = histories.offsets[-1] + 1 + np.arange(len(histories))
    both = Histories(
        np.tile(histories.user_ids, 2),
        np.concatenate([histories.offsets, ends]),
        np.concatenate([histories.items, single]),
    )
    return both, sparse.vstack([preferences] * 2).tocsr()


_SEVERAL = (20, 50, 200)


def several_preferences(pipeline: Pipeline) -> sparse.csr_matrix:
    """The users' distributions over 20, 50 and 200 categories, one beside the other.

    Each counts a third, so that a row still sums to 1.
    """
    embeddings, one_each = pipeline.stage(BackboneStage).item_embeddings().numpy(), []
    backend, seed = pipeline.config["category_backend"], pipeline.config["seed"]
    for number in _SEVERAL:
        found = latent_categories(embeddings, number, backend=backend, seed=seed)
        labels = np.concatenate([[-1], found.labels])
        one_each.append(prior_preferences(pipeline.histories, labels, number))
    return (sparse.hstack(one_each).tocsr() / len(_SEVERAL)).astype(np.float32)


class SeveralSoftmaxes(ReconstructionModel):
    """A softmax for each number of categories, that counts a third."""

    def distribution(self, hidden: Tensor) -> Tensor:
        logits = self.preference_head(hidden).float().split(_SEVERAL, dim=1)
        return torch.cat([part.softmax(dim=1) for part in logits], dim=1) / len(_SEVERAL)


class SeveralCategories(_TunedOtherwise):
    """The target is the user's distributions over several numbers of categories at once."""

    change = "K = 20 and 50 and 200 at once"

    def examples(self) -> tuple[Histories, sparse.csr_matrix]:
        return self.pipeline.histories, several_preferences(self.pipeline)

    def reconstruction_model(self) -> ReconstructionModel:
        return of_class(SeveralSoftmaxes, super().reconstruction_model())


class SeveralMeanPreferences(MeanPreference):
    """The control beside ``SeveralCategories``."""

    @staticmethod
    def make(pipeline: Pipeline) -> Tensor:
        preferences = several_preferences(pipeline)
        means = mean_preferences(pipeline.histories, preferences, len(pipeline.tokens) + 1)
        return torch.from_numpy(means[1:])


class WithCrossEntropy(ReconstructionModel):
    """Cross entropy on the same target in place of Eq. 3, for training and early stopping alike."""

    def error(self, preference: Tensor, predicted: Tensor) -> Tensor:
        return -(preference * predicted.clamp(min=1e-9).log()).sum(dim=1)


class CrossEntropy(_TunedOtherwise):
    """Fine-tuning by cross entropy."""

    change = "cross entropy"

    def reconstruction_model(self) -> ReconstructionModel:
        return of_class(WithCrossEntropy, super().reconstruction_model())


def of_class(kind: type[ReconstructionModel], model: ReconstructionModel) -> ReconstructionModel:
    """The same modules, weights and all, under another class."""
    model.__class__ = (
        kind  # a new object would draw its weights, and so shift all draws that follow
    )
    return model


def vectors_after(tuning: type[FineTuningStage]) -> type[EnhancedEmbedding]:
    """h^v of a language model that was tuned by another stage than the plug-in's."""

    class Augmentation(AugmentationStage):
        needs = (tuning,)

        @property
        def fine_tuning(self) -> FineTuningStage:
            return self.pipeline.stage(tuning)

    class Vectors(EnhancedEmbedding):
        stages = (Augmentation,)

        @staticmethod
        def make(pipeline: Pipeline) -> Tensor:
            return pipeline.stage(Augmentation).enhanced_embeddings()

    return Vectors


# ---- the study ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One thing done otherwise.

    Attributes:
        variants: in which of them; Base and CI have no h^v, and controls no fine-tuning.
        keys: settings.
        rate: times the comparison's learning rate.
        fusion, vectors, trainers: what is registered for the time of the run: a fusion as "gate",
            vectors by the value of ``enhancement``, trainers by the prefix of a model's name.
        version: raised when the piece does something else than before: its kept lines and stages do not
            count then.
    """

    variants: tuple[str, ...]
    keys: dict[str, Any] = field(default_factory=dict)
    rate: float | None = None
    fusion: type[EnhancedFusion] | None = None
    vectors: dict[str, type[ItemVectors]] = field(default_factory=dict)
    trainers: dict[str, type[BackboneTrainer]] = field(default_factory=dict)
    version: int = 1

    @contextmanager
    def registered(self) -> Iterator[None]:
        """The pieces stand in the registers in which the plug-in looks its own up."""
        trainers = {
            f"{prefix}{backbone}Trainer": kind
            for prefix, kind in self.trainers.items()
            for backbone in BACKBONES
        }
        gate = {} if self.fusion is None else {"gate": self.fusion}
        pieces = [(FUSIONS, gate), (VECTORS, self.vectors), (vars(trainer), trainers)]
        before = [{name: register[name] for name in added} for register, added in pieces]
        for register, added in pieces:
            register.update(added)
        try:
            yield
        finally:
            for (register, _), own in zip(pieces, before, strict=True):
                register.update(own)


def _gate(piece: type[EnhancedFusion]) -> Change:
    return Change(_FUSED, {"fusion": "gate"}, fusion=piece)


def _tuned(stage: type[FineTuningStage]) -> Change:
    return Change(("TSLRec",), vectors={"tslrec": vectors_after(stage)})


_FUSED = ("random", "backbone_embedding", "mean_preference", "TSLRec")
UNCHANGED = ("Base", "CI", "frozen_lm", *_FUSED)
CHANGES: dict[str, Change] = {
    # A fused table may only learn faster; then Base does as well under another learning rate.
    "learning rate × 3": Change(("Base", "CI", *_FUSED), rate=3),
    "learning rate / 3": Change(("Base", "CI", *_FUSED), rate=1 / 3),
    "equal norms": Change(("Norm", "CI", "frozen_lm", *_FUSED), {"item_norm": "l2"}),
    "sum in place of the gate": Change(_FUSED, {"fusion": "sum"}),
    "h' at 0.3 of the ids' scale": Change(_FUSED, {"enhanced_scale": 0.3}),
    "h' at 3 times the ids' scale": Change(_FUSED, {"enhanced_scale": 3.0}),
    "h' learns at the ids' rate": _gate(ProjectionAtIdsRate),
    "h' stays as it starts": _gate(FixedProjection),
    "one step size for all items": Change(
        ("Base", "random", "TSLRec"),
        trainers={"": OneStepSizeBackboneTrainer, "TSLRec_": OneStepSizeTrainer},
    ),
    "h' without the ids": _gate(AloneFusion),
    "one gate an item": _gate(OneGateAnItem),
    "gate starts at 0.9 for the ids": _gate(GateAtIds),
    "whitened": Change(_FUSED, fusion=Whitened),
    "128 columns by PCA": Change(("TSLRec",), {"enhanced_dim": 128}),
    # As many as `backbone_embedding` has: Adam moves h' the further the more columns there are.
    "64 columns by PCA": Change(("random", "TSLRec"), {"enhanced_dim": 64}),
    "ĝ^v in place of h^v": Change(
        ("TSLRec",), {"enhanced_dim": 50}, vectors={"tslrec": InferredDistribution}
    ),
    "128 columns by recommendation-aware PCA": Change(
        ("TSLRec",),
        {"enhanced_dim": 128},
        fusion=AsGiven,
        vectors={"tslrec": NeighbourlyDirections},
    ),
    "K = 20": Change(("CI", "mean_preference", "TSLRec"), {"n_categories": 20}),
    "K = 200": Change(("CI", "mean_preference", "TSLRec"), {"n_categories": 200}),
    "K = 1000": Change(("CI", "mean_preference", "TSLRec"), {"n_categories": 1000}),
    "K = 20 and 50 and 200 at once": Change(
        ("mean_preference", "TSLRec"),
        {"n_categories": sum(_SEVERAL)},
        vectors={
            "tslrec": vectors_after(SeveralCategories),
            "mean_preference": SeveralMeanPreferences,
        },
    ),
    "mean of the hidden states": Change(("TSLRec",), {"llm_pooling": "mean"}),
    "1 epoch of fine-tuning": Change(("TSLRec",), {"sft_epochs": 1}),
    "target: the remainder": _tuned(Remainder),
    "one item alone as a second prompt": _tuned(ShortPrompts),
    "cross entropy": _tuned(CrossEntropy),
}


def run(name: str, seed: int, backbone: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """The lines of one change and seed, one a variant; trained where they are not kept.

    Args:
        backbone: the trained Base of the seed, without any change.
    """
    change = CHANGES[name]
    version = name if change.version == 1 else f"{name} (version {change.version})"
    settings = change.keys | {
        "change": version,  # part of the cells' ids, which know nothing of pieces
        "backbone_checkpoint": str(backbone),
    }
    if change.rate is not None:
        given = grid(change.variants, seed, args).given(args.dataset)
        settings["learning_rate"] = change.rate * given.get("learning_rate", _RECBOLES_RATE)
    with change.registered():
        return compare(grid(wanted(change.variants, args), seed, args, settings), args.work).lines


def wanted(variants: tuple[str, ...], args: argparse.Namespace) -> tuple[str, ...]:
    """Those of a change's variants that are to run."""
    return tuple(name for name in variants if args.variants is None or name in args.variants)


def run_unchanged(seed: int, args: argparse.Namespace) -> tuple[list[dict[str, Any]], Path]:
    """The comparison's own lines, and its Base's checkpoint, which all changes start from."""
    beside = tuple(name for name in UNCHANGED if name == "Base" or wanted((name,), args))
    comparison = compare(grid(beside, seed, args), args.results)
    base = comparison.cells[0]
    if comparison.lines[0]["status"] != DONE:
        raise SystemExit(f"Base of seed {seed} has failed: {comparison.lines[0]['error']}")
    trained = ResultsFolder(args.results).checkpoint(base.id, base.model)
    if trained is None:  # the lines were kept, and the model was not
        again = compare(grid(("Base",), seed, args), args.work / "base")
        if again.lines[0].get("valid") != comparison.lines[0]["valid"]:
            raise SystemExit(
                f"--results: the Base of seed {seed} that is kept in [{args.results}] comes out "
                f"otherwise here, on another machine or number of threads. Give another folder."
            )
        trained = ResultsFolder(args.work / "base").checkpoint(base.id, base.model)
    if trained is None:
        raise SystemExit(
            f"--work: [{args.work / 'base'}] has the result of seed {seed}'s Base and not its trained "
            f"model any more. Remove that folder; it is made again."
        )
    return comparison.lines, trained


def grid(
    variants: tuple[str, ...], seed: int, args, settings: dict[str, Any] | None = None
) -> Grid:
    """Cells of the study as a comparison has them."""
    return Grid(
        datasets=[args.dataset],
        backbones=[args.backbone],
        variants=variants,
        seeds=[seed],
        config_files=config_file_names(args.config_files),
        settings=settings or {},
    )


def table(lines: dict[tuple[str, str, int], dict[str, Any]]) -> str:
    """A row a change and variant: mean ± standard deviation, and the difference a seed to no change.

    Args:
        lines: by change, variant and seed.
    """
    done = {key: line for key, line in lines.items() if line["status"] == DONE}
    validation = {key: line["valid"][METRIC] for key, line in done.items()}
    test = {key: line["test"]["ranked"][METRIC] for key, line in done.items()}
    rows = []
    for name, variant in dict.fromkeys(key[:2] for key in done):
        seeds = [seed for one, two, seed in done if (one, two) == (name, variant)]
        plain = "Base" if variant == "Norm" else variant
        rows.append(
            [
                name,
                variant,
                len(seeds),
                mean_text([validation[name, variant, seed] for seed in seeds]),
                mean_text([test[name, variant, seed] for seed in seeds]),
                ", ".join(
                    f"{validation[name, variant, seed] - validation['none', plain, seed]:+.4f}"
                    for seed in seeds
                    if name != "none" and ("none", plain, seed) in done
                ),
            ]
        )
    headers = ["change", "variant", "seeds", "validation NDCG@10", "test NDCG@10"]
    headers.append("validation, change by seed")
    return tabulate(rows, headers, tablefmt="github", disable_numparse=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--backbone", default="SASRec")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--changes", help="of them, separated by commas; all of them if not given")
    parser.add_argument(
        "--variants",
        type=lambda text: text.split(","),
        help="with a change, separated by commas; all that it is for if not given",
    )
    parser.add_argument("--config_files", default="", help="yaml files, separated by spaces")
    parser.add_argument(
        "--results", type=Path, default=Path("results"), help="a comparison's folder"
    )
    parser.add_argument(
        "--work",
        type=Path,
        help="the changed ones' folder; understanding in --results if not given",
    )
    args = parser.parse_args()
    args.work = args.work or args.results / "understanding"
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    for name in args.variants or ():
        if name not in (*UNCHANGED, "Norm"):
            raise SystemExit(f"--variants: [{name}] is not one of: {', '.join(UNCHANGED)}, Norm.")
    some = [name for name, change in CHANGES.items() if wanted(change.variants, args)]
    names = args.changes.split(",") if args.changes else some
    for name in names:
        if name not in CHANGES:
            raise SystemExit(f"--changes: [{name}] is not one of: {', '.join(CHANGES)}.")
        if name not in some:
            raise SystemExit(
                f"--variants: [{','.join(args.variants)}] has none that the change [{name}] is for: "
                f"{', '.join(CHANGES[name].variants)}."
            )
    lines = {}
    for seed in range(2020, 2020 + args.seeds):
        unchanged, backbone = run_unchanged(seed, args)
        lines |= {("none", line["variant"], seed): line for line in unchanged}
        for name in names:
            for line in run(name, seed, backbone, args):
                lines[name, line["variant"], seed] = line
    print(table(lines))
    for key, line in lines.items():
        if line["status"] != DONE:
            raise SystemExit(f"{key} has failed, and will be tried again: {line['error']}")


if __name__ == "__main__":
    main()

"""What of TSLRec matters: one change at a time, on validation, over seeds, beside the same in controls.

    python benchmarks/understanding.py --dataset=ml-100k --seeds=3 \\
        --config_files=properties/compare_ml-100k.yaml

A change is some keys, or a piece put in the place of one of ours for as long as a run lasts: what is
only tried is tried here, and the plug-in has no options for it. Runs are cells of a comparison, kept as
such: those without a change in the folder of ``compare``, from which they are taken if it has them, the
others in a folder of their own. All runs of a seed start from the same trained backbone. ``report`` is
not for that folder: to it each change is the same method under other settings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from scipy import sparse
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn.utils import parametrize

from recbole_tslrec.backbones.specification import BACKBONES
from recbole_tslrec.data.histories import Histories
from recbole_tslrec.experiments.report.grid_tables import mean_text
from recbole_tslrec.experiments.run.comparison import compare
from recbole_tslrec.experiments.run.grid import Grid
from recbole_tslrec.experiments.run.kept_cells import DONE, ResultsFolder
from recbole_tslrec.paradigms.tslrec.augmentation import fusion
from recbole_tslrec.paradigms.tslrec.augmentation.fusion import standardise
from recbole_tslrec.paradigms.tslrec.augmentation.stages import AugmentationStage
from recbole_tslrec.paradigms.tslrec.augmentation.vectors import EnhancedEmbedding
from recbole_tslrec.paradigms.tslrec.reconstruction import fine_tuning
from recbole_tslrec.paradigms.tslrec.reconstruction.categories import latent_categories
from recbole_tslrec.paradigms.tslrec.reconstruction.preferences import prior_preferences
from recbole_tslrec.paradigms.tslrec.reconstruction.reconstruction_model import ReconstructionModel
from recbole_tslrec.paradigms.tslrec.reconstruction.stages import CategoriesStage
from recbole_tslrec.recbole_bridge.trainers import BackboneTrainer

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


class OneGateAnItem(fusion.GateFusion):
    """The gate is a number an item, not one a dimension."""

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__(id_embeddings, width, scale)
        self.gate = nn.Linear(2 * id_embeddings.shape[1], 1)


class GateAtIds(fusion.GateFusion):
    """The gate starts at 0.9 for the id embedding; TSLRec's own starts at a half."""

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__(id_embeddings, width, scale)
        nn.init.constant_(self.gate.bias, np.log(0.9 / 0.1))


class ProjectionAtIdsRate(fusion.GateFusion):
    """h' = s · (W_h x + b_h), s the size at which h' enters, W_h drawn so that h' starts the same.

    Adam moves every weight by about the learning rate, whatever its size. Those of the plug-in's W_h are
    as small as the ids' embeddings over the root of the width, and a step on all of them moves h' many
    times as far as e; here, about as far.
    """

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__(id_embeddings, width, scale)
        self.size = scale * fusion.initial_scale(id_embeddings)
        with torch.no_grad():
            self.projection.weight /= self.size

    def project(self) -> Tensor:
        return self.size * super().project()


class FixedProjection(fusion.GateFusion):
    """h' stays as it starts: of what stands beside the ids, the gate alone is learned."""

    def __init__(self, id_embeddings: Tensor, width: int, scale: float):
        super().__init__(id_embeddings, width, scale)
        self.projection.requires_grad_(False)


class NoIds(fusion.EnhancedFusion):
    """h' alone is the item table."""

    def forward(self, id_embeddings: Tensor) -> Tensor:
        return self.project()


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


@contextmanager
def one_step_size() -> Iterator[None]:
    """The backbone's item table, fused or not, is trained by ``OneScaleForAllRows``."""

    def build(self):
        backbone = BACKBONES[self.config["model"].split("_")[-1]]
        items = self.model.get_submodule(backbone.item_table)
        fused = parametrize.is_parametrized(items, "weight")
        table = items.parametrizations.weight.original if fused else items.weight
        settings = {"lr": self.learning_rate, "weight_decay": self.weight_decay}
        return OneScaleForAllRows(self.model.parameters(), table, **settings)

    with mock.patch.object(BackboneTrainer, "_build_optimizer", build):
        yield


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


@contextmanager
def inferred_distributions() -> Iterator[None]:
    """ĝ^v, what the tuned language model predicts for an item, in the place of h^v.

    It is to `preferences` as prediction to target. [n_items, K], and K is to be `enhanced_dim`.
    """

    def make(pipeline):
        return pipeline.stage(AugmentationStage).category_distributions()

    with mock.patch.object(EnhancedEmbedding, "make", make):
        yield


@contextmanager
def recommendation_aware() -> Iterator[None]:
    """In place of the PCA, directions of h^v in which the items of a history differ little."""
    graphs = []
    make = EnhancedEmbedding.make

    def note_graph(pipeline):
        graphs.append(occurring_together(pipeline.histories, len(pipeline.tokens)))
        return make(pipeline)

    def reduce(vectors, n_columns):
        return neighbourly_directions(vectors, graphs.pop(), n_columns)

    with (
        mock.patch.object(EnhancedEmbedding, "make", note_graph),
        mock.patch.object(fusion, "reduce_columns", reduce),
    ):
        yield


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


@contextmanager
def remainder() -> Iterator[None]:
    """A prompt holds the beginning of a history; the target is the distribution of its remainder."""
    tune = fine_tuning.fine_tune

    def preferences(self):
        labels = np.concatenate([[-1], self.item_categories().numpy()])
        _, rest = cut(self.pipeline.histories, self.config["seed"])
        return prior_preferences(rest, labels, self.config["n_categories"])

    def tune_beginnings(model, prompt, histories, preferences, settings, *others):
        first, _ = cut(histories, settings.seed)
        return tune(model, prompt, first, preferences, settings, *others)

    with (
        mock.patch.object(CategoriesStage, "preferences", preferences),
        mock.patch.object(fine_tuning, "fine_tune", tune_beginnings),
    ):
        yield


@contextmanager
def short_prompts() -> Iterator[None]:
    """Besides the history, one of its items alone, drawn at random, has the user's distribution."""
    tune, split = fine_tuning.fine_tune, fine_tuning.split_users

    def split_once(n_rows, valid_ratio, seed):
        # By user: one who is watched is not learned from, under either of the two prompts.
        train, valid = split(n_rows // 2, valid_ratio, seed)
        return np.concatenate([train, train + n_rows // 2]), valid

    def tune_both(model, prompt, histories, preferences, settings, *others):
        draw = np.random.default_rng(settings.seed).random(len(histories))
        single = histories.items[histories.offsets[:-1] + (draw * histories.lengths).astype(int)]
        both = Histories(
            np.tile(histories.user_ids, 2),
            np.concatenate(
                [histories.offsets, histories.offsets[-1] + 1 + np.arange(len(histories))]
            ),
            np.concatenate([histories.items, single]),
        )
        return tune(
            model, prompt, both, sparse.vstack([preferences] * 2).tocsr(), settings, *others
        )

    with (
        mock.patch.object(fine_tuning, "fine_tune", tune_both),
        mock.patch.object(fine_tuning, "split_users", split_once),
    ):
        yield


_SEVERAL = (20, 50, 200)


@contextmanager
def several_categories() -> Iterator[None]:
    """The target is the user's distributions over 20, 50 and 200 categories, one beside the other.

    Each is a softmax of its own and counts a third, so that both sides still sum to 1.
    """

    def preferences(self):
        embeddings, one_each = self.backbone.item_embeddings().numpy(), []
        for number in _SEVERAL:
            found = latent_categories(
                embeddings,
                number,
                backend=self.config["category_backend"],
                seed=self.config["seed"],
            )
            labels = np.concatenate([[-1], found.labels])
            one_each.append(prior_preferences(self.pipeline.histories, labels, number))
        return (sparse.hstack(one_each).tocsr() / len(_SEVERAL)).astype(np.float32)

    def distribution(self, hidden):
        logits = self.preference_head(hidden).float().split(_SEVERAL, dim=1)
        return torch.cat([part.softmax(dim=1) for part in logits], dim=1) / len(_SEVERAL)

    with (
        mock.patch.object(CategoriesStage, "preferences", preferences),
        mock.patch.object(ReconstructionModel, "distribution", distribution),
    ):
        yield


@contextmanager
def cross_entropy() -> Iterator[None]:
    """Cross entropy on the same target in place of Eq. 3, for training and early stopping alike."""
    forward = ReconstructionModel.forward

    def with_cross_entropy(self, preference, **prompts):
        outputs = forward(self, preference, **prompts)
        predicted = self.distribution(self.reader(**prompts))
        error = -(preference * predicted.clamp(min=1e-9).log()).sum(dim=1)
        return outputs | {"loss": error.mean(), "error": error}

    with mock.patch.object(ReconstructionModel, "forward", with_cross_entropy):
        yield


# ---- the study ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Change:
    """One thing done otherwise.

    Attributes:
        variants: in which of them; Base and CI have no h^v, and controls no fine-tuning.
        keys: settings.
        rate: times the comparison's learning rate.
        piece: what stands in the place of one of ours.
        own_stages: the piece changes what a stage makes, unknown to the stage's fingerprint.
        version: raised when the piece does something else than before: its kept lines and stages do not
            count then.
    """

    variants: tuple[str, ...]
    keys: dict[str, Any] = field(default_factory=dict)
    rate: float | None = None
    piece: Callable[[], Any] | None = None
    own_stages: bool = False
    version: int = 1


def _gate(piece: type[fusion.EnhancedFusion]) -> Change:
    return Change(
        _FUSED,
        {"fusion": "gate"},
        piece=lambda: mock.patch.dict(fusion.FUSIONS, {"gate": piece}),
    )


@contextmanager
def _whitened() -> Iterator[None]:
    def first(
        vectors, n_columns
    ):  # the plug-in's PCA would choose among directions of equal variance
        return vectors[:, :n_columns]

    with (
        mock.patch.object(fusion, "standardise", whitened),
        mock.patch.object(fusion, "reduce_columns", first),
    ):
        yield


_FUSED = ("random", "pretrained", "preferences", "TSLRec")
UNCHANGED = ("Base", "CI", "untuned", *_FUSED)
CHANGES: dict[str, Change] = {
    # A fused table may only learn faster; then Base does as well under another learning rate.
    "learning rate × 3": Change(("Base", "CI", *_FUSED), rate=3),
    "learning rate / 3": Change(("Base", "CI", *_FUSED), rate=1 / 3),
    "equal norms": Change(("Norm", "CI", "untuned", *_FUSED), {"item_norm": "l2"}),
    "sum in place of the gate": Change(_FUSED, {"fusion": "sum"}),
    "h' at 0.3 of the ids' scale": Change(_FUSED, {"enhanced_scale": 0.3}),
    "h' at 3 times the ids' scale": Change(_FUSED, {"enhanced_scale": 3.0}),
    "h' learns at the ids' rate": _gate(ProjectionAtIdsRate),
    "h' stays as it starts": _gate(FixedProjection),
    "one step size for all items": Change(("Base", "random", "TSLRec"), piece=one_step_size),
    "h' without the ids": _gate(NoIds),
    "one gate an item": _gate(OneGateAnItem),
    "gate starts at 0.9 for the ids": _gate(GateAtIds),
    "whitened": Change(_FUSED, piece=_whitened),
    "128 columns by PCA": Change(("TSLRec",), {"enhanced_dim": 128}),
    # As many as `pretrained` has: Adam moves h' the further the more columns there are.
    "64 columns by PCA": Change(("random", "TSLRec"), {"enhanced_dim": 64}),
    "ĝ^v in place of h^v": Change(("TSLRec",), {"enhanced_dim": 50}, piece=inferred_distributions),
    "128 columns by recommendation-aware PCA": Change(
        ("TSLRec",), {"enhanced_dim": 128}, piece=recommendation_aware
    ),
    "K = 20": Change(("CI", "preferences", "TSLRec"), {"n_categories": 20}),
    "K = 200": Change(("CI", "preferences", "TSLRec"), {"n_categories": 200}),
    "K = 1000": Change(("CI", "preferences", "TSLRec"), {"n_categories": 1000}),
    "K = 20 and 50 and 200 at once": Change(
        ("preferences", "TSLRec"),
        {"n_categories": sum(_SEVERAL)},
        piece=several_categories,
        own_stages=True,
    ),
    "mean of the hidden states": Change(("TSLRec",), {"llm_pooling": "mean"}),
    "1 epoch of fine-tuning": Change(("TSLRec",), {"sft_epochs": 1}),
    "target: the remainder": Change(("TSLRec",), piece=remainder, own_stages=True),
    "one item alone as a second prompt": Change(("TSLRec",), piece=short_prompts, own_stages=True),
    "cross entropy": Change(("TSLRec",), piece=cross_entropy, own_stages=True),
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
    if change.own_stages:
        settings["tslrec_dir"] = str(args.work / "stages" / version.replace(" ", "-"))
    with ExitStack() as stack:
        if change.piece is not None:
            stack.enter_context(change.piece())
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
        config_files=args.config_files.split(),
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

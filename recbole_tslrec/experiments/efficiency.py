"""What TSLRec and E4SRec ask of a language model: time and memory of both (paper §5, Figure 3).

TSLRec reads every user once an epoch, and for inference every item once. E4SRec reads every interaction
once an epoch, and for inference every test user once. Both run here on one language model, with the same
means, and beside them an ablation of these means. A sample of each is measured, in turns in one run; the
whole is extrapolated by the positions that it computes.
"""

from __future__ import annotations

import gc
import multiprocessing
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from recbole_tslrec.experiments.efficiency_ways import (
    WAYS,
    Scale,
    Way,
    batches_of,
    computed_positions,
    prompts_of,
)
from recbole_tslrec.experiments.run.machine import machine
from recbole_tslrec.language_model.encoder import ItemPromptModel
from recbole_tslrec.language_model.load import add_adapters, bf16_is_fast
from recbole_tslrec.language_model.meter import matrix_rate, operations, peak_memory
from recbole_tslrec.language_model.random_model import random_language_model
from recbole_tslrec.language_model.shared_prefix import can_share_prefix
from recbole_tslrec.store.store import write_atomically, write_json

_ITEM_DIMENSION = 64


@dataclass
class Measured:
    """What a way came to.

    Attributes:
        examples, positions: of the whole: an epoch, or all of inference; positions with padding.
        padding_share: of the positions.
        sampled_positions: those that were really computed and timed.
        seconds: of the whole, extrapolated by positions from the median turn.
        peak_memory: bytes; see ``peak_memory_alone``.
        share_of_matrix_rate: on a GPU, of what plain bf16 products reach there.
    """

    way: Way
    examples: int
    positions: int
    padding_share: float
    sampled_positions: int
    seconds: float
    peak_memory: int
    share_of_matrix_rate: float | None


# ---- running them -------------------------------------------------------------------------------


class _Sides(nn.Module):
    """One language model with item slots, and the heads of both sides."""

    def __init__(self, scale: Scale):
        super().__init__()
        torch.manual_seed(scale.seed)
        model = random_language_model(scale.size, scale.quantization, torch.device(scale.device))
        self.hidden_size = model.config.get_text_config().hidden_size
        self.shares = can_share_prefix(model)
        model = add_adapters(model, 16, 32, 0.05, "all-linear")
        items = torch.randn(scale.n_items + 1, _ITEM_DIMENSION)
        self.reader = ItemPromptModel(model, items, "last")
        self.preference_head = nn.Linear(self.hidden_size, 50)
        self.item_scores = nn.Linear(self.hidden_size, scale.n_items, bias=False)
        self.to(scale.device)

    def loss(self, way: Way, prompts: dict[str, Tensor]) -> Tensor:
        hidden = self.reader(**prompts)
        if way.side == "TSLRec":
            target = hidden.new_full((len(hidden), 50), 1 / 50)
            return (self.preference_head(hidden).softmax(1) - target).pow(2).sum(1).mean()
        targets = torch.zeros(len(hidden), dtype=torch.int64, device=hidden.device)
        return F.cross_entropy(self.item_scores(hidden), targets)


def _runner(sides: _Sides, way: Way, scale: Scale) -> Callable[[dict[str, Tensor]], None]:
    """Does one batch of a way."""
    device = torch.device(scale.device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_fast(device))
    trained = [parameter for parameter in sides.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def train(batch: dict[str, Tensor]) -> None:
        sides.train()
        with autocast:
            loss = sides.loss(way, batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    @torch.no_grad()
    def infer(batch: dict[str, Tensor]) -> None:
        sides.eval()
        with autocast:
            hidden = sides.reader(**batch)
        if way.side == "E4SRec":
            sides.item_scores(hidden)

    return train if way.part == "training" else infer


def _turns(sides: _Sides, way: Way, scale: Scale, batches: list[np.ndarray]) -> Iterator[tuple]:
    """Endless turns of one batch each, drawn at random: its positions and seconds."""
    run = _runner(sides, way, scale)
    rng = np.random.default_rng(scale.seed)
    device = torch.device(scale.device)
    while True:
        batch = batches[rng.integers(len(batches))]
        given = prompts_of(way, scale, batch, rng)
        positions, _ = computed_positions(way, scale, [batch])
        start = perf_counter()
        run(given)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        yield positions, perf_counter() - start


def peak_memory_alone(way: Way, scale: Scale, steps: int = 2) -> int:
    """Bytes at the most in a process that does nothing else, on its largest batches.

    On a GPU what torch took there; on a CPU what the process took in all.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        peak = pool.apply(_peak_memory_here, (way, scale, steps))
        # It ends by itself: ray, which RecBole imports, answers a termination with a traceback.
        pool.close()
        pool.join()
    return peak


def _peak_memory_here(way: Way, scale: Scale, steps: int) -> int:
    device = torch.device(scale.device)
    sides = _Sides(scale)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    largest = sorted(
        batches_of(way, scale), key=lambda batch: -computed_positions(way, scale, [batch])[0]
    )
    run, rng = _runner(sides, way, scale), np.random.default_rng(scale.seed)
    for batch in largest[:steps]:
        run(prompts_of(way, scale, batch, rng))
    return peak_memory(device)


def measure(scale: Scale, turns: int = 8, show_progress: bool = True) -> list[Measured]:
    """Measure every way in turns.

    Args:
        turns: batches of each way that are timed, after one that is not.

    Raises:
        ValueError: the language model looks ahead, so that its prompts share no prefix.
    """
    sides = _Sides(scale)
    if not sides.shares:
        raise ValueError(
            f"efficiency: [{scale.size}] is no causal model, and the means that are compared are "
            f"those of causal models."
        )
    batches = {way: batches_of(way, scale) for way in WAYS}
    running = {way: _turns(sides, way, scale, batches[way]) for way in WAYS}
    seen: dict[Way, list[tuple[int, float]]] = {way: [] for way in WAYS}
    for turn in tqdm(range(turns + 1), desc="Measuring in turns", disable=not show_progress):
        for way in WAYS:
            measured = next(running[way])
            if turn > 0:  # the first warms up
                seen[way].append(measured)
    device = torch.device(scale.device)
    rate = matrix_rate(device) if device.type == "cuda" else None
    counted = {way: _operations(sides, way, scale, batches[way]) for way in WAYS}
    del sides, running  # the card is for the processes that measure memory
    gc.collect()
    torch.cuda.empty_cache()
    results = []
    for way in tqdm(WAYS, desc="Memory", disable=not show_progress):
        positions, filled = computed_positions(way, scale, batches[way])
        a_position = median(seconds / done for done, seconds in seen[way])
        seconds = a_position * positions
        share = counted[way] / seconds / rate if rate else None
        results.append(
            Measured(
                way,
                sum(len(batch) for batch in batches[way]),
                positions,
                1 - filled / positions,
                sum(done for done, _ in seen[way]),
                seconds,
                peak_memory_alone(way, scale),
                share,
            )
        )
    return results


def _operations(sides: _Sides, way: Way, scale: Scale, batches: list[np.ndarray]) -> float:
    positions, _ = computed_positions(way, scale, batches)
    return operations(sides.reader, positions, positions if way.part == "training" else 0)


# ---- what is shown ------------------------------------------------------------------------------


def efficiency_table(results: list[Measured]) -> str:
    """Every way, and its factors over TSLRec's own, as Markdown."""
    best = {result.way.part: result for result in results[:2]}
    rows = []
    for result in results:
        own = best[result.way.part]
        rows.append(
            {
                "side": result.way.side,
                "part": result.way.part,
                "prompts": result.way.means,
                "examples": f"{result.examples:,}",
                "positions": f"{result.positions:,}",
                "padding": f"{100 * result.padding_share:.0f} %",
                "measured": f"{100 * min(result.sampled_positions / result.positions, 1):.1f} %",
                "seconds": f"{result.seconds:,.1f}",
                "× positions": f"{result.positions / own.positions:.1f}",
                "× seconds": f"{result.seconds / own.seconds:.1f}",
                "peak GiB": f"{result.peak_memory / 2**30:.2f}",
            }
        )
        if result.share_of_matrix_rate is not None:
            rows[-1]["of the matrix rate"] = f"{100 * result.share_of_matrix_rate:.0f} %"
    return tabulate(rows, headers="keys", tablefmt="github", disable_numparse=True)


def draw(results: list[Measured], title: str) -> bytes:
    """Figure 3: seconds of training and inference, TSLRec beside E4SRec."""
    from recbole_tslrec.experiments.report import drawing  # with matplotlib

    figure = drawing.new_figure(8, 3.6)
    for axis, part in zip(figure.subplots(1, 2), ("training", "inference"), strict=True):
        bars = {one.way.side: one.seconds for one in results[:4] if one.way.part == part}
        colours = [drawing.BLUE, drawing.ORANGE]
        drawn = axis.bar(bars.keys(), bars.values(), color=colours, width=0.55)
        axis.bar_label(drawn, [f"{seconds:,.1f} s" for seconds in bars.values()], padding=2)
        axis.margins(x=0.2, y=0.12)
        axis.set_ylabel("seconds")
        axis.set_title("training, one epoch" if part == "training" else "inference, all of it")
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title, fontsize=11)
    return drawing.png(figure)


def scale_of(dataset: str, config_file_list, **changes) -> Scale:
    """The lengths of a RecBole data set, what its settings say, and the rest as given."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation

    from recbole_tslrec.data.histories import training_histories

    config = Config("E4SRec", dataset, config_file_list)  # the keys of both sides
    train_data, _, test_data = data_preparation(config, create_dataset(config))
    tested = test_data._dataset
    return Scale(
        train_lengths=training_histories(train_data._dataset).lengths,
        test_lengths=tested.inter_feat[tested.item_list_length_field].numpy(),
        n_items=tested.item_num - 1,
        max_history=config["llm_max_history"],
        most_examples=config["max_examples_per_user"],
        device=str(config["device"]),
        seed=config["seed"],
        **changes,
    )


def run(scale: Scale, dataset: str, turns: int, output: Path) -> str:
    """Measure, write ``efficiency.md``, ``.json`` and ``.png`` into ``output``; the Markdown.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; before anything is measured.
    """
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "efficiency: draws with matplotlib: pip install 'recbole_tslrec[report]'."
        )
    results = measure(scale, turns)
    output.mkdir(parents=True, exist_ok=True)
    weights = "full precision" if scale.quantization == "none" else scale.quantization
    title = f"{dataset}, language model {scale.size}, {weights}"
    command = shlex.join(["python", *sys.orig_argv[1:]])
    text = (
        f"# Efficiency: {title}\n\n{machine(scale.device)}. {turns} batches of each way were timed in "
        f"turns; seconds are the median time of a position times the positions of the whole, an epoch "
        f'or all of inference. "measured" is the share of them that was really computed. Factors are '
        f"over TSLRec with a shared prefix. Weights are random.\n\n{efficiency_table(results)}\n\n"
        f"![Figure 3](efficiency.png)\n"
    )
    kept = [asdict(result) for result in results]
    settings = {
        key: value for key, value in asdict(scale).items() if not isinstance(value, np.ndarray)
    }
    content = {"dataset": dataset, "settings": settings, "ways": kept, "command": command}
    write_json(output / "efficiency.json", content)
    for name, content in (("png", draw(results, title)), ("md", text.encode())):
        path = output / f"efficiency.{name}"
        write_atomically(path, lambda temporary, content=content: temporary.write_bytes(content))
    return text

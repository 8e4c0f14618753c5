"""The paper's Figures 3 to 5 from kept results, and our own (popularity, gate, maps of the items).

A figure returns None where the results hold nothing for it. Groups of users and items are quantiles
of a data set, so the groups of two data sets have different limits, which the axis names.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import SymmetricalLogLocator

from recbole_tslrec.evaluation.ranks import PROTOCOLS
from recbole_tslrec.evaluation.significance import bootstrap_interval
from recbole_tslrec.experiments.report.document import Picture
from recbole_tslrec.experiments.report.results import MAIN_METRIC, KeptCell, Method, Results
from recbole_tslrec.experiments.report.tables import made, variant_name
from recbole_tslrec.recbole_bridge.paradigm import BASE, chain, controls, variants

# Okabe and Ito's palette, which colour-blind readers can tell apart.
_BLACK, _ORANGE, _SKY, _GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
_YELLOW, _BLUE, _RED, _PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
_GREY = "#BBBBBB"
# In the order in which stages, and rows of a comparison, become known.
_PART_COLOURS = (_SKY, _YELLOW, _RED, _PURPLE, _GREEN, _ORANGE, _BLACK)
_PART_NAMES = {"fine_tuning": "fine-tuning", "training": "recommender's training"}
_ROW_COLOURS = (_GREY, _ORANGE, _BLUE, _BLACK, _RED, _GREEN, _PURPLE, _SKY)
_ROW_MARKERS = "PsoDp^vX"
_BACKBONES = {
    "GRU4Rec": (_ORANGE, "s"),
    "Caser": (_GREEN, "^"),
    "SASRec": (_BLUE, "o"),
    "FMLPRec": (_PURPLE, "D"),
}
_MAP_COLOURS = (_BLUE, _ORANGE, _GREEN, _PURPLE, _SKY, _RED, _BLACK)
_MAP_MARKERS = "os^vDXP"
_GROUPS = 4
_GATE_BINS = 8


def time_figure(results: Results, command: str) -> Picture | None:
    """Figure 3: where the time of a cell goes, by stage, the mean over the seeds."""
    rows = [
        (dataset, backbone, variant, part, seconds)
        for dataset in results.datasets
        for backbone in results.backbones(dataset)
        for variant in results.variants(dataset, backbone)
        for part, seconds in _seconds(results, results.method(dataset, backbone, variant)).items()
    ]
    numbers = pd.DataFrame(rows, columns=["dataset", "backbone", "method", "part", "seconds"])
    if numbers["seconds"].sum() == 0:
        return None
    longest = numbers.groupby(["dataset", "backbone", "method"])["seconds"].sum().max()
    unit, size = next(
        (unit, size)
        for unit, size in (("hours", 3600), ("minutes", 60), ("seconds", 1))
        if longest >= 2 * size or size == 1
    )

    def draw(axes: Axes, dataset: str, backbone: str) -> None:
        variants = results.variants(dataset, backbone)
        left = np.zeros(len(variants))
        of_panel = numbers[(numbers.dataset == dataset) & (numbers.backbone == backbone)]
        for part, colour in _parts().items():
            of_part = of_panel[of_panel.part == part].set_index("method")["seconds"]
            width = of_part.reindex(variants).fillna(0).to_numpy() / size
            label = _PART_NAMES.get(part, part)
            axes.barh(variants, width, left=left, color=colour, label=label, height=0.7)
            left += width
        for place, total in enumerate(left):
            axes.text(total, place, f" {total:.3g}", va="center", fontsize=10)
        axes.set_xlim(0, left.max() * 1.18)
        axes.set_xlabel(unit)
        axes.set_yticks(range(len(variants)), [variant_name(variant) for variant in variants])
        axes.invert_yaxis()
        axes.grid(axis="x", alpha=0.3)

    height = 1.1 + 0.34 * len(results.variants())
    heading = f"Time by stage, mean over {_seeds(results)}"
    png = _panels(_places(numbers, "dataset", "backbone"), draw, heading, 5.6, height)
    caption = (
        "How long a model takes from nothing to its test result, by stage, the mean over the seeds. A "
        "stage that was reused counts with the time of when it was made, and the backbone with that "
        "of Base's training where it was taken from there. Compare lengths within one machine only."
    )
    return Picture(
        "figure_3_time",
        "Figure 3: time by stage",
        caption,
        made(_own_cells(results), command),
        png,
        numbers,
    )


def category_figure(results: Results, command: str) -> Picture | None:
    """Figure 4: how often the language model infers an item's own category, over all items."""
    rows = []
    for dataset, backbone, method in _methods(results, "TSLRec"):
        shares = []
        for cell in method.cells.values():
            items = results.items(cell)
            if items is not None and "place" in items:
                place = items["place"]
                shares.append([np.mean(place == 1), np.mean((place > 1) & (place <= 3))])
        if shares:
            own, three = np.mean(shares, axis=0)
            rows.append((dataset, backbone, len(shares), own, three, 1 - own - three))
    if not rows:
        return None
    parts = {"own": _BLUE, "top three": _SKY, "neither": _GREY}
    numbers = pd.DataFrame(rows, columns=["dataset", "backbone", "seeds", *parts])
    labels = [f"{dataset}, {backbone}" for dataset, backbone in numbers.iloc[:, :2].to_numpy()]
    figure = _figure(8.2, 1.7 + 0.42 * len(rows))
    axes = figure.subplots()
    left = np.zeros(len(rows))
    legend = ("its own", "own among the top three", "neither")
    for (part, colour), name in zip(parts.items(), legend, strict=True):
        width = 100 * numbers[part].to_numpy()
        bars = axes.barh(labels, width, left=left, color=colour, label=name, height=0.7)
        texts = [f"{value:.0f}" if value >= 4 else "" for value in width]
        text_colour = "white" if colour == _BLUE else "black"
        axes.bar_label(bars, texts, label_type="center", color=text_colour, fontsize=10.5)
        left += width
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the items (%)")
    axes.invert_yaxis()
    figure.suptitle(f"Inferred category of an item, TSLRec, mean over {_seeds(results)}")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    caption = (
        "The share of items whose category with the highest inferred probability is the preliminary "
        "one that k-means gave them (its own), of items whose own is second or third, and of the rest. "
        "High shares say that the language model can name an item's category from the item alone; they "
        "do not say that this helps to recommend."
    )
    return Picture(
        "figure_4_categories",
        "Figure 4: inferred categories",
        caption,
        made(_own_cells(results), command),
        _png(figure),
        numbers,
    )


def activity_figure(results: Results, protocol: str, command: str) -> Picture | None:
    """Figure 5: the gain over Base by how many items a user has in training."""
    numbers = _gains(results, protocol, "training_length")
    if numbers.empty:
        return None
    protocol_name = PROTOCOLS[protocol]
    axis = "items in the user's training history"
    heading = f"Gain by user activity, {protocol_name}, mean over {_seeds(results)}"
    caption = (
        f"Figure 5: users in up to {_GROUPS} groups of about equal size by the number of items in their "
        f"training history. Above 0 a method is better than Base for these users. {_INTERVALS}"
    )
    return Picture(
        f"figure_5_activity_{protocol}",
        f"Figure 5: gain by user activity, {protocol_name}",
        caption,
        made(_own_cells(results), command),
        _gain_panels(results, numbers, protocol, axis, heading),
        numbers,
    )


def popularity_figure(results: Results, protocol: str, command: str) -> Picture | None:
    """The gain over Base by how often the target item occurs in training."""
    numbers = _gains(results, protocol, "item_count")
    if numbers.empty:
        return None
    protocol_name = PROTOCOLS[protocol]
    axis = "training interactions of the target item"
    heading = f"Gain by popularity of the target item, {protocol_name}, mean over {_seeds(results)}"
    caption = (
        f"Test users in up to {_GROUPS} groups of about equal size by how often the item to be found "
        f"occurs in training. Above 0 a method finds such items better than Base. {_INTERVALS}"
    )
    return Picture(
        f"figure_popularity_{protocol}",
        f"Gain by popularity of the target item, {protocol_name}",
        caption,
        made(_own_cells(results), command),
        _gain_panels(results, numbers, protocol, axis, heading),
        numbers,
    )


def gate_figure(results: Results, command: str) -> Picture | None:
    """How much of an item's embedding is the id embedding, by how often the item occurs in training."""
    parts = []
    for dataset, backbone, method in _methods(results, "TSLRec"):
        gates = [_gates(results.items(cell)) for cell in method.cells.values()]
        gates = [gate for gate in gates if gate is not None]
        if gates:
            items = pd.concat(gates).groupby("item", as_index=False).mean()
            items["group"] = _quantile_groups(items["count"], _GATE_BINS)
            groups = items.groupby("group", as_index=False).agg(
                count=("count", "median"),
                items=("gate", "size"),
                gate=("gate", "mean"),
                low=("gate", lambda gate: gate.quantile(0.25)),
                high=("gate", lambda gate: gate.quantile(0.75)),
            )
            parts.append(groups.assign(dataset=dataset, backbone=backbone, seeds=len(gates)))
    if not parts:
        return None
    numbers = pd.concat(parts)
    heading = f"Mean gate by item popularity, TSLRec, mean over {_seeds(results)}"

    def draw(axes: Axes, dataset: str) -> None:
        for backbone, rows in numbers[numbers.dataset == dataset].groupby("backbone", sort=False):
            colour, marker = _BACKBONES.get(backbone, (_BLACK, "P"))
            axes.plot(rows["count"], rows.gate, color=colour, marker=marker, label=backbone)
            axes.fill_between(rows["count"], rows.low, rows.high, color=colour, alpha=0.15)
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_ylim(0, 1)
        axes.set_xlabel("training interactions of the item (log scale)")
        axes.set_ylabel("share of the id embedding (0 to 1)")
        axes.grid(alpha=0.3)

    caption = (
        f"The mean gate of the items, in up to {_GATE_BINS} groups of about equal size by how often "
        "they occur in training: 1 is the id embedding alone, 0 the enhanced embedding alone. The "
        "band holds the middle half of a group's items. A line that rises says that rare items lean "
        "on the enhanced embedding."
    )
    return Picture(
        "figure_gate",
        "Gate by item popularity",
        caption,
        made(_own_cells(results), command),
        _panels(_places(numbers, "dataset"), draw, heading, 5.4, 3.8),
        numbers,
    )


def map_figures(results: Results, command: str) -> list[Picture]:
    """The items in two dimensions before and after the language model, a picture a data set."""
    pictures = []
    for dataset in results.datasets:
        shown = []
        for backbone in results.backbones(dataset):
            method = results.method(dataset, backbone, "TSLRec")
            for cell in method.cells.values() if method else ():
                items = results.items(cell)
                if items is not None and "map_after" in items:
                    shown.append((cell, items))
                    break  # one seed: two maps have no mean
        if shown:
            pictures.append(_map_picture(dataset, shown, command))
    return pictures


def _map_picture(dataset: str, shown: list[tuple[KeptCell, dict]], command: str) -> Picture:
    figure = _figure(9.0, 4.3 * len(shown) + 0.9)
    panels = figure.subplots(len(shown), 2, squeeze=False)
    numbers = []
    for row, (cell, items) in zip(panels, shown, strict=True):
        largest = pd.Series(items["category"]).value_counts().index[: len(_MAP_COLOURS)]
        for axes, key, text in (
            (row[0], "map_before", "before, $e_v$"),
            (row[1], "map_after", "after, $h^v$"),
        ):
            points = items[key]
            other = ~np.isin(items["category"], largest)
            axes.scatter(*points[other].T, s=5, color=_GREY, alpha=0.5, linewidths=0)
            for place, category in enumerate(largest):
                chosen = points[items["category"] == category]
                colour, marker = _MAP_COLOURS[place], _MAP_MARKERS[place]
                axes.scatter(*chosen.T, s=14, color=colour, marker=marker, linewidths=0)
            axes.set_title(f"{dataset}, {cell.backbone}, seed {cell.seed}: {text}")
            axes.set_xlabel("t-SNE 1 (no unit)")
            axes.set_ylabel("t-SNE 2 (no unit)")
            axes.set_xticks([])
            axes.set_yticks([])
        numbers.append(_map_numbers(cell, items))
    figure.suptitle(
        f"Items before and after the language model, {len(_MAP_COLOURS)} largest categories"
    )
    caption = (
        f"t-SNE of a fixed sample of up to 2,000 items: left the trained backbone's item embeddings, "
        f"right the enhanced embeddings. Colours and shapes are the {len(_MAP_COLOURS)} largest "
        "preliminary categories of that seed, grey the others. t-SNE keeps neighbours together; sizes "
        "of clusters and distances between them mean nothing."
    )
    return Picture(
        f"figure_map_{dataset.replace('/', '_')}",
        f"Map of the items: {dataset}",
        caption,
        made([cell for cell, _ in shown], command),
        _png(figure),
        pd.concat(numbers),
    )


# ---- the numbers ---------------------------------------------------------------------------------

_INTERVALS = (
    "Bars are 95 % bootstrap intervals over the users of a group, a user's gain being the mean over the "
    "seeds. They hold for these trained models; how much training anew would change is not in them. "
    "Shown are CI, TSLRec, Norm and E4SRec if there, and of the controls the one that is best on "
    "validation; the CSV has every method."
)


def _gains(results: Results, protocol: str, column: str) -> pd.DataFrame:
    """The gain over Base in the main metric by group of users, with its interval, a row a group."""
    rows = []
    for dataset in results.datasets:
        for backbone in results.backbones(dataset):
            base = results.method(dataset, backbone, "Base")
            for variant in results.variants(dataset, backbone):
                method = results.method(dataset, backbone, variant)
                if base is not None and method is not base:
                    gains = _user_gains(results, method, base, protocol, column)
                    rows += [
                        {"dataset": dataset, "backbone": backbone, "method": variant, **group}
                        for group in gains
                    ]
    return pd.DataFrame(rows)


def _user_gains(results, method: Method, base: Method, protocol: str, column: str) -> list[dict]:
    seeds = tuple(sorted(set(method.seeds) & set(base.seeds)))
    ours, theirs = (results.scores(one, protocol, seeds) for one in (method, base))
    if ours is None or theirs is None:
        return []
    users = pd.DataFrame({"gain": ours[MAIN_METRIC] - theirs[MAIN_METRIC]})
    values = results.ranks(base.cells[seeds[0]])[column]
    users[column], users["group"] = values, _quantile_groups(values, _GROUPS)
    rows = []
    for number, part in users.dropna().groupby("group"):
        low, high = bootstrap_interval(part["gain"].to_numpy())
        least, most = int(part[column].min()), int(part[column].max())
        rows.append(
            {
                "seeds": len(seeds),
                "group": int(number),
                "label": f"{least:,}" if least == most else f"{least:,}–{most:,}",
                "users": len(part),
                "gain": part["gain"].mean(),
                "low": low,
                "high": high,
            }
        )
    return rows


def _quantile_groups(values: pd.Series, n_groups: int) -> pd.Series:
    """Groups of about equal size, numbered from 0; fewer where many values are equal, one if all are."""
    if values.nunique() == 1:  # qcut would have no group
        return pd.Series(0, index=values.index)
    return pd.qcut(values.rank(method="max"), n_groups, labels=False, duplicates="drop")


def _gates(items: dict[str, np.ndarray] | None) -> pd.DataFrame | None:
    if items is None or "mean_gate" not in items:
        return None
    columns = {"item": items["item"], "count": items["training_count"], "gate": items["mean_gate"]}
    return pd.DataFrame(columns)


def _map_numbers(cell: KeptCell, items: dict[str, np.ndarray]) -> pd.DataFrame:
    before, after = items["map_before"], items["map_after"]
    columns = {"item": items["item"], "category": items["category"]}
    columns |= {"before_1": before[:, 0], "before_2": before[:, 1]}
    columns |= {"after_1": after[:, 0], "after_2": after[:, 1]}
    points = pd.DataFrame(columns).dropna()
    return points.assign(dataset=cell.dataset, backbone=cell.backbone, seed=cell.seed)


def _seconds(results: Results, method: Method) -> dict[str, float]:
    """The mean seconds of every part of a method's cells; 0 for a part that it does not have."""
    # A cell may have started from a Base of other settings than the reported one.
    finished = [*results.cells, *results.replaced]
    trainings = {cell.cell: cell.seconds.get("training", 0.0) for cell in finished}
    parts = []
    for cell in method.cells.values():
        stages = dict(cell.seconds.get("stages", {}))
        # The stage has only taken the embeddings out of the trained Base, which was the work.
        stages["backbone"] = stages.get("backbone", 0.0) + trainings.get(cell.backbone_from, 0.0)
        parts.append({part: stages.get(part, cell.seconds.get(part, 0.0)) for part in _parts()})
    return pd.DataFrame(parts).astype(float).mean().to_dict()


def _methods(results: Results, variant: str):
    """(data set, backbone, method) of every method of a variant with embeddings of its own."""
    for dataset in results.datasets:
        for backbone in results.backbones(dataset):
            method = results.method(dataset, backbone, variant)
            if method is not None:
                yield dataset, backbone, method


def _own_cells(results: Results) -> list[KeptCell]:
    return [cell for cell in results.cells if cell.made_by is None]


def _seeds(results: Results) -> str:
    """How many seeds the methods have, "1 to 3 seeds" while a grid is unfinished."""
    counts = {len(method.seeds) for method in results.methods.values() if method.made_by is None}
    least, most = min(counts), max(counts)
    return (f"{least} to " if least < most else "") + f"{most} seed{'s' if most > 1 else ''}"


# ---- drawing -------------------------------------------------------------------------------------


def _gain_panels(results: Results, numbers, protocol: str, axis: str, heading: str) -> bytes:
    def draw(axes: Axes, dataset: str, backbone: str) -> None:
        shown = ["Norm", "CI", "TSLRec", "E4SRec", *_strongest_control(results, dataset, backbone)]
        of_panel = numbers[(numbers.dataset == dataset) & (numbers.backbone == backbone)]
        of_panel = of_panel[of_panel.method.isin(shown)]
        variants = list(dict.fromkeys(of_panel.method))
        for number, variant in enumerate(variants):
            rows = of_panel[of_panel.method == variant]
            colour, marker = _row_style(variant)
            axes.errorbar(
                rows.group + 0.16 * (number - (len(variants) - 1) / 2),
                rows.gain,
                yerr=[rows.gain - rows.low, rows.high - rows.gain],
                color=colour,
                marker=marker,
                linestyle="none",
                capsize=3,
                label=variant_name(variant),
            )
        groups = of_panel.drop_duplicates("group").sort_values("group")
        texts = zip(groups.label, groups.users, strict=True)
        axes.set_xticks(groups.group, [f"{label}\n{n:,} users" for label, n in texts])
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xlabel(axis)
        axes.set_ylabel(f"gain over Base, {MAIN_METRIC}")
        axes.grid(axis="y", alpha=0.3)

    return _panels(_places(numbers, "dataset", "backbone"), draw, heading, 5.4, 3.5)


def _parts() -> dict[str, str]:
    """The colour of each part of a cell's time: the stages, in their order, and what follows them."""
    kinds = (stage for row in variants().values() for stage in chain(row.stages))
    stages = zip(dict.fromkeys(stage.name for stage in kinds), cycle(_PART_COLOURS), strict=False)
    return dict(stages) | {"training": _BLUE, "evaluation": _GREY}


def _row_style(variant: str) -> tuple[str, str]:
    """The colour and the marker of a row of a comparison."""
    rows = [name for name in variants() if name != BASE.name]
    place = rows.index(variant) if variant in rows else len(rows)
    return _ROW_COLOURS[place % len(_ROW_COLOURS)], _ROW_MARKERS[place % len(_ROW_MARKERS)]


def _strongest_control(results: Results, dataset: str, backbone: str) -> list[str]:
    """The control that is best on validation, if one ran: a picture of all would be unreadable."""
    means = {
        control: np.mean(list(method.valid(MAIN_METRIC).values()))
        for control in controls()
        if (method := results.method(dataset, backbone, control)) is not None
    }
    return sorted(means, key=means.__getitem__)[-1:]


def _places(numbers: pd.DataFrame, *columns: str) -> list[tuple[str, ...]]:
    """The data sets, or the pairs of data set and backbone, that there are numbers for, in order."""
    return list(dict.fromkeys(numbers[list(columns)].itertuples(index=False, name=None)))


def _panels(
    places: Sequence[tuple[str, ...]],
    draw: Callable[..., None],
    heading: str,
    width: float,
    height: float,
) -> bytes:
    """A panel a place, ``draw(axes, *place)``, sizes in inches; one legend for all.

    Two side by side at most: a page shows more of them too small to read.
    """
    n_columns = min(2, len(places))
    n_rows = -(-len(places) // n_columns)
    figure = _figure(width * n_columns, height * n_rows + 1.2)
    panels = figure.subplots(n_rows, n_columns, squeeze=False).ravel().tolist()
    for axes, place in zip(panels, places, strict=False):
        draw(axes, *place)
        axes.set_title(", ".join(place))
    for axes in panels[len(places) :]:
        axes.set_axis_off()
    figure.suptitle(textwrap.fill(heading, 9 * int(figure.get_figwidth())))
    _shared_legend(figure, panels)
    return _png(figure)


def _shared_legend(figure: Figure, panels: Sequence[Axes]) -> None:
    handles = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = min(len(handles), max(2, int(figure.get_figwidth() / 1.8)))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False
    )


def _figure(width: float, height: float) -> Figure:
    """Without pyplot there is no window and no state; saving takes the Agg backend by itself."""
    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Figure) -> bytes:
    file = io.BytesIO()
    # No note of the version: the same results give the same file.
    figure.savefig(file, format="png", dpi=130, metadata={"Software": None})
    return file.getvalue()

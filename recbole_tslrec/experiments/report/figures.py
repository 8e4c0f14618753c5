"""The paper's Figures 4 and 5 from kept results, and our own (popularity, gate, maps of the items).

Figures come by protocol or data set; there is none where the results hold nothing for it. Groups of
users and items are quantiles of a data set, so the groups of two data sets have different limits, which
the axis names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import SymmetricalLogLocator

from recbole_tslrec.evaluation.metrics import PROTOCOLS
from recbole_tslrec.evaluation.significance import bootstrap_interval
from recbole_tslrec.evaluation.slices import quantile_groups, range_text
from recbole_tslrec.experiments.report import drawing
from recbole_tslrec.experiments.report.document import Block
from recbole_tslrec.experiments.report.novel import VIEWS, views
from recbole_tslrec.experiments.report.results import MAIN_METRIC, Results
from recbole_tslrec.experiments.report.tables import variant_name
from recbole_tslrec.experiments.run.tables import seeds_text
from recbole_tslrec.recbole_bridge.paradigm import controls, table_rows

_N_CATEGORIES = 7  # of a map
_GROUPS = 4
_GATE_BINS = 8


# ---- the gain over Base ----------------------------------------------------------------------------


def gain_figures(results: Results) -> dict[str, Block]:
    """What each method gains over Base, under each seed and in the mean."""
    found = {}
    for protocol, of in views(results).items():
        numbers = pd.DataFrame(_gains_by_seed(of, f"{protocol} {MAIN_METRIC}"))
        if not numbers.empty:
            counts = numbers.groupby(["dataset", "backbone", "method"]).size()
            heading = f"Gain over Base in {MAIN_METRIC}, {VIEWS[protocol]}, {_seeds(counts)}"
            picture = _draw_gains_by_seed(numbers, heading)
            found[protocol] = Block(f"figure_gain_{protocol}", numbers, of.own, png=picture)
    return found


def _gains_by_seed(results: Results, column: str) -> Iterator[dict]:
    """A row for each method and seed that has a Base of the same seed; ``gain`` is a share of it."""
    for dataset, backbone in results.places():
        base = results.method(dataset, backbone, "Base")
        for variant in results.variants(dataset, backbone):
            if base is None or variant == "Base":
                continue
            ours = results.method(dataset, backbone, variant)[column]
            where = {"dataset": dataset, "backbone": backbone, "method": variant}
            for seed in sorted(set(ours.index) & set(base.index)):
                there, here = base.loc[seed, column], ours.loc[seed]
                gain = here / there - 1 if there else np.nan
                yield {**where, "seed": seed, "base": there, "value": here, "gain": gain}


def _draw_gains_by_seed(numbers: pd.DataFrame, heading: str) -> bytes:
    of_controls = set(controls())

    def draw(axes: Axes, dataset: str, backbone: str) -> None:
        panel = numbers[(numbers.dataset == dataset) & (numbers.backbone == backbone)]
        methods = list(dict.fromkeys(panel["method"]))
        for place, method in enumerate(methods):
            gains = 100 * panel.loc[panel["method"] == method, "gain"]
            own = method not in of_controls
            colour, label = (drawing.BLUE, "method") if own else (drawing.ORANGE, "control")
            axes.barh(place, gains.mean(), height=0.55, color=colour, alpha=0.6, label=label)
            dots = {"color": drawing.BLACK, "marker": "o", "linestyle": "none", "markersize": 4}
            axes.plot(gains, [place] * len(gains), label="each seed", **dots)
        axes.set_yticks(range(len(methods)), [variant_name(method) for method in methods])
        axes.invert_yaxis()  # the table's order
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel("gain over Base, %")
        axes.grid(axis="x", alpha=0.3)

    places = list(dict.fromkeys(zip(numbers["dataset"], numbers["backbone"], strict=True)))
    rows = numbers.groupby(["dataset", "backbone"])["method"].nunique().max()
    return drawing.panels(places, draw, heading, 5.4, 1.3 + 0.32 * rows)


# ---- the gain over Base by group of users ----------------------------------------------------------


def activity_figures(results: Results) -> dict[str, Block]:
    """Figure 5: the gain over Base by how many items a user has in training."""
    axis, heading = "items in the user's training history", "Gain by user activity"
    return _gain_by_group_figures(results, "training_length", "figure_5_activity", heading, axis)


def popularity_figures(results: Results) -> dict[str, Block]:
    """The gain over Base by how often the target item occurs in training."""
    axis, heading = (
        "training interactions of the target item",
        "Gain by popularity of the target item",
    )
    return _gain_by_group_figures(results, "item_count", "figure_popularity", heading, axis)


def _gain_by_group_figures(
    results: Results, column: str, name: str, heading: str, axis: str
) -> dict[str, Block]:
    found = {}
    for protocol, words in PROTOCOLS.items():
        of = views(results)[protocol]
        numbers = pd.DataFrame(_gains_by_group(of, protocol, column))
        if not numbers.empty:
            title = f"{heading}, {words}, mean over {_seeds(numbers['seeds'])}"
            picture = _draw_gains_by_group(of, numbers, title, axis)
            found[protocol] = Block(f"{name}_{protocol}", numbers, of.own, png=picture)
    return found


def _draw_gains_by_group(results: Results, numbers: pd.DataFrame, heading: str, axis: str) -> bytes:
    styles = dict(zip(dict.fromkeys(numbers["method"]), drawing.styles(), strict=False))

    def draw(axes: Axes, dataset: str, backbone: str) -> None:
        of_panel = numbers[(numbers.dataset == dataset) & (numbers.backbone == backbone)]
        among = set(of_panel.method)  # a row without kept ranks has no numbers
        shown = shown_methods(results, dataset, backbone, among)
        of_panel = of_panel[of_panel.method.isin(shown)]
        n_methods = of_panel.method.nunique()
        step = min(0.16, 0.8 / n_methods)  # no group of users reaches into the next
        for number, (variant, rows) in enumerate(of_panel.groupby("method", sort=False)):
            colour, marker = styles[variant]
            axes.errorbar(
                (rows.group + step * (number - (n_methods - 1) / 2)).to_numpy(),
                rows.gain.to_numpy(),
                yerr=[(rows.gain - rows.low).to_numpy(), (rows.high - rows.gain).to_numpy()],
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

    places = list(dict.fromkeys(zip(numbers["dataset"], numbers["backbone"], strict=True)))
    return drawing.panels(places, draw, heading, 5.4, 3.5)


def _gains_by_group(results: Results, protocol: str, column: str) -> Iterator[dict]:
    """The gain over Base in the main metric by group of users, with its interval, a row a group."""
    for dataset, backbone in results.places():
        base = results.method(dataset, backbone, "Base")
        for variant in results.variants(dataset, backbone):
            if base is None or variant == "Base":
                continue
            keys = [(dataset, backbone, one, "") for one in (variant, "Base")]
            common = results.methods[keys[0]].index.intersection(base.index)
            ours, theirs = (results.scores(key, protocol, tuple(sorted(common))) for key in keys)
            if ours is None or theirs is None:
                continue
            users = pd.DataFrame({"gain": ours[MAIN_METRIC] - theirs[MAIN_METRIC]})
            values = results.ranks(base.loc[min(common)])[column]
            users["value"], users["group"] = values, quantile_groups(values, _GROUPS)
            where = {"dataset": dataset, "backbone": backbone, "method": variant}
            for number, part in users.dropna().groupby("group"):
                low, high = bootstrap_interval(part["gain"].to_numpy())
                yield {
                    **where,
                    "seeds": len(common),
                    "group": int(number),
                    "label": range_text(part["value"].astype(int)),
                    "users": len(part),
                    "gain": part["gain"].mean(),
                    "low": low,
                    "high": high,
                }


def shown_methods(
    results: Results, dataset: str, backbone: str, among: Collection[str]
) -> list[str]:
    """Of some rows the methods beside Base, and of each one's controls that which is best on validation.

    A picture of all would be unreadable. Controls that differ in tests alone have no validation of their
    own; where there are no others it is the first of the table.
    """
    rows, of_method = table_rows(), {}
    shown = []
    for name in results.variants(dataset, backbone):
        if name not in among:
            continue
        if name in rows and rows[name].control:
            of_method.setdefault(rows[name].of, []).append(name)
        elif name != "Base":
            shown.append(name)

    def on_validation(name: str) -> float:
        found = results.method(dataset, backbone, name)[f"valid {MAIN_METRIC}"].mean()
        return -np.inf if np.isnan(found) else found

    return [*shown, *(max(names, key=on_validation) for names in of_method.values())]


# ---- the items -----------------------------------------------------------------------------------


def category_figure(results: Results) -> dict[str, Block]:
    """Figure 4: how often the language model infers an item's own category, over all items."""
    cells, rows = [], []
    for cell, items in _items(results, "place"):
        cells.append(cell)
        own = np.mean(items["place"] == 1)
        top_three = np.mean((items["place"] > 1) & (items["place"] <= 3))
        where = {"dataset": cell["dataset"], "backbone": cell["backbone"]}
        rows.append({**where, "seeds": 1, "own": own, "top three": top_three})
    if not rows:
        return {}
    how = {"seeds": "sum", "own": "mean", "top three": "mean"}
    by_place = pd.DataFrame(rows).groupby(["dataset", "backbone"], sort=False)
    numbers = by_place.agg(how).reset_index()
    numbers["neither"] = 1 - numbers["own"] - numbers["top three"]
    labels = (numbers["dataset"] + ", " + numbers["backbone"]).tolist()
    figure = drawing.new_figure(8.2, 1.7 + 0.42 * len(numbers))
    axes = figure.subplots()
    left = np.zeros(len(numbers))
    for part, colour, name in (
        ("own", drawing.BLUE, "its own"),
        ("top three", drawing.SKY, "own among the top three"),
        ("neither", drawing.GREY, "neither"),
    ):
        width = 100 * numbers[part].to_numpy()
        bars = axes.barh(labels, width, left=left, color=colour, label=name, height=0.7)
        texts = [f"{value:.0f}" if value >= 4 else "" for value in width]
        text_colour = "white" if part == "own" else "black"
        axes.bar_label(bars, texts, label_type="center", color=text_colour, fontsize=10.5)
        left += width
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the items (%)")
    axes.invert_yaxis()
    figure.suptitle(f"Inferred category of an item, TSLRec, mean over {_seeds(numbers['seeds'])}")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    drawn = pd.DataFrame(cells, dtype=object)
    return {"": Block("figure_4_categories", numbers, drawn, png=drawing.png(figure))}


def gate_figure(results: Results) -> dict[str, Block]:
    """How much of an item's embedding is the id embedding, by how often the item occurs in training."""
    cells = list(_items(results, "mean_gate"))
    if not cells:
        return {}
    numbers = _gates(cells)
    styles = dict(zip(dict.fromkeys(numbers["backbone"]), drawing.styles(), strict=False))

    def draw(axes: Axes, dataset: str) -> None:
        for backbone, rows in numbers[numbers.dataset == dataset].groupby("backbone", sort=False):
            colour, marker = styles[backbone]
            axes.plot(rows["count"], rows.gate, color=colour, marker=marker, label=backbone)
            axes.fill_between(rows["count"], rows.low, rows.high, color=colour, alpha=0.15)
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1, subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.set_ylim(0, 1)
        axes.set_xlabel("training interactions of the item (log scale)")
        axes.set_ylabel("share of the id embedding (0 to 1)")
        axes.grid(alpha=0.3)

    places = [(dataset,) for dataset in dict.fromkeys(numbers["dataset"])]
    heading = f"Mean gate by item popularity, TSLRec, mean over {_seeds(numbers['seeds'])}"
    picture = drawing.panels(places, draw, heading, 5.4, 3.8)
    drawn = pd.DataFrame([cell for cell, _ in cells], dtype=object)
    return {"": Block("figure_gate", numbers, drawn, png=picture)}


def _gates(cells: Sequence[tuple[dict, dict[str, np.ndarray]]]) -> pd.DataFrame:
    """The gate by group of items, a row a group.

    Args:
        cells: with what is kept of their items.
    """
    found: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for cell, items in cells:
        columns = {"count": items["training_count"], "gate": items["mean_gate"]}
        gates = pd.DataFrame(columns | {"item": items["item"]})
        found.setdefault((cell["dataset"], cell["backbone"]), []).append(gates)
    parts = []
    for (dataset, backbone), gates in found.items():
        means = pd.concat(gates).groupby("item", as_index=False).mean()
        means["group"] = quantile_groups(means["count"], _GATE_BINS)
        groups = means.groupby("group", as_index=False).agg(
            count=("count", "median"),
            items=("gate", "size"),
            gate=("gate", "mean"),
            low=("gate", lambda gate: gate.quantile(0.25)),
            high=("gate", lambda gate: gate.quantile(0.75)),
        )
        parts.append(groups.assign(dataset=dataset, backbone=backbone, seeds=len(gates)))
    return pd.concat(parts)


def map_figures(results: Results) -> dict[str, Block]:
    """The items in two dimensions before and after the language model, a picture a data set."""
    shown: dict[str, dict[str, tuple[dict, dict]]] = {}
    for cell, items in _items(results, "map_after"):
        # One seed of each backbone: two maps have no mean.
        shown.setdefault(cell["dataset"], {}).setdefault(cell["backbone"], (cell, items))
    return {dataset: _map(dataset, list(found.values())) for dataset, found in shown.items()}


def _map(dataset: str, shown: list[tuple[dict, dict]]) -> Block:
    figure = drawing.new_figure(9.0, 4.3 * len(shown) + 0.9)
    panels = figure.subplots(len(shown), 2, squeeze=False)
    numbers = []
    for row, (cell, items) in zip(panels, shown, strict=True):
        where = {"dataset": dataset, "backbone": cell["backbone"], "seed": cell["seed"]}
        points = pd.DataFrame({"item": items["item"], "category": items["category"]})
        for part in ("before", "after"):
            points[[f"{part}_1", f"{part}_2"]] = items[f"map_{part}"]
        numbers.append(points.dropna().assign(**where))
        largest = (
            points["category"].value_counts(sort=False).sort_values(ascending=False, kind="stable")
        )
        categories = dict(zip(largest.index[:_N_CATEGORIES], drawing.styles(), strict=False))
        for axes, part, sign in ((row[0], "before", "$e_v$"), (row[1], "after", "$h^v$")):
            columns = [f"{part}_1", f"{part}_2"]
            others = points[~points["category"].isin(categories)]
            axes.scatter(*others[columns].T.to_numpy(), s=5, color=drawing.GREY, alpha=0.5, lw=0)
            for category, (colour, marker) in categories.items():
                chosen = points.loc[points["category"] == category, columns]
                axes.scatter(*chosen.T.to_numpy(), s=14, color=colour, marker=marker, lw=0)
            axes.set_title(f"{dataset}, {cell['backbone']}, seed {cell['seed']}: {part}, {sign}")
            axes.set(xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)", xticks=[], yticks=[])
    figure.suptitle(
        f"Items before and after the language model, {len(categories)} largest categories"
    )
    cells = pd.DataFrame([cell for cell, _ in shown], dtype=object)
    name = f"figure_map_{dataset.replace('/', '_')}"
    return Block(name, pd.concat(numbers), cells, png=drawing.png(figure))


def _items(results: Results, needed: str) -> Iterator[tuple[dict, dict[str, np.ndarray]]]:
    """TSLRec's cells with what is kept of their items, those that have an array of that name."""
    for cell in results.own[results.own["variant"] == "TSLRec"].to_dict("records"):
        items = results.arrays("items", cell) or {}
        if needed in items:
            yield cell, items


def _seeds(counts: pd.Series) -> str:
    """How many seeds stand behind what is drawn, "1 to 3 seeds" while a grid is unfinished."""
    return seeds_text(counts.min(), counts.max())

"""The paper's Table 2 from kept results, the tests behind its stars, and reuse across backbones.

A table is a DataFrame of Markdown beside a DataFrame of the numbers behind it, in full precision.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from recbole_tslrec.evaluation.metrics import METRICS, PROTOCOLS, beside_figures
from recbole_tslrec.evaluation.significance import (
    Comparison,
    Outcome,
    compare_seeds,
    compare_users,
    comparison_table,
    correct,
    verdict,
)
from recbole_tslrec.experiments.report.document import Block, escape
from recbole_tslrec.experiments.report.lines import METHOD, Key, in_order
from recbole_tslrec.experiments.report.published import published
from recbole_tslrec.experiments.report.results import MAIN_METRIC, Results
from recbole_tslrec.experiments.run.tables import mean_text, seeds_text
from recbole_tslrec.recbole_bridge.paradigm import table_rows

NOTHING = "–"


def variant_name(variant: str) -> str:
    """What a table calls a row; one of a later version by its own name."""
    known = table_rows()
    return known[variant].title if variant in known else variant


# ---- one method against another ------------------------------------------------------------------


def all_comparisons(results: Results, protocol: str) -> pd.DataFrame:
    """Every variant against Base, every method against its controls and its rivals, and TSLRec against
    every method, everywhere; a row each.

    Those of one metric are one family of Holm's correction: the metrics are four views of the same
    ranks, and the text goes by one of them.
    """
    pairs = [pair for place in results.places() for pair in _pairs(results, *place)]
    families = (
        correct([compare_methods(results, *pair, metric, protocol) for pair in pairs])
        for metric in METRICS
    )
    return comparison_table([one for family in families for one in family])


def _pairs(results: Results, dataset: str, backbone: str) -> list[tuple[Key, Key]]:
    keys = {name: (dataset, backbone, name, "") for name in results.variants(dataset, backbone)}
    rows = table_rows()
    owners = {name: rows[name].of if name in rows else "" for name in keys}
    pairs = [(name, "Base") for name in keys if name != "Base"]
    pairs += [
        ("TSLRec", name)
        for name, of in owners.items()
        if name not in ("Base", "TSLRec") and of in ("", "TSLRec")
    ]
    pairs += [(of, name) for name, of in owners.items() if of not in ("", "TSLRec")]
    pairs += [(name, rival) for name in keys if name in rows for rival in rows[name].rivals]
    return [(keys[ours], keys[theirs]) for ours, theirs in pairs if {ours, theirs} <= keys.keys()]


def compare_methods(
    results: Results, ours: Key, theirs: Key, metric: str, protocol: str
) -> Comparison:
    """One method against another, not yet corrected; on the seeds of both, if they have any."""
    values = [results.methods[key][f"{protocol} {metric}"].astype(float) for key in (ours, theirs)]
    common = values[0].index.intersection(values[1].index)
    paired = [of_seeds.loc[common] if len(common) else of_seeds for of_seeds in values]
    scores = [
        results.scores(key, protocol, tuple(of_seeds.index))
        for key, of_seeds in zip((ours, theirs), paired, strict=True)
    ]
    if any(one is None for one in scores):
        users = Outcome(0, None, "No ranks are kept: there is no test.")
    else:
        users = compare_users(*(one[metric] for one in scores))
    difference = float(paired[0].mean() - paired[1].mean())
    return Comparison(
        dataset=ours[0],
        backbone=ours[1],
        ours=f"{ours[2]} from {ours[3]}" if ours[3] else ours[2],
        theirs=theirs[2],
        metric=metric,
        difference=difference,
        relative=difference / float(paired[1].mean()) if paired[1].mean() else None,
        users=users,
        seeds=compare_seeds(values[0].to_dict(), values[1].to_dict()),
        common_seeds=len(common),
    )


def findings(of_method: pd.DataFrame) -> dict[str, list[tuple[str, list[str]]]]:
    """What is said of a method against whom, and where: verdict -> rivals, in the order of a table."""
    said: dict[str, dict[str, list[str]]] = {"better than": {}, "worse than": {}}
    rows = of_method.rename(columns={"against": "variant"})
    for _, one in rows.sort_values("variant", key=in_order, kind="stable").iterrows():
        rivals = said.setdefault(verdict(one), {})
        place = f"{one['dataset']} {one['backbone']}"
        rivals.setdefault(variant_name(one["variant"]), []).append(place)
    return {words: list(rivals.items()) for words, rivals in said.items()}


def findings_beside_tslrec(tested: pd.DataFrame) -> dict[str, dict[str, list]]:
    """The ``findings`` of each other method that has a control of its own in the tests."""
    shown = tested[(tested["metric"] == MAIN_METRIC) & (tested["method"] != "TSLRec")]
    controlled = dict.fromkeys(shown.loc[shown["against"] != "Base", "method"])
    return {
        variant_name(method): findings(shown[shown["method"] == method]) for method in controlled
    }


# ---- the tables ----------------------------------------------------------------------------------


def main_table(results: Results, protocol: str, tested: pd.DataFrame) -> Block:
    """Table 2 under one protocol; ``tested`` (of ``all_comparisons``) gives the stars."""
    numbers = _result_numbers(results, protocol, tested)
    shown = numbers.sort_values(["dataset", "backbone", "variant"], key=in_order)
    group = shown.groupby(["dataset", "backbone", "metric"])["mean"]
    # The shown figures decide, so that equal ones are marked alike.
    place = group.transform(lambda means: means.round(4).rank(method="dense", ascending=False))
    place = place.where(group.transform("size") > 1)
    texts = (shown["text"] + " " + shown["mark"].map(escape)).str.strip()
    # GitHub takes <u> out, and shows <ins> underlined.
    texts = texts.mask(place == 1, "**" + texts + "**")
    texts = texts.mask(place == 2, "<ins>" + texts + "</ins>")
    paper = shown["paper"].map("<br><sub>paper {:.4f}</sub>".format)
    shown["text"] = texts.where(shown["paper"].isna(), texts + paper)
    shown["column"] = shown["dataset"].map(escape) + "<br>" + shown["metric"]
    columns = list(dict.fromkeys(shown["column"]))
    table = shown.pivot(index=["backbone", "variant"], columns="column", values="text")[columns]
    table = table.fillna(NOTHING).reset_index().sort_values(["backbone", "variant"], key=in_order)
    beside: dict[tuple[str, str], dict[str, None]] = {}
    for cell in results.cells.to_dict("records"):
        said = beside.setdefault((cell["backbone"], cell["variant"]), {})
        said[beside_figures(cell["effective"], protocol)] = None
    table["variant"] = [
        escape(variant_name(row) + "".join(beside[backbone, row]))
        for backbone, row in zip(table["backbone"], table["variant"], strict=True)
    ]
    table["backbone"] = table["backbone"].where(~table["backbone"].duplicated(), "")
    table = table.rename(columns={"variant": "method"})
    numbers = numbers.rename(columns={"variant": "method"}).drop(columns=["text", "mark"])
    return Block(f"table_2_{protocol}", numbers, results.own, table)


def _result_numbers(results: Results, protocol: str, tested: pd.DataFrame) -> pd.DataFrame:
    """A row a method and metric."""
    rows = []
    for key, cells in results.methods.items():
        if key[3]:
            continue
        for metric in METRICS:
            values = cells[f"{protocol} {metric}"].astype(float)
            row = dict(zip(METHOD[:3], key, strict=False))
            row |= {
                "protocol": protocol,
                "metric": metric,
                "seeds": " ".join(map(str, cells.index)),
            }
            row |= {"mean": values.mean(), "std": values.std()}
            row |= {"by_seed": " ".join(f"{value:g}" for value in values)}
            paper = published(*key[:3], metric) if protocol in PROTOCOLS else None  # of all targets
            row |= {"paper": paper, "text": mean_text(values.tolist())}
            rows.append(row)
    numbers = pd.DataFrame(rows).astype({"paper": float})
    signs = ["p_users_holm", "p_seeds_holm", "mark"]
    if tested.empty:
        return numbers.assign(**dict.fromkeys(signs[:2]), mark="")
    against_base = tested[tested["against"] == "Base"].rename(columns={"method": "variant"})
    on = [*METHOD[:3], "metric"]
    return numbers.merge(against_base[[*on, *signs]], on=on, how="left").fillna({"mark": ""})


def gains_table(results: Results, of_tslrec: pd.DataFrame, protocol: str) -> Block:
    """What TSLRec gains over the others, a row a data set and backbone.

    Args:
        of_tslrec: the comparisons of TSLRec with the others, in the main metric and this protocol.
    """
    rivals = of_tslrec["against"].drop_duplicates().rename("variant")
    rivals = rivals.sort_values(key=in_order).tolist()
    rows = []
    for (dataset, backbone), gains in of_tslrec.groupby(["dataset", "backbone"], sort=False):
        ours = results.method(dataset, backbone, "TSLRec")
        text = mean_text(ours[f"{protocol} {MAIN_METRIC}"].tolist())
        row = {"data set": escape(dataset), "backbone": escape(backbone)}
        row["TSLRec"] = f"{text}<br><sub>{seeds_text(len(ours))}</sub>"
        row |= {f"gain over<br>{escape(variant_name(rival))}": NOTHING for rival in rivals}
        for _, one in gains.iterrows():
            few = one["common_seeds"] < len(ours)
            fewer = f", seeds of both: {one['common_seeds']}" if few else ""
            text = f"{percent(one['relative'])} {escape(one['mark'])}".strip()
            rival = escape(variant_name(one["against"]))
            row[f"gain over<br>{rival}"] = f"{text}<br><sub>{one['difference']:+.4f}{fewer}</sub>"
        rows.append(row)
    where = of_tslrec[["dataset", "backbone"]].drop_duplicates()
    used = results.own.merge(where, on=["dataset", "backbone"])
    used = used[used["variant"].isin([*rivals, "TSLRec"])]
    return Block(f"gains_{protocol}", of_tslrec, used, pd.DataFrame(rows))


def significance_table(results: Results, tested: pd.DataFrame, protocol: str) -> Block:
    """The p-values behind the stars of one table, for the main metric; the CSV has every metric."""
    shown = tested[tested["metric"] == MAIN_METRIC]
    table = shown[["dataset", "backbone", "method", "against"]].map(escape)
    table["difference"] = shown["difference"].map("{:+.4f}".format)
    table["relative"] = shown["relative"].map(percent)
    for test in ("users", "seeds"):
        table[test] = shown[f"n_{test}"].map("{:,}".format)
        table[f"p, {test}"] = shown[f"p_{test}_holm"].map(_p_text).map(escape)
    table["note"] = shown["note"].map(escape)
    table = table.rename(columns={"dataset": "data set"})
    return Block(f"tests_{protocol}", tested, results.own, table)


def reuse_tables(results: Results, protocol: str) -> dict[str, Block]:
    """Embeddings made with one backbone and used by another, a table a data set; maybe none."""
    reused = results.cells[results.cells["made_by"] != ""]
    return {
        dataset: _reuse_table(results, dataset, protocol)
        for dataset in dict.fromkeys(reused["dataset"])
    }


def _reuse_table(results: Results, dataset: str, protocol: str) -> Block:
    keys = [key for key in results.methods if key[0] == dataset]
    tslrec = [key for key in keys if key[2] == "TSLRec"]
    base = {key[1]: key for key in keys if key[2] == "Base"}
    against_base = [
        compare_methods(results, key, base[key[1]], MAIN_METRIC, protocol)
        for key in tslrec
        if key[1] in base
    ]
    # The diagonal's tests are in Table 2; here they would be corrected a second time.
    tested = correct([one for one in against_base if one.ours != "TSLRec"])
    tested += [one for one in against_base if one.ours == "TSLRec"]
    marks = {(one.ours, one.backbone): one for one in tested}
    cells = results.cells[(results.cells["dataset"] == dataset)]
    users = pd.Series(list({key[1] for key in keys}), name="backbone").sort_values(key=in_order)
    makers = {key[3] or key[1] for key in tslrec}
    makers = pd.Series(list(makers), name="backbone").sort_values(key=in_order)
    means = {
        key: cells[f"{protocol} {MAIN_METRIC}"].mean() for key, cells in results.methods.items()
    }
    rows = []
    for maker in makers:
        row = {"made with": escape(maker)}
        for user in users:
            key = (dataset, user, "TSLRec", "" if maker == user else maker)
            text = f"{means[key]:.4f}" if key in means else NOTHING
            if one := marks.get((f"TSLRec from {maker}" if key[3] else "TSLRec", user)):
                text = f"{text} {escape(one.mark)}".strip()
                text += f"<br><sub>{percent(one.relative)}</sub>"
            row[f"used by<br>{escape(user)}"] = text
        rows.append(row)
    last = [f"{means[base[user]]:.4f}" if user in base else NOTHING for user in users]
    rows.append(dict(zip(rows[0], ["Base, without", *last], strict=True)))
    numbers, used = comparison_table(tested), cells[cells["variant"].isin(["TSLRec", "Base"])]
    return Block(f"reuse_{dataset.replace('/', '_')}_{protocol}", numbers, used, pd.DataFrame(rows))


def seeds_table(results: Results) -> Block:
    """Which seeds every method has, and what it was trained with; the CSV has a row a cell."""
    rows = []
    for (dataset, backbone, variant, made_by), cells in results.methods.items():
        row = {"data set": dataset, "backbone": backbone, "method": variant}
        row |= {"embeddings from": made_by, "seeds": ", ".join(map(str, cells.index))}
        epochs = ("?" if number is None else str(number) for number in cells["epochs"])
        of_seeds = cells[f"valid {MAIN_METRIC}"]
        valid = NOTHING if of_seeds.isna().all() else ", ".join(of_seeds.map("{:.4f}".format))
        protocol = cells["effective"].iloc[0].get("valid_protocol", "ranked")
        valid += "" if protocol == "ranked" or valid == NOTHING else f" {protocol}"
        row |= {"epochs": ", ".join(epochs), f"validation {MAIN_METRIC}": valid}
        rows.append({name: escape(text) for name, text in row.items()})
    numbers = pd.concat([results.cells, results.failed])
    return Block("cells", numbers, results.cells, pd.DataFrame(rows))


# ---- words ---------------------------------------------------------------------------------------


def seeds_and_gaps(results: Results) -> str:
    """How many seeds, and which methods have fewer; a backbone's in one where all have as many."""
    most = max(len(cells) for cells in results.methods.values())
    fewer = []
    for dataset, backbone in results.places():
        names = results.variants(dataset, backbone)
        counts = {f" {name}": len(results.method(dataset, backbone, name)) for name in names}
        if len(set(counts.values())) == 1:
            counts = {"": next(iter(counts.values()))}
        fewer += [f"{dataset} {backbone}{v} has {n}" for v, n in counts.items() if n < most]
    return seeds_text(most) + (f" ({', '.join(fewer)})" if fewer else "")


def family_text(tested: pd.DataFrame) -> str:
    """The size of the families that Holm's correction is for, of the main metric."""
    main = tested[(tested["metric"] == MAIN_METRIC)]
    users, seeds = (main[f"p_{test}_holm"].notna().sum() for test in ("users", "seeds"))
    return f"{users} tests over the users and {seeds} over the seeds"


def percent(share: float | None) -> str:
    return NOTHING if share is None or np.isnan(share) else f"{share:+.1%}".replace("%", " %")


def _p_text(p_value: float) -> str:
    if np.isnan(p_value):
        return "none"
    return f"{p_value:.2g}" if p_value >= 1e-4 else "< 0.0001"

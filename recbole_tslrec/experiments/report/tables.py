"""The paper's Table 2 from kept results, the tests behind its stars, and reuse across backbones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from recbole_tslrec.config.keys import KEYS
from recbole_tslrec.evaluation.ranks import METRICS, PROTOCOLS
from recbole_tslrec.evaluation.significance import (
    Comparison,
    Outcome,
    compare_seeds,
    compare_users,
    correct,
)
from recbole_tslrec.experiments.report.document import BEST, SECOND, Entry, Table, entries
from recbole_tslrec.experiments.report.grid_tables import mean_text
from recbole_tslrec.experiments.report.published import published
from recbole_tslrec.experiments.report.results import MAIN_METRIC, KeptCell, Method, Results
from recbole_tslrec.recbole_bridge.paradigm import controls, variants

TESTS = (
    "paired t-test over the users (each user's metric is the mean over the seeds) and t-test over the "
    "seeds (paired by seed), both two-sided at 0.05 after Holm's correction"
)
# Keys whose value tells the cells of one table apart by intent.
_VARYING = ("seed", "enhancement", "enhanced_items", "backbone_checkpoint")


def main_table(
    results: Results, protocol: str, comparisons: Sequence[Comparison], command: str
) -> Table:
    """Table 2 under one protocol; ``comparisons`` (of ``all_comparisons``) give the stars."""
    with_base = [one for one in comparisons if one.theirs == "Base"]
    by_place = {(one.dataset, one.backbone, one.ours, one.metric): one.mark for one in with_base}
    columns = [("", "backbone"), ("", "method")]
    columns += [(dataset, metric) for dataset in results.datasets for metric in METRICS]
    rows: list[list[Entry]] = []
    for backbone in results.backbones():
        for number, variant in enumerate(results.variants(backbone=backbone)):
            row = entries([backbone if number == 0 else "", variant_name(variant)])
            for dataset in results.datasets:
                method = results.method(dataset, backbone, variant)
                for metric in METRICS:
                    mark = by_place.get((dataset, backbone, variant, metric), "")
                    row.append(_result_entry(results, method, metric, protocol, mark))
            rows.append(row)
    caption = (
        f"Protocol: {_protocol_text(protocol)} Test users, full ranking over all items; mean ± "
        f"standard deviation over {_seeds_and_gaps(results)}. Bold is the best of a backbone and data "
        f"set, underlined the second. Against Base: * is better over the users, † over the seeds, ↓ "
        f"before a sign is worse ({TESTS} for the {_family_text(comparisons)} of a metric in this "
        f"protocol). A sign for the users alone speaks of these trained models, not of "
        f"models trained anew."
    )
    if any(entry.below for row in rows for entry in row):
        caption += (
            " 'paper' is the figure published in arXiv 2406.00333; whether items seen before were "
            "ranked there is not known to us, and data, settings and language model differ, so it is "
            "there for orientation."
        )
    return Table(
        f"table_2_{protocol}",
        f"Table 2, {PROTOCOLS[protocol]}",
        caption,
        made([cell for cell in results.cells if cell.made_by is None], command),
        columns,
        rows,
        _result_numbers(results, protocol, with_base),
    )


def gains_table(
    results: Results, of_tslrec: Sequence[Comparison], protocol: str, command: str
) -> Table:
    """What TSLRec gains over every other method, a row a data set and backbone.

    Args:
        of_tslrec: the comparisons of TSLRec with the others, in the main metric and this protocol.
    """
    by_place = {(one.dataset, one.backbone, one.theirs): one for one in of_tslrec}
    held_against = {one.theirs for one in of_tslrec} | {"Base", "CI", *controls()}
    # A variant of a later version may be in the folder; it comes last.
    known = dict.fromkeys([*variants(), *results.variants()])
    rivals = [variant for variant in known if variant in held_against]
    rows: list[list[Entry]] = []
    used: list[KeptCell] = []
    for dataset, backbone in dict.fromkeys((one.dataset, one.backbone) for one in of_tslrec):
        ours = results.method(dataset, backbone, "TSLRec")
        used += ours.cells.values()
        row = [
            *entries([dataset, backbone]),
            Entry(
                mean_text([*ours.values(MAIN_METRIC, protocol).values()]),
                below=_seeds_text(len(ours.seeds)),
            ),
        ]
        for rival in rivals:
            one = by_place.get((dataset, backbone, rival))
            row.append(Entry("–") if one is None else _gain_entry(one, len(ours.seeds)))
            theirs = results.method(dataset, backbone, rival)
            used += theirs.cells.values() if theirs else ()
        rows.append(row)
    caption = (
        f"{MAIN_METRIC}, {PROTOCOLS[protocol]}: TSLRec's mean ± standard deviation over its seeds, and "
        f"what it gains over each of the others, on the seeds that both have. * where the test over the "
        f"users finds a difference, † where that over the seeds does, after ↓ if TSLRec is worse."
    )
    columns = [("", name) for name in ("data set", "backbone", "TSLRec")]
    columns += [("gain over", variant_name(rival)) for rival in rivals]
    return Table(
        f"gains_{protocol}",
        f"TSLRec against the others, {PROTOCOLS[protocol]}",
        caption,
        made(used, command),
        columns,
        rows,
        comparison_numbers(of_tslrec),
    )


def _gain_entry(one: Comparison, n_seeds: int) -> Entry:
    fewer = "" if one.common_seeds == n_seeds else f", seeds of both: {one.common_seeds}"
    text = f"{_percent(one.relative)} {one.mark}".strip()
    return Entry(text, below=f"{one.difference:+.4f}{fewer}")


def variant_name(variant: str) -> str:
    """What a table calls a row; one of a later version by its own name."""
    known = variants()
    return known[variant].title if variant in known else variant


def all_comparisons(results: Results, protocol: str) -> list[Comparison]:
    """Every variant against Base, and TSLRec against every variant, everywhere.

    Those of one metric are one family of Holm's correction: the metrics are four views of the same
    ranks, and the text goes by one of them.
    """
    comparisons = []
    for metric in METRICS:
        family = []
        for dataset in results.datasets:
            for backbone in results.backbones(dataset):
                pairs = _pairs(results, dataset, backbone)
                family += [compare(results, *pair, metric, protocol) for pair in pairs]
        comparisons += correct(family)
    return comparisons


def _pairs(results: Results, dataset: str, backbone: str) -> list[tuple[Method, Method]]:
    methods = {
        variant: results.method(dataset, backbone, variant)
        for variant in results.variants(dataset, backbone)
    }
    pairs = []
    if "Base" in methods:
        pairs += [(one, methods["Base"]) for name, one in methods.items() if name != "Base"]
    if "TSLRec" in methods:
        rivals = [one for name, one in methods.items() if name not in ("Base", "TSLRec")]
        pairs += [(methods["TSLRec"], rival) for rival in rivals]
    return pairs


def compare(
    results: Results, ours: Method, theirs: Method, metric: str, protocol: str
) -> Comparison:
    """One method against another, not yet corrected; on the seeds of both, if they have any."""
    common = set(ours.seeds) & set(theirs.seeds)
    seeds = [
        tuple(seed for seed in method.seeds if seed in common or not common)
        for method in (ours, theirs)
    ]
    scores = [
        results.scores(method, protocol, of_method)
        for method, of_method in zip((ours, theirs), seeds, strict=True)
    ]
    if any(one is None for one in scores):
        users = Outcome(0, None, "No ranks are kept: there is no test.")
    else:
        users = compare_users(*(one[metric] for one in scores))
    our_mean, their_mean = (
        np.mean([method.values(metric, protocol)[seed] for seed in of_method])
        for method, of_method in zip((ours, theirs), seeds, strict=True)
    )
    difference = float(our_mean - their_mean)
    return Comparison(
        dataset=ours.dataset,
        backbone=ours.backbone,
        ours=ours.variant if ours.made_by is None else f"{ours.variant} from {ours.made_by}",
        theirs=theirs.variant,
        metric=metric,
        difference=difference,
        relative=difference / float(their_mean) if their_mean else None,
        users=users,
        seeds=compare_seeds(ours.values(metric, protocol), theirs.values(metric, protocol)),
        common_seeds=len(common),
    )


def _family_text(comparisons: Sequence[Comparison]) -> str:
    """The size of the families that Holm's correction is for, of the main metric."""
    tested = [one for one in comparisons if one.metric == MAIN_METRIC]
    users, seeds = (
        sum(getattr(one, test).p_value is not None for one in tested) for test in ("users", "seeds")
    )
    return f"{users} tests over the users and {seeds} over the seeds"


def significance_table(
    comparisons: Sequence[Comparison], protocol: str, cells, command: str
) -> Table:
    """The p-values behind the stars of one table, for the main metric; the CSV has every metric."""
    columns = ["data set", "backbone", "method", "against", "difference", "relative"]
    columns += ["users", "p, users", "seeds", "p, seeds", "note"]
    rows = [
        entries(
            [
                one.dataset,
                one.backbone,
                one.ours,
                one.theirs,
                f"{one.difference:+.4f}",
                _percent(one.relative),
                f"{one.users.n:,}",
                _p_text(one.users),
                str(one.seeds.n),
                _p_text(one.seeds),
                _notes(one),
            ]
        )
        for one in comparisons
        if one.metric == MAIN_METRIC
    ]
    caption = (
        f"{MAIN_METRIC}, {PROTOCOLS[protocol]}: {TESTS}. The p-values are the corrected ones; "
        f"'none' is where there is nothing to test, and the note says why. The CSV has every metric "
        f"and the p-values before correction."
    )
    return Table(
        f"tests_{protocol}",
        f"The tests, {PROTOCOLS[protocol]}",
        caption,
        made(cells, command),
        [("", column) for column in columns],
        rows,
        comparison_numbers(comparisons),
    )


def comparison_numbers(comparisons: Iterable[Comparison]) -> pd.DataFrame:
    """A row a comparison, in full precision."""
    return pd.DataFrame(
        [
            {
                "dataset": one.dataset,
                "backbone": one.backbone,
                "method": one.ours,
                "against": one.theirs,
                "metric": one.metric,
                "difference": one.difference,
                "relative": one.relative,
                "n_users": one.users.n,
                "p_users": one.users.p_value,
                "p_users_holm": one.users.corrected,
                "n_seeds": one.seeds.n,
                "p_seeds": one.seeds.p_value,
                "p_seeds_holm": one.seeds.corrected,
                "note": _notes(one),
            }
            for one in comparisons
        ]
    )


def reuse_tables(results: Results, protocol: str, command: str) -> list[Table]:
    """Embeddings made with one backbone and used by another, a table a data set; maybe none."""
    tables = []
    for dataset in results.datasets:
        makers = {key[3] for key in results.methods if key[0] == dataset and key[3] is not None}
        if makers:
            tables.append(_reuse_table(results, dataset, protocol, command))
    return tables


def _reuse_table(results: Results, dataset: str, protocol: str, command: str) -> Table:
    users = results.backbones(dataset)
    methods = {
        (key[3] or key[1], key[1]): method
        for key, method in results.methods.items()
        if key[0] == dataset and key[2] == "TSLRec"
    }
    against_base = [
        compare(results, method, base, MAIN_METRIC, protocol)
        for method in methods.values()
        if (base := results.method(dataset, method.backbone, "Base")) is not None
    ]
    # The diagonal's tests are in Table 2; here they would be corrected a second time.
    reused = correct(one for one in against_base if one.ours != "TSLRec")
    comparisons = reused + [one for one in against_base if one.ours == "TSLRec"]
    by_place = {(one.ours, one.backbone): one for one in comparisons}
    makers = [name for name in results.backbones() if any(name == maker for maker, _ in methods)]
    makers += sorted({maker for maker, _ in methods} - set(makers))
    rows = []
    for maker in makers:
        row = entries([maker])
        for user in users:
            method = methods.get((maker, user))
            name = "TSLRec" if maker == user else f"TSLRec from {maker}"
            row.append(_reuse_entry(method, by_place.get((name, user)), protocol))
        rows.append(row)
    base = {user: results.method(dataset, user, "Base") for user in users}
    base_row = [
        f"{base[user].mean(MAIN_METRIC, protocol):.4f}" if base[user] else "–" for user in users
    ]
    rows.append(entries(["Base, without", *base_row]))
    cells = [cell for method in methods.values() for cell in method.cells.values()]
    cells += [cell for method in base.values() if method for cell in method.cells.values()]
    caption = (
        f"{MAIN_METRIC} of TSLRec on {dataset}, mean over the seeds; below it the gain over Base of the "
        f"same column, on the seeds of both. A row is the backbone whose enhanced embeddings were "
        f"used, a column the backbone that uses them; on the diagonal a backbone uses its own. * "
        f"and † as in Table 2, which has those of the diagonal; off it corrected for the "
        f"{_family_text(reused)} of this table. "
        f"Protocol: {_protocol_text(protocol)}"
    )
    return Table(
        f"reuse_{dataset}_{protocol}",
        f"Reuse across backbones: {dataset}, {PROTOCOLS[protocol]}",
        caption,
        made(cells, command),
        [("", "made with"), *(("used by", user) for user in users)],
        rows,
        comparison_numbers(comparisons),
    )


def _reuse_entry(method: Method | None, comparison: Comparison | None, protocol: str) -> Entry:
    if method is None:
        return Entry("–")
    text = f"{method.mean(MAIN_METRIC, protocol):.4f}"
    if comparison is None:
        return Entry(text)
    return Entry(f"{text} {comparison.mark}".strip(), below=_percent(comparison.relative))


def _result_entry(
    results: Results, method: Method | None, metric: str, protocol: str, mark: str
) -> Entry:
    if method is None:
        return Entry("–")
    rivals = [
        results.method(method.dataset, method.backbone, variant).mean(metric, protocol)
        for variant in results.variants(method.dataset, method.backbone)
    ]
    # The shown figures decide, so that equal ones are marked alike.
    ranked = sorted({round(rival, 4) for rival in rivals}, reverse=True)
    place = ranked.index(round(method.mean(metric, protocol), 4)) if len(rivals) > 1 else None
    paper = published(method.dataset, method.backbone, method.variant, metric)
    return Entry(
        f"{mean_text([*method.values(metric, protocol).values()])} {mark}".strip(),
        {0: BEST, 1: SECOND}.get(place, ""),
        "" if paper is None else f"paper {paper:.4f}",
    )


def _result_numbers(
    results: Results, protocol: str, comparisons: Sequence[Comparison]
) -> pd.DataFrame:
    by_place = {(one.dataset, one.backbone, one.ours, one.metric): one for one in comparisons}
    rows = []
    for (dataset, backbone, variant, made_by), method in results.methods.items():
        if made_by is not None:
            continue
        for metric in METRICS:
            values = method.values(metric, protocol)
            one = by_place.get((dataset, backbone, variant, metric))
            rows.append(
                {
                    "dataset": dataset,
                    "backbone": backbone,
                    "method": variant,
                    "protocol": protocol,
                    "metric": metric,
                    "seeds": " ".join(map(str, values)),
                    "mean": np.mean(list(values.values())),
                    "std": np.std(list(values.values()), ddof=1) if len(values) > 1 else None,
                    "by_seed": " ".join(f"{value:g}" for value in values.values()),
                    "paper": published(dataset, backbone, variant, metric),
                    "p_users_holm": one.users.corrected if one else None,
                    "p_seeds_holm": one.seeds.corrected if one else None,
                }
            )
    return pd.DataFrame(rows)


def made(cells: Sequence[KeptCell], command: str) -> list[str]:
    """How numbers of these cells came about: seeds, settings, machines, versions, commands."""
    seeds = sorted({cell.seed for cell in cells})
    versions = sorted(
        {", ".join(f"{name} {number}" for name, number in c.versions.items()) for c in cells}
    )
    return [
        f"{_seeds_text(len(seeds))}: {', '.join(map(str, seeds))}",
        f"Settings: {_settings_text(cells)}",
        f"Machine: {'; '.join(sorted({cell.machine for cell in cells})) or 'not noted'}",
        f"Versions: {'; '.join(versions) or 'not noted'}",
        f"Made by: {'; '.join(sorted({cell.command for cell in cells})) or 'not noted'}",
        f"Report: {command}",
    ]


def _settings_text(cells: Sequence[KeptCell]) -> str:
    """What was given, then the values that differ, with how many cells have which.

    Of RecBole's keys only those that were given: the rest are its defaults for the model and data.
    """
    given = {key for cell in cells for key in cell.settings}
    shown = (given | KEYS.keys()) - set(_VARYING)
    values: dict[str, Counter] = {}
    for cell in cells:
        for key, value in cell.effective.items():
            if key in shown:
                values.setdefault(key, Counter())[value] += 1
    shared = [
        f"{key}: {next(iter(counts))}"
        for key, counts in values.items()
        if key in given and len(counts) == 1
    ]
    differing = []
    for key, counts in values.items():
        if len(counts) > 1:
            each = ", ".join(f"{value} ({n} cells)" for value, n in counts.most_common())
            differing.append(f"{key}: {each}")
    text = f"given: {', '.join(shared) or 'none'}"
    text += f". Differing: {'; '.join(differing)}" if differing else ""
    return f"{text}. Every value of every cell: cells.csv"


def _seeds_and_gaps(results: Results) -> str:
    """How many seeds, and which methods have fewer; a backbone's in one where all have as many."""
    seeds: dict[str, dict[str, int]] = {}
    for method in results.methods.values():
        if method.made_by is None:
            of_backbone = seeds.setdefault(f"{method.dataset} {method.backbone}", {})
            of_backbone[method.variant] = len(method.seeds)
    most = max((len(method.seeds) for method in results.methods.values()), default=0)
    fewer = []
    for name, counts in seeds.items():
        if len(set(counts.values())) == 1:
            counts = {"": next(iter(counts.values()))}
        fewer += [f"{name} {v}".strip() + f" has {n}" for v, n in counts.items() if n < most]
    text = _seeds_text(most)
    return f"{text} ({', '.join(fewer)})" if fewer else text


def _seeds_text(count: int) -> str:
    return f"{count} seed{'s' if count > 1 else ''}"


def _protocol_text(protocol: str) -> str:
    return {
        "ranked": "seen items ranked, as in RecBole (items of the user's history stay among the "
        "candidates). Not comparable with figures that take them out.",
        "masked": "seen items masked (items of the user's history are taken out of the candidates, "
        "except the target). Not comparable with RecBole's own figures.",
    }[protocol]


def _notes(comparison: Comparison) -> str:
    parts = [
        f"{name}: {outcome.note}"
        for name, outcome in (("users", comparison.users), ("seeds", comparison.seeds))
        if outcome.note
    ]
    return " ".join(parts)


def _p_text(outcome: Outcome) -> str:
    if outcome.corrected is None:
        return "none"
    return f"{outcome.corrected:.2g}" if outcome.corrected >= 1e-4 else "< 0.0001"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:+.1%}".replace("%", " %")

"""The report of made-up results: what it says, marks, leaves out and refuses."""

import base64
import json
import re
import sys
from html.parser import HTMLParser
from itertools import islice
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from synthetic import VARIANTS, SyntheticResults

from recbole_tslrec.__main__ import main
from recbole_tslrec.backbones.registry import BACKBONES
from recbole_tslrec.evaluation.kept_ranks import user_metrics
from recbole_tslrec.evaluation.significance import (
    Comparison,
    Outcome,
    comparison_table,
    verdict,
)
from recbole_tslrec.evaluation.slices import quantile_groups
from recbole_tslrec.experiments import report as room
from recbole_tslrec.experiments.report import drawing, figures
from recbole_tslrec.experiments.report.costs import cost_table
from recbole_tslrec.experiments.report.report import make_report, write_report
from recbole_tslrec.experiments.report.results import Results
from recbole_tslrec.experiments.report.tables import (
    all_comparisons,
    gains_table,
    main_table,
    reuse_tables,
    seeds_and_gaps,
    seeds_table,
    variant_name,
)

SEEDS = (2020, 2021, 2022)


@pytest.fixture
def written(tmp_path):
    """Two data sets, two backbones; one backbone has used the other's embeddings; one cell failed."""
    writer = SyntheticResults(tmp_path / "results", n_users=150, n_items=80)
    for dataset, backbone in (
        ("beauty", "SASRec"),
        ("beauty", "GRU4Rec"),
        ("odd_* name", "SASRec"),
    ):
        for variant in VARIANTS:
            for seed in SEEDS:
                writer.write(dataset, backbone, variant, seed)
    for seed in SEEDS:
        writer.write("beauty", "GRU4Rec", "TSLRec", seed, embeddings_from="SASRec")
    writer.write("beauty", "Caser", "TSLRec", 2020, status="failed")
    return writer


def text_of(results: Results) -> str:
    return make_report(results, "command")[0]


class Page(HTMLParser):
    """What a page holds, and whether every element that is opened is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.images, self.tables, self.links = [], [], 0, []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes[key] for key in ("href", "src") if key in attributes]
        if tag == "img":
            self.images.append(attributes["src"])
        self.tables += tag == "table"
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_command_writes_the_whole_report(written, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "report", "--results", "results", "--output", "out"])
    main()
    out = tmp_path / "out"
    page = Page()
    html = (out / "report.html").read_text(encoding="utf-8")
    page.feed(html)
    assert page.open == [] and all(link.startswith("data:image/png") for link in page.links)
    pictures = sorted(path.name for path in out.glob("*.png"))
    assert pictures == [
        "figure_4_categories.png",
        "figure_5_activity_masked.png",
        "figure_5_activity_ranked.png",
        "figure_gain_masked.png",
        "figure_gain_ranked.png",
        "figure_gate.png",
        "figure_map_beauty.png",
        "figure_map_odd_* name.png",
        "figure_popularity_masked.png",
        "figure_popularity_ranked.png",
    ]
    inside = {base64.b64decode(source.partition(",")[2]) for source in page.images}
    assert inside == {(out / name).read_bytes() for name in pictures}
    markdown = (out / "report.md").read_text(encoding="utf-8")
    for text in (markdown, html):
        assert "seen items ranked" in text and "seen items masked" in text
        assert "out of memory" in text and "<b>" not in text.split("out of memory")[1][:20]
        assert "python -m recbole_tslrec report --results results --output out" in text.replace(
            "\\_", "_"
        )
    assert page.tables == len(re.findall(r"^\|-", markdown, re.MULTILINE)) > 5
    assert "odd_* name" in html, "shown as it is"
    linked = re.findall(r"!\[.*\]\((\S*)\)", markdown)  # with a space it would be no link
    assert sorted(unquote(link) for link in linked) == pictures
    for name in re.findall(r"Numbers: (\S+\.csv)<", markdown):
        assert len(pd.read_csv(out / name.replace("\\", ""))) > 0
    assert not list(out.glob(".*")), "temporary files"


def test_the_main_table_against_its_definition(written):
    results = Results(written.folder)
    table = main_table(results, "masked", all_comparisons(results, "masked")).table
    metrics = ("HR@5", "HR@10", "NDCG@5", "NDCG@10")
    columns = [f"{name}<br>{metric}" for name in ("beauty", r"odd\_\* name") for metric in metrics]
    assert list(table) == ["backbone", "method", *columns]
    lines = (written.folder / "cells.jsonl").read_text().splitlines()
    expected = {}
    for line in map(json.loads, lines):
        if line["status"] == "done" and line["embeddings_from"] is None:
            if (line["dataset"], line["backbone"]) == ("beauty", "SASRec"):
                value = line["test"]["masked"]["ndcg@10"]
                expected.setdefault(line["variant"], []).append(value)
    start = table["backbone"].tolist().index("SASRec")
    names = table["method"].str.removeprefix("control: ").str.replace("\\_", "_")[start:]
    shown = dict(zip(names, table["beauty<br>NDCG@10"][start:], strict=True))
    assert shown.keys() == expected.keys()
    for variant, values in expected.items():
        text = f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
        assert re.sub(r"<ins>|\*\*", "", shown[variant]).startswith(text)
    best, second = sorted(expected, key=lambda variant: -np.mean(expected[variant]))[:2]
    assert [name for name in shown if shown[name].startswith("**")] == [best]
    assert [name for name in shown if shown[name].startswith("<ins>")] == [second]
    assert [name for name in shown if "paper" in shown[name]] == ["Base"]
    assert shown["Base"].endswith("<br><sub>paper 0.0424</sub>")
    text = " ".join(text_of(results).split())
    assert "whether items seen before were ranked there is not known" in text
    assert "deviation over 3 seeds." in text
    # 3 pairs of data set and backbone: 6 variants against Base, TSLRec against CI and 4 controls.
    assert "33 tests over the users and 33 over the seeds" in text


def test_gains_are_of_the_seeds_that_both_have(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    for variant, seeds in (("TSLRec", SEEDS), ("CI", SEEDS), ("random", SEEDS[:2])):
        for seed in seeds:
            writer.write("tiny", "SASRec", variant, seed)
    values = {}
    for line in map(json.loads, (tmp_path / "cells.jsonl").read_text().splitlines()):
        values[line["variant"], line["seed"]] = line["test"]["masked"]["ndcg@10"]
    results = Results(tmp_path)
    tested = all_comparisons(results, "masked")
    of_tslrec = tested[(tested["method"] == "TSLRec") & (tested["metric"] == "NDCG@10")]
    (row,) = gains_table(results, of_tslrec, "masked").table.to_dict("records")
    assert row["TSLRec"].endswith("<br><sub>3 seeds</sub>")
    gains = [name for name in row if name.startswith("gain over")]
    assert gains == ["gain over<br>CI", "gain over<br>control: random"], "what has run"
    for variant, seeds in (("CI", SEEDS), ("control: random", SEEDS[:2])):
        entry = row[f"gain over<br>{variant}"]
        variant = variant.removeprefix("control: ")
        theirs = np.mean([values[variant, seed] for seed in seeds])
        gain = np.mean([values["TSLRec", seed] for seed in seeds]) - theirs
        assert entry.startswith(f"{100 * gain / theirs:+.1f} %")
        fewer = "" if seeds == SEEDS else ", seeds of both: 2"
        assert entry.endswith(f"<br><sub>{gain:+.4f}{fewer}</sub>")


def test_metrics_of_ranks():
    metrics = user_metrics(pd.Series([1, 3, 6, 11], dtype=np.int32))
    assert metrics["HR@5"].tolist() == [1, 1, 0, 0] and metrics["HR@10"].tolist() == [1, 1, 1, 0]
    assert metrics["NDCG@10"].tolist() == pytest.approx([1, 0.5, 1 / np.log2(7), 0])


def test_reuse(written):
    (block,) = reuse_tables(Results(written.folder), "ranked").values()
    table, numbers = block.table.set_index("made with"), block.numbers
    assert list(table) == ["used by<br>GRU4Rec", "used by<br>SASRec"]
    assert list(table.index) == ["GRU4Rec", "SASRec", "Base, without"]
    assert table.loc["GRU4Rec", "used by<br>SASRec"] == "–", "SASRec has not used GRU4Rec's"
    assert (table["used by<br>GRU4Rec"] != "–").all() and len(numbers) == 3
    assert table.loc["SASRec", "used by<br>GRU4Rec"].endswith("%</sub>")
    # Holm's correction is for what this table alone has; the diagonal's stand in Table 2.
    by_method = numbers.set_index(["method", "backbone"])
    (reused,) = (key for key in by_method.index if key[0] != "TSLRec")
    assert by_method.loc[reused, "p_users_holm"] == by_method.loc[reused, "p_users"]
    assert by_method.drop(reused)["p_users_holm"].isna().all()


@pytest.mark.parametrize(
    ("difference", "users", "seeds", "said"),
    [
        (0.1, 0.01, 0.01, "better than"),
        (-0.1, 0.01, 0.01, "worse than"),
        (0.1, 0.01, 0.2, "better over the users, not over the seeds, than"),
        (-0.1, 0.2, 0.01, "worse over the seeds, not over the users, than"),
        (0.1, 0.2, 0.2, "cannot be told from"),
        (0.1, 0.01, None, "better over the users, without a test over the seeds, than"),
        (-0.1, None, 0.01, "worse over the seeds, without a test over the users, than"),
        (0.1, 0.2, None, "cannot be told from"),
        (0.1, None, None, "not tested against"),
        (0.0, None, None, "cannot be told from"),
    ],
)
def test_the_rules_of_the_text(difference, users, seeds, said):
    outcomes = [Outcome(3, p, corrected=p) for p in (users, seeds)]
    comparison = Comparison("d", "b", "TSLRec", "Base", "NDCG@10", difference, 0.1, *outcomes)
    (one,) = comparison_table([comparison]).to_dict("records")
    assert verdict(one) == said


def test_what_is_missing_is_said(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    cells = [writer.write("tiny", "SASRec", variant, 2020) for variant in ("Base", "TSLRec")]
    (tmp_path / "items" / f"{cells[1]}.npz").unlink()
    text = text_of(Results(tmp_path))
    assert set(re.findall(r"gain over<br>(\w+)", text)) == {"Base"}, "no column of what has not run"
    assert "No control of TSLRec has a finished cell here" in text
    assert "1 common seed: there is no test." in text and "± 0" not in text
    assert "Left out:" in text and "Figure 4, categories: no TSLRec cell has kept its items" in text
    assert "Map of the items: no TSLRec" in text and "E4SRec has no finished cell" in text
    assert "No finished cell uses embeddings of another backbone" in text
    (tmp_path / "ranks" / f"{cells[1]}.npz").unlink()
    text = text_of(Results(tmp_path))
    assert "no ranks are kept; the tests over users leave it out" in text
    assert "TSLRec is better than: none." in text
    assert "It was not tested against: Base (1); in brackets in how many places." in text


def test_rows_of_one_length_are_a_rival_where_they_ran(tmp_path):
    writer = SyntheticResults(tmp_path / "results")
    for variant in ("Base", "Norm", "TSLRec", "NewPeer"):  # the last of a later version
        for seed in SEEDS:
            writer.write("beauty", "SASRec", variant, seed)
    results = Results(writer.folder)
    tested = all_comparisons(results, "ranked")
    pairs = set(zip(tested["method"], tested["against"], strict=True))
    assert pairs == {
        ("Norm", "Base"),
        ("TSLRec", "Base"),
        ("NewPeer", "Base"),
        ("TSLRec", "Norm"),
        ("TSLRec", "NewPeer"),
    }
    text = text_of(results)
    assert "gain over<br>NewPeer" in text and re.search(r"(from|than): .*Norm \(", text)


def test_a_method_is_held_against_its_rivals(tmp_path):
    writer = SyntheticResults(tmp_path / "results")
    for variant in ("Base", "TextTerm", "TunedTextTerm", "tfidf_term", "TunedTextTfidfTerm"):
        for seed in SEEDS:
            writer.write("beauty", "SASRec", variant, seed)
    tested = all_comparisons(Results(writer.folder), "ranked")
    pairs = zip(tested["method"], tested["against"], strict=True)
    assert {pair for pair in pairs if pair[1] != "Base"} == {
        ("TextTerm", "tfidf_term"),
        ("TunedTextTerm", "TextTerm"),
        ("TunedTextTerm", "tfidf_term"),
        ("TunedTextTfidfTerm", "TunedTextTerm"),
        ("TunedTextTfidfTerm", "tfidf_term"),
    }


def test_a_method_is_held_against_its_own_controls(tmp_path):
    writer = SyntheticResults(tmp_path / "results")
    for variant in ("Base", "TSLRec", "DELRec", "delrec_random_prompts", "repeat", "random"):
        for seed in SEEDS:
            writer.write("beauty", "SASRec", variant, seed)
    results = Results(writer.folder)
    tested = all_comparisons(results, "ranked")
    pairs = list(zip(tested["method"], tested["against"], strict=True))
    others = {pair for pair in pairs if pair[1] != "Base"}
    assert others == {
        ("TSLRec", "DELRec"),
        ("TSLRec", "random"),
        ("TSLRec", "repeat"),
        ("DELRec", "delrec_random_prompts"),
    }
    assert len(pairs) == 4 * (5 + 4), "each pair once a metric"
    (row,) = gains_table(results, tested[tested["method"] == "TSLRec"], "ranked").table.to_dict(
        "records"
    )
    assert not any("delrec" in name for name in row)
    text = text_of(results)
    said = text.partition("The others against Base and their own controls")[2].partition("##")[0]
    assert re.search(r"DELRec is better than: .*\n\* DELRec is worse than: ", said)
    assert "control: delrec\\_random\\_prompts" in said and "repeat" not in said
    assert "TSLRec is" not in said


def test_a_row_that_trains_nothing_has_no_batching_to_differ_in(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    batching = {"Base": "sequence", "TSLRec": "sequence", "random": "sequence", "repeat": "prefix"}
    for variant, way in batching.items():
        writer.write("tiny", "SASRec", variant, 2020, effective={"train_batching": way})
    assert Results(tmp_path).mismatches == []
    writer.write("tiny", "SASRec", "CI", 2020, effective={"train_batching": "prefix"})
    (said,) = Results(tmp_path).mismatches
    assert "train_batching" in said and "repeat" not in said


def test_where_seen_items_are_masked_repeat_is_left_out(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40, repeated={"tiny": 0.3})
    for variant in ("Base", "TSLRec", "seen_penalty", "repeat"):
        for seed in SEEDS[:2]:
            writer.write("tiny", "SASRec", variant, seed)
    text, blocks = make_report(Results(tmp_path), "command")
    having = {
        block.name
        for block in blocks
        if "repeat" in block.numbers.get("method", pd.Series()).values
    }
    left_out = {"table_2", "tests", "gains", "slices", "figure_gain", "figure_popularity"}
    assert {f"{name}_ranked" for name in left_out - {"gains"}} <= having
    assert not any(name.endswith(("_masked", "_novel")) for name in having)
    assert text.count("pictures is control: repeat: where seen items are masked") == 2
    against = {
        name: set(block.numbers["against"])
        for block in blocks
        for name in [block.name]
        if name.startswith(("tests", "gains"))
    }
    assert "repeat" in against["tests_ranked"] & against["gains_ranked"]
    assert not any("repeat" in against[f"tests_{name}"] for name in ("masked", "novel"))


def test_results_of_repeat_alone_have_a_ranked_table(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    writer.write("tiny", "SASRec", "repeat", 2020)
    blocks = make_report(Results(tmp_path), "command")[1]
    tables = [block.name for block in blocks if block.name.startswith(("table_2", "slices"))]
    assert tables == ["table_2_ranked", "slices_ranked"]


def test_a_control_that_differs_in_tests_alone_has_no_validation(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    tested_alone = ("delrec_retriever_order", "delrec_shuffled")
    trained = {"Base": 0.1, "DELRec": 0.3, "delrec_random_prompts": 0.2}
    for variant in (*trained, *tested_alone):
        valid = dict.fromkeys(("hit@5", "hit@10", "ndcg@5", "ndcg@10"), trained.get(variant, 0.3))
        effective = {"valid_protocol": "masked"}
        writer.write("tiny", "SASRec", variant, 1, valid=valid, effective=effective)
    results = Results(tmp_path)
    table = seeds_table(results).table.set_index("method")["validation NDCG@10"]
    for variant in tested_alone:
        assert table[variant.replace("_", "\\_")] == "–"
    assert table["DELRec"] == "0.3000 masked"
    among = [*trained, *tested_alone]
    assert figures.shown_methods(results, "tiny", "SASRec", among) == [
        "DELRec",
        "delrec_random_prompts",
    ]
    among.remove("delrec_random_prompts")
    assert figures.shown_methods(results, "tiny", "SASRec", among)[1] == tested_alone[0]


def test_without_tslrec_the_report_claims_nothing(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    writer.write("tiny", "SASRec", "Base", 2020)
    text = text_of(Results(tmp_path))
    assert "say nothing about TSLRec" in " ".join(text.split())


def test_a_picture_says_of_how_many_seeds_it_is(tmp_path, monkeypatch):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    seeds = {"Base": SEEDS, "TSLRec": SEEDS[:2], "CI": SEEDS[:1], "E4SRec": [1]}
    for variant, of_variant in seeds.items():
        for seed in of_variant:
            writer.write("tiny", "SASRec", variant, seed)
    headings = []
    title = Figure.suptitle

    def told(figure, text):
        headings.append(" ".join(text.split()))
        return title(figure, text)

    monkeypatch.setattr(Figure, "suptitle", told)
    results = Results(tmp_path)
    figures.activity_figures(results)
    figures.gain_figures(results)
    assert all(heading.endswith("1 to 2 seeds") for heading in headings) and len(headings) == 4
    headings.clear()
    drawn = figures.category_figure(results) | {"gate": figures.gate_figure(results)[""]}
    assert all(heading.endswith("TSLRec, mean over 2 seeds") for heading in headings)
    for block in drawn.values():
        assert set(block.cells["variant"]) == {"TSLRec"} and block.made()[0].startswith("2 seeds")


def test_the_gain_is_over_base_of_the_same_seed(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    for variant, seed in (("Base", 1), ("Base", 2), ("TSLRec", 1), ("TSLRec", 2), ("random", 3)):
        writer.write("tiny", "SASRec", variant, seed)
    numbers = figures.gain_figures(Results(tmp_path))["masked"].numbers
    lines = map(json.loads, (tmp_path / "cells.jsonl").read_text().splitlines())
    values = {(one["variant"], one["seed"]): one["test"]["masked"]["ndcg@10"] for one in lines}
    expected = [values["TSLRec", seed] / values["Base", seed] - 1 for seed in (1, 2)]
    assert numbers["gain"].tolist() == pytest.approx(expected)
    assert set(numbers["method"]) == {"TSLRec"}  # the other has no Base of its seed


def test_several_folders_are_one_report(tmp_path):
    """As of two machines; a cell that both have counts once, where it is finished."""
    one, other = (
        SyntheticResults(tmp_path / name, n_users=60, n_items=40) for name in ("one", "other")
    )
    one.write("tiny", "SASRec", "Base", 1)
    one.write("tiny", "SASRec", "TSLRec", 1)
    one.write("tiny", "SASRec", "CI", 1)
    other.write("tiny", "SASRec", "Base", 1)
    other.write("tiny", "SASRec", "Base", 2)
    other.write("tiny", "SASRec", "CI", 1, status="failed", finished_at="2026-02-01T00:00:00+00:00")
    results = Results(one.folder, other.folder)
    assert list(results.method("tiny", "SASRec", "Base").index) == [1, 2]
    assert len(results.cells) == 4 and results.failed.empty and results.replaced.empty
    for cell in results.cells.to_dict("records"):
        assert results.ranks(cell) is not None
    for file in (other.folder / "ranks").iterdir():
        file.unlink()
    without = Results(one.folder, other.folder)
    assert without.ranks(without.method("tiny", "SASRec", "Base").loc[1]) is not None


def test_folders_that_contradict_each_other_are_refused(tmp_path):
    one, other = (
        SyntheticResults(tmp_path / name, n_users=60, n_items=40) for name in ("one", "other")
    )
    one.write("tiny", "SASRec", "Base", 1)
    other.write("tiny", "SASRec", "Base", 1)
    file = other.folder / "cells.jsonl"
    line = json.loads(file.read_text())
    line["test"]["masked"]["ndcg@10"] = 0.9
    file.write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"has different results in \[.*one\], \[.*other\]"):
        Results(one.folder, other.folder)


def test_figures_that_do_not_fit_the_ranks_are_said(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    metrics = {"hit@5": 0.9, "hit@10": 0.9, "ndcg@5": 0.9, "ndcg@10": 0.9}
    writer.write("tiny", "SASRec", "Base", 1, test={"ranked": metrics, "masked": metrics})
    notes = Results(tmp_path).notes
    assert len(notes) == 8 and "is 0.9000 in cells.jsonl" in notes[0]


def test_damaged_ranks_are_named(tmp_path):
    cell = SyntheticResults(tmp_path).write("tiny", "SASRec", "Base", 1)
    ranks = tmp_path / "ranks" / f"{cell}.npz"
    whole = ranks.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:200] + b"x" * 50 + whole[250:]):
        ranks.write_bytes(damaged)
        with pytest.raises(ValueError, match=rf"{cell}.npz\] is damaged"):
            Results(tmp_path)


def test_seeds_under_different_versions_are_said(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    for seed, torch in ((1, "2.6.0"), (2, "2.13.0"), (3, "2.13.0")):
        for variant, version in (("Base", "2.13.0"), ("CI", torch)):
            writer.write("tiny", "SASRec", variant, seed, versions={"torch": version})
    (note,) = (note for note in Results(tmp_path).notes if "versions" in note)
    assert note == (
        "tiny, SASRec, CI: the seeds ran under different versions of torch: 2.6.0 (1); 2.13.0 (2, 3)."
    )


def test_a_backbone_that_is_not_the_base_of_the_table_is_said(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    for seed in (1, 2):
        base = writer.write("tiny", "SASRec", "Base", seed)
        writer.write("tiny", "SASRec", "CI", seed, backbone_from=base)
        writer.write("tiny", "SASRec", "TSLRec", seed, backbone_from=base if seed == 1 else None)
        writer.write("tiny", "SASRec", "random", seed)  # starts from none
        writer.write("tiny", "SASRec", "TSLRec", seed, embeddings_from="GRU4Rec")
    writer.write("tiny", "SASRec", "CI", 3)  # beside no Base
    (note,) = Results(tmp_path).notes
    assert note == (
        "tiny, SASRec, TSLRec: the backbone of seed 2 is another training than the Base of this "
        "report, against which it is held."
    )


def test_seeds_on_different_machines_are_said(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    for seed, machine in ((1, "a GPU"), (2, "2 cores")):
        writer.write("tiny", "SASRec", "Base", seed, machine=machine)
    (note,) = Results(tmp_path).notes
    assert note == (
        "tiny, SASRec, Base: the seeds ran on different machines: a GPU (1); 2 cores (2)."
    )


def test_embeddings_of_other_backbones_alone_make_a_report(tmp_path):
    writer = SyntheticResults(tmp_path / "results", n_users=60, n_items=40)
    writer.write("tiny", "GRU4Rec", "TSLRec", 1, embeddings_from="SASRec")
    write_report([tmp_path / "results"], tmp_path / "out")
    assert "SASRec" in (tmp_path / "out" / "report.md").read_text()


def test_later_lines_and_later_cells_replace(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    writer.write("tiny", "SASRec", "Base", 1, status="failed")
    writer.write("tiny", "SASRec", "Base", 1)
    later = {"finished_at": "2027-01-01T00:00:00+00:00", "settings": {"epochs": 9}}
    writer.write("tiny", "SASRec", "Base", 1, **later)
    results = Results(tmp_path)
    assert results.failed.empty
    assert results.cells["settings"].tolist() == [{"epochs": 9}]
    assert [settings["epochs"] for settings in results.replaced["settings"]] == [300]


def test_a_mean_is_never_of_cells_under_different_settings(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    for seed in SEEDS:
        writer.write("tiny", "SASRec", "Base", seed)
    later = {"finished_at": "2027-01-01T00:00:00+00:00", "settings": {"learning_rate": 3e-4}}
    other = {"configuration": "other", "effective": {"learning_rate": "0.0003"}} | later
    for seed in SEEDS[:2]:
        writer.write("tiny", "SASRec", "Base", seed, **other)
    results = Results(tmp_path)
    (method,) = results.methods.values()
    assert tuple(method.index) == SEEDS
    assert {values["learning_rate"] for values in results.cells["effective"]} == {"0.001"}
    assert results.replaced["seed"].tolist() == list(SEEDS[:2])
    writer.write("tiny", "SASRec", "Base", SEEDS[2], **other)  # as many: the later ones
    results = Results(tmp_path)
    assert {values["learning_rate"] for values in results.cells["effective"]} == {"0.0003"}
    assert len(results.replaced) == 3


def test_a_table_says_what_was_given_and_what_differs(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    start = "python -m recbole_tslrec compare"
    for variant, options in (
        ("Base", "--seeds 3 --top 5"),
        ("TSLRec", "--top 5 --seeds 3"),  # the same
        ("random", "--seeds 5 --top 3"),  # the same words, and another command
    ):
        writer.write("tiny", "SASRec", variant, 1, command=f"{start} {options}")
    other = {"effective": {"epochs": "9", "learning_rate": "0.01", "n_categories": "20"}}
    writer.write("tiny", "SASRec", "CI", 1, command=f"{start} --top 5 --seeds 3", **other)
    results = Results(tmp_path)
    made = main_table(results, "ranked", all_comparisons(results, "ranked")).made()
    (text,) = (line for line in made if line.startswith("Settings"))
    assert "given: hidden_size: 64. Differing: epochs: 300 (3 cells), 9 (1 cells)." in text
    commands = [line for line in made if line.startswith("Made by")]
    assert commands == [f"Made by: {start} --seeds {a} --top {b}" for a, b in ((3, 5), (5, 3))]
    assert "* Report: command" in text_of(results)


def test_the_time_of_a_method_holds_the_training_of_the_base_it_took(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    seconds = {"training": 100.0, "evaluation": 1.0}
    base = writer.write("tiny", "SASRec", "Base", 1, seconds=seconds | {"stages": {}})
    taken = {"backbone_from": base, "seconds": seconds | {"stages": {"backbone": 1.0}}}
    writer.write("tiny", "SASRec", "CI", 1, **taken)
    trained = {"seconds": seconds | {"stages": {"backbone": 20.0}}}  # another one, by itself
    writer.write("tiny", "SASRec", "backbone_embedding", 1, **trained)
    writer.write("tiny", "SASRec", "random", 1, seconds=seconds | {"stages": {}})
    numbers = cost_table(Results(tmp_path))[""].numbers
    totals = numbers.groupby("method")["seconds"].sum()
    assert totals.to_dict() == {"Base": 101, "CI": 202, "backbone_embedding": 121, "random": 101}


def test_the_cost_of_each_method_stands_in_a_table(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    stages = {
        "Base": {},
        "LLMTRSR": {"backbone": 2.04, "summaries": 3725.0},
        "P5": {"item_codes": 0.02},
    }
    for variant, own in stages.items():
        seconds = {"training": 61.0, "evaluation": 0.5, "stages": own}
        writer.write("tiny", "SASRec", variant, 1, seconds=seconds)
    results = Results(tmp_path)
    table = cost_table(results)[""].table.set_index("method")
    assert table["stages before"].to_dict() == {
        "Base": "–",
        "LLMTRSR": "backbone 2 s<br>summaries 1 h 2 min",
        "P5": "item\\_codes 0.02 s",
    }
    assert set(table["its own training"]) == {"1 min 1 s"} and set(table["test"]) == {"0.5 s"}
    assert table["all"].to_dict() == {
        "Base": "1 min 2 s",
        "LLMTRSR": "1 h 3 min",
        "P5": "1 min 2 s",
    }
    text = text_of(results)
    assert "What each method costs" in text and "| LLMTRSR  | backbone 2 s<br>" in text


def test_how_a_backbone_is_trained_does_not_count_where_there_is_none(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    for variant, batching in (("Base", "sequence"), ("P5", "prefix")):
        writer.write("tiny", "SASRec", variant, 1, effective={"train_batching": batching})
    assert not Results(tmp_path).mismatches
    writer.write("tiny", "SASRec", "LlamaRec", 1, effective={"train_batching": "prefix"})
    (note,) = Results(tmp_path).mismatches
    assert "differ in train_batching: sequence (Base); prefix (LlamaRec)" in note


def test_what_makes_a_control_is_no_difference_of_settings(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    for variant, control in (("LlamaRec", "none"), ("llamarec_shuffled", "shuffled")):
        writer.write("tiny", "SASRec", variant, 1, effective={"rerank_control": control})
    assert not Results(tmp_path).mismatches
    writer.write("tiny", "SASRec", "POD", 1, effective={"llm": "scratch", "rerank_control": "none"})
    writer.write("tiny", "SASRec", "TSLRec", 1, effective={"llm": "embedded"})
    (note,) = Results(tmp_path).mismatches
    assert "differ in llm" in note


def test_the_time_holds_a_base_of_other_settings_too(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    seconds = {"training": 100.0, "evaluation": 1.0, "stages": {}}
    base = writer.write("tiny", "SASRec", "Base", 1, seconds=seconds)
    writer.write("tiny", "SASRec", "CI", 1, backbone_from=base, seconds=seconds)
    for seed in (1, 2):  # reported in place of the first
        changes = {"settings": {"epochs": 9}, "configuration": "other", "seconds": seconds}
        writer.write("tiny", "SASRec", "Base", seed, **changes)
    results = Results(tmp_path)
    assert results.replaced["cell"].tolist() == [base]
    numbers = cost_table(results)[""].numbers
    totals = numbers.groupby("method")["seconds"].sum()
    assert totals.to_dict() == {"Base": 101, "CI": 201}


def test_what_was_made_of_a_base_before_it_was_made_again_is_said(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    base = writer.write("tiny", "SASRec", "Base", 1, finished_at="2026-01-02T00:00:00+00:00")
    for variant, day in (("CI", 1), ("TSLRec", 3)):
        finished = f"2026-01-0{day}T00:00:00+00:00"
        writer.write("tiny", "SASRec", variant, 1, backbone_from=base, finished_at=finished)
    (note,) = Results(tmp_path).notes
    assert "SASRec, CI: the backbone of seed 1 was trained before the Base of this report" in note


def test_methods_of_other_data_are_said_not_to_compare(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    for variant, data in (("Base", "a1"), ("CI", "a1"), ("TSLRec", "b2")):
        writer.write("tiny", "SASRec", variant, 1, data=data)
        writer.write("tiny2", "SASRec", variant, 1, data="c3")
    (note,) = Results(tmp_path).mismatches
    assert "tiny: " in note and "do NOT compare" in note
    assert "a1 (SASRec Base, SASRec CI); b2 (SASRec TSLRec)" in note


def test_who_loads_more_of_the_same_files_compares(tmp_path):
    def write(variant, **files):
        writer.write("tiny", "SASRec", variant, 1, data="".join(files.values()), files=files)

    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    writer.write("tiny", "SASRec", "Norm", 1, data="a1")  # as older lines are
    write("Base", inter="a1")
    write("CI", inter="a1", item="b1")
    assert Results(tmp_path).mismatches == []
    write("TSLRec", inter="a1", item="b2")
    (note,) = Results(tmp_path).mismatches
    assert "the data set's .item file was changed" in note
    assert "b1 (SASRec CI); b2 (SASRec TSLRec)" in note


def test_the_table_says_who_has_fewer_seeds(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    seeds = {
        "SASRec": {"Base": 2, "CI": 2},
        "Caser": {"Base": 1, "CI": 1},
        "GRU4Rec": {"Base": 2, "CI": 1},
    }
    for backbone, counts in seeds.items():
        for variant, count in counts.items():
            for seed in range(count):
                writer.write("tiny", backbone, variant, seed)
    text = seeds_and_gaps(Results(tmp_path))
    assert text == "2 seeds (tiny GRU4Rec CI has 1, tiny Caser has 1)"


def test_as_many_pairs_of_colour_and_marker_as_there_are_backbones():
    assert len(set(islice(drawing.styles(), len(BACKBONES)))) == len(BACKBONES) >= 27


def test_groups_of_equal_values_are_one():
    values = pd.Series([7, 7, 7], index=["a", "b", "c"])
    assert quantile_groups(values, 4).tolist() == [0, 0, 0]
    assert quantile_groups(pd.Series([1, 2, 3, 4]), 2).tolist() == [0, 0, 1, 1]


def test_methods_under_different_settings_are_named(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    for variant, giver in (("Base", None), ("CI", None), ("TSLRec", None), ("TSLRec", "Caser")):
        rate = "0.0003" if variant == "TSLRec" else "0.001"
        effective = {"learning_rate": rate, "own": variant}
        writer.write("tiny", "SASRec", variant, 1, embeddings_from=giver, effective=effective)
    results = Results(tmp_path)
    (note,) = (note for note in results.mismatches if "learning_rate" in note)
    assert "learning_rate: 0.001 (Base, CI); 0.0003 (TSLRec, TSLRec from Caser)" in note


def test_vectors_of_a_given_file_are_named(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    writer.write("tiny", "SASRec", "TSLRec", 1, settings={"enhanced_items": "mine.safetensors"})
    (note,) = Results(tmp_path).mismatches
    assert note.startswith("tiny, SASRec, TSLRec: its vectors are from a given file, [mine.safeten")


def test_keys_that_tell_the_same_methods_apart_are_named_together(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    for variant in ("Base", "TSLRec", "frozen_lm", "DELRec"):
        few = {"lora_r": "8", "sft_epochs": "1"}
        effective = few if variant == "DELRec" else {"lora_r": "16", "sft_epochs": "10"}
        effective = {"learning_rate": "0.01"} if variant == "Base" else effective
        writer.write("tiny", "SASRec", variant, 1, effective=effective)
    (note,) = (note for note in Results(tmp_path).mismatches if "lora_r" in note)
    assert "differ in lora_r, sft_epochs: 16, 10 (TSLRec); 8, 1 (DELRec). They" in note


def test_a_picture_shows_every_method_and_its_control_that_is_best_on_validation(
    tmp_path, monkeypatch
):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    on_validation = {"Base": 0.2, "NewPeer": 0.2, "DELRec": 0.2, "TextTerm": 0.2}
    on_validation |= {"random": 0.3, "frozen_lm": 0.1}  # "frozen_lm" is better on test
    on_validation |= {"tfidf_term": 0.1, "shuffled_text_term": 0.3, "seen_penalty": 0.0}
    for variant, score in on_validation.items():
        valid = dict.fromkeys(("hit@5", "hit@10", "ndcg@5", "ndcg@10"), score)
        writer.write("tiny", "SASRec", variant, 1, valid=valid)
    writer.write("tiny", "GRU4Rec", "Base", 1)
    results = Results(tmp_path)
    shown = {"NewPeer", "DELRec", "TextTerm", "random", "shuffled_text_term", "seen_penalty"}
    assert set(figures.shown_methods(results, "tiny", "SASRec", on_validation)) == shown
    assert figures.shown_methods(results, "tiny", "GRU4Rec", on_validation) == []
    drawn = []

    def panels(places, draw, *_) -> bytes:
        axes = drawing.new_figure(5, 3).subplots()
        for place in places:
            draw(axes, *place)
            drawn.append((place, axes.get_legend_handles_labels()[1]))
        return b""

    monkeypatch.setattr(drawing, "panels", panels)
    figures.popularity_figures(results)
    (place, labels), *again = drawn  # and seen items masked
    assert place == ("tiny", "SASRec") and len(again) == 1, "no panel of Base alone"
    assert labels == [variant_name(name) for name in results.variants(*place) if name in shown]


def test_the_table_says_on_what_a_method_was_validated(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    for variant, protocol in (("Base", "ranked"), ("CI", "masked")):
        valid = dict.fromkeys(("hit@5", "hit@10", "ndcg@5", "ndcg@10"), 0.25)
        for seed in (1, 2):
            effective = {"valid_protocol": protocol}
            writer.write("tiny", "SASRec", variant, seed, valid=valid, effective=effective)
    shown = seeds_table(Results(tmp_path)).table["validation NDCG@10"].tolist()
    assert shown == ["0.2500, 0.2500", "0.2500, 0.2500 masked"]


def test_a_folder_that_is_no_result_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no cells.jsonl"):
        write_report([tmp_path], tmp_path / "out")
    file = tmp_path / "cells.jsonl"
    for line, message in (
        ("{}\n", r"line 1, is not an object with \[cell\]"),
        ('{"format": 2, "cell": "a"}\n', r"format \[2\]; this program reads \[1\]"),
        ('{"cell": "a", "status": "failed"}\n', r"format \[None\]; this program reads \[1\]"),
        ('{"format": 1, "cell": "a", "status": "failed"}\n', "lacks a part.*, configuration"),
    ):
        file.write_text(line)
        with pytest.raises(ValueError, match=message):
            Results(tmp_path)
    file.write_text('{"format": 1, "ce')  # an interrupted or unfinished line
    with pytest.raises(ValueError, match="no finished cell"):
        write_report([tmp_path], tmp_path / "out")


@pytest.mark.parametrize("package", ["markdown_it", "matplotlib"])
def test_without_a_package_of_the_report_s_the_error_says_what_to_install(
    package, written, tmp_path, monkeypatch
):
    for module in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
        monkeypatch.setitem(sys.modules, module, None)
    for module in ("report", "tables", "document", "figures", "drawing"):
        monkeypatch.delitem(sys.modules, f"{room.__name__}.{module}")
        monkeypatch.delattr(room, module)
    command = ["x", "report", f"--results={written.folder}", f"--output={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", command)
    said = rf"report: .* needs {package}: pip install 'recbole_tslrec\[report\]'"
    with pytest.raises(SystemExit, match=said):
        main()


def test_a_key_that_is_left_out_at_its_default_has_that_value(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    given = {"valid_protocol": "masked", "train_precision": "bfloat16"}
    writer.write("tiny", "SASRec", "Base", 1, effective={"epochs": "9"})
    writer.write("tiny", "SASRec", "CI", 1, effective={"epochs": "9"} | given, settings=given)
    writer.write("tiny", "SASRec", "P5", 1, effective={"valid_protocol": "masked"})
    protocol, precision = Results(tmp_path).mismatches
    assert "differ in valid_protocol: ranked (Base); masked (CI, P5)" in protocol
    assert "differ in train_precision: float32 (Base); bfloat16 (CI)" in precision
    text = text_of(Results(tmp_path))
    assert "valid\\_protocol: masked (2 cells), ranked (1 cells)" in text


def test_seconds_of_different_machines_are_not_averaged(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    for seed, training, machine in (
        (1, 4000.0, "2 cores"),
        (2, 140.0, "a GPU"),
        (3, 160.0, "a GPU"),
    ):
        seconds = {"training": training, "evaluation": 0.0, "stages": {}}
        writer.write("tiny", "SASRec", "Base", seed, seconds=seconds, machine=machine)
        (base,) = Results(tmp_path).cells.query(f"seed == {seed} and variant == 'Base'")["cell"]
        term = {"machine": "2 cores", "backbone_from": base}
        term["seconds"] = {"training": 60.0, "evaluation": 0.0, "stages": {}}
        writer.write("tiny", "SASRec", "TextTerm", seed, **term)
    table = cost_table(Results(tmp_path))[""].table
    columns = ("method", "machine", "stages before", "all")
    assert list(table[list(columns)].itertuples(index=False, name=None)) == [
        ("Base", "2 cores", "–", "1 h 6 min"),
        ("Base", "a GPU", "–", "2 min 30 s"),
        ("TextTerm", "2 cores", "backbone 1 h 6 min", "1 h 7 min"),
        ("TextTerm", "2 cores", "backbone 2 min 30 s (a GPU)", "3 min 30 s"),
    ]


def test_a_base_of_another_machine_may_have_kept_no_seconds(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    base = writer.write("tiny", "SASRec", "Base", 1, seconds={}, machine="a GPU")
    seconds = {"training": 60.0, "evaluation": 0.0, "stages": {}}
    writer.write("tiny", "SASRec", "TextTerm", 1, backbone_from=base, seconds=seconds)
    table = cost_table(Results(tmp_path))[""].table.set_index("method")
    assert table.loc["TextTerm", "stages before"] == "–"

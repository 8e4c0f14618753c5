"""The report by novel targets alone."""

import numpy as np
import pytest
from synthetic import SyntheticResults

from recbole_tslrec.experiments.report.report import make_report
from recbole_tslrec.experiments.report.results import NOVEL, Results

SEEDS = (2020, 2021, 2022)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Users come back to items in one data set; in one they never do; of one nothing is known."""
    folder = tmp_path_factory.mktemp("written")
    writer = SyntheticResults(folder, repeated={"places": 0.4, "films": 0.0})
    for dataset in ("places", "films", "old"):
        for variant in ("Base", "CI", "TSLRec"):
            for seed in SEEDS:
                writer.write(dataset, "SASRec", variant, seed)
    return writer


@pytest.fixture(scope="module")
def report(written):
    """Its text, and its blocks by name."""
    text, blocks = make_report(Results(written.folder), "command")
    return text, {block.name: block for block in blocks}


def naive_ndcg(ranks) -> float:
    """NDCG@10 of the novel targets, seen items masked, one at a time."""
    gains = [
        1 / np.log2(1 + rank) if rank <= 10 else 0.0
        for rank, repeated in zip(ranks["rank_masked"], ranks["repeated"], strict=True)
        if not repeated
    ]
    return sum(gains) / len(gains)


def test_its_figures_are_of_the_novel_targets(written, report):
    numbers = report[1][f"table_2_{NOVEL}"].numbers
    results, ndcg = Results(written.folder), numbers[numbers["metric"] == "NDCG@10"]
    assert set(ndcg["dataset"]) == {"places"}  # nothing repeats elsewhere, or nobody knows
    for row in ndcg.itertuples():
        cells = results.method(row.dataset, row.backbone, row.method).to_dict("records")
        by_seed = [naive_ndcg(results.arrays("ranks", cell)) for cell in cells]
        assert row.mean == pytest.approx(np.mean(by_seed), abs=1e-12)


def test_its_tests_are_over_the_users_with_a_novel_target(written, report):
    blocks, results = report[1], Results(written.folder)
    tested = blocks[f"tests_{NOVEL}"].numbers
    cell = results.method("places", "SASRec", "Base").to_dict("records")[0]
    n_novel = int((~results.arrays("ranks", cell)["repeated"]).sum())
    assert set(tested["dataset"]) == {"places"} and set(tested["n_users"]) == {n_novel}
    assert n_novel < 200 == blocks["tests_masked"].numbers["n_users"].max()
    one = tested[(tested["method"] == "TSLRec") & (tested["metric"] == "NDCG@10")].iloc[0]
    means = (
        blocks[f"table_2_{NOVEL}"].numbers.query("metric == 'NDCG@10'").set_index("method")["mean"]
    )
    assert one["difference"] == pytest.approx(means["TSLRec"] - means[one["against"]], abs=1e-12)


def test_the_text_says_whose_targets_they_are(report):
    text, _ = report
    assert "### Table 2, seen items masked, novel targets alone" in text
    assert "A third table counts the" in text
    assert "(figure_gain_novel.png)" in text


def test_where_nothing_repeats_there_is_no_such_table(tmp_path):
    writer = SyntheticResults(tmp_path, repeated={"films": 0.0})
    for variant in ("Base", "TSLRec"):
        writer.write("films", "SASRec", variant, 2020)
    text, blocks = make_report(Results(tmp_path), "command")
    assert NOVEL not in {block.name.rpartition("_")[2] for block in blocks}
    assert "novel targets alone" not in text


def test_where_no_target_is_novel_there_is_no_such_table(tmp_path):
    writer = SyntheticResults(tmp_path, repeated={"places": 1.0})
    for variant in ("Base", "TSLRec"):
        writer.write("places", "SASRec", variant, 2020)
    text, _ = make_report(Results(tmp_path), "command")
    assert "novel targets alone" not in text

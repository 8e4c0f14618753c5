from synthetic import SyntheticResults

from recbole_tslrec.experiments.report.report import make_report
from recbole_tslrec.experiments.report.results import Results
from recbole_tslrec.experiments.report.slice_tables import explained_by_penalty, slice_tables


def both(ranked: float, masked: float) -> dict:
    keys = ("hit@5", "hit@10", "ndcg@5", "ndcg@10")
    return {"ranked": dict.fromkeys(keys, ranked), "masked": dict.fromkeys(keys, masked)}


def test_a_gain_that_the_penalty_has_as_well_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Results, "_check_metrics", lambda self: None)  # the figures are made up
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    figures = {"Base": (0.10, 0.15), "CI": (0.12, 0.14), "TSLRec": (0.14, 0.14)}
    figures |= {"random": (0.09, 0.14), "seen_penalty": (0.13, 0.15)}
    figures |= {"TextTerm": (0.12, 0.16)}  # masked it gains: the penalty does not explain that
    for variant, of_both in figures.items():
        writer.write("tiny", "SASRec", variant, 1, test=both(*of_both))
    (said,) = explained_by_penalty(Results(tmp_path))
    assert said == (
        "tiny, SASRec: CI gains +0.0200 over Base, and Base with a penalty on seen items +0.0300; "
        "with seen items masked it has -0.0100."
    )


def test_what_the_penalty_explains_is_of_the_seeds_of_all_three(tmp_path, monkeypatch):
    monkeypatch.setattr(Results, "_check_metrics", lambda self: None)
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    figures = {"Base": 0.10, "CI": 0.11, "seen_penalty": 0.12}
    for variant, value in figures.items():
        writer.write("tiny", "SASRec", variant, 2, test=both(value, 0.1))
    # The other seeds alone would say the opposite.
    writer.write("tiny", "SASRec", "Base", 1, test=both(0.5, 0.5))
    writer.write("tiny", "SASRec", "CI", 3, test=both(0.0, 0.9))
    writer.write("tiny", "SASRec", "TSLRec", 3, test=both(0.11, 0.1))  # no seed of all three
    (said,) = explained_by_penalty(Results(tmp_path))
    assert "CI gains +0.0100 over Base" in said and said.endswith("it has +0.0000.")
    text = " ".join(make_report(Results(tmp_path), "command")[0].split())
    fewer = "(tiny SASRec TSLRec has 1, tiny SASRec seen\\_penalty has 1)"
    assert f"by kind of target, the mean over 2 seeds {fewer}" in text


def test_every_method_is_shown_on_every_slice(tmp_path):
    writer = SyntheticResults(tmp_path, n_users=60, n_items=40)
    for variant in ("Base", "CI"):
        for seed in (1, 2):
            writer.write("tiny", "SASRec", variant, seed)
    results = Results(tmp_path)
    assert explained_by_penalty(results) == []
    table = slice_tables(results)["masked"]
    assert list(table.table.columns) == ["dataset", "backbone", "which", "users", "Base", "CI"]
    everyone = table.numbers[table.numbers["by"] == "all"].set_index("method")
    for variant in ("Base", "CI"):
        expected = results.method("tiny", "SASRec", variant)["masked NDCG@10"].astype(float).mean()
        assert abs(everyone.loc[variant, "masked ndcg@10"] - expected) < 1e-9
        assert everyone.loc[variant, "seeds"] == 2

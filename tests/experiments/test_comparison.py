import re

from recbole_tslrec.experiments.comparison import compare


def test_base_is_trained_once_a_seed_and_the_table_shows_the_spread(small_data, settings):
    comparison = compare("GRU4Rec", small_data, config_dict=settings, seeds=(1, 2), controls=True)
    assert list(comparison.experiments) == [
        "GRU4Rec",
        "CI_GRU4Rec",
        "TSLRec_GRU4Rec",
        "TSLRec_GRU4Rec, pretrained",
        "TSLRec_GRU4Rec, random",
        "TSLRec_GRU4Rec, untuned",
    ]
    for name in ("CI_GRU4Rec", "TSLRec_GRU4Rec"):
        for run in comparison.experiments[name]:
            for stage in run.stages:
                if stage.name == "backbone":
                    assert stage.seconds < 0.5 and not (stage.folder / "GRU4Rec.pth").exists()
    table = comparison.table()
    hits = [run.test_result["hit@10"] for run in comparison.experiments["CI_GRU4Rec"]]
    row = next(line for line in table.splitlines() if line.startswith("| CI_GRU4Rec "))
    shown, spread = re.findall(r"([\d.]+) ± ([\d.]+)", row)[1]
    assert float(shown) == round(sum(hits) / 2, 4)
    assert abs(float(spread) - abs(hits[0] - hits[1]) / 2**0.5) < 1e-4
    assert "2 seeds" in table and "stage fine_tuning" in table and "stage backbone" not in table

import json
from pathlib import Path


def test_the_benchmark_measures_codes_and_what_counting_hits(small_data, benchmark):
    options = ["--codes=file_order", "--data_path=data", "--sft_epochs=1", "--eval_step=0"]
    printed = benchmark("item_codes", f"--dataset={small_data}", *options, "--results=rows.jsonl")
    (row,) = map(json.loads, Path("rows.jsonl").read_text().splitlines())
    assert row["epochs"] == 1 and row["nodes"] == 1 and row["tokens"] == 30
    assert 0 <= row["counting HR@1"] <= 1
    assert row["HR@10 masked"] >= row["HR@10 ranked"] >= row["HR@1 ranked"]
    assert "| file_order" in printed

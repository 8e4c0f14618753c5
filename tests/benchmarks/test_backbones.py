def test_the_benchmark_goes_through_every_row(small_data, settings, benchmark):
    options = [
        "--data_path=data",
        "--backbones=STAMP",
        "--users=[0,inf)",
        f"--llm={settings['llm']}",
    ]
    printed = benchmark("backbones", f"--dataset={small_data}", *options)
    (row,) = (line.split("|")[2:-1] for line in printed.splitlines() if "| STAMP" in line)
    assert all(float(cell) >= 0 for cell in row) and len(row) == 4

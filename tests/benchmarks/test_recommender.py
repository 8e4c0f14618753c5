def test_the_benchmark_measures_every_cell(small_data, benchmark, monkeypatch):
    import recommender

    measured, of_a_process = [], recommender.peak_memory

    def of_one_process(*cell) -> float:  # a start takes as long as all four cells
        measured.append(cell[:2])
        return of_a_process(*cell) if len(measured) == 1 else recommender._peak_memory_here(*cell)

    monkeypatch.setattr(recommender, "peak_memory", of_one_process)
    options = ["--data_path=data", "--backbones=GRU4Rec", "--steps=1", "--turns=1"]
    printed = benchmark(
        "recommender", f"--datasets={small_data}", *options, "--users=15", "--hidden_size=8"
    )
    lines = [line for line in printed.splitlines() if line.startswith("| small")]
    rows = [[entry.strip() for entry in line.split("|")[2:-1]] for line in lines]
    assert [tuple(row[:3]) for row in rows] == [
        (model, way, batching)
        for model in ("GRU4Rec", "TSLRec_GRU4Rec")
        for way, batching in (("RecBole", "prefix"), ("ours", "sequence"))
    ]
    assert measured == [tuple(row[:2]) for row in rows]
    assert all(float(row[column]) > 0 for row in rows for column in (3, 5, 6, 7, 9, 10))

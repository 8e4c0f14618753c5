def test_the_benchmark_measures_every_way(benchmark):
    printed = benchmark("softmax", "--targets=20", "--items=50", "--turns=1")
    assert "| plain" in printed and "| ours" in printed

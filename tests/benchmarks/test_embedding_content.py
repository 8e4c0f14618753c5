import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.sparse import csr_matrix

_FILE = Path(__file__).parents[2] / "benchmarks" / "embedding_content.py"
_SPEC = importlib.util.spec_from_file_location("embedding_content", _FILE)
benchmark = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(benchmark)

GENERATOR = np.random.default_rng(0)


def test_a_linear_function_is_explained_and_noise_is_not():
    source = GENERATOR.normal(size=(400, 5))
    linear = source @ GENERATOR.normal(size=(5, 8)) + 3
    noise = GENERATOR.normal(size=(400, 8))
    assert benchmark.explained(source, linear) > 0.999
    assert benchmark.explained(source, noise) < 0.02
    half = standardised(linear) + noise
    assert benchmark.explained(source, half) == pytest.approx(0.5, abs=0.05)


def standardised(vectors):
    return (vectors - vectors.mean(axis=0)) / vectors.std(axis=0)


def test_the_effective_rank_counts_directions():
    column = GENERATOR.normal(size=(1000, 1))
    assert benchmark.effective_rank(np.hstack([column, -2 * column, column + 1])) == pytest.approx(
        1
    )
    assert benchmark.effective_rank(GENERATOR.normal(size=(100_000, 6))) == pytest.approx(6, 0.001)


def test_neighbours_are_those_of_a_naive_search():
    vectors = GENERATOR.normal(size=(30, 3))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = unit @ unit.T - 10 * np.eye(30)
    expected = np.argsort(-similarity, axis=1)[:, :10]
    found = benchmark.nearest(vectors)
    assert np.array_equal(found, expected)
    assert benchmark.shared_neighbours(found, found) == 1
    other = np.roll(found, 1, axis=0)
    naive = np.mean([len({*one} & {*two}) / 10 for one, two in zip(found, other, strict=True)])
    assert benchmark.shared_neighbours(found, other) == pytest.approx(naive)


def test_co_occurrence_is_that_of_a_naive_loop():
    users = GENERATOR.integers(0, 2, size=(20, 15)).astype(float)
    users[:, 0] = 1  # an item without a user has no cosine
    neighbours = GENERATOR.integers(0, 20, size=(20, 10))
    cosines = [
        users[item] @ users[other] / np.linalg.norm(users[item]) / np.linalg.norm(users[other])
        for item in range(20)
        for other in neighbours[item]
    ]
    found = benchmark.co_occurrence(neighbours, csr_matrix(users))
    assert found == pytest.approx(np.mean(cosines))


def test_the_own_category_is_counted_by_its_place():
    distributions = np.array([[5, 1, 2, 3], [5, 1, 2, 3], [5, 1, 2, 3], [9, 8, 7, 0]])
    shares = benchmark.own_places(distributions, np.array([0, 1, 2, 2]))
    assert shares == {"first": 1 / 4, "three": 3 / 4}


def test_the_command_has_a_row_for_every_kind_of_vector(
    small_data, settings, monkeypatch, capsys, tmp_path
):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings | {"embedding_size": 4}))
    command = ["x", f"--dataset={small_data}", "--config_files=small.yaml", "--seeds=2"]
    command.append("--backbones=GRU4Rec")  # fewer columns than items: a line is found
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| small")]
    rows = {cells[3].strip(): cells[4:-1] for cells in (line.split("|") for line in lines)}
    assert list(rows) == [*benchmark.ROWS, benchmark.INFERRED, benchmark.ASKED_FOR]
    assert rows["e_v (backbone)"][1].strip() == rows["e_v (backbone)"][3].strip() == "1.00 ± 0.00"
    assert float(rows["random"][1].split("±")[0]) < 0.2

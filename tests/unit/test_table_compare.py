"""Algorithms compared on made-up tables: curves, budgets, files, what is refused."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trials_samples import EPOCHS, made_up_table, write_table

from nas_encoder.cli.main import main
from nas_encoder.errors import ConfigError, DataError
from nas_encoder.search.trials.compare import ALGORITHMS, CompareSettings, Comparison
from nas_encoder.search.trials.members import Members, distance
from nas_encoder.spaces import get_space
from nas_encoder.tabular import Table, model_hash

SPACE = get_space("tdnn_chain")


@pytest.fixture(scope="module")
def table() -> Table:
    return made_up_table("tdnn_chain", 40)


@pytest.fixture(scope="module")
def compared(table: Table) -> dict[str, Any]:
    return Comparison(table, CompareSettings(runs=4, trials=20)).run()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_regret_falls_to_what_the_table_allows(
    compared: dict[str, Any], table: Table, algorithm: str
) -> None:
    found = compared["algorithms"][algorithm]
    median = found["median"]
    assert len(median) == len(compared["epochs"])
    assert median[-1] <= median[0] and median[-1] >= 0
    for low, middle, high in zip(
        found["lower_quartile"], median, found["upper_quartile"], strict=True
    ):
        assert 0 <= low <= middle <= high
    assert len(found["final"]) == 4
    # Twenty of forty trainings are better than a blind choice.
    assert found["mean_final"] < compared["mean_regret_of_the_table"] / 2


def test_the_budget_is_in_epochs(compared: dict[str, Any]) -> None:
    assert compared["budget_epochs"] == 20 * EPOCHS and compared["epochs"][0] == EPOCHS
    counts = {name: found["trials"] for name, found in compared["algorithms"].items()}
    assert counts["random"] == counts["evolution"] == counts["tpe"] == 20
    assert counts["hyperband"] > 25  # for it ends most of them early


def test_regret_is_that_of_the_test_error_above_the_best(table: Table) -> None:
    comparison = Comparison(table, CompareSettings(algorithms=("random",), runs=2))
    tests = {key: table.test_acc(key, seed="mean") for key in table.hashes()}
    course, count = comparison._search("random", 0)
    assert count == 40
    regrets = [regret for _, regret in course]
    possible = {round(100 * (e - min(tests.values())), 6) for e in tests.values() if e is not None}
    assert {round(regret, 6) for regret in regrets} <= possible
    assert comparison._search("random", 0)[0] == course
    assert comparison._search("random", 1)[0] != course


def test_results_of_gradient_searches_are_looked_up(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = Comparison(table, CompareSettings(runs=2))
    ranked = [key for key, _ in table.ranking()]
    genotype = table.genotype(ranked[3])
    genotype.save(tmp_path / "g.yaml")
    found = comparison.gradient([str(tmp_path / "g.yaml")])
    assert found["available"] and found["results"][0]["regret"] == pytest.approx(
        100 * (table.test_acc(ranked[3], seed="mean") - min(comparison.tests.values()) / 100)
    )
    other = SPACE.sample(random.Random(5))
    assert model_hash(other) not in table
    other.save(tmp_path / "other.yaml")
    with pytest.raises(DataError, match="is not among its 40 architectures"):
        comparison.gradient([str(tmp_path / "other.yaml")])
    assert "this table cannot be added to" in comparison.gradient([])["why"]
    table.about["config"] = {}  # what 'nas-encoder table build' leaves
    assert "build ... --resume --add its genotype.yaml" in comparison.gradient([])["why"]
    with pytest.raises(DataError, match="build ... --resume --add .*other.yaml"):
        comparison.gradient([str(tmp_path / "other.yaml")])
    with monkeypatch.context() as patch:
        patch.setattr(type(SPACE), "unique_size", 40)
        assert "give its genotype.yaml with --gradient" in comparison.gradient([])["why"]
    several = []
    for place, strategy in enumerate(("darts", "stnas", "darts", "darts")):
        member = table.genotype(ranked[place])
        path = tmp_path / f"{place}.yaml"
        replace(member, provenance={"kind": "search", "strategy": strategy}).save(path)
        several.append(str(path))
    darts, stnas = comparison.gradient(several)["strategies"]
    regrets = sorted(comparison.tests[ranked[place]] - comparison.best for place in (0, 2, 3))
    assert (darts["strategy"], darts["searches"], stnas["searches"]) == ("darts", 3, 1)
    assert darts["median"] == regrets[1]
    assert darts["lower_quartile"] == pytest.approx((regrets[0] + regrets[1]) / 2)
    assert darts["found_the_best"] == sum(regret == 0 for regret in regrets)
    assert stnas["median"] == stnas["upper_quartile"] == stnas["mean"]
    # Without names, those that were added to the table; two searches may have found the same.
    origins = [
        {"key": ranked[2], "name": "1.yaml", "strategy": "pdarts"},
        {"key": ranked[2], "name": "2.yaml", "strategy": "pdarts"},
        {"key": ranked[3], "name": "zoo", "kind": "published"},
    ]
    monkeypatch.setitem(table.about, "added", origins)
    (pdarts,) = comparison.gradient([])["strategies"]
    assert (pdarts["strategy"], pdarts["searches"]) == ("pdarts", 2)
    monkeypatch.undo()
    monkeypatch.setattr("nas_encoder.search.trials.compare.searchable_spaces", list)
    assert "has no supernet" in comparison.gradient([])["why"]


def test_all_that_is_wrong_is_said_together(table: Table) -> None:
    settings = CompareSettings(algorithms=("randon",), runs=1, trials=1, population=1)
    with pytest.raises(ConfigError) as caught:
        Comparison(table, settings)
    assert [line.partition(":")[0] for line in caught.value.problems] == [
        "algorithms[0]",
        "runs",
        "trials",
        "population",
    ]
    with pytest.raises(ConfigError, match="target: must be one of"):
        Comparison(table, CompareSettings(target=3))


def test_the_command_writes_numbers_a_picture_and_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_table(tmp_path / "made_up.sqlite", "nasbench_asr", 12)
    output = tmp_path / "out"
    command = ["table", "compare", str(source), "--output", str(output), "--runs", "3"]
    assert main([*command, "--algorithms", "random", "tpe", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    document = json.loads((output / "comparison.json").read_text())
    assert printed == document and list(document["algorithms"]) == ["random", "tpe"]
    assert (output / "regret.png").read_bytes().startswith(b"\x89PNG")
    page = (output / "RESULTS.md").read_text()
    assert "nas-encoder table compare" in page and "not available here" in page
    assert document["environment"]["machine"] in page
    assert main([*command, "--algorithms", "random", "random"]) == 2
    assert "lists an algorithm twice" in capsys.readouterr().err


# -- a part of a space ----------------------------------------------------------------------------


def test_members_are_drawn_uniformly_and_mutated_to_near_ones(table: Table) -> None:
    genotypes = [table.genotype(key) for key in table.hashes()]
    members = Members(SPACE, genotypes)
    rng = random.Random(0)
    assert {g.hash for g in (members.sample(rng) for _ in range(400))} == set(table.hashes())
    own = genotypes[0]
    children = [members.mutate(own, rng) for _ in range(300)]
    assert own.hash not in {child.hash for child in children}
    assert {child.hash for child in children} <= set(table.hashes())
    vector = SPACE.encode(own)
    near = [distance(vector, SPACE.encode(child)) for child in children]
    far = [distance(vector, SPACE.encode(other)) for other in genotypes[1:]]
    assert sum(near) / len(near) < sum(far) / len(far) - 0.4

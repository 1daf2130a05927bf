"""What the comparison of encoders says about cheap scores, and its one-shot search."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from nas_encoder.search.config.load import load_any_search_config
from nas_encoder.search.config.trials import TrialsConfig
from recipes.blocks.local import scores
from recipes.blocks.local.extrapolate import power_law
from recipes.blocks.local.plan import Plan
from tools.experiments.recipe import read_options

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "blocks"


def plan(*arguments: str) -> Plan:
    return Plan(RECIPE, read_options(RECIPE, list(arguments)))


def test_a_power_law_is_found() -> None:
    times = [10.0, 20.0, 30.0, 40.0]
    course = [8.0 + 200.0 * t**-0.8 for t in times]
    assert power_law(times, course, 80.0) == pytest.approx(8.0 + 200.0 * 80**-0.8, rel=1e-3)
    # Two points say nothing of a floor: a straight line of logarithms.
    assert power_law([10.0, 20.0], [80.0, 40.0], 80.0) == pytest.approx(10.0, rel=1e-3)
    assert power_law(times, [50.0] * 4, 80.0) == pytest.approx(50.0, rel=1e-3)
    with pytest.raises(ValueError, match="two points"):
        power_law([10.0], [1.0], 80.0)


def test_what_choosing_by_a_score_finds() -> None:
    points = [
        scores.Point(f"p{n}", float(n), {"exact": float(n), "wrong": -float(n), "all": 1.0})
        for n in range(1, 25)
    ]
    costs = {"exact": 5.0, "wrong": 5.0, "dear": 10.0, "none": 90.0}
    table = scores.Table("points", "errors", points, 30, costs)
    found = {row["score"]: row for row in scores.selections(table, 80.0, 240.0, seed=1)}
    # 120 s score all 24; as much is left, for one training. Without scores three are trained.
    assert (found["exact"]["screened"], found["exact"]["trained"]) == (24, 1)
    assert found["exact"]["error"] == 1.0 and found["wrong"]["error"] == 24.0
    three = [min(own) for own in combinations(range(1, 25), 3)]
    assert found["no score"]["error"] == pytest.approx(sum(three) / len(three), abs=0.4)
    fewer = replace(table, points=points[:23])
    assert scores.selections(fewer, 80.0, 240.0, seed=1) == []
    assert found.keys() == {"exact", "wrong", "no score"}
    rows = {row["score"]: row for row in table.rows(seed=1)}
    assert rows["exact"]["tau"] == 1.0 and rows["wrong"]["tau"] == -1.0
    assert rows["all"]["tau"] is None and rows["all"]["count"] == 24
    page = "\n".join(
        scores.parts(
            {
                "timit": {
                    "tables": [
                        {"title": "points", "final": "errors", "trained": 10, "wanted": 12}
                        | {"rows": list(rows.values())}
                    ],
                    "budget": 240.0,
                    "selections": list(found.values()),
                    "held": [1, 24],
                }
            },
            plan(),
        )
    )
    assert "**Partial**: 12 are to be trained" in page and "no evidence" in page
    assert "| exact | 1.00 [1.00, 1.00] | 24 | 5 |" in page
    assert "holds 1 of the 24 random points" in page


def test_losses_of_a_training_in_full() -> None:
    found = scores.of_losses([4.0, 3.0, 2.5, 2.2, 2.0, 1.9, 1.8, 1.7])
    assert found["training loss at 25% of the training"] == 3.0
    assert found["training loss at 50% of the training"] == 2.2
    assert 1.4 < found["power law through the losses until 50%"] < 2.2
    assert scores.of_losses([4.0]) == {}


def test_a_one_shot_search_costs_as_much_as_the_others() -> None:
    found = plan()
    assert ("oneshot", "librispeech") in found.search_runs
    assert ("oneshot", "aishell") not in found.search_runs
    given = dict(part.split("=") for part in found.oneshot().split() if "=" in part)
    finalists = int(given["supernet.finalists.count"])
    each = float(given["supernet.finalists.seconds"])
    total = found.options["trials"] * found.options["trial_seconds"]
    assert float(given["training.seconds"]) + finalists * each == 0.75 * total
    assert ("librispeech", "time", "oneshot_search") in set(found.tuned_runs())
    assert found.genotype("librispeech", "oneshot_search") == [
        "search/oneshot/librispeech/genotype.yaml"
    ]
    assert found.genotype("librispeech", "shared-3") == ["shared/librispeech/shared-3.yaml"]
    untuned = {run["encoder"] for run in found.untuned_runs()}
    assert {"shared-1", "shared-24", "oneshot_search", "draw-24"} <= untuned
    none = plan("--shared_draws", "0")
    assert not none.shared_scores() and not none.shared("librispeech")
    without = plan("--searches", "evolution random")
    assert "oneshot_search" not in without.encoders
    (conf,) = [load_any_search_config(str(RECIPE / "conf" / "oneshot.yaml"), [])]
    assert isinstance(conf, TrialsConfig) and conf.supernet is not None
    other = load_any_search_config(str(RECIPE / "conf" / "search.yaml"), [])
    same = ("features", "augment", "batch", "objective", "measure", "network")
    assert all(getattr(conf, name) == getattr(other, name) for name in same)
    assert isinstance(other, TrialsConfig)
    assert replace(conf.training, seconds=1.0) == replace(other.training, seconds=1.0)

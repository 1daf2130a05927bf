"""The networks of a search's stages by space: sizes, what a space does not have, budgets."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from choice_samples import all_candidates

from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.search import SearchConfig
from nas_encoder.search.gradient.objective import Objective
from nas_encoder.search.report.gradient import choices_of
from nas_encoder.spaces import get_space
from nas_encoder.spaces.nasbench_asr.config import spread_cells

NODES = {"layers": 4, "channels": 12, "operations": 6, "epochs": 2, "warmup_epochs": 0}
SMALL = {"output_size": 8, "deltas": False}


def document(**changes: Any) -> dict[str, Any]:
    return {"space": "nasbench_asr", "stages": [NODES], "network": SMALL, **changes}


def problems_of(**changes: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        SearchConfig.from_dict(document(**changes))
    return caught.value.problems


def test_cells_are_spread_as_in_the_paper() -> None:
    assert spread_cells(18) == (3, 4, 5, 6)
    assert spread_cells(4) == (1, 1, 1, 1)
    assert spread_cells(36) == (6, 8, 10, 12)
    for layers in range(60):
        cells = spread_cells(layers)
        assert sum(cells) == layers
        for cell, share in zip(cells, (3, 4, 5, 6), strict=True):
            assert abs(18 * cell - layers * share) < 18
    config = SearchConfig.from_dict(document())
    assert config.encoder_config(config.stages[0]).block_cells == (1, 1, 1, 1)
    given = SearchConfig.from_dict(document(network={**SMALL, "block_cells": [0, 1, 0, 3]}))
    assert given.encoder_config(given.stages[0]).block_cells == (0, 1, 0, 3)


@pytest.mark.parametrize("value", [5, True, "abcd", [1, 1], [1, 1, 1, "x"], [0, 0, 0, 0], {"a": 1}])
def test_wrong_cells_of_blocks(value: Any) -> None:
    found = problems_of(network={**SMALL, "block_cells": value})
    assert all(line.startswith(("network.block_cells", "stages[0].layers")) for line in found)


def test_what_a_space_does_not_have() -> None:
    assert problems_of(network={**SMALL, "stem_stride": [1, 2], "hidden_sizes": [4]}) == (
        "network.stem_stride: must be [1, 1]: networks of the space 'nasbench_asr' have no such "
        "part, got [1, 2]",
        "network.hidden_sizes: must be []: networks of the space 'nasbench_asr' have no such part, "
        "got [4]",
    )
    with pytest.raises(ConfigError, match="network.lstm_size: must be 0: networks of the space"):
        SearchConfig.from_dict({"network": {"lstm_size": 5}})
    found = problems_of(regularization={"at_most": {"conv5": 1}, "operations": ["conv7"]})
    assert [line.split(":")[0] for line in found] == [
        "regularization.operations",
        "regularization.at_most",
    ]


@pytest.mark.parametrize("space", ["nasbench_asr", "darts", "asr_revised"])
def test_what_is_not_given_is_the_default_of_the_space(space: str) -> None:
    stages = [NODES] if space == "nasbench_asr" else [{}]
    config = SearchConfig.from_dict(
        {"space": space, "stages": stages, "regularization": {"decay": 0.1}}
    )
    known = get_space(space).operations
    assert config.regularization.decay == 0.1
    assert set(config.regularization.operations) <= set(known)
    assert ("avg_pool_3x3" in config.regularization.at_most) == ("avg_pool_3x3" in known)


def objective_of(config: SearchConfig) -> Objective | None:
    network = config.encoder_config(config.stages[-1])
    return Objective.of(config.objective, get_space(config.space), network, 0.01)


def test_the_size_that_a_budget_is_for() -> None:
    costs = {}
    for layers in (None, 4, 18):
        config = SearchConfig.from_dict(document(objective={"layers": layers}))
        objective = objective_of(config)
        assert objective is not None
        costs[layers] = objective.costs.cheapest("parameters")
    assert costs[None] == costs[4] < costs[18]


def test_costs_where_zero_is_all_but_certain() -> None:
    """Nothing is NaN: the share of the others is even where they are equally improbable."""
    space = get_space("nasbench_asr")
    objective = objective_of(SearchConfig.from_dict(document()))
    assert objective is not None
    alphas = torch.zeros(3, 6)
    alphas[0, space.operations.index("zero")] = 200.0
    weights = {"nodes": alphas.softmax(-1).requires_grad_(), "skips": torch.full((6, 2), 0.5)}
    expected = objective.costs.expected(weights, all_candidates(space))
    even = objective.costs.expected({"nodes": torch.full((3, 6), 1 / 6)}, all_candidates(space))
    for name in expected:
        torch.testing.assert_close(expected[name].detach(), even[name])
    expected["macs"].backward()
    grad = weights["nodes"].grad
    assert grad is not None and bool(torch.isfinite(grad[1:]).all())


def test_a_skip_that_is_dropped_is_a_change() -> None:
    space = get_space("nasbench_asr")
    with_skips: Genotype = space.from_vector([[0, 1], [0, 1, 1], [0, 0, 0, 1]])
    without: Genotype = space.from_vector([[0, 0], [0, 0, 0], [0, 0, 0, 0]])
    for before, after in ((with_skips, without), (without, with_skips)):
        assert len(choices_of(after)) == 9
        assert len(choices_of(after) - choices_of(before)) == 4

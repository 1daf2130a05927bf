"""The package's own tests: the contracts that nas_encoder hands out, run on what it adds.

With the package installed: ``pytest contracts.py``.
"""

from __future__ import annotations

from typing import Any

import pytest

from nas_encoder.spaces import SearchSpace, get_space
from nas_encoder.tables import BASELINES, OPERATIONS
from nas_encoder.testing import (
    BaselineContract,
    NetworkContract,
    OperationContract,
    SpaceContract,
)


class TestSlimChain(SpaceContract, NetworkContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return get_space("slim_chain")


class TestGatedCells(NetworkContract):
    @pytest.fixture
    def space(self) -> SearchSpace:
        return get_space("gated_cells")


class TestGatedConv(OperationContract):
    @pytest.fixture
    def operation(self) -> Any:
        return OPERATIONS["gated_conv_3x3"]


class TestStackedGRU(BaselineContract):
    @pytest.fixture
    def encoder(self) -> Any:
        return BASELINES["stacked_gru"]

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        return {"input_size": 5, "output_size": 8, "layers": 3, "taps": [1, 2]}

"""Every baseline keeps the contract; small options of each stand here."""

from __future__ import annotations

from typing import Any

import pytest

from nas_encoder.baselines import BASELINES
from nas_encoder.testing import BaselineContract

DFSMN_SAN = {"input_size": 5, "output_size": 8, "hidden_size": 12, "blocks": 3, "taps": [1, 2]}
DFSMN_SAN |= {"attention_layers": 1, "persistent_memory": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    "dfsmn_san": DFSMN_SAN | {"dropout": 0.0, "attention_dropout": 0.0},
}


@pytest.fixture(params=list(BASELINES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestBaselines(BaselineContract):
    @pytest.fixture
    def encoder(self, name: str) -> Any:
        return BASELINES[name]

    @pytest.fixture
    def options(self, name: str) -> dict[str, Any]:
        return OPTIONS[name]

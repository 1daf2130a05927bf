"""Every search space keeps the contract, in whatever folder it is."""

from __future__ import annotations

import pytest

from nas_encoder.errors import RegistryError
from nas_encoder.spaces import SearchSpace, get_space, list_spaces
from nas_encoder.testing import NetworkContract, SpaceContract


@pytest.fixture(params=list_spaces())
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return get_space(request.param)


class TestSpaces(SpaceContract): ...


class TestNetworks(NetworkContract): ...


def test_an_unknown_space_lists_the_known_ones() -> None:
    with pytest.raises(RegistryError, match=r"unknown search space 'dart' \(did you mean 'darts'"):
        get_space("dart")

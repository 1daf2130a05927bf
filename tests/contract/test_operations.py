"""Every entry of the table of operations keeps the contract, see nas_encoder.ops."""

from __future__ import annotations

import pytest
from choice_samples import CELL_SPACE_OPERATIONS

from nas_encoder.errors import RegistryError
from nas_encoder.ops import OPERATIONS, OperationBuilder, build_operation
from nas_encoder.testing import OperationContract


class TestOperations(OperationContract):
    @pytest.fixture(params=list(OPERATIONS))
    def operation(self, request: pytest.FixtureRequest) -> OperationBuilder:
        return OPERATIONS[request.param]


def test_the_table_holds_what_the_cell_spaces_name() -> None:
    named = {op for operations in CELL_SPACE_OPERATIONS.values() for op in operations}
    assert named <= set(OPERATIONS)
    with pytest.raises(RegistryError, match="unknown operation 'sepconv'"):
        build_operation("sepconv", 4, 1)

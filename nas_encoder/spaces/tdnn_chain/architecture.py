"""The architecture part of a genotype of the chain spaces: one operation per block, in a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas_encoder.common.problems import Problems

MAX_BLOCKS = 64
# Zheng, An, Ou 2021 (ST-NAS): half of the context (kernel 2c + 1) and dilation of a TDNN layer.
TDNN_OPERATIONS = ("tdnn_c1_d1", "tdnn_c1_d2", "tdnn_c2_d1", "tdnn_c2_d2")


@dataclass(frozen=True)
class ChainArchitecture:
    """The operations of the blocks, first to last; each block reads the previous one."""

    blocks: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the YAML form."""
        return {"blocks": list(self.blocks)}

    def canonical(self) -> list[Any]:
        """Return the canonical form: chains of different blocks always differ."""
        return ["chain", *self.blocks]


KEYS = ("blocks",)


def parse_chain(
    document: Mapping[str, Any], operations: tuple[str, ...], problems: Problems
) -> ChainArchitecture | None:
    """Read the blocks of a genotype document; None if there were problems."""
    if "blocks" not in document:
        return None
    listed = problems.sequence(document["blocks"], "blocks", 1, MAX_BLOCKS)
    blocks = [
        problems.choice(block, f"blocks[{place}]", "operation", operations)
        for place, block in enumerate(listed or ())
    ]
    names = tuple(block for block in blocks if block is not None)
    return ChainArchitecture(names) if names and len(names) == len(blocks) else None

"""Search spaces: what may be chosen, sampled and mutated. This folder imports no torch.

One file a space, and one line in the table below.
"""

from __future__ import annotations

from nas_encoder.registry import Registry
from nas_encoder.spaces import asr_revised, darts
from nas_encoder.spaces.base import EnumerableSpace, SearchSpace
from nas_encoder.spaces.cells import CellSpace

SPACES: Registry[CellSpace] = Registry("search space")
SPACES.add(darts.SPACE.name, darts.SPACE)
SPACES.add(asr_revised.SPACE.name, asr_revised.SPACE)


def get_space(name: str) -> CellSpace:
    """Return the space of that name.

    Raises:
        RegistryError: There is none; the message lists the known ones.
    """
    return SPACES[name]


def list_spaces() -> list[str]:
    """Return the names of all spaces."""
    return list(SPACES)


__all__ = ["SPACES", "CellSpace", "EnumerableSpace", "SearchSpace", "get_space", "list_spaces"]

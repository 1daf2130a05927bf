"""Search spaces: what may be chosen, sampled and mutated, and the networks of each choice.

Each family of spaces has a folder and each space a line in :mod:`nas_encoder.tables`; :mod:`.base`
describes a folder's contents. Importing this package, or a family's ``space``, does not load torch.
"""

from __future__ import annotations

from nas_encoder.registry import Names
from nas_encoder.spaces.base import SearchSpace
from nas_encoder.tables import SPACES


def get_space(name: str) -> SearchSpace:
    """Return the space of that name.

    Raises:
        RegistryError: No space has that name; the message lists the known ones.
    """
    space: SearchSpace = SPACES[name]
    return space


def list_spaces() -> list[str]:
    """Return the names of all spaces."""
    return list(SPACES)


def searchable_spaces() -> Names:
    """Return the names of the spaces that have a supernet."""
    return SPACES.names(lambda space: space.has("supernet"))


__all__ = [
    "SPACES",
    "SearchSpace",
    "get_space",
    "list_spaces",
    "searchable_spaces",
]

"""The networks of a search's stages: the section ``network``, checked by the space."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from nas_encoder.common.problems import Problems, show
from nas_encoder.spaces import SPACES, SearchSpace
from nas_encoder.spaces.options import NetworkOptions, SearchedNetwork, tupled


def read_network(value: Any, path: str, problems: Problems) -> SearchedNetwork:
    """Read the section ``network``: options of the space's networks.

    Options of other spaces' networks may be given with the value that switches them off. ``value``
    is the space and the section, or the section already read.
    """
    here = problems.under(path)
    if isinstance(value, SearchedNetwork):
        return type(value).read(value, here)
    space: SearchSpace = value[0]
    document: Any = value[1]
    if document is None or not isinstance(document, dict):
        return space.section.read({} if document is None else document, here)
    own = {item.name for item in fields(space.section)}
    others = {
        item.name: item.default
        for other in SPACES.values()
        for item in fields(other.section)
        if item.name not in own
    }
    for name, off in others.items():
        given = tupled(document.get(name, off))
        if given != off:
            shown, wanted = (show(list(v) if isinstance(v, tuple) else v) for v in (given, off))
            here.add(
                name,
                f"must be {wanted}: networks of the space '{space.name}' have no such part, got "
                f"{shown}",
            )
    kept = {name: item for name, item in document.items() if name not in others}
    return space.section.read(kept, here)


def check_network(
    space: SearchSpace,
    section: SearchedNetwork,
    layers: int,
    options: NetworkOptions,
    index: int,
    problems: Problems,
) -> None:
    """Check the network of stage ``index``; the first (0) also checks what all stages share."""
    where = f"stages[{index}]"
    space.check_layers(layers, section, f"{where}.layers", problems)
    for line in options.problems():
        if line.startswith(("layers:", "channels:")):
            problems.lines.append(f"{where}.{line}")
        elif line.startswith("dropout:"):
            continue  # reported by the stage's own check
        elif not index and not line.startswith("input_size:"):  # set by the features
            problems.lines.append(f"network.{line}")

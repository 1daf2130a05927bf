"""Every kind of module and front end is among the samples whose streams are tested."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from streaming_samples import BINS, FRONT_ENDS, MODULES

from nas_encoder.network.streaming import Chunk
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.front import build_front
from nas_encoder.spaces.blocks.front_parts import FRONTS
from nas_encoder.spaces.blocks.modules import build_module
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.spaces.blocks.parts import MODULES as KINDS


def test_no_kind_is_missing_in_the_samples() -> None:
    assert {part.kind for part in MODULES} == set(KINDS)
    # Streams of searched front ends are tested in test_streaming, with cells.
    assert {part.kind for part in FRONT_ENDS} | {"searched"} == set(FRONTS)
    for part in (*MODULES, *FRONT_ENDS):
        for name in type(part).later:
            default = getattr(type(part)(), name)
            same = [own for own in MODULES if type(own) is type(part)]
            assert any(getattr(own, name) != default for own in same), (part.kind, name)


@pytest.mark.parametrize("part", (*MODULES, *FRONT_ENDS), ids=lambda part: part.text())
@torch.no_grad()
def test_a_part_keeps_the_contract_alone(part: Part) -> None:
    """A chunk without frames gives none, and the places of what comes out have no gap."""
    config, front = BlocksConfig(), part in FRONT_ENDS
    size = BINS if front else 8
    module: Any = (
        build_front(part, BINS, 8, config) if front else build_module(part, 8, config, True)
    )
    cache, start, place = module.eval().initial_cache(2, torch.empty(0)), 0, 0
    factor = getattr(part, "factor", 1)
    for count in (0, 1, 37, 0, 2, 9):
        out, cache = module.step(Chunk(torch.randn(2, count, size), start, False), cache)
        assert out.x.shape[::2] == (2, 8) and (out.start == place or not out.x.size(1))
        start, place = start + count, place + out.x.size(1)
    out, cache = module.step(Chunk(torch.randn(2, 0, size), start, True), cache)
    whole = start if not front else int(module.reduced(torch.tensor(start)))
    assert place + out.x.size(1) == whole and abs(whole - start // factor) <= 1

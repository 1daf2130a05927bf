"""The zoo's networks against golden values; tests/golden/make_encoder_golden.py made them."""

from __future__ import annotations

import json

import pytest
import torch
from encoder_samples import EVERY
from golden.make_encoder_golden import FILE, compute

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))


def test_every_genotype_has_golden_values() -> None:
    assert sorted(GOLDEN) == EVERY, "run tests/golden/make_encoder_golden.py for a new genotype"


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_values_are_as_they_were(name: str) -> None:
    found, golden = compute(name), GOLDEN[name]
    for key in ("hash", "lengths", "parameters"):
        assert found[key] == golden[key]
    for key in ("training", "evaluation", "gradient_norm"):
        own, other = (torch.tensor(v[key], dtype=torch.float64) for v in (found, golden))
        torch.testing.assert_close(own, other, rtol=1e-8, atol=1e-8)
    # A test on zeros would say nothing.
    assert sum(abs(value) > 1e-3 for value in golden["evaluation"]) >= 4

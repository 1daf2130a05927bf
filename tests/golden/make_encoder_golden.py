"""Make encoder.json: what the zoo's networks give, and what its architectures are called.

Run from the root of the checkout, only where a change of the numbers is meant:

    python tests/golden/make_encoder_golden.py

Weights and features come from formulas and not from a random generator, so that the numbers hold
for every version of PyTorch. tests/parity/test_golden.py compares.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from nas_encoder import build_encoder, list_genotypes, load_genotype

FILE = Path(__file__).with_name("encoder.json")
LENGTHS = [21, 13, 6]
OPTIONS: dict[str, Any] = {"input_size": 10, "channels": 4, "layers": 6, "output_size": 5}
# What a space's networks have beside that.
MORE: dict[str, dict[str, Any]] = {
    "darts": {"hidden_sizes": (7,)},
    "asr_revised": {"hidden_sizes": (7,)},
    "nasbench_asr": {"lstm_size": 3, "block_cells": (1, 1, 1, 2)},
    "blocks": {"dropout": 0.0, "attention_dropout": 0.0},
}


def wave(count: int, phase: float) -> torch.Tensor:
    """Return numbers between -1 and 1 without a visible period."""
    index = torch.arange(count, dtype=torch.float64)
    return torch.sin(index * index * 0.7 + index * 1.3 + phase)


def build(name: str) -> torch.nn.Module:
    """Return a network whose weights follow from their place and shape alone."""
    module = build_encoder(name, **OPTIONS, **MORE[load_genotype(name).space]).double()
    for number, parameter in enumerate(module.parameters()):
        fan_in = max(parameter[0].numel(), 1) if parameter.dim() > 1 else 4
        values = wave(parameter.numel(), number).view_as(parameter) * (3 / fan_in) ** 0.5
        with torch.no_grad():
            parameter.copy_(values + (1.0 if parameter.dim() == 1 else 0.0))
    return module


def compute(name: str) -> dict[str, Any]:
    """Return output and gradient figures of one genotype."""
    x = wave(len(LENGTHS) * max(LENGTHS) * 10, 0.5).view(len(LENGTHS), max(LENGTHS), 10)
    lengths = torch.tensor(LENGTHS)
    module = build(name).train()
    y, out_lengths = module(x, lengths)
    weights = wave(y.numel(), 2.0).view_as(y)
    (y * weights).sum().backward()
    evaluated, _ = module.eval()(x, lengths)
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return {
        "hash": load_genotype(name).hash,
        "lengths": out_lengths.tolist(),
        "training": y.detach().flatten()[::7].tolist(),
        "evaluation": evaluated.detach().flatten()[::7].tolist(),
        "gradient_norm": torch.cat([g.flatten() for g in gradients]).norm().item(),
        "parameters": sum(g.numel() for g in gradients),
    }


def main() -> None:
    """Write the file."""
    figures = {name: compute(name) for name in list_genotypes()}
    FILE.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

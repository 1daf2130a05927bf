"""Genotypes and small networks that several test files share."""

from __future__ import annotations

import random
from typing import Any

import torch
from choice_samples import CELL_SPACE_OPERATIONS
from torch import Tensor, nn

from nas_encoder import Genotype, build_encoder, list_genotypes, load_genotype
from nas_encoder.spaces import get_space

EVERY = list_genotypes()  # of the zoo
ZOO = [name for name in EVERY if load_genotype(name).space in CELL_SPACE_OPERATIONS]

# A kernel of every kind, with states that are read twice and a concatenation of some nodes only.
MIXED_CELL = {
    "nodes": [
        [{"op": "sep_conv_3x3", "from": 0}, {"op": "conv_7x1_1x7", "from": 1}],
        [{"op": "avg_pool_3x3", "from": 2}, {"op": "dil_conv_5x5", "from": 0}],
        [{"op": "max_pool_3x3", "from": 1}, {"op": "dil_conv_3x3", "from": 3}],
    ],
    "concat": [3, 4],
}


def document(normal: Any, reduction: Any | None = None, space: str = "asr_revised") -> Any:
    """Return a genotype document of these cells."""
    return {
        "schema": 1,
        "name": "sample",
        "space": space,
        "normal": normal,
        "reduction": normal if reduction is None else reduction,
        "provenance": {"kind": "handwritten"},
    }


def one_edge(op: str, source: int, space: str = "darts") -> Any:
    """Return a document whose cells are a single edge, so that they read one input only."""
    return document({"nodes": [[{"op": op, "from": source}]], "concat": [2]}, space=space)


def handwritten() -> list[Any]:
    """Return documents of unusual shape: dead cells, single edges, many edges, few outputs."""
    wide = {
        "nodes": [[{"op": "max_pool_3x3", "from": source} for source in (0, 0, 1, 1, 1)]],
        "concat": [2],
    }
    single = {"nodes": [[{"op": "sep_conv_3x3", "from": 0}]], "concat": [2]}
    return [
        document(MIXED_CELL),
        one_edge("sep_conv_3x3", 0),
        one_edge("skip_connect", 0),
        one_edge("dil_conv_3x3", 1),
        one_edge("conv_7x1_1x7", 0, "asr_revised"),
        document(single, MIXED_CELL),
        document(MIXED_CELL, single),
        document(wide, MIXED_CELL),
    ]


def sampled(seed: int) -> Genotype:
    """Return a genotype drawn from one of the 2-D cell spaces."""
    rng = random.Random(seed)
    return get_space(rng.choice(list(CELL_SPACE_OPERATIONS))).sample(rng)


def small(genotype: Any, **options: Any) -> nn.Module:
    """Return a network of few channels with seeded weights, in float64."""
    options = {"input_size": 9, "channels": 2, "layers": 5, "output_size": 6, **options}
    torch.manual_seed(options.pop("seed", 0))
    module = build_encoder(genotype, **options).double()
    randomize_norms(module)
    return module


def randomize_norms(module: nn.Module) -> None:
    """Give batch norms statistics, scales and shifts that are not those of a fresh network."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            if part.running_mean is not None and part.running_var is not None:
                part.running_mean.normal_(std=0.3)
                part.running_var.uniform_(0.5, 2.0)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.normal_(part.bias, std=0.3)


def padded(lengths: list[int], bins: int, extra: int = 0) -> tuple[Tensor, Tensor]:
    """Return random float64 features (B, max(lengths) + extra, bins) and the lengths."""
    x = torch.randn(len(lengths), max(lengths) + extra, bins, dtype=torch.float64)
    return x, torch.tensor(lengths)

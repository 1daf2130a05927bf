"""Files laid out as the published ones of NAS-Bench-ASR are, with invented numbers."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np

from nas_encoder.spaces.nasbench_asr.architecture import OPERATIONS, Vector
from nas_encoder.spaces.nasbench_asr.space import NASBENCH_ASR as SPACE

EPOCHS, SEEDS, DEVICES = 4, (1234, 1235, 1236), ("gtx-1080ti-fp32", "jetson-nano-fp32")
HEADER: dict[str, Any] = {
    "version": 2,
    "search_space": {
        "shape": [[6, 2], [6, 2, 2], [6, 2, 2, 2]],
        "ops": list(OPERATIONS),
        "nodes": 3,
    },
}
# The documented example.
EXAMPLE = [[1, 0], [1, 0, 0], [1, 0, 0, 0]]
EXAMPLE_HASH = "36855332a5778e0df5114305bc3ce238"


def some_vectors(count: int = 12) -> list[Vector]:
    """Return the documented example and other vectors of different hashes."""
    rng = random.Random(0)
    found: dict[str, Vector] = {}
    example = SPACE.from_vector(EXAMPLE)
    genotype = example
    while len(found) < count:
        found.setdefault(genotype.architecture.graph_hash, genotype.architecture.vector)
        genotype = SPACE.sample(rng)
    return list(found.values())


def rows_of(vectors: list[Vector], seed: int, kind: str = "training") -> list[list[Any]]:
    """Return rows in the published order of columns, with NumPy's numbers where those have them."""
    rng = random.Random(seed)
    rows: list[list[Any]] = []
    for vector in vectors:
        key = SPACE.from_vector(vector).architecture.graph_hash
        if kind == "training":
            vals = [np.float32(rng.uniform(0.2, 0.5)) for _ in range(EPOCHS)]
            rows.append([key, vals, np.float64(rng.uniform(0.2, 0.5)), list(map(tuple, vector))])
        elif kind == "benchmarking":
            rows.append([key, rng.uniform(0.01, 0.5)])
        else:
            rows.append([key, rng.randrange(10**7), rng.randrange(10**9)])
    return rows


def dump_pair(path: Path, header: dict[str, Any], rows: Any, protocol: int = 4) -> None:
    """Write two pickles in a row."""
    with path.open("wb") as file:
        pickle.dump(header, file, protocol)
        pickle.dump(rows, file, protocol)


def write_published(folder: Path, vectors: list[Vector] | None = None, protocol: int = 4) -> None:
    """Write files of all three kinds under their published names."""
    vectors = some_vectors() if vectors is None else vectors
    columns = ["model_hash", "val_per", "test_per", "arch_vec"]
    for seed in SEEDS:
        header = {**HEADER, "dataset_type": "training", "epochs": EPOCHS, "seed": seed}
        rows = rows_of(vectors, seed)
        dump_pair(
            folder / f"nb-asr-e{EPOCHS}-{seed}.pickle",
            {**header, "columns": columns},
            rows,
            protocol,
        )
    for number, device in enumerate(DEVICES):
        dump_pair(
            folder / f"nb-asr-bench-{device}.pickle",
            {**HEADER, "dataset_type": "benchmarking", "device": device,
             "columns": ["model_hash", "latency"]},
            rows_of(vectors, number, "benchmarking"),
            protocol,
        )  # fmt: skip
    dump_pair(
        folder / "nb-asr-info.pickle",
        {**HEADER, "dataset_type": "static", "columns": ["model_hash", "params", "flops"]},
        rows_of(vectors, 9, "static"),
        protocol,
    )

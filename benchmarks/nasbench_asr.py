"""NAS-Bench-ASR: the whole space in seconds, the network against a plain one side by side.

* Enumerating and hashing all architectures, with an empty cache (CPU seconds).
* A query to a table of all 8,242 architectures and three seeds (invented numbers): the best
  validation error up to an epoch, by key, by vector and by genotype.
* Forward, and forward and backward, at the published size: the package's network against the
  plain one of tests/parity/plain_nasbench.py, written like the public code, with the same
  weights, without dropout, alternating in one process. The ratio is of medians; above 1 the
  package's is faster. Utterances have equal length, the best case for the plain one, which
  does not handle padding.

``--json`` prints one object.

    python benchmarks/nasbench_asr.py --threads 1
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_encoder import build_encoder
from nas_encoder.common.provenance import environment
from nas_encoder.deploy.timing import measure, quiet_clock, seconds_of
from nas_encoder.spaces.nasbench_asr.architecture import graph_hash
from nas_encoder.spaces.nasbench_asr.config import PUBLISHED
from nas_encoder.spaces.nasbench_asr.space import NASBENCH_ASR as SPACE
from nas_encoder.tabular import Table, Training

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from parity.plain_nasbench import PlainNasBench, copy_weights  # noqa: E402

VECTORS = {
    "conv5 everywhere": [[1, 0], [1, 0, 0], [1, 0, 0, 0]],
    "linear everywhere, all skips": [[0, 1], [0, 1, 1], [0, 1, 1, 1]],
    "mixed": [[2, 1], [3, 0, 1], [0, 1, 0, 0]],
}


def space_seconds() -> dict[str, float]:
    """Return the number of architectures and the time to list and hash them."""
    graph_hash.cache_clear()
    hashes: set[str] = set()
    seconds = seconds_of(
        lambda: hashes.update(genotype.architecture.graph_hash for genotype in SPACE.enumerate()),
        time.process_time,
    )
    return {"architectures": len(hashes), "cpu_seconds": seconds}


def query_microseconds(repeats: int = 20000) -> dict[str, float]:
    """Return the time of one query in each form, in a table of the published size."""
    genotypes = list(SPACE.enumerate())
    rng = random.Random(0)
    keys = [genotype.architecture.graph_hash for genotype in genotypes]
    trainings = {
        (40, seed): {
            key: Training(tuple(rng.random() for _ in range(40)), rng.random()) for key in keys
        }
        for seed in (1234, 1235, 1236)
    }
    table = Table("nasbench_asr", trainings)
    picked = [rng.randrange(len(genotypes)) for _ in range(repeats)]
    forms: dict[str, list[Any]] = {
        "key": [keys[i] for i in picked],
        "vector": [genotypes[i].architecture.vector for i in picked],
        "genotype": [genotypes[i] for i in picked],
    }
    found = {}
    for name, questions in forms.items():
        began = time.process_time()
        for question in questions:
            table.val_acc(question, epoch=20, seed=1235)
        found[name] = (time.process_time() - began) / repeats * 1e6
    return found


def with_backward(model: Callable[[], Tensor]) -> Callable[[], None]:
    """Return a call of a model with its backward pass."""
    return lambda: model().square().mean().backward()


def compare(name: str, batch: int, frames: int, repeats: int, device: str) -> dict[str, Any]:
    """Return medians and ratios of one architecture."""
    torch.manual_seed(0)
    size = {**PUBLISHED, "dropout": 0.0}
    ours: Any = build_encoder(SPACE.from_vector(VECTORS[name]), **size).to(device)
    plain = PlainNasBench(VECTORS[name], classes=None).to(device)
    copy_weights(plain, ours)
    x = torch.randn(batch, frames, 80, device=device)
    channels_first = x.transpose(1, 2).contiguous()
    lengths = torch.full((batch,), frames, device=device)
    with torch.no_grad():
        difference = float((ours(x, lengths)[0] - plain(channels_first)).abs().max())

    models = {"ours": lambda: ours(x, lengths)[0], "plain": lambda: plain(channels_first)}
    row: dict[str, Any] = {"architecture": name, "difference": difference}
    for what, run in (("forward", torch.no_grad()), ("forward_backward", with_backward)):
        calls = {key: run(model) for key, model in models.items()}
        found = measure(calls, repeats, clock=quiet_clock(device))
        medians = {key: measured.median for key, measured in found.items()}
        row[what] = {**medians, "ratio": medians["plain"] / medians["ours"]}
    return row


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--frames", type=int, default=200, help="2 s (TIMIT has 3 s)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    space = space_seconds()
    query = query_microseconds()
    rows = [compare(name, args.batch, args.frames, args.repeats, args.device) for name in VECTORS]
    if args.json:
        document = {"space": space, "query_us": query, "network": rows}
        print(json.dumps({**document, "environment": environment()}))
        return 0
    print(
        f"{space['architectures']:,} architectures listed and hashed: {space['cpu_seconds']:.2f} s"
    )
    forms = ", ".join(f"{microseconds:.1f} us by {name}" for name, microseconds in query.items())
    print(f"one question to a table of all of them: {forms}")
    print(
        f"network, batch {args.batch} of {args.frames} frames, {args.device}; seconds ours / plain"
    )
    for row in rows:
        parts = [
            f"{what.replace('_', ' and ')} {row[what]['ours']:.3f} / {row[what]['plain']:.3f} "
            f"= {row[what]['ratio']:.2f} x"
            for what in ("forward", "forward_backward")
        ]
        print(
            f"  {row['architecture']:<30}{'   '.join(parts)}   (differs by {row['difference']:.0e})"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

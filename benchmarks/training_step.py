"""Training steps of networks against plain ones and the toolkits' own, side by side in one process.

Forward, backward and optimizer, the same on both sides:

* 2-D cells, 17 of 24 channels, against the plain network of ``tests/parity/plain_darts.py``, with
  the same weights (``--frames`` frames of 40 bins, SGD). Plain knows no padding: it computes all
  frames.
* Blocks of 13 M parameters against NeMo's own Conformer-S and FastConformer-S (four utterances of
  ``--block-frames`` frames of 80 bins, AdamW), left out without NeMo.

Each with utterances of equal length, and padded ones. Times are medians and the least of
``--repeats`` alternating measurements (on one thread of a CPU of the process's own time), memory is
the most that PyTorch's allocator holds in a step, weights included. ``--profile`` adds the
operators that take most.

    python benchmarks/training_step.py --threads 1 --json training_step.json
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import blocks
import torch
from step_cost import launches
from torch import Tensor, nn

from nas_encoder import build_encoder, load_genotype
from nas_encoder.common.provenance import environment
from nas_encoder.deploy.memory import peak_memory
from nas_encoder.deploy.timing import measure, quiet_clock
from nas_encoder.network.complexity import count_parameters
from nas_encoder.spaces.blocks import points

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from parity.plain_darts import PlainNetwork  # noqa: E402

LAYERS, CHANNELS, BINS = 17, 24, 40
SHARES = (1.0, 0.8, 0.6, 0.4)  # of the frames, of padded utterances
Side = tuple[nn.Module, Callable[[Tensor, Tensor], Tensor], torch.optim.Optimizer]


def lengths_of(batch: int, frames: int, padded: bool) -> Tensor:
    """Return the frames of each utterance (B,)."""
    shares = [SHARES[place % len(SHARES)] if padded else 1.0 for place in range(batch)]
    return torch.tensor([round(share * frames) for share in shares])


def cells(name: str) -> dict[str, Side]:
    """Return plain and our network of cells, with the same weights."""
    genotype = load_genotype(name)
    ours = build_encoder(genotype, input_size=BINS, layers=LAYERS, channels=CHANNELS)
    plain = PlainNetwork(genotype.to_dict(), BINS, CHANNELS, LAYERS)
    values = zip(plain.state_dict(), ours.state_dict().values(), strict=True)
    plain.load_state_dict(dict(values))
    return {
        "plain": (plain, lambda x, lengths: plain(x), momentum(plain)),
        "ours": (ours, lambda x, lengths: ours(x, lengths)[0], momentum(ours)),
    }


def momentum(module: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer of cells; it moves nothing, so that all steps are alike."""
    return torch.optim.SGD(module.parameters(), lr=0.0, momentum=0.9)


def toolkit(name: str, architecture: Any) -> dict[str, Side]:
    """Return NeMo's encoder and ours of the same architecture."""
    sides = {"plain": blocks.nemo(name), "ours": blocks.ours(architecture)}
    return {
        side: (module, call, torch.optim.AdamW(module.parameters(), lr=0.0, weight_decay=0.0))
        for side, (module, call) in sides.items()
    }


def cases(names: list[str]) -> Iterator[tuple[str, dict[str, Side]]]:
    """Yield a name and both sides."""
    for name in names:
        yield name, cells(name)
    if find_spec("nemo") is not None:
        yield "NeMo Conformer-S", toolkit("conformer", points.nemo_conformer())
        yield "NeMo FastConformer-S", toolkit("fast_conformer", points.fast_conformer())


def step_of(side: Side, x: Tensor, lengths: Tensor) -> Callable[[], None]:
    """Return a call of a training step."""
    module, encode, optimizer = side
    module.train()

    def step() -> None:
        optimizer.zero_grad()
        encode(x, lengths).square().mean().backward()
        optimizer.step()

    return step


def compare(
    sides: dict[str, Side], batch: int, frames: int, bins: int, padded: bool, repeats: int
) -> dict[str, Any]:
    """Return times and memory of both sides, and plain's as a multiple of ours."""
    x, lengths = torch.randn(batch, frames, bins), lengths_of(batch, frames, padded)
    calls = {name: step_of(side, x, lengths) for name, side in sides.items()}
    found = measure(calls, repeats, clock=quiet_clock("cpu"))
    row: dict[str, Any] = {"padded": padded, "batch": batch, "frames": frames}
    for name, (module, _, _) in sides.items():
        row[f"{name}_s"] = round(found[name].median, 3)
        row[f"{name}_least_s"] = round(min(found[name].times), 3)
        row[f"{name}_mb"] = round(peak_memory(module, x, calls[name], training=True) / 1e6)
    row["times_faster"] = round(found["plain"].median / found["ours"].median, 2)
    row["times_faster_least"] = round(row["plain_least_s"] / row["ours_least_s"], 2)
    row["memory_share"] = round(row["ours_mb"] / row["plain_mb"], 2)
    return row


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=2, help="utterances for cells")
    parser.add_argument("--frames", type=int, default=128, help="of an utterance for cells")
    parser.add_argument("--block-frames", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--genotypes", nargs="*", default=["asrnet_a", "asrnet_b"])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--json", metavar="FILE", help="write all numbers")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print("  ".join(f"{key}: {value}" for key, value in environment().items()))
    print(
        f"{'network':<22}{'padded':>7}{'plain s':>9}{'ours s':>8}{'times':>7}{'(least)':>9}"
        f"{'plain MB':>10}{'ours MB':>9}{'share':>7}"
    )
    rows = []
    for name, sides in cases(args.genotypes):
        is_cell = name in args.genotypes
        shape = (args.batch, args.frames, BINS)
        shape = shape if is_cell else (len(SHARES), args.block_frames, blocks.BINS)
        for padded in (False, True):
            row = compare(sides, *shape, padded, args.repeats)
            parameters = count_parameters(sides["ours"][0])
            rows.append({"network": name, "parameters": parameters, **row})
            print_row(rows[-1])
        if args.profile:
            x, lengths = torch.randn(shape), lengths_of(shape[0], shape[1], False)
            for side, own in sides.items():
                count, shares = launches(step_of(own, x, lengths), torch.device("cpu"))
                rows[-2][f"{side}_operators"] = {"count": count, "shares": shares}
                most = ", ".join(f"{key} {share:.0%}" for key, _, share in shares[:8])
                print(f"  {side}, {count:,} operators: {most}", flush=True)
    if args.json:
        document = {**environment(), "arguments": vars(args), "rows": rows}
        Path(args.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


def print_row(row: dict[str, Any]) -> None:
    """Print a row of the table."""
    print(
        f"{row['network']:<22}{'yes' if row['padded'] else 'no':>7}{row['plain_s']:>9}"
        f"{row['ours_s']:>8}{row['times_faster']:>7}{row['times_faster_least']:>9}"
        f"{row['plain_mb']:>10}{row['ours_mb']:>9}{row['memory_share']:>7}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())

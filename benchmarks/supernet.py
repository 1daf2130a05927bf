"""The search's supernet against a plain per-edge one, side by side in one process.

P-DARTS stages 1, 2 and 3 (5, 11 and 17 cells with 8, 5 and 3 operations on an edge) and ST-NAS
(one path), each with a weight step and an architecture step: seconds (medians of alternating
measurements), peak memory above what is kept between steps, memory kept for the backward pass,
operators launched (on a GPU: kernels), and their ratios. The whole schedule is that of He et al.
2020: in each stage 15 epochs of weight steps, 9 of them with architecture steps.

Plain (tests/parity/plain_supernet.py) is what public P-DARTS code does: separate edges, PyTorch's
operators and memory layout, no masks, gradients of weights and architecture in both steps; float32
(on a GPU with PyTorch's default of TF32 in convolutions); for ST-NAS along the same path. Ours is
the search's supernet: on a CPU in float32 with custom backward passes; on a GPU in bf16 as CUDA
graphs, which the search itself does not use yet (--mode compile: torch.compile with CUDA graphs,
minutes per stage; --mode eager: neither; --precision float32: no bf16). ST-NAS has no graph: its
path changes with every step. A graph has its own memory pool, so on a GPU ours is measured as the
peak of an eager step in the same precision.

    OMP_NUM_THREADS=1 python benchmarks/supernet.py            # 256 frames, 4 utterances
    python benchmarks/supernet.py --paper                      # with an estimate for AISHELL-1
    python benchmarks/supernet.py --public FOLDER              # and the public P-DARTS code itself
    python benchmarks/supernet.py --json                       # the last line is one object
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import public_pdarts
import torch
from step_cost import begin_peak, end_peak, launches, saved_bytes
from supernet_sides import VOCABULARY, Side, choices, eager_peak, eagerly, make_batch

from nas_encoder.common.provenance import environment
from nas_encoder.deploy.timing import quiet_clock, seconds_of
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.supernet.mixed import Supernet
from nas_encoder.spaces.cells.supernet.sampled import SampledSupernet

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from parity.plain_supernet import PlainSupernet  # noqa: E402

STAGES = ((5, 8), (11, 5), (17, 3))  # cells, operations (Chen et al. 2019)
EPOCHS, WARMUP = 15, 6  # He et al. 2020, section 4.3
REGULARIZED = ("dil_conv_3x3", "dil_conv_5x5", "avg_pool_3x3")
# The search on AISHELL-1 (He et al. 2020): 120,098 utterances of 4.5 s on average, half of them
# for the weights, batches of 4, 3 seeds; 89 hours on 8 P40.
UTTERANCES, FRAMES, BATCH, SEEDS = 120_098, 450, 4, 3
PAPER = "89 h on 8 P40 (712 GPU hours)"


def measure_case(args: Any, name: str, layers: int, keep: int, one_path: bool) -> dict[str, Any]:
    """Measure one stage on both sides."""
    alive = choices(args.space, keep)
    nodes = get_space(args.space).nodes
    config = CellConfig(args.bins, args.channels, layers, 512)
    regularized = public_pdarts.REGULARIZED if args.public else REGULARIZED
    torch.manual_seed(0)
    plain = PlainSupernet(
        alive,
        nodes,
        config.input_size,
        config.channels,
        layers,
        config.output_size,
        VOCABULARY,
        regularized=regularized,
    )
    # As in the search: one path has its own supernet.
    build = SampledSupernet if one_path else Supernet
    ours = CtcNetwork(build(alive, config, nodes, regularized), VOCABULARY)
    sides: dict[str, Any] = {
        "plain": Side(plain, alive, True, args),
        "ours": Side(ours, alive, False, args),
    }
    if args.public and not one_path:
        sides["public"] = public_pdarts.PublicSide(args.public, alive, layers, args)
    batch = make_batch(args, alive, one_path)
    device = torch.device(args.device)
    result: dict[str, Any] = {"layers": layers, "operations": keep}
    for kind in ("weight", "architecture"):
        steps = {
            side: (lambda own=own, kind=kind: getattr(own, f"{kind}_step")(batch))
            for side, own in sides.items()
        }
        kept: dict[str, int] = dict.fromkeys(sides, 0)
        counted: dict[str, tuple[int, list[list[Any]]]] = dict.fromkeys(sides, (0, []))
        if not args.quick:
            for side, step in steps.items():  # this and counting also warm up
                with eagerly(sides[side]):
                    kept[side] = saved_bytes(step, sides[side].network)
        for _ in range(args.warmup):
            for step in steps.values():
                step()
        if not args.quick:
            counted = {side: launches(step, device) for side, step in steps.items()}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        peaks: dict[str, int] = dict.fromkeys(sides, 0)
        for _ in range(args.repeats):
            for side, step in steps.items():
                before = begin_peak(device)
                seconds[side].append(seconds_of(step, quiet_clock(device)))
                peaks[side] = max(peaks[side], end_peak(device, before))
        if sides["ours"].mode != "eager":
            peaks["ours"] = eager_peak(sides["ours"], steps["ours"], device)
        entry: dict[str, Any] = {}
        for side, (count, rows) in counted.items():
            entry[side] = {
                "seconds": statistics.median(seconds[side]),
                "peak_bytes": peaks[side],
                "saved_bytes": kept[side],
                "launches": count,
            }
            if args.profile:
                entry[side]["profile"] = rows
        entry["speedup"] = round(entry["plain"]["seconds"] / entry["ours"]["seconds"], 2)
        entry["memory_ratio"] = ratio(entry, "peak_bytes")
        entry["saved_ratio"] = ratio(entry, "saved_bytes")
        entry["launch_ratio"] = ratio(entry, "launches")
        if "public" in entry:
            seconds_of_both = entry["public"]["seconds"], entry["ours"]["seconds"]
            entry["public_speedup"] = round(seconds_of_both[0] / seconds_of_both[1], 2)
            entry["public_memory_ratio"] = ratio(entry, "peak_bytes", "public")
        result[kind] = entry
        print_entry(name, kind, entry)
    return result | compared([result])


def ratio(entry: dict[str, Any], field: str, reference: str = "plain") -> float | None:
    """Return ours / the reference's, or None where one was not measured."""
    ours, other = entry["ours"][field], entry[reference][field]
    return round(ours / other, 3) if ours and other else None


def schedule_seconds(stage: dict[str, Any], side: str) -> float:
    """Return the seconds of a stage with one step per epoch."""
    weight, architecture = (stage[kind][side]["seconds"] for kind in ("weight", "architecture"))
    return float(EPOCHS * weight + (EPOCHS - WARMUP) * architecture)


def compared(stages: list[dict[str, Any]]) -> dict[str, float]:
    """Return how many times faster ours is in these stages, and its share of the peak memory.

    Against the plain supernet, and with ``public_`` before it against the public code.
    """
    found: dict[str, float] = {}
    for reference, prefix in (("plain", ""), ("public", "public_")):
        if not all(reference in stage["weight"] for stage in stages):
            continue
        seconds, peak = (
            {side: together(of(stage, side) for stage in stages) for side in (reference, "ours")}
            for together, of in ((sum, schedule_seconds), (max, peak_bytes))
        )
        found[f"{prefix}speedup"] = round(seconds[reference] / seconds["ours"], 2)
        found[f"{prefix}memory_ratio"] = round(peak["ours"] / peak[reference], 3)
    return found


def peak_bytes(stage: dict[str, Any], side: str) -> int:
    """Return the larger peak of a stage's two steps."""
    return max(int(stage[kind][side]["peak_bytes"]) for kind in ("weight", "architecture"))


def paper_hours(stages: list[dict[str, Any]], side: str, args: Any) -> float:
    """Return the hours of the whole search on AISHELL-1, from this run's steps.

    Steps are assumed to cost in proportion to frames and utterances.
    """
    steps = UTTERANCES / 2 / BATCH  # of an epoch, of each half
    scale = FRAMES * BATCH / (args.frames * args.batch)
    seconds = sum(schedule_seconds(stage, side) for stage in stages)
    return SEEDS * steps * scale * seconds / 3600


def print_entry(name: str, kind: str, entry: dict[str, Any]) -> None:
    """Print one line of the table, and the profile if there is one."""
    plain, ours = entry["plain"], entry["ours"]
    print(
        f"{name:<10}{kind:<13}{plain['seconds']:>9.3f}{ours['seconds']:>9.3f}"
        f"{entry['speedup']:>8.2f}{plain['peak_bytes'] / 1e6:>10.0f}"
        f"{ours['peak_bytes'] / 1e6:>8.0f}{entry['memory_ratio'] or 0:>8.3f}"
        f"{plain['saved_bytes'] / 1e6:>9.0f}{ours['saved_bytes'] / 1e6:>8.0f}"
        f"{plain['launches']:>9}{ours['launches']:>8}",
        flush=True,
    )
    if "public" in entry:
        public = entry["public"]
        print(
            f"{'':<10}{'  public code':<13}{public['seconds']:>9.3f}{'':>9}"
            f"{entry['public_speedup']:>8.2f}{public['peak_bytes'] / 1e6:>10.0f}{'':>8}"
            f"{entry['public_memory_ratio'] or 0:>8.3f}{public['saved_bytes'] / 1e6:>9.0f}{'':>8}"
            f"{public['launches']:>9}",
            flush=True,
        )
    for side in ("plain", "ours", "public"):
        for key, count, share in entry.get(side, {}).get("profile", []):
            print(f"    {side:<6}{share:>7.1%}{count:>7}  {key}")


def parse_arguments() -> Any:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device)
    parser.add_argument("--space", default="darts", help="darts or asr_revised")
    parser.add_argument("--frames", type=int, default=256, help="the paper's are up to 1024")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--bins", type=int, default=40)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--padded", action="store_true", help="utterances of unequal length")
    parser.add_argument(
        "--public", type=Path, metavar="FOLDER", help="checkout of the public P-DARTS code"
    )
    parser.add_argument("--stages", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--no-st-nas", action="store_true")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1, help="steps before those measured")
    parser.add_argument("--quick", action="store_true", help="seconds and peak memory alone")
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    parser.add_argument(
        "--mode", choices=("graphs", "compile", "eager"), default="graphs", help="on a GPU"
    )
    parser.add_argument("--paper", action="store_true", help="estimate the search on AISHELL-1")
    parser.add_argument("--profile", action="store_true", help="print the costliest operators")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    found = environment()
    print("  ".join(f"{key}: {value}" for key, value in found.items()))
    if not torch.cuda.is_available():
        print("no GPU: what follows is measured on the CPU alone")
    print(
        f"{args.device}, {args.threads} thread(s); space {args.space}; {args.batch} utterances of "
        f"{args.frames} frames, {args.bins} bins, {args.channels} channels, dropout "
        f"{args.dropout}{', padded' if args.padded else ''}; medians of {args.repeats}"
    )
    print(
        f"{'case':<10}{'step':<13}{'plain s':>9}{'ours s':>9}{'faster':>8}{'plain MB':>10}"
        f"{'ours':>8}{'ratio':>8}{'kept MB':>9}{'ours':>8}{'launches':>9}{'ours':>8}"
    )
    stages: list[dict[str, Any]] = []
    arguments = vars(args) | {"public": args.public and str(args.public)}
    output: dict[str, Any] = {**found, "arguments": arguments}
    for number in args.stages:
        layers, keep = STAGES[number - 1]
        stages.append(measure_case(args, f"stage {number}", layers, keep, False))
        output[f"stage{number}"] = stages[-1]
    if not args.no_st_nas:
        keep = len(get_space(args.space).operations)
        output["st_nas"] = measure_case(args, "ST-NAS", STAGES[0][0], keep, True)
    if stages:
        output["schedule"] = compared(stages)
        print(
            f"schedule of stages {', '.join(map(str, args.stages))}: "
            f"{output['schedule']['speedup']} times faster, peak memory "
            f"{output['schedule']['memory_ratio']} of the plain one's"
        )
        if args.public:
            print(
                f"against the public code: {output['schedule']['public_speedup']} times faster, "
                f"peak memory {output['schedule']['public_memory_ratio']} of its"
            )
    if args.paper and len(stages) == len(STAGES):
        sides = ("plain", "ours", *(("public",) if args.public else ()))
        output["paper"] = {side: paper_hours(stages, side, args) for side in sides}
        print(
            f"the search on AISHELL-1 ({UTTERANCES} utterances, {SEEDS} seeds) on this one device: "
            f"plain {output['paper']['plain']:.0f} h, ours {output['paper']['ours']:.0f} h "
            f"(paper: {PAPER}); steps scaled by frames from {args.frames} to {FRAMES}"
        )
    if args.json:
        print(json.dumps(output))
    return 0


if __name__ == "__main__":
    sys.exit(main())

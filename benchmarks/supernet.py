"""The search's supernet against a plain per-edge one, side by side in one process.

P-DARTS stages 1, 2 and 3 (5, 11 and 17 cells with 8, 5 and 3 operations on an edge) and ST-NAS
(one path), each with a step of the weights and one of the architecture: seconds (medians of
alternating measurements), peak memory above what stays between steps, memory kept for the
backward pass, operators (on a GPU: kernels) launched, and their ratios. The whole schedule is that
of He et al. 2020: in each stage 15 epochs of weight steps, 9 of them with architecture steps.

Plain (benchmarks/plain_supernet.py) is what public P-DARTS code does: every edge by itself,
PyTorch's own operations and memory layout, gradients for weights and architecture in both steps;
float32. Ours runs on a CPU in float32 with hand-written backward passes; on a GPU compiled, with
CUDA graphs and bf16 (--precision float32 turns bf16 off, --eager compilation).

    OMP_NUM_THREADS=1 python benchmarks/supernet.py            # 256 frames, 4 utterances
    python benchmarks/supernet.py --paper                      # with an estimate for AISHELL-1
    python benchmarks/supernet.py --json                       # the last line is one object
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from plain_supernet import PlainSupernet
from torch import Tensor, nn

from nas_encoder.network.config import EncoderConfig
from nas_encoder.provenance import environment
from nas_encoder.search.gradient.choices import (
    KINDS,
    Alive,
    ArchitectureParameters,
    edge_list,
)
from nas_encoder.search.gradient.supernet import Supernet
from nas_encoder.spaces import get_space

STAGES = ((5, 8), (11, 5), (17, 3))  # cells, operations (Chen et al. 2019)
EPOCHS, WARMUP = 15, 6  # He et al. 2020, section 4.3
REGULARIZED = ("dil_conv_3x3", "dil_conv_5x5", "avg_pool_3x3")
VOCABULARY = 1434  # 1394 syllables, 39 phones, blank
# The search on AISHELL-1 (He et al. 2020): 120,098 utterances of 4.5 s on average, half of them
# for the weights, batches of 4, 3 seeds; 89 hours on 8 P40.
UTTERANCES, FRAMES, BATCH, SEEDS = 120_098, 450, 4, 3
# Operators that run nothing: views and allocations.
NO_KERNEL = frozenset(
    "alias as_strided detach empty empty_like empty_strided expand narrow permute reshape "
    "resize_ result_type select slice split t to transpose unbind unflatten unfold unsqueeze "
    "squeeze view view_as _reshape_alias _unsafe_view lift_fresh resolve_conj resolve_neg "
    "is_nonzero".split()
)
PAPER = "89 h on 8 P40 (712 GPU hours)"


@dataclass
class Measured:
    """One kind of step on one side: medians, bytes, counts."""

    seconds: float
    peak_bytes: int
    saved_bytes: int
    launches: int


class Side:
    """A supernet and its two steps."""

    def __init__(self, network: nn.Module, alive: Alive, plain: bool, args: Any) -> None:
        self.device = torch.device(args.device)
        self.network = network.to(self.device).train()
        self.parameters = ArchitectureParameters(alive, torch.Generator().manual_seed(0))
        self.parameters.to(self.device)
        self.plain = plain
        self.dropout = args.dropout
        self.weights = torch.optim.SGD(network.parameters(), 0.01, 0.9, weight_decay=3e-4)
        self.architecture = torch.optim.Adam(
            self.parameters.parameters(), 6e-4, (0.5, 0.999), weight_decay=1e-3
        )
        self.half = not plain and self.device.type == "cuda" and args.precision == "bf16"
        self.forward: Callable[..., Any] = network
        if not plain and self.device.type == "cuda" and not args.eager:
            self.forward = torch.compile(network, mode="reduce-overhead", dynamic=False)

    def loss(self, batch: Batch, weights: dict[str, Tensor]) -> Tensor:
        """Return the CTC loss; with ``paths`` only they carry the forward pass."""
        options: dict[str, Any] = {}
        if batch.paths is not None:
            hard = {
                kind: F.one_hot(batch.paths[kind], weights[kind].size(1)).to(weights[kind].dtype)
                for kind in KINDS
            }
            # Straight through: the value of the sampled path, the gradient of the weights.
            weights = {
                kind: hard[kind] + (w - w.detach() if w.requires_grad else 0.0)
                for kind, w in weights.items()
            }
            options = {"paths": batch.paths} if self.plain else {}
        context = torch.autocast(self.device.type, torch.bfloat16) if self.half else nullcontext()
        with context:
            log_probs, lengths = self.forward(
                batch.features, batch.lengths, weights, self.dropout, **options
            )
        return F.ctc_loss(
            log_probs.float().transpose(0, 1), batch.targets, lengths, batch.target_lengths
        )

    def weight_step(self, batch: Batch) -> float:
        """Move the weights."""
        with nullcontext() if self.plain and batch.paths is None else torch.no_grad():
            mixture = self.parameters.weights()
        loss = self.loss(batch, mixture)
        self.network.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.weights.step()
        self.parameters.zero_grad(set_to_none=True)
        return float(loss.detach())

    def architecture_step(self, batch: Batch) -> float:
        """Move the architecture."""
        if not self.plain:
            self.network.requires_grad_(False)
        loss = self.loss(batch, self.parameters.weights())
        self.architecture.zero_grad(set_to_none=True)
        loss.backward()
        self.architecture.step()
        self.network.requires_grad_(True)
        self.network.zero_grad(set_to_none=True)
        return float(loss.detach())


@dataclass
class Batch:
    """Random features and tokens, and for ST-NAS the sampled paths."""

    features: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    paths: dict[str, Tensor] | None


def make_batch(args: Any, alive: Alive, one_path: bool) -> Batch:
    """Return a batch of ``--batch`` utterances, of equal length but for --padded."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.full((args.batch,), args.frames)
    if args.padded:
        lengths = torch.linspace(args.frames, 0.8 * args.frames, args.batch).long()
    targets = torch.randint(1, VOCABULARY, (args.batch, args.frames // 20), generator=generator)
    features = torch.randn(args.batch, args.frames, args.bins, generator=generator)
    paths = None
    if one_path:
        paths = {
            kind: torch.randint(0, len(edges[0]), (len(edges),), generator=generator)
            for kind, edges in alive.items()
        }
        paths = {kind: places.to(args.device) for kind, places in paths.items()}
    return Batch(
        features.to(args.device),
        lengths.to(args.device),
        targets.to(args.device),
        torch.full((args.batch,), targets.size(1), device=args.device),
        paths,
    )


def choices(space: str, keep: int) -> Alive:
    """Return random choices of ``keep`` operations on each edge, as pruning leaves them."""
    operations = get_space(space).operations
    rng = random.Random(keep)
    return {
        kind: tuple(
            tuple(sorted(rng.sample(operations, keep), key=operations.index))
            for _ in edge_list(get_space(space).nodes)
        )
        for kind in KINDS
    }


# -- memory and launches ------------------------------------------------------------------------


def resident(field: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes."""
    with open("/proc/self/status", encoding="ascii") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise RuntimeError(f"{field} is not in /proc/self/status: memory is measured on Linux alone")


def begin_peak(device: torch.device) -> int:
    """Return the memory in use, and let the peak begin anew."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # resets VmHWM
    return resident("VmRSS")


def end_peak(device: torch.device, before: int) -> int:
    """Return the peak since :func:`begin_peak` above what was in use then."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated()) - before
    return max(0, resident("VmHWM") - before)


def saved_bytes(step: Callable[[], Any], network: nn.Module) -> int:
    """Return the bytes that autograd keeps at most for a backward pass, each tensor once."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(seen.values())


def launches(step: Callable[[], Any], device: torch.device) -> tuple[int, list[list[Any]]]:
    """Return how many kernels (CPU: operators that call no other) ran, and the costliest."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
    if device.type == "cuda":
        kind = torch.autograd.DeviceType.CUDA
        count = sum(1 for event in profile.events() if event.device_type == kind)
    else:
        count = sum(
            1
            for event in profile.events()
            if event.name.startswith("aten::")
            and not event.cpu_children
            and event.name.removeprefix("aten::") not in NO_KERNEL
        )
    field = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    rows = sorted(profile.key_averages(), key=lambda row: -getattr(row, field))[:12]
    total = sum(getattr(row, field) for row in profile.key_averages()) or 1
    return count, [[row.key, row.count, round(getattr(row, field) / total, 3)] for row in rows]


# -- measuring ----------------------------------------------------------------------------------


def timed(step: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of one call; of one thread on a CPU those that it was running.

    Other processes then lengthen both sides a little and not one of them a lot.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
    clock = time.process_time if _is_one_thread(device) else time.perf_counter
    began = clock()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def _is_one_thread(device: torch.device) -> bool:
    return device.type == "cpu" and torch.get_num_threads() == 1


def measure_case(args: Any, name: str, layers: int, keep: int, one_path: bool) -> dict[str, Any]:
    """Measure one stage on both sides."""
    alive = choices(args.space, keep)
    nodes = get_space(args.space).nodes
    config = EncoderConfig(args.bins, args.channels, layers, 512)
    torch.manual_seed(0)
    arguments = (alive, config, nodes, VOCABULARY, REGULARIZED)
    sides = {
        "plain": Side(PlainSupernet(*arguments), alive, True, args),
        "ours": Side(Supernet(*arguments), alive, False, args),
    }
    batch = make_batch(args, alive, one_path)
    device = torch.device(args.device)
    result: dict[str, Any] = {"layers": layers, "operations": keep}
    for kind in ("weight", "architecture"):
        steps = {
            side: (lambda own=own, kind=kind: getattr(own, f"{kind}_step")(batch))
            for side, own in sides.items()
        }
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        peaks: dict[str, int] = dict.fromkeys(sides, 0)
        for repeat in range(args.repeats + args.warmup):
            for side, step in steps.items():
                before = begin_peak(device)
                taken = timed(step, device)
                if repeat >= args.warmup:
                    seconds[side].append(taken)
                    peaks[side] = max(peaks[side], end_peak(device, before))
        entry: dict[str, Any] = {}
        for side, step in steps.items():
            count, rows = launches(step, device)
            # Compiled graphs keep their tensors to themselves.
            hooked = side == "plain" or device.type == "cpu" or args.eager
            kept = saved_bytes(step, sides[side].network) if hooked else 0
            entry[side] = asdict(
                Measured(statistics.median(seconds[side]), peaks[side], kept, count)
            )
            if args.profile:
                entry[side]["profile"] = rows
        entry["speedup"] = round(entry["plain"]["seconds"] / entry["ours"]["seconds"], 2)
        entry["memory_ratio"] = ratio(entry, "peak_bytes")
        entry["saved_ratio"] = ratio(entry, "saved_bytes")
        entry["launch_ratio"] = ratio(entry, "launches")
        result[kind] = entry
        if not args.quiet:
            print_entry(name, kind, entry)
    result["speedup"] = round(
        schedule_seconds(result, "plain") / schedule_seconds(result, "ours"), 2
    )
    result["memory_ratio"] = round(peak(result, "ours") / peak(result, "plain"), 3)
    return result


def ratio(entry: dict[str, Any], field: str) -> float | None:
    """Return ours / plain, or None where one was not measured."""
    ours, plain = entry["ours"][field], entry["plain"][field]
    return round(ours / plain, 3) if ours and plain else None


def schedule_seconds(stage: dict[str, Any], side: str) -> float:
    """Return the seconds of a stage with one step an epoch."""
    weight, architecture = (stage[kind][side]["seconds"] for kind in ("weight", "architecture"))
    return float(EPOCHS * weight + (EPOCHS - WARMUP) * architecture)


def peak(stage: dict[str, Any], side: str) -> int:
    """Return the larger peak of a stage's two steps."""
    return max(int(stage[kind][side]["peak_bytes"]) for kind in ("weight", "architecture"))


def paper_hours(stages: list[dict[str, Any]], side: str, args: Any) -> float:
    """Return the hours of the whole search on AISHELL-1, from this run's steps.

    Steps are taken to cost in proportion to frames and utterances.
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
    for side in ("plain", "ours"):
        for key, count, share in entry[side].get("profile", []):
            print(f"    {side:<6}{share:>7.1%}{count:>7}  {key}")


def parse_arguments() -> Any:
    """Return the command line's choices."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default=None)
    parser.add_argument("--space", default="darts", help="darts or asr_revised")
    parser.add_argument("--frames", type=int, default=256, help="the paper's are up to 1024")
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--bins", type=int, default=40)
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--padded", action="store_true", help="utterances of unequal length")
    parser.add_argument("--stages", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--no-st-nas", action="store_true")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    parser.add_argument("--eager", action="store_true", help="no compilation on a GPU")
    parser.add_argument("--paper", action="store_true", help="estimate the search on AISHELL-1")
    parser.add_argument("--profile", action="store_true", help="print the costliest operators")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    args.quiet = False
    return args


def main() -> int:
    """Measure and print."""
    args = parse_arguments()
    if args.device is None:
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
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
    output: dict[str, Any] = {**found, "arguments": vars(args)}
    for number in args.stages:
        layers, keep = STAGES[number - 1]
        stages.append(measure_case(args, f"stage {number}", layers, keep, False))
        output[f"stage{number}"] = stages[-1]
    if not args.no_st_nas:
        keep = len(get_space(args.space).operations)
        output["st_nas"] = measure_case(args, "ST-NAS", STAGES[0][0], keep, True)
    if stages:
        total = {
            side: sum(schedule_seconds(stage, side) for stage in stages)
            for side in ("plain", "ours")
        }
        most = {side: max(peak(stage, side) for stage in stages) for side in ("plain", "ours")}
        output["schedule"] = {
            "speedup": round(total["plain"] / total["ours"], 2),
            "memory_ratio": round(most["ours"] / most["plain"], 3),
        }
        print(
            f"schedule of stages {', '.join(map(str, args.stages))}: "
            f"{output['schedule']['speedup']} times faster, peak memory "
            f"{output['schedule']['memory_ratio']} of the plain one's"
        )
    if args.paper and len(stages) == len(STAGES):
        output["paper"] = {side: paper_hours(stages, side, args) for side in ("plain", "ours")}
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

"""Measuring latencies of whole networks, and of the pieces that a space's networks consist of."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.benchmark import set_torch_threads

from nas_encoder.common.documents import write_yaml
from nas_encoder.common.fields import Declared, choice, integer, number, option, precision, tuple_of
from nas_encoder.common.problems import Problems
from nas_encoder.common.provenance import environment
from nas_encoder.deploy.timing import Call, measure, quiet_clock
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.factory import build_encoder
from nas_encoder.network.timed import TimedPart
from nas_encoder.spaces import SearchSpace

logger = logging.getLogger(__name__)

RUNTIMES = TORCH, ONNX, INT8 = "torch", "onnx", "onnx-int8"
_DRAWS = 5000  # of random networks, while some of a size are looked for
_OTHERS = 8  # of them whose graphs are not made of their parts', and none is: then it is an error
_SAVE = 5.0  # seconds between writes of an unfinished table


class Graphs(Protocol):
    """Runs parts of networks and whole ones as exported graphs."""

    def problem(self, encoder: nn.Module, x: Tensor) -> str | None:
        """Return why an encoder's graph does not consist of those of its parts; None if it does."""

    def part(self, part: TimedPart) -> Call:
        """Return a call of a part that was built with a mask."""

    def network(self, encoder: nn.Module, x: Tensor) -> Call:
        """Return a call of an encoder with one utterance (1, T, F)."""


@dataclass(frozen=True)
class BenchSettings(Declared):
    """How latencies are measured.

    On one CPU thread the process's own time counts, which other load on the machine changes least.

    Attributes:
        device: ``cpu`` or ``cuda``.
        threads: Number of CPU threads.
        precision: One of :data:`~nas_encoder.common.fields.PRECISIONS`.
        seconds: Least time spent on each piece, after warming up.
        repeats: Least number of calls of each piece; the median counts.
        checks: Number of random whole networks measured to compare with the sums of their pieces.
        seed: Seed of weights, inputs and these networks.
        runtime: One of :data:`RUNTIMES`: as torch runs it, or its exported graph in onnxruntime, in
            float32 or with matrix products in 8 bits.
        check_parameters: Least and most parameters of these networks; empty for any number. What
            pieces cost together differs with their sizes, so it is best near those of interest.
    """

    device: str = option("cpu", choice("device", ("cpu", "cuda")))
    threads: int = option(1, integer(1, 1024))
    precision: str = option("32-true", precision)
    seconds: float = option(0.2, number(0, 3600))
    repeats: int = option(10, integer(3, 10**6))
    checks: int = option(4, integer(0, 1000))
    seed: int = option(0, integer(0, 2**63 - 1))
    runtime: str = option(TORCH, choice("runtime", RUNTIMES))
    check_parameters: Sequence[int] = option((), tuple_of(integer(1, 10**12), 0, 2))

    def conflicts(self, found: Problems) -> None:
        """Check the range, and that the device is available."""
        if self.check_parameters and list(self.check_parameters) != sorted(self.check_parameters):
            found.add("check_parameters", f"must rise, got {list(self.check_parameters)}")
        if len(self.check_parameters) == 1:
            found.add("check_parameters", f"must be two, got {list(self.check_parameters)}")
        if self.runtime != TORCH and (self.device, self.precision) != ("cpu", "32-true"):
            rule = f"'{self.runtime}' is measured with device cpu and precision 32-true"
            found.add("runtime", f"{rule}, got {self.device} and {self.precision}")
        if self.device == "cuda" and not torch.cuda.is_available():
            found.add("device", "this machine has no CUDA device")


def measure_table(
    space: SearchSpace,
    options: Any,
    frames: int,
    settings: BenchSettings,
    path: str | Path,
    progress: Callable[[list[Any], str], Iterator[Any]] | None = None,
    only: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    also: Sequence[Genotype] = (),
    graphs: Graphs | None = None,
) -> Any:
    """Measure every piece and some whole networks, continuing where an earlier run stopped.

    Args:
        space: A space whose pieces can be measured.
        options: Options of its networks.
        frames: T, length of the utterance.
        settings: How to measure.
        path: The file, rewritten atomically every few seconds and at the end; what it holds
            already is kept, also of another restriction.
        progress: Wraps a list of work items with a title, for example in a progress bar.
        only: Restrictions to a part of the space, by name, if it has any.
        also: Other genotypes whose pieces are measured.
        graphs: Runs what is measured as ``settings.runtime`` says; None for torch.

    Returns:
        The space's ``LatencyTable``.

    Raises:
        ConfigError: A setting is wrong, the file holds a different table, too few random networks
            have ``check_parameters``, or the graphs of the space's networks are not made of those
            of their parts; before anything is measured.
    """
    lines = settings.problems()
    if (graphs is None) != (settings.runtime == TORCH):
        lines.append(f"runtime: '{settings.runtime}' is not what runs the pieces")
    if lines:
        raise ConfigError("bench", lines)
    network = space.costs.pieces(space, options, frames, only, also)
    table_type = space.costs.LatencyTable
    here = environment()
    machine = here["gpu" if settings.device == "cuda" else "machine"]
    how = {**asdict(settings), "check_parameters": list(settings.check_parameters)}
    for name, usual in (("runtime", TORCH), ("check_parameters", [])):
        if how[name] == usual:  # tables of before there was a choice do not say it
            del how[name]
    about = {**network.about(), "settings": how, "machine": machine}
    known, checks, about_all = {}, [], {**about, "environment": here}
    if Path(path).exists():
        table = table_type.load(path)
        problems = [
            f"{key}: is {was!r} in the file, now {now!r}"
            for key, was, now in table.differences(about)
        ]
        if problems:
            rule = "holds another table; choose another --output, or remove the file"
            raise ConfigError(str(path), [rule, *problems])
        known, checks, about_all = dict(table.milliseconds), list(table.checks), table.about
    pieces = network.all_pieces()
    todo = [piece for piece in pieces if piece not in known]
    random.Random(settings.seed).shuffle(todo)  # a slow moment hits unrelated ones
    show_progress = progress or (lambda items, title: iter(items))

    def save(complete: bool = False) -> Any:
        order = {piece: place for place, piece in enumerate(pieces)}
        rows = sorted(known, key=lambda piece: order.get(piece, -1))
        found = table_type({p: known[p] for p in rows}, about_all, tuple(checks), complete)
        write_yaml(path, found.to_dict(), ConfigError)
        return found

    # First, so that what is impossible fails before an hour's work.
    genotypes: list[Genotype] = []
    if todo or len(checks) < settings.checks:
        genotypes = _drawn(network, space, options, settings, graphs)
    with measuring(settings) as timed:
        if graphs is not None and todo:  # likewise, of what has no such form
            measure_network(genotypes[0], options, network.frames, settings, timed, graphs)
        saved = time.monotonic()
        try:
            for piece in show_progress(todo, "pieces"):
                torch.manual_seed(settings.seed)
                part = network.build(piece, settings.device, masked=graphs is not None)
                call = part if graphs is None else graphs.part(part)
                known[piece] = round(timed(call) / part.copies, 5)
                if time.monotonic() - saved > _SAVE:
                    save()
                    saved = time.monotonic()
        finally:
            if todo:
                save()
        for genotype in show_progress(genotypes[len(checks) : settings.checks], "whole networks"):
            own = network.pieces_of(genotype.architecture)
            total = sum(known[piece] for piece in own)
            whole = measure_network(genotype, options, network.frames, settings, timed, graphs)
            sums = {"pieces": len(own), "sum_ms": round(total, 4), "network_ms": round(whole, 4)}
            checks.append({"hash": genotype.hash, **sums})
            save()
    return save(complete=True)


def _drawn(
    network: Any, space: SearchSpace, options: Any, settings: BenchSettings, graphs: Graphs | None
) -> list[Genotype]:
    """Return the random networks of the checks, at least one; see :func:`measure_table`."""
    found: list[Genotype] = []
    wanted, others = max(1, settings.checks), 0
    low, high = settings.check_parameters or (0, 10**12)
    costs = None
    if settings.check_parameters and settings.checks:
        costs = space.costs.build(space, options, network.frames)
    for seed in range(settings.seed, settings.seed + _DRAWS):
        genotype = network.sample(random.Random(seed))
        if costs and not low <= costs.of(genotype.architecture)["parameters"] <= high:
            continue
        if graphs is not None:
            encoder, x = _ready(genotype, options, network.frames, settings)
            if why := graphs.problem(encoder, x):
                others += 1
                if others == _OTHERS and not found:
                    raise ConfigError("bench", [why])
                continue
        found.append(genotype)
        if len(found) == wanted:
            return found
    have = f"{len(found)} of {_DRAWS} random networks have {low} to {high} parameters"
    raise ConfigError("bench", [f"check_parameters: {have}, {wanted} are wanted"])


def measure_network(
    genotype: Genotype,
    options: Any,
    frames: int,
    settings: BenchSettings,
    timed: Callable[[Call], float] | None = None,
    graphs: Graphs | None = None,
) -> float:
    """Return the milliseconds that a whole network takes for one utterance of T ``frames``.

    ``timed`` is the timer of an enclosing :func:`measuring`, if any; ``graphs`` runs it, if given.
    """
    if timed is None:
        with measuring(settings) as own:
            return measure_network(genotype, options, frames, settings, own, graphs)
    encoder, x = _ready(genotype, options, frames, settings)
    lengths = torch.tensor([frames])
    if graphs is not None:
        return timed(graphs.network(encoder, x))
    return timed(lambda: encoder(x, lengths))


def _ready(
    genotype: Genotype, options: Any, frames: int, settings: BenchSettings
) -> tuple[nn.Module, Tensor]:
    """Return a network in evaluation mode and one utterance (1, T, F)."""
    torch.manual_seed(settings.seed)
    encoder: nn.Module = build_encoder(genotype, **asdict(options)).eval().to(settings.device)
    return encoder, torch.randn(1, frames, options.input_size, device=settings.device)


@contextmanager
def measuring(settings: BenchSettings) -> Iterator[Callable[[Call], float]]:
    """Yield a function that returns a call's median milliseconds under these settings."""
    cpu = settings.device == "cpu"
    low = settings.precision == "bf16-mixed"

    def timed(call: Call) -> float:
        with (
            torch.inference_mode(),
            torch.autocast(settings.device, torch.bfloat16, enabled=low),
        ):
            clock = quiet_clock(settings.device)
            found = measure({"call": call}, settings.repeats, settings.seconds, 3, clock)
        return 1000 * found["call"].median

    with set_torch_threads(settings.threads if cpu else torch.get_num_threads()):
        yield timed

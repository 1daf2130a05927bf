"""Measure encoders side by side on this machine, or every operation of a search space.

With encoders: parameters, multiply-adds, the time of an inference and of a training step, real-time
factor and peak memory; all in one process, in turns. With --operations, each part of a space's
networks is measured at every size that it can have, in float32 or under bf16 autocast, and a few
whole random networks beside. For cells these are the operations at every place (channels, frames,
frequency bins, stride) in a network of the given size, the stem, the head and the preprocessing;
for blocks the front ends, and the modules at every width and frame rate, or at those named. The
table that results is what a search under a latency budget needs: --set objective.table=FILE --set
objective.latency_ms=80. It can be stopped and begun again, or extended.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from nas_encoder.cli import add_settings, bench_encoders, quiet_profiler
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import load_genotype
from nas_encoder.spaces import get_space
from nas_encoder.spaces.base import LATENCY

EXAMPLES = """examples:
  nas-encoder bench hourglass conformer 'ours=exp/search/genotype.yaml' --threads 1,2
  nas-encoder bench exp/asr_blocks exp/asr_conformer model.nemo model.onnx \\
      --speech 15 10 5 --batch 6 --reference asr_conformer --output bench.md --output bench.png
  nas-encoder bench 'espnet:conformer{output_size: 144, num_blocks: 12, linear_units: 576}' \\
      'S=nemo.collections.asr.modules.ConformerEncoder{n_layers: 16, d_model: 176, feat_in: 80}' \\
      'FastConformer-S=nemo_fast_conformer{d_model: 176, n_layers: 16, n_heads: 4}' --json
  nas-encoder bench --operations --config he2020_revised --output latency.yaml
  nas-encoder bench --operations --space blocks --widths 64 96 --fronts conv2d --input-size 80
  nas-encoder bench --operations --space blocks --checks 24 --check-parameters 150000 450000 \\
      --runtime onnx-int8 --output int8.yaml
"""

TABLE = "latency.yaml"
_SIZES = (
    "space",
    "layers",
    "channels",
    "input_size",
    "output_size",
    "stem_stride",
    "hidden_sizes",
    "deltas",
    "frames",
)
_PARTS = ("widths", "rates", "modules", "fronts")
_DEFAULTS = {"space": "asr_revised", "input_size": 40, "frames": 1000}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "genotypes", nargs="*", metavar="[LABEL=]ENCODER", help=bench_encoders.forms()
    )
    parser.add_argument("--operations", action="store_true", help="measure a space's operations")
    parser.add_argument(
        "--output",
        action="append",
        metavar="FILE",
        help=f"with --operations the table (default {TABLE}); of encoders a .json, .md, .png, .svg "
        "or .pdf, can be given several times",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    bench_encoders.add_arguments(parser)
    size = parser.add_argument_group("networks of genotypes")
    size.add_argument(
        "--config",
        metavar="NAME",
        help="take the space and the size of the target network from a search config",
    )
    add_settings(size, "change that config, as for 'search'")
    size.add_argument("--space", help="search space (default asr_revised)")
    size.add_argument("--layers", type=int, help="number of cells (default 17)")
    size.add_argument("--channels", type=int, help="initial channels (default 24)")
    size.add_argument(
        "--input-size",
        type=int,
        help="features a frame, where an encoder does not say it (default 80; --operations: 40)",
    )
    size.add_argument("--output-size", type=int, help="output width (default 512)")
    size.add_argument(
        "--stem-stride", type=int, nargs=2, metavar=("TIME", "FREQUENCY"), help="(default 1 1)"
    )
    size.add_argument(
        "--hidden-sizes", type=int, nargs="+", metavar="N", help="layers before the last one"
    )
    size.add_argument(
        "--no-deltas", action="store_false", dest="deltas", default=None, help="one input channel"
    )
    size.add_argument("--frames", type=int, help="of the utterance (--operations: default 1000)")
    part = parser.add_argument_group("a part of the space 'blocks', with --operations")
    part.add_argument("--widths", type=int, nargs="+", metavar="N", help="widths of stages")
    part.add_argument(
        "--rates", type=int, nargs="+", metavar="N", help="input frames per frame of a stage"
    )
    part.add_argument(
        "--modules", nargs="+", metavar="NAME", help="kinds (attention) or texts ('convolution 31')"
    )
    part.add_argument("--fronts", nargs="+", metavar="NAME", help="likewise (conv2d)")
    part.add_argument(
        "--also", nargs="+", default=[], metavar="GENOTYPE", help="and the parts of these"
    )
    how = parser.add_argument_group("measuring")
    how.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="(default cpu)")
    how.add_argument(
        "--threads",
        type=bench_encoders.threads,
        default=1,
        metavar="N[,N]",
        help="of a CPU (default 1); of encoders several numbers, measured one after the other",
    )
    how.add_argument(
        "--precision",
        default="32-true",
        choices=("32-true", "bf16-mixed"),
        help="(default 32-true)",
    )
    how.add_argument(
        "--runtime",
        choices=("torch", "onnx", "onnx-int8"),
        help="with --operations, what runs them: torch (default), or onnxruntime their exported "
        "graphs, those of blocks also in 8 bits",
    )
    how.add_argument(
        "--seconds", type=float, default=0.2, help="at least so long on each piece (default 0.2)"
    )
    how.add_argument("--repeats", type=int, default=10, help="at least so many calls (default 10)")
    how.add_argument(
        "--checks",
        type=int,
        default=4,
        help="whole random networks beside (default 4; of blocks better 12)",
    )
    how.add_argument(
        "--check-parameters",
        type=int,
        nargs=2,
        default=(),
        metavar=("LEAST", "MOST"),
        help="parameters of these networks (default any number): predictions are best near them",
    )
    how.add_argument("--seed", type=int, default=0, help="of weights, inputs and networks")


def run(args: argparse.Namespace) -> int:
    """Measure; print the table."""
    args.threads = args.threads if isinstance(args.threads, tuple) else (args.threads,)
    if args.operations == bool(args.genotypes):
        raise ConfigError("bench", ["give either --operations or encoders"])
    misplaced = _misplaced(args)
    if misplaced:
        raise ConfigError("bench", misplaced)
    quiet_profiler()
    return _operations(args) if args.operations else bench_encoders.run(args)


def _misplaced(args: argparse.Namespace) -> list[str]:
    """Return what is wrong with options of the other form of the command."""
    if not args.operations:
        given = [name for name in ("space", "config", *_PARTS) if getattr(args, name) is not None]
        given += ["set"] * bool(args.settings) + ["also"] * bool(args.also)
        given += ["check-parameters"] * bool(args.check_parameters)
        given += ["runtime"] * (args.runtime is not None)
        return [f"--{name}: goes with --operations" for name in given]
    given = [name for name in ("speech", "batch", "frame_shift") if getattr(args, name) is not None]
    given += ["reference"] * bool(args.reference) + ["no_training"] * (not args.training)
    found = [f"--{name.replace('_', '-')}: goes with encoders" for name in given]
    if len(args.threads) > 1:
        found.append("--threads: must be one number with --operations")
    if args.output is not None and len(args.output) > 1:
        found.append("--output: must be one file with --operations")
    return found


def _operations(args: argparse.Namespace) -> int:
    from nas_encoder.deploy.latency import INT8, TORCH, BenchSettings, measure_table

    sizes = _sizes(args)
    space, frames = get_space(sizes.pop("space")), sizes.pop("frames")
    options = space.options.from_dict({**space.sizes, **sizes}, "bench")
    given = {own.name: getattr(args, own.name) for own in fields(BenchSettings)}
    given |= {"threads": args.threads[0], "check_parameters": tuple(args.check_parameters)}
    given["runtime"] = args.runtime or TORCH
    settings = BenchSettings(**given)
    problems = settings.problems()
    if LATENCY not in space.features:
        problems.append(f"--space: the operations of '{space.name}' are not measured one by one")
    only = {name: given for name in _PARTS if (given := getattr(args, name)) is not None}
    shortest = space.frame_rates(options).min_length
    if not shortest <= frames <= 10**6:
        problems.append(f"frames: must be in {shortest}..1000000, got {frames}")
    output = (args.output or [TABLE])[0]
    problems += bench_encoders.unwritable(Path(output))
    if problems:
        raise ConfigError("bench", problems)
    also = [load_genotype(name) for name in args.also]
    graphs = None
    if settings.runtime != TORCH:
        from nas_encoder.export.timed import GraphTimer

        graphs = GraphTimer(settings.threads, settings.runtime == INT8)
    table = measure_table(space, options, frames, settings, output, _progress, only, also, graphs)
    print("\n".join(_text(table, output, args.json)))
    return 0


def _sizes(args: argparse.Namespace) -> dict[str, Any]:
    sizes: dict[str, Any] = _DEFAULTS
    if args.config is not None:
        from nas_encoder.search import load_search_config

        search = load_search_config(args.config, args.settings)
        objective, space = search.objective, get_space(search.space)
        network = search.encoder_config(search.stages[-1])
        sizes = {
            **asdict(space.target_options(network, objective.layers, objective.channels)),
            "space": space.name,
            "frames": round(objective.seconds / search.features.frame_shift),
        }
    elif args.settings:
        raise ConfigError("--set", ["changes a search config: give --config too"])
    given = {name: value for name in _SIZES if (value := getattr(args, name)) is not None}
    return sizes | {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}


def _progress(items: list[Any], title: str) -> Iterator[Any]:
    from tqdm import tqdm

    return iter(tqdm(items, desc=title))


def _text(table: Any, output: str, as_json: bool) -> list[str]:
    if as_json:
        return [json.dumps({"output": output, **table.to_dict()})]
    pieces = sorted(table.milliseconds.items(), key=lambda item: -item[1])
    document = table.to_dict()
    each = 1000 * document.get("piece_ms", 0.0)
    more = f", and each piece adds {each:.1f} µs" if each else ""
    return [
        f"{'ms':>9}  piece",
        *(f"{ms:9.3f}  {piece}" for piece, ms in pieces),
        *(
            f"whole network {check['network_ms']:.2f} ms, its pieces {check['sum_ms']:.2f} ms"
            for check in table.checks
        ),
        f"sums are multiplied by {document['scale']:.3f}{more}; {output}",
    ]

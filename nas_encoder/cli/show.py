"""Show a genotype: its cells as text or picture, and what the network built from it costs.

Parameters, multiply-adds, receptive field, lookahead and output frame rate are those of the network
with the sizes given here; the defaults are the smallest network of the paper (17 cells, 24
channels), for blocks the genotype's own size.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import textwrap
from typing import Any

from nas_encoder.cli.origin import kind_title, note_of, provenance_line
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.spaces import get_space
from nas_encoder.spaces.picture import save_picture

EXAMPLES = """examples:
  nas-encoder show asrnet_b
  nas-encoder show asrnet_b --layers 32 --channels 30 --classes 1434
  nas-encoder show exp/search/genotype.yaml --plot cells.svg
  nas-encoder show darts_v2 --channels 16 --layers 8 --stem-stride 1 2 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("genotype", help="name of the zoo or path of a YAML file")
    parser.add_argument(
        "--input-size", type=int, help="features a frame (default 40, of blocks 80)"
    )
    parser.add_argument(
        "--channels",
        type=int,
        help="initial channels (default 24); of blocks the largest width (default: its own)",
    )
    parser.add_argument(
        "--layers", type=int, help="number of cells (default 17); of blocks (default: its own)"
    )
    parser.add_argument(
        "--output-size",
        type=int,
        help="output width (default 512, of blocks the last stage's)",
    )
    parser.add_argument(
        "--stem-stride",
        type=int,
        nargs=2,
        default=(1, 1),
        metavar=("TIME", "FREQUENCY"),
        help="stride of the stem (default 1 1)",
    )
    parser.add_argument(
        "--classes", type=int, metavar="N", help="count an output layer of N classes too"
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="length for the multiply-adds (default 10)"
    )
    parser.add_argument(
        "--frame-shift", type=float, default=10.0, metavar="MS", help="in ms (default 10)"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the cells into FILE.{svg,png,pdf}")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Print the genotype and its costs; draw it if asked to."""
    genotype = load_genotype(args.genotype)
    problems = []
    if args.classes is not None and args.classes < 1:
        problems.append(f"--classes: must be at least 1, got {args.classes}")
    if not 0 < args.frame_shift < float("inf"):
        problems.append(f"--frame-shift: must be above 0, got {args.frame_shift}")
    elif not args.frame_shift * 8 <= args.seconds * 1000 <= 3_600_000:
        problems.append(f"--seconds: must be 8 frames to one hour, got {args.seconds}")
    if problems:
        raise ConfigError("show", problems)
    if args.plot:
        save_picture(genotype, args.plot)
    costs = network_costs(genotype, args)
    if args.json:
        document = {"genotype": genotype.to_dict(), "hash": genotype.hash, **costs}
        print(json.dumps(document | ({"plot": args.plot} if args.plot else {}), indent=2))
    else:
        print("\n".join(_text(genotype, args, costs)))
    return 0


def network_costs(genotype: Genotype, args: argparse.Namespace) -> dict[str, Any]:
    """Build the network and return its costs in plain JSON types.

    Raises:
        ConfigError: A size is out of range.
    """
    import torch

    from nas_encoder.network import build_encoder
    from nas_encoder.network.complexity import count_macs, count_parameters

    names = ("input_size", "channels", "layers", "output_size")
    sizes = {name: getattr(args, name) for name in names}
    space = get_space(genotype.space)
    options: dict[str, Any] = {
        "input_size": space.bins,
        **space.sizes,
        **{name: size for name, size in sizes.items() if size is not None},
        "stem_stride": tuple(args.stem_stride),
    }
    encoder: Any = build_encoder(genotype, **options)
    frames = round(args.seconds * 1000 / args.frame_shift)
    factor = encoder.subsampling_factor
    parameters = count_parameters(encoder)
    macs = count_macs(encoder, frames, options["input_size"])
    costs: dict[str, Any] = {
        "network": options,
        "parameters": {"encoder": parameters},
        "multiply_adds": {"seconds": args.seconds, "frames": frames, "encoder": macs},
        "output": {
            "size": encoder.output_size,
            "subsampling_factor": factor,
            "frame_ms": factor * args.frame_shift,
            "frames_per_second": 1000 / (factor * args.frame_shift),
        },
        "parts": encoder.parts(),
    }
    if args.classes is not None:
        layer = encoder.output_size * args.classes
        costs["classes"] = args.classes
        costs["parameters"]["with_classes"] = parameters + layer + args.classes
        out_frames = int(encoder.output_lengths(torch.tensor([frames])))
        costs["multiply_adds"]["with_classes"] = macs + layer * out_frames
    costs["streaming"] = _streaming(encoder, args.frame_shift)
    with contextlib.suppress(ConfigError):  # some are unbounded
        network, shift = space.network, args.frame_shift
        field = network.receptive_field(genotype.architecture, encoder.config)
        costs["receptive_field"] = {
            "frames": field.frames,
            "left_frames": field.left,
            "right_frames": field.right,
            "ms": field.frames * shift,
            "left_ms": field.left * shift,
            "right_ms": field.right * shift,
        }
    return costs


def _streaming(encoder: Any, shift: float) -> dict[str, Any]:
    """Return the lookahead, or why the encoder does not stream."""
    try:
        frames = encoder.lookahead()
    except ConfigError as error:
        return {"streams": False, "why_not": list(error.problems)}
    return {"streams": True, "lookahead_frames": frames, "lookahead_ms": frames * shift}


def _text(genotype: Genotype, args: argparse.Namespace, costs: dict[str, Any]) -> list[str]:
    space = get_space(genotype.space)
    options = space.options.from_dict(costs["network"], "show", None, genotype.architecture)
    legend, size = space.legend(genotype.architecture, options)
    lines = [
        f"{genotype.name}   space {genotype.space}   hash {genotype.hash}",
        *textwrap.wrap(f"{kind_title(genotype)}: {provenance_line(genotype)}", 96),
        *textwrap.wrap(note_of(genotype), 96),
        "",
        *space.lines(genotype.architecture),
        legend,
        "",
        size,
    ]
    parameters, macs, output = costs["parameters"], costs["multiply_adds"], costs["output"]
    rows = [("parameters", f"{_mega(parameters['encoder'])} encoder")]
    if "with_classes" in parameters:
        rows.append(("", f"{_mega(parameters['with_classes'])} with {args.classes} classes"))
    rows.append(("multiply-adds", f"{_giga(macs['encoder'])} encoder, for {args.seconds:g} s"))
    if "with_classes" in macs:
        rows.append(("", f"{_giga(macs['with_classes'])} with {args.classes} classes"))
    if "receptive_field" in costs:
        field = costs["receptive_field"]
        rows.append(
            (
                "receptive field",
                f"{field['ms']:,.0f} ms ({field['frames']} frames: {field['left_ms']:,.0f} ms "
                f"back, {field['right_ms']:,.0f} ms ahead)",
            )
        )
    streaming = costs["streaming"]
    if streaming["streams"]:
        ahead = f"{streaming['lookahead_ms']:,.0f} ms ({streaming['lookahead_frames']} frames)"
        rows.append(("streams", f"with a lookahead of {ahead}"))
    else:
        for number, line in enumerate(streaming["why_not"]):
            rows.append(("" if number else "streams", f"no: {line}"))
    rows.append(
        (
            "output",
            f"{output['frames_per_second']:g} Hz, a frame of {output['size']} every "
            f"{output['frame_ms']:g} ms",
        )
    )
    lines += [f"  {title:<17}{text}" for title, text in rows]
    lines += ["", "  part                     channels   parameters   share"]
    for part in costs["parts"]:
        share = part["parameters"] / parameters["encoder"]
        lines.append(
            f"  {_part_title(part):<25}{part.get('channels', ''):>8}{part['parameters']:>13,}"
            f"{share:>8.1%}"
        )
    if args.plot:
        lines += ["", f"drawn into {args.plot}"]
    return lines


def _part_title(part: dict[str, Any]) -> str:
    if "cells" not in part:
        return str(part["part"])
    if str(part["part"]).startswith("stage"):
        return f"{part['part']}, {part['cells']} block{'s' * (part['cells'] != 1)}"
    if part["cells"] == 1:
        return f"cell {part['first']}, {part['part']}"
    return f"cells {part['first']}-{part['last']}, {part['part']}"


def _mega(count: int) -> str:
    return f"{count / 1e6:.2f} M ({count:,})"


def _giga(count: int) -> str:
    return f"{count / 1e9:.2f} G"

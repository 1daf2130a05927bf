"""``nas-encoder bench ENCODER ...``: whole encoders side by side."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import ConfigError, MissingDependencyError, NasEncoderError, ProblemsError
from nas_encoder.tables import PEERS

PICTURES = (".png", ".svg", ".pdf")
_SUFFIXES = (".json", ".md", *PICTURES)
_SIZES = ("layers", "channels", "output_size", "stem_stride", "hidden_sizes", "deltas")


FORMS = """\
a genotype's name or YAML file; a name and options, as 'conformer{width: 144, blocks: 16}';
'espnet:NAME{...}' with ESPnet's encoder_conf; a class path of NeMo's, as
'nemo.collections.asr.modules.ConformerEncoder{d_model: 176, n_layers: 16}'; 'PEER{...}', with the
settings of its authors' recipes besides sizes (PEER: %s); a training's folder, .pth, packed .zip,
.nemo or configuration of either toolkit; an .onnx file"""


def forms() -> str:
    """Return the forms of encoders, for help."""
    return FORMS % ", ".join(name for name in PEERS if name != "genotype")


def threads(text: str) -> tuple[int, ...]:
    """Read numbers of threads, ``1`` or ``1,2``."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        rule = f"must be numbers with commas between, as 1,2, got {text!r}"
        raise argparse.ArgumentTypeError(rule) from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this form of the command."""
    add = parser.add_argument_group("whole encoders").add_argument
    add(
        "--reference",
        metavar="LABEL",
        default="",
        help="encoder that ratios are to (default: the first)",
    )
    add(
        "--speech",
        type=float,
        nargs="+",
        metavar="SECONDS",
        help="utterances of a batch, padded to the longest (default 10; --frames: one of N frames)",
    )
    add("--batch", type=int, metavar="N", help="utterances, of these lengths in turn")
    add(
        "--frame-shift",
        type=float,
        metavar="MS",
        help="between frames, of encoders that do not say it (default 10)",
    )
    add(
        "--no-training",
        action="store_false",
        dest="training",
        help="no training steps",
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print and write."""
    from nas_encoder.bench.measure import EncoderSettings, benchmark, problems_of
    from nas_encoder.bench.page import figure_class, markdown, plot
    from nas_encoder.bench.sources import read_source
    from nas_encoder.bench.subjects import build

    outputs = [Path(path) for path in args.output or []]
    problems = [
        f"--output: must end in one of {', '.join(_SUFFIXES)}, got '{path}'"
        for path in outputs
        if path.suffix not in _SUFFIXES
    ]
    problems += [problem for path in outputs for problem in unwritable(path)]
    if any(path.suffix in PICTURES for path in outputs):
        try:
            figure_class()
        except MissingDependencyError as error:
            problems.append(f"--output: {error}")
    if args.frame_shift is not None and not 0.1 <= args.frame_shift <= 1000:
        problems.append(f"--frame-shift: must be 0.1 to 1000 ms, got {args.frame_shift:g}")
    if args.input_size is not None and not 1 <= args.input_size <= 4096:
        problems.append(f"--input-size: must be in 1..4096, got {args.input_size}")
    if args.frames is not None and args.speech is not None:
        problems.append("--frames: takes the place of --speech; give one of them")
    settings = EncoderSettings(
        speech=tuple(args.speech or (10.0,)),
        frames=args.frames,
        batch=args.batch,
        device=args.device,
        threads=args.threads,
        precision=args.precision,
        training=args.training,
        seconds=args.seconds,
        repeats=args.repeats,
        seed=args.seed,
    )
    problems += settings.problems()
    sizes = {name: value for name in _SIZES if (value := getattr(args, name)) is not None}
    shift = args.frame_shift and args.frame_shift / 1000
    subjects = []
    for text in args.genotypes:
        _say(f"building {text}")
        try:
            source = read_source(text)
            device = "cpu" if problems else args.device
            subjects.append(build(source, sizes, args.input_size, shift, device))
        except ProblemsError as error:
            problems += [f"{text}: {problem}" for problem in _lines(error, text)]
        except NasEncoderError as error:
            problems.append(f"{text}: {error}")
    if problems:
        raise ConfigError("bench", problems)
    problems_of(subjects, settings, args.reference or subjects[0].label)
    document = benchmark(subjects, settings, args.reference, _say)
    first = str(args.threads[0])
    for row in document["networks"]:  # as it was when there was one number
        row["ms"] = round(row["inference"][first]["ms"], 3)
    about = {name: document["settings"][name] for name in ("frames", "device")}
    text = json.dumps({**document, **about, "threads": args.threads[0]}, indent=2) + "\n"
    # First of all: what was measured is not lost if a file cannot be written.
    print(text if args.json else markdown(document), end="", flush=True)
    for path in outputs:
        try:
            if path.suffix in PICTURES:
                plot(document, [path])
            else:
                written = text if path.suffix == ".json" else markdown(document)
                write_atomically(path, written.encode(), ConfigError)
        except ConfigError as error:
            problems += [f"--output: {path}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError("bench", problems)
    return 0


def unwritable(path: Path) -> list[str]:
    """Return why a result cannot be written there, as far as that is known before."""
    if not os.path.isdir(path.parent):
        return [f"--output: there is no folder '{path.parent}' for '{path.name}'; make it"]
    if os.path.isdir(path):
        return [f"--output: must be a file, '{path}' is a folder"]
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return [f"--output: the folder '{path.parent}' of '{path.name}' is not writable"]
    return []


def _lines(error: ProblemsError, text: str) -> list[str]:
    """Return the problems of an error, with its subject unless that is the source itself."""
    own = error.subject in (text, "bench")
    return [problem if own else f"{error.subject}: {problem}" for problem in error.problems]


def _say(text: str, **_: Any) -> None:
    print(f"nas-encoder bench: {text}", file=sys.stderr, flush=True)

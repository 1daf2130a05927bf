"""Align texts to speech with a trained CTC model of ESPnet or NeMo.

A long recording with its text, one utterance a line, becomes utterances with words and tokens:
a Kaldi data folder, a NeMo manifest, lhotse cuts, TextGrids, CTM files and a table of
confidences. With --data, utterances that have their own audio are aligned by themselves. With
--evaluate, boundaries are compared with true ones, such as TIMIT's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from nas_encoder.errors import ConfigError

# Of options that not all ways take: None means that an option is not given.
_DEFAULTS = {"unit": "phone", "method": "exact", "padding": 0.5, "memory": 1000}
_MOST_SHIFT = 1000  # ms; a model's bias is some frames

EXAMPLES = """\
examples:
  # ESPnet: the folder of a training (or a .pth in it, or a packed .zip); NeMo: a .nemo file
  nas-encoder align exp/asr_train_nas --audio talk.wav --text talk.txt --output aligned
  nas-encoder align model.nemo --recordings list.tsv --output aligned --threshold -2
  nas-encoder align model.nemo --audio talk.wav --text talk.txt --output aligned --unrelated
  # utterances that have their own audio: words and tokens
  nas-encoder align exp/asr_train_nas --data data/test --output aligned
  # boundary errors in ms against TIMIT's .PHN files (of a model with phones) or .WRD files
  nas-encoder data prepare timit /corpora/TIMIT data/timit --phones 39
  nas-encoder align exp/asr_train_nas --evaluate data/timit --split test --unit phone

Memory does not grow with the recording: its scores lie on disk (4 bytes for each frame and
token of the text), docs/alignment.md has figures. A run that was stopped goes on with --resume.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("model", type=Path, help="ESPnet: folder, .pth file in it, packed .zip; NeMo: .nemo file")
    add("--audio", type=Path, metavar="FILE", help="a recording, mono, at the model's rate")
    add("--text", type=Path, metavar="FILE", help="its text: an utterance a line")
    add("--recordings", type=Path, metavar="LIST", help="many: lines of AUDIO<tab>TEXT")
    add("--data", metavar="DATA", help="utterances with audio: Kaldi folder, manifest or cuts")
    add("--evaluate", metavar="DATA", help="cuts with true boundaries, or a prepared folder")
    add("--split", metavar="NAME", help="part of a prepared folder: train, dev, test")
    add("--unit", help="what --evaluate compares: phone (default) or word")
    add("--output", type=Path, metavar="DIR", help="receives all files")
    add("--with-ids", action="store_true", help="lines of --text begin with an utterance id")
    add("--case", default="as-is", help="letters of the text: as-is (default), lower, upper")
    add(
        "--method",
        help="exact (default): the best CTC path of all; ctc-segmentation: the package",
    )
    add(
        "--unrelated",
        action="store_true",
        help="speech between utterances may be missing from the text",
    )
    add(
        "--threshold",
        type=float,
        metavar="LOGP",
        help="leave out utterances of less confidence, and list them (0 is certain; try -2)",
    )
    add("--padding", type=float, metavar="S", help="beside a segment (default 0.5 s)")
    add("--shift-ms", type=float, default=0.0, metavar="MS", help="added to all times, +-1000")
    add("--chunk", type=float, default=30.0, metavar="S", help="seconds at once (default 30)")
    add("--context", type=float, default=5.0, metavar="S", help="beside a chunk (default 5)")
    add("--memory", type=int, metavar="MB", help="of ctc-segmentation's table (default 1000)")
    add("--checkpoint", metavar="NAME", help="which .pth file of the folder")
    add("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    add("--resume", action="store_true", help="go on with a run that was stopped")
    add("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Align, or evaluate."""
    _check(args)
    for name, value in _DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    from nas_encoder.alignment.model import open_model

    model = open_model(args.model, args.checkpoint, args.device)
    if args.evaluate is not None:
        return _evaluate(model, args)
    from nas_encoder.alignment.align import AlignOptions
    from nas_encoder.alignment.recordings import read_pairs, tasks_of_cuts, tasks_of_files
    from nas_encoder.alignment.run import SUMMARY
    from nas_encoder.alignment.run import run as align_all
    from nas_encoder.alignment.scores import Chunks
    from nas_encoder.training.stopping import stoppable

    if args.data is not None:
        tasks, changed = tasks_of_cuts(model, args.data, split=args.split, case=args.case)
    else:
        pairs = [(args.audio, args.text)]
        if args.recordings is not None:
            pairs = read_pairs(args.recordings)
        tasks, changed = tasks_of_files(model, pairs, with_ids=args.with_ids, case=args.case)
    options = AlignOptions(args.method, args.unrelated, args.padding, args.shift_ms, args.memory)
    with stoppable():
        result = align_all(
            model,
            tasks,
            args.output,
            options,
            chunks=Chunks(args.chunk, args.context),
            threshold=args.threshold,
            resume=args.resume,
        )
    if args.json:
        print(json.dumps({**result, "texts_changed_by_cleaner": changed}, indent=2))
        return 0
    print(
        f"{args.output}: {result['kept']} of {result['utterances']} utterances in "
        f"{result['hours']:.3f} h; least confidence {result['confidence']['least']:.2f}, median "
        f"{result['confidence']['median']:.2f}; frames of {result['frame_ms']:g} ms"
    )
    if changed:
        print(f"the model's own text cleaner changed {changed} texts")
    if not result["timing"]["symmetric"]:
        print(
            "its frames see mostly one side, so their times are nominal; --evaluate measures the "
            f"bias, --shift-ms takes it off ({SUMMARY} has the timing)"
        )
    return 0


def _evaluate(model: Any, args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from nas_encoder.alignment.evaluation import evaluate
    from nas_encoder.alignment.scores import Chunks

    with tqdm(unit="s", desc="evaluating", disable=None) as bar:
        report = evaluate(
            model,
            args.evaluate,
            args.unit,
            split=args.split,
            case=args.case,
            shift_ms=args.shift_ms,
            chunks=Chunks(args.chunk, args.context),
            show=bar.update,
        )
    if args.json:
        print(json.dumps(report.to_dict(), indent=2))
        return 0
    found = report.errors
    print(
        f"{found.count} boundaries of {report.unit}s in {report.utterances} utterances, frames of "
        f"{report.frame_ms:g} ms"
    )
    print(f"absolute error   median {found.median_ms:.1f} ms, mean {found.mean_ms:.1f} ms")
    shares = ((10, found.within_10), (20, found.within_20), (50, found.within_50))
    print("within           " + ", ".join(f"{ms} ms {100 * part:.1f} %" for ms, part in shares))
    print(f"signed bias      {found.bias_ms:+.1f} ms (positive: found too late)")
    print(f"without bias     median {found.spread_ms:.1f} ms")
    for name, reason in report.left_out.items():
        print(f"left out: {name}: {reason}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise ConfigError, with all problems, for options that do not go together."""
    problems = []
    files = args.audio is not None or args.text is not None
    ways = [files, args.recordings is not None, args.data is not None, args.evaluate is not None]
    if sum(ways) != 1:
        problems.append(
            "give one of: --audio with --text, --recordings, --data, --evaluate; got "
            f"{sum(ways)} of them"
        )
    elif files and (args.audio is None or args.text is None):
        problems.append("--audio and --text: both are needed")
    if args.evaluate is None and args.output is None:
        problems.append("--output: is missing")
    problems += _misplaced(args)
    for name, low in (("chunk", 1.0), ("context", 0.0), ("padding", 0.0), ("memory", 1)):
        value = getattr(args, name)
        if value is not None and not low <= value < 1e6:
            problems.append(f"--{name}: must be at least {low:g}, got {value}")
    if not abs(args.shift_ms) <= _MOST_SHIFT:
        problems.append(
            f"--shift-ms: must be from -{_MOST_SHIFT} to {_MOST_SHIFT}, as it takes off a model's "
            f"bias, got {args.shift_ms:g}"
        )
    if args.threshold is not None and not args.threshold <= 0:
        problems.append(f"--threshold: is a log-probability, at most 0, got {args.threshold}")
    for name, known in (
        ("method", ("exact", "ctc-segmentation")),
        ("case", ("as-is", "lower", "upper")),
        ("unit", ("phone", "word")),
    ):
        if getattr(args, name) not in (None, *known):
            problems.append(
                f"--{name}: must be one of {', '.join(known)}, got {getattr(args, name)!r}"
            )
    if args.device != "cpu":  # torch is imported only to look for another one
        from nas_encoder.alignment.model import device_problem

        if problem := device_problem(args.device):
            problems.append(f"--{problem}")
    if problems:
        raise ConfigError("align", problems)


def _misplaced(args: argparse.Namespace) -> list[str]:
    """Return problems of options that what is done would ignore."""
    evaluates, by_data = args.evaluate is not None, args.data is not None
    long = not (evaluates or by_data)
    rules = (
        (("output",), not evaluates, "--evaluate writes no files"),
        (("with_ids", "unrelated"), long, "is for --text and --recordings"),
        (("unit",), evaluates, "is for --evaluate"),
        (("split",), not long, "is for --data and --evaluate"),
        (
            ("method", "padding", "memory", "threshold", "resume"),
            not evaluates,
            "does not go with --evaluate, which aligns single utterances by the exact path and "
            "keeps nothing",
        ),
    )
    problems = [
        f"--{name.replace('_', '-')}: {rule}"
        for names, fits, rule in rules
        for name in names
        if not fits and getattr(args, name) not in (None, False)
    ]
    if not evaluates and args.memory is not None and args.method != "ctc-segmentation":
        problems.append("--memory: is for --method ctc-segmentation")
    return problems

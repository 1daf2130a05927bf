"""Recognize audio files with a model that 'nas-encoder export' wrote, in onnxruntime or OpenVINO.

Prints a line for each file: its path, a tab, the text of the best CTC path, or of the greedy search
of a transducer (give its encoder.onnx; the other graphs are beside it). Files may be of any length:
one of more than --window seconds is recognized in windows that overlap. They must be mono and have
the model's sampling rate, and all are looked at before the first one is recognized.

With --stream, text is printed as it is recognized, while a file plays or a pipe ('-', a FIFO) feeds
samples: WAV, or without a header as --encoding says. Memory does not grow with the length. What is
too late, too early, not finite or of another rate ends its own stream only; the status is 1 then.
Ctrl-C ends all streams with the text of what they heard, and the report; a second one ends at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from nas_encoder.cli import add_runtime

EXAMPLES = """examples:
  nas-encoder transcribe exported/model.onnx one.wav two.flac
  nas-encoder transcribe exported/model.int8.onnx lecture.wav --threads 4 --json
  nas-encoder transcribe exported/model.onnx one.wav --runtime openvino
  nas-encoder transcribe streaming/model.onnx --stream --real-time lecture.wav
  arecord -q -f S16_LE -r 16000 -c 1 | nas-encoder transcribe streaming/model.onnx --stream -
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("model", help="exported with --input audio, the default")
    parser.add_argument(
        "audio", nargs="+", metavar="FILE", help="mono audio; with --stream also - or a FIFO"
    )
    parser.add_argument(
        "--tokens", metavar="FILE", help="the model's tokens (default: tokens.txt beside it)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of the runtime (default 1)")
    add_runtime(parser, "what runs the model")
    parser.add_argument("--window", type=float, help="seconds recognized at once (default 60)")
    parser.add_argument("--margin", type=float, help="seconds more on either side (default 5)")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON object for each file; with --stream for each piece of text",
    )
    live = parser.add_argument_group("streaming")
    live.add_argument(
        "--stream", action="store_true", help="print text as it comes (export --stream)"
    )
    live.add_argument(
        "--real-time", action="store_true", help="play files at real time; measure latencies"
    )
    live.add_argument(
        "--streams",
        type=int,
        metavar="N",
        help="so many at once; all files are repeated until there are as many or more (default 1)",
    )
    live.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="without a sample from a pipe, after which it counts as stalled (default 10)",
    )
    live.add_argument(
        "--encoding",
        choices=("s16le", "s32le", "f32le"),
        help="samples in pipes without a header (default s16le)",
    )


def run(args: argparse.Namespace) -> int:
    """Recognize; print the texts."""
    from nas_encoder.errors import ConfigError
    from nas_encoder.export.runtime import open_model
    from nas_encoder.export.transcribe import MARGIN, WINDOW, Transcriber

    problems = _problems(args)
    if problems:
        raise ConfigError("options", problems)
    if args.stream:
        from nas_encoder.cli.transcribe_stream import run_stream

        return run_stream(args)
    tokens = None if args.tokens is None else Path(args.tokens)
    runtime = open_model(Path(args.model), tokens, args.threads, args.runtime)
    window = WINDOW if args.window is None else args.window
    steps = None
    if runtime.is_transducer:
        from nas_encoder.export.transducer.runtime import open_search

        steps = open_search(runtime, Path(args.model), args.threads)
    margin = MARGIN if args.margin is None else args.margin
    transcriber = Transcriber(runtime, window, margin, steps)
    seconds = transcriber.durations(args.audio)
    with _bar(sum(seconds)) as bar:
        for path, length in zip(args.audio, seconds, strict=True):
            text = transcriber.text(path, bar.update)
            row = {"audio": path, "seconds": round(length, 3), "text": text}
            print(json.dumps(row, ensure_ascii=False) if args.json else f"{path}\t{text}")
            sys.stdout.flush()
    return 0


def _problems(args: argparse.Namespace) -> list[str]:
    from nas_encoder.cli.transcribe_stream import is_pipe

    problems = []
    if args.threads < 1:
        problems.append(f"--threads: must be at least 1, got {args.threads}")
    problems += [
        f"{name!r}: must be a name in UTF-8, since it is printed beside the text; rename the file"
        for name in args.audio
        if not _is_text(name)
    ]
    given = {
        "--real-time": args.real_time,
        "--streams": args.streams is not None,
        "--timeout": args.timeout is not None,
        "--encoding": args.encoding is not None,
    }
    if not args.stream:
        return problems + [f"{name}: goes with --stream" for name in given if given[name]]
    for name, value in (("--window", args.window), ("--margin", args.margin)):
        if value is not None:
            problems.append(f"{name}: does not go with --stream, which cuts nothing")
    if args.streams is not None and not 1 <= args.streams <= 1000:
        problems.append(f"--streams: must be from 1 to 1000, got {args.streams}")
    if args.timeout is not None and not 0 < args.timeout <= 86400:
        problems.append(f"--timeout: must be above 0 and at most 86400 s, got {args.timeout:g}")
    pipes = [name for name in dict.fromkeys(args.audio) if is_pipe(name)]
    problems += [
        f"{name}: is given more than once, and a pipe is heard once"
        for name in pipes
        if args.audio.count(name) > 1
    ]
    if pipes and (args.streams or 1) > len(args.audio):
        problems.append(
            f"--streams: must be at most {len(args.audio)} with {pipes[0]}, which is a pipe and "
            f"not repeated, got {args.streams}"
        )
    return problems


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bar(seconds: float):  # type: ignore[no-untyped-def]  # tqdm has no types
    from nas_encoder.errors import MissingDependencyError

    try:
        from tqdm import tqdm
    except ModuleNotFoundError as error:
        if error.name != "tqdm":
            raise
        raise MissingDependencyError("tqdm", "export", "the progress bar") from error
    form = "{desc}: {percentage:3.0f}% |{bar}| {n:.0f} of {total:.0f} s [{elapsed}<{remaining}]"
    return tqdm(total=round(seconds, 3), desc="audio", bar_format=form, disable=seconds < 60)

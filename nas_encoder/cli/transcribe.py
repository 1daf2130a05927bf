"""Recognize audio files with a model that 'nas-encoder export' wrote, in onnxruntime.

Prints a line for each file: its path, a tab, the text of the best CTC path. Files may be of any
length: one of more than --window seconds is recognized in windows that overlap. They must be mono
and have the model's sampling rate, and all are looked at before the first one is recognized.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

EXAMPLES = """examples:
  nas-encoder transcribe exported/model.onnx one.wav two.flac
  nas-encoder transcribe exported/model.int8.onnx lecture.wav --threads 4 --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("model", help="exported with --input audio, the default")
    parser.add_argument("audio", nargs="+", metavar="FILE", help="mono audio")
    parser.add_argument(
        "--tokens", metavar="FILE", help="the model's tokens (default: tokens.txt beside it)"
    )
    parser.add_argument("--threads", type=int, default=1, help="of onnxruntime (default 1)")
    parser.add_argument(
        "--window", type=float, default=60.0, help="seconds recognized at once (default 60)"
    )
    parser.add_argument(
        "--margin", type=float, default=5.0, help="seconds more on either side (default 5)"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object for each file")


def run(args: argparse.Namespace) -> int:
    """Recognize; print the texts."""
    from nas_encoder.errors import ConfigError
    from nas_encoder.export.runtime import open_model
    from nas_encoder.export.transcribe import Transcriber

    if args.threads < 1:
        raise ConfigError("--threads", [f"must be at least 1, got {args.threads}"])
    tokens = None if args.tokens is None else Path(args.tokens)
    runtime = open_model(Path(args.model), tokens, args.threads)
    transcriber = Transcriber(runtime, args.window, args.margin)
    seconds = transcriber.durations(args.audio)
    with _bar(sum(seconds)) as bar:
        for path, length in zip(args.audio, seconds, strict=True):
            text = transcriber.text(path, bar.update)
            row = {"audio": path, "seconds": round(length, 3), "text": text}
            print(json.dumps(row, ensure_ascii=False) if args.json else f"{path}\t{text}")
            sys.stdout.flush()
    return 0


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

"""``nas-encoder transcribe --stream``: opens the sources, prints what is heard when."""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas_encoder.export.streaming.figures import Figures
    from nas_encoder.export.streaming.live import Event, Opening
    from nas_encoder.export.streaming.runtime import StreamRuntime
    from nas_encoder.export.streaming.sources import Source

_TIMEOUT = 10.0  # seconds


def run_stream(args: argparse.Namespace) -> int:
    """Play all; return 1 if a stream failed.

    Raises:
        StoppedError: A signal ended it, after the text of what had come; a second one at once.
    """
    from nas_encoder.export.streaming.figures import Figures
    from nas_encoder.export.streaming.live import play
    from nas_encoder.export.streaming.runtime import open_streaming
    from nas_encoder.training.stopping import deferred, requested, stop_if_requested, stoppable

    tokens = None if args.tokens is None else Path(args.tokens)
    runtime = open_streaming(Path(args.model), tokens, args.threads, args.runtime)
    at_once = args.streams or 1
    names = args.audio * -(-at_once // len(args.audio))
    wake, figures = threading.Event(), Figures()
    openings: list[Opening] = [partial(_opened, args, runtime, wake, name) for name in names]
    written = _Json() if args.json else _Lines(at_once == 1)
    begun = time.monotonic()
    with stoppable(), deferred():
        for event in play(
            runtime, openings, at_once, args.real_time, figures, wake, stopped=requested
        ):
            written.write(event)
        report = _report(runtime, figures, time.monotonic() - begun, at_once, args.real_time)
        if args.json:
            print(json.dumps({"event": "report", **report}), flush=True)
        else:
            print("\n".join(_text(report)), file=sys.stderr)
        stop_if_requested()
    return 1 if figures.failed else 0


def _opened(
    args: argparse.Namespace,
    runtime: StreamRuntime,
    wake: threading.Event,
    name: str,
    begins: float,
) -> Source:
    from nas_encoder.errors import DataError
    from nas_encoder.export.streaming.encodings import ENCODINGS
    from nas_encoder.export.streaming.sources import FileSource, PipeSource

    rate = runtime.number("sample_rate")
    if not is_pipe(name):
        return FileSource(Path(name), rate, begins if args.real_time else None)
    if name == "-" and sys.stdin is None:
        raise DataError(name, ["cannot be read: standard input is closed"])
    opening = sys.stdin.fileno if name == "-" else partial(os.open, name, os.O_RDONLY)
    timeout = _TIMEOUT if args.timeout is None else args.timeout
    encoding = ENCODINGS[args.encoding or "s16le"]
    return PipeSource(opening, name, rate, encoding, timeout, args.real_time, wake)


def is_pipe(name: str) -> bool:
    """Whether ``name`` is standard input or a pipe, which can be read once."""
    try:
        return name == "-" or stat.S_ISFIFO(os.stat(name).st_mode)
    except OSError:
        return False


class _Json:
    """Writes an object for each event."""

    def write(self, event: Event) -> None:
        row: dict[str, Any] = {"event": event.kind, "stream": event.stream, "audio": event.name}
        if event.kind != "begins":
            row["seconds"] = round(event.seconds, 3)
        if event.kind == "text":
            row["text"] = event.text
        elif event.kind == "fails":
            row["error"] = event.text
        print(json.dumps(row, ensure_ascii=False), flush=True)


class _Lines:
    """Writes the line of each stream: piece by piece if there is one at a time, else whole."""

    def __init__(self, alone: bool) -> None:
        self._alone = alone
        self._texts: dict[int, str] = {}

    def write(self, event: Event) -> None:
        if event.kind == "begins":
            self._texts[event.stream] = ""
            self._print(f"{event.name}\t")
        elif event.kind == "text":
            if not self._alone:
                self._texts[event.stream] += event.text
            self._print(event.text)
        else:
            text = self._texts.pop(event.stream, None)
            if not self._alone and text is not None:
                print(f"{event.name}\t{text}", flush=True)
            elif text is not None:
                self._print("\n")
            if event.kind == "fails":
                error = f"{event.name}: {event.text}"
                print(f"nas-encoder transcribe: error: {error}", file=sys.stderr)

    def _print(self, text: str) -> None:
        if self._alone:
            print(text, end="", flush=True)


def _report(
    runtime: StreamRuntime, figures: Figures, took: float, at_once: int, real_time: bool
) -> dict[str, Any]:
    report = {
        "at_once": at_once,
        "streams": figures.streams,
        "failed": figures.failed,
        "audio_seconds": round(figures.audio, 3),
        "seconds": round(took, 3),
        "chunk_ms": round(1000 * runtime.seconds, 3),
        "step": figures.steps.to_dict(),
    }
    if real_time:
        report |= {"first_word": figures.first.to_dict(), "final": figures.final.to_dict()}
    return report


def _text(report: dict[str, Any]) -> list[str]:
    times = report["audio_seconds"] / max(report["seconds"], 1e-9)
    lines = [
        f"streams     {report['streams']}, {report['failed']} failed, {report['at_once']} at once",
        f"audio       {report['audio_seconds']:.1f} s in {report['seconds']:.1f} s, "
        f"{times:.1f} times real time",
    ]
    rows = {
        "step": f"of all that were ready, chunks of {report['chunk_ms']:g} ms",
        "first_word": "from the beginning of a stream's first word to its text",
        "final": "from the last sample to the last text",
    }
    for name, what in rows.items():
        if name in report and report[name]["count"]:
            p50, p95 = report[name]["p50_ms"], report[name]["p95_ms"]
            label = name.replace("_", " ")
            lines.append(f"{label:<11} p50 {p50:.1f} ms, p95 {p95:.1f} ms ({what})")
    return lines

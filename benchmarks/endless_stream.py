"""Plays a sound in a loop through a streaming model for hours: memory, drift, speed.

    nas-encoder export MODEL exported --stream
    python -m benchmarks.endless_stream exported/model.onnx --hours 10

A loop is a whole number of chunks, so as soon as the model's clock has stopped, each must give the
same numbers as the one before, to the bit. Audio comes in blocks that do not divide a chunk.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch

from nas_encoder.export.material import generated
from nas_encoder.export.streaming.decoder import LiveDecoder
from nas_encoder.export.streaming.runtime import (
    StreamRun,
    StreamRuntime,
    open_streaming,
    run_streams,
)
from nas_encoder.export.streaming.signal import Signal

_BLOCK = 1777  # samples


def endless(runtime: StreamRuntime, seconds: float, loop: float = 4.0) -> dict[str, Any]:
    """Play for so many seconds of audio.

    Args:
        runtime: A model that takes audio.
        seconds: How much of it, in all.
        loop: About how much until it is repeated.

    Returns:
        What was seen: ``rounds`` of the loop that were compared with the one before and
        ``differing_rounds``; ``grown_bytes`` of the process from a tenth of the time to the end.
    """
    assert runtime.form is not None
    form, rate = runtime.form, runtime.number("sample_rate")
    chunks = max(1, round(loop / runtime.seconds))
    size = chunks * form.frames * form.hop
    sound = torch.cat([one.samples for one in generated(rate)])
    sound = sound.repeat(-(-size // len(sound)))[:size]
    twice = torch.cat((sound, sound))
    signal, stream = Signal(form), StreamRun(runtime)
    decoder, letters = LiveDecoder(runtime.vocabulary), 0
    before: torch.Tensor | None = None
    current: list[torch.Tensor] = []
    rounds = differing = place = 0
    clock = -1
    start, steady = time.process_time(), 0
    while signal.samples < seconds * rate:
        signal.push(twice[place : place + _BLOCK])
        place = (place + _BLOCK) % size
        for window, valid in signal.windows():
            stream.put(window, valid)
        while stream.waiting:
            (values,) = run_streams(runtime, [stream])
            assert values is not None
            letters += sum(len(piece) for _, piece in decoder.feed(values))
            current.append(values)
        if len(current) >= chunks:
            values, current = torch.cat(current[:chunks]), current[chunks:]
            if before is not None:
                rounds += 1
                differing += not torch.equal(before, values)
            # Until the clock stops, the model may see the beginning.
            before = values if clock == int(stream.state[2]) else None
            clock = int(stream.state[2])
        if not steady and signal.samples > 0.1 * seconds * rate:
            steady = _resident()
    return {
        "audio_seconds": round(signal.samples / rate, 3),
        "cpu_seconds": round(time.process_time() - start, 2),
        "rounds": rounds,
        "differing_rounds": differing,
        "grown_bytes": _resident() - steady,
        "resident_bytes": steady,
        "clock": int(stream.state[2]),
        "letters": letters,
    }


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--hours", type=float, default=10.0)
    args = parser.parse_args()
    found = endless(open_streaming(Path(args.model)), 3600 * args.hours)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()

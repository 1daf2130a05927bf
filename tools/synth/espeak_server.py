"""Child process of :mod:`tools.synth.espeak`: speaks one request after another.

espeak-ng keeps state between utterances (noise generator, pitch flutter, filter memories), more
than its own reset clears, so its speech depends on earlier speech. Here a fork of a process that
has never spoken speaks each utterance, so the samples depend only on the request. The process
imports only the standard library, so a fork takes about a millisecond and has no threads.
Run as: python -I -S espeak_server.py LIBRARY DATA_FOLDER
"""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import sys
from typing import Any

# Numbers and structures of espeak-ng's public header, speak_lib.h (version 1.52).
AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_PHONEME_EVENTS = 1
PARAMETERS = {"rate": 1, "volume": 2, "pitch": 3, "range": 4}
POSITION_CHARACTER = 1
CHARS_UTF8 = 1
EVENT_LIST_TERMINATED, EVENT_WORD, EVENT_PHONEME = 0, 1, 7


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),  # in characters, from 1
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),  # in ms; `sample` is the exact one
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("phoneme", ctypes.c_char * 8),  # of a union with a number and a pointer
    ]


_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event)
)


def speak(library: ctypes.CDLL, request: dict[str, Any]) -> dict[str, Any]:
    """Speak one request in this process.

    Returns:
        ``samples``, 16-bit; ``phones`` as (sample, name); ``words`` as (sample, text position,
        length). Or ``error``.
    """
    pieces: list[bytes] = []
    phones: list[tuple[int, str]] = []
    words: list[tuple[int, int, int]] = []

    def receive(samples: Any, count: int, events: Any) -> int:
        if samples and count > 0:
            pieces.append(ctypes.string_at(samples, 2 * count))
        index = 0
        while events[index].type != EVENT_LIST_TERMINATED:
            event = events[index]
            if event.type == EVENT_PHONEME:
                phones.append((event.sample, event.phoneme.decode("utf-8")))
            elif event.type == EVENT_WORD:
                words.append((event.sample, event.text_position, event.length))
            index += 1
        return 0

    callback = _CALLBACK(receive)
    library.espeak_SetSynthCallback(callback)
    library.espeak_ng_SetRandSeed(ctypes.c_long(request["seed"]))
    if library.espeak_SetVoiceByName(request["name"].encode()) != 0:
        return {"error": f"espeak-ng has no voice {request['name']!r}"}
    for name, number in PARAMETERS.items():
        library.espeak_SetParameter(number, request[name], 0)
    text = request["text"].encode("utf-8") + b"\0"
    status = library.espeak_Synth(
        text, ctypes.c_size_t(len(text)), 0, POSITION_CHARACTER, 0, CHARS_UTF8, None, None
    )
    if status != 0:
        return {"error": f"espeak_Synth gave status {status}"}
    return {"samples": b"".join(pieces), "phones": phones, "words": words}


def _send(answer: dict[str, Any]) -> None:
    # Not sys.stdout, which Python would flush again at exit if the requester is gone.
    with open(1, "wb", closefd=False) as out:
        pickle.dump(answer, out)


def _answer(library: ctypes.CDLL, line: str) -> None:
    """Fork; the child speaks and writes the whole answer, or nothing and exits with 1."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            _send(speak(library, json.loads(line)))
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if status != 0:
        _send({"error": f"espeak-ng's process ended with wait status {status}"})


def main() -> int:
    """Answer requests, one JSON object per line, until standard input ends."""
    library = ctypes.CDLL(sys.argv[1])
    rate = library.espeak_Initialize(
        AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(sys.argv[2]), INITIALIZE_PHONEME_EVENTS
    )
    library.espeak_Info.restype = ctypes.c_char_p
    version = library.espeak_Info(None)
    _send({"rate": rate, "version": version.decode() if version else "unknown"})
    if rate <= 0:
        return 1
    try:
        for line in sys.stdin:
            _answer(library, line)
    except BrokenPipeError:
        pass  # the requester is gone, so nobody would read an error
    return 0


if __name__ == "__main__":
    sys.exit(main())

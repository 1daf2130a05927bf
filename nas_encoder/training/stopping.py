"""Ctrl-C and SIGTERM: a run ends after its current step, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nas_encoder.errors import StoppedError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _State:
    """Of this process: the signal received, and how many parts of the code ask for it later."""

    installed = False
    received = 0
    deferring = 0


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into a :class:`StoppedError`, at once or where it is asked for.

    A second signal stops at once. Outside the main thread, where Python handles no signals, and
    within another such block, nothing changes.
    """
    if _State.installed or threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, _: Any) -> None:
        if os.getpid() != owner:  # a forked worker, which gets Ctrl-C too; its owner ends it
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
        elif _State.deferring and not _State.received:
            _State.received = number
            text = f"\n{signal.Signals(number).name}: stopping after this step; again to stop now\n"
            os.write(2, text.encode())  # logging is not safe in a handler
        else:  # no Exception, which code that reads files would take for a fault of theirs
            _State.received = _State.received or number
            raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    _State.installed, _State.received, _State.deferring = True, 0, 0
    try:
        yield
    except (KeyboardInterrupt, RuntimeError) as error:  # RuntimeError: it ended a loader's worker
        if not _State.received:
            raise
        raise StoppedError(_State.received) from error
    finally:
        _State.installed, _State.received, _State.deferring = False, 0, 0
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Let signals wait until :func:`requested` or :func:`stop_if_requested` is asked."""
    _State.deferring += 1
    try:
        yield
    finally:
        _State.deferring = max(0, _State.deferring - 1)


def requested() -> int:
    """Return the number of the signal that asks to stop; 0 for none."""
    return _State.received


def stop_if_requested() -> None:
    """Stop if a signal asked for it.

    Raises:
        StoppedError: A signal asked to stop.
    """
    if _State.received:
        raise StoppedError(_State.received)

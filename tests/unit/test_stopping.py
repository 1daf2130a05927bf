"""Signals stop at once, or where it is asked for; nothing swallows them, nothing stays behind."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from nas_encoder.errors import StoppedError
from nas_encoder.training.stopping import (
    SIGNALS,
    deferred,
    requested,
    stop_if_requested,
    stoppable,
)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_at_once(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(StoppedError, match=signal.Signals(number).name) as caught:
        with stoppable():
            try:
                send(number)
            except Exception:  # as where a broken file may raise anything
                raise AssertionError("it was swallowed") from None
    assert caught.value.status == 128 + number
    assert signal.getsignal(number) == before and not requested()


@pytest.mark.parametrize("number", SIGNALS)
def test_at_the_end_of_a_step(number: int, capfd: pytest.CaptureFixture[str]) -> None:
    done = []
    with pytest.raises(StoppedError) as caught, stoppable():
        with deferred():
            send(number)
            done.append("step")
            assert requested() == number
            stop_if_requested()
            done.append("too far")
    assert done == ["step"] and caught.value.status == 128 + number
    assert "stopping after this step; again to stop now" in capfd.readouterr().err


def test_a_second_signal_does_not_wait() -> None:
    with pytest.raises(StoppedError) as caught, stoppable(), deferred():
        send(signal.SIGTERM)
        send(signal.SIGINT)
        raise AssertionError("unreachable")
    assert caught.value.status == 143


def test_a_worker_that_the_signal_ended_is_no_failure_of_its_own() -> None:
    with pytest.raises(StoppedError), stoppable(), deferred():
        send(signal.SIGINT)
        raise RuntimeError("DataLoader worker is killed by signal")
    with pytest.raises(RuntimeError, match="something else"), stoppable():
        raise RuntimeError("something else")


def test_blocks_within_each_other_and_other_threads() -> None:
    before = signal.getsignal(signal.SIGINT)  # ignored in a job of a shell in the background
    with pytest.raises(StoppedError), stoppable():
        with stoppable():
            pass
        send(signal.SIGTERM)  # still handled
    found = []
    thread = threading.Thread(target=lambda: found.append(stoppable().__enter__()))
    thread.start()
    thread.join()
    assert found == [None] and signal.getsignal(signal.SIGINT) is before

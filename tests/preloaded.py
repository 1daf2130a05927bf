"""Processes for tests, forked from one that has imported everything: imports take 7 s of CPU each.

They run functions of modules of tests by name, or ``nas-encoder``, and may be killed.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

CONTEXT = multiprocessing.get_context("forkserver")
NEEDED = "nas_encoder.search.run"
PRELOADED = [
    "preloaded",
    NEEDED,
    "nas_encoder.cli.search",
    "nas_encoder.search.gradient.loop",
    "nas_encoder.search.trials.run",
    "nas_encoder.search.trials.supernet",
    "nas_encoder.tabular.build",
    "torch.utils.tensorboard",
    "torch.testing._comparison",
    "matplotlib.figure",
    "kaldialign",
    "lightning.fabric",
    "search_samples",
    "trials_samples",
]
_started = False


def fork(function: str, *arguments: Any, said: Path | None = None) -> BaseProcess:
    """Start a process that calls ``module:function``; a number that it returns is its status.

    Args:
        function: The module is imported in the process.
        *arguments: Of the function, of types that can be pickled.
        said: Takes its standard error.
    """
    global _started
    if not _started:
        with pytest.MonkeyPatch.context() as patch:  # the server hears of no other path
            patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
            CONTEXT.set_forkserver_preload(PRELOADED)
            forkserver.ensure_running()
        _started = True
    process = CONTEXT.Process(target=_run, args=(function, arguments, said and str(said)))
    process.start()
    return process


def _run(function: str, arguments: tuple[Any, ...], said: str | None) -> None:
    assert NEEDED in sys.modules, "the server has not imported what it was told to"
    if said is not None:
        target = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, 2)
        os.close(target)
    import torch

    torch.set_num_threads(1)
    module, _, name = function.partition(":")
    status = getattr(import_module(module), name)(*arguments)
    sys.exit(status if isinstance(status, int) else 0)


def command_line(words: list[str], prepare: str | None = None) -> int:
    """Be ``nas-encoder`` with these words, after a call of ``module:function``."""
    from nas_encoder.cli.main import main

    sys.argv = ["nas-encoder", *words]
    if prepare is not None:
        module, _, name = prepare.partition(":")
        getattr(import_module(module), name)(words)
    return main()


def wait_until(happened: Callable[[], object], process: BaseProcess, seconds: float = 240) -> None:
    """Wait while a process runs."""
    until = time.monotonic() + seconds
    while not happened():
        assert process.is_alive(), f"ended with status {process.exitcode}"
        assert time.monotonic() < until
        time.sleep(0.005)


@contextmanager
def ended() -> Iterator[list[BaseProcess]]:
    """Yield a list of processes, which are killed at the end of the block."""
    processes: list[BaseProcess] = []
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()

"""What all tests share: one thread for each worker, fixed seeds, no silent skips.

Tests marked ``espnet`` or ``nemo`` are never skipped by themselves: where a toolkit is missing
they fail, and whoever works without it deselects them (``-m "not nemo"``). Only ``gpu`` tests
are skipped, on a machine that has none.
"""

from __future__ import annotations

import os

# Before anything imports torch or numpy: workers that each start a thread for every core
# slow each other down.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# No genotypes of whoever runs the tests.
os.environ["NAS_ENCODER_ZOO"] = os.devnull

import logging
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from filelock import FileLock

if TYPE_CHECKING:
    from forked import Forks

# How long one example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

# Asserts in the modules of helpers show their values too.
pytest.register_assert_rewrite(
    *(path.stem for path in sorted(Path(__file__).parent.glob("*.py")) if path.stem != "conftest")
)


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that makes a folder once for all workers; nobody changes it afterwards."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # of all workers

    def make(name: str, build: Callable[[Path], object]) -> Path:
        folder, done = root / f"shared-{name}", root / f"shared-{name}.done"
        with FileLock(root / f"shared-{name}.lock"):
            if not done.exists():
                build(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def wheel(repository: Path, shared_folder: Callable[..., Path]) -> Path:
    """The wheel of the checkout, built once."""
    from wheel_environment import build_wheel

    (built,) = shared_folder("wheel", partial(build_wheel, repository)).glob("*.whl")
    return built


@pytest.fixture(scope="session")
def espnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Run ESPnet's programs, as ``python -m`` does, without the time of its imports."""
    names = ("asr_train", "asr_inference", "lm_train", "pack")
    with _forks(tmp_path_factory, *(f"espnet2.bin.{name}" for name in names)) as forks:
        yield forks


@pytest.fixture(scope="session")
def nemo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Run programs that use NeMo without the time of its imports."""
    with _forks(tmp_path_factory, "nemo.collections.asr.models", "nemo.utils.exp_manager") as forks:
        yield forks


@contextmanager
def _forks(tmp_path_factory: pytest.TempPathFactory, *modules: str) -> Iterator[Forks]:
    from forked import Forks

    kept = {key: value for key, value in os.environ.items() if key != "NAS_ENCODER_AUTOLOAD"}
    forks = Forks(tmp_path_factory.mktemp("forks"), modules, kept)
    try:
        yield forks
    finally:
        forks.close()


@pytest.fixture(scope="session")
def espnet_jobs(espnet: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of `python` and `nas-encoder` for recipes, by one process that has ESPnet."""
    from python_server import commands

    with commands(espnet, tmp_path_factory.mktemp("jobs")) as folder:
        yield folder


@pytest.fixture(scope="session")
def nemo_jobs(nemo: Forks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Likewise, by one that has NeMo."""
    from python_server import commands

    with commands(nemo, tmp_path_factory.mktemp("jobs")) as folder:
        yield folder


@pytest.fixture(autouse=True)
def fixed_seeds() -> Iterator[None]:
    """Seed the global generators, so that a failure does not depend on the tests before it.

    Torch is seeded only where something has imported it already: tests of the parts that do
    without it must not pay for it.
    """
    random.seed(1234)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(1234)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(1234)
    yield


@pytest.fixture(autouse=True)
def same_logging(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let no test, nor what it imports for the first time, make loggers of later ones silent."""
    # pytest gives its handlers to loggers that do not propagate, and NeMo sets the levels of all
    # handlers of its logger: ``caplog`` would miss warnings from then on.
    plugin: Any = request.config.pluginmanager.get_plugin("logging-plugin")
    for handler in (plugin.caplog_handler, plugin.report_handler):
        handler.setLevel(logging.NOTSET)
    root, disabled = logging.root.level, logging.root.manager.disable
    silent = _heard_again()
    assert not silent, f"an import or a fixture of many tests has silenced {silent}"
    yield
    logging.root.setLevel(root)
    logging.disable(disabled)
    silent = _heard_again()
    assert not silent, f"this test has silenced {silent}"


def _heard_again() -> list[str]:
    """Return the names of our loggers whose warnings nobody would hear; undo it."""
    silent = []
    root = logging.root
    for name, logger in list(root.manager.loggerDict.items()):
        if name.split(".")[0] == "nas_encoder" and isinstance(logger, logging.Logger):
            if not (logger.isEnabledFor(logging.WARNING) and logger.propagate):
                silent.append(f"{name} (level {logger.level}, root's {root.level})")
            logger.disabled, logger.propagate, logger.level = False, True, logging.NOTSET
    root.setLevel(min(root.level, logging.WARNING))  # forgets what loggers remember, too
    return silent


# Their processes import toolkits by themselves, and share none with the tests of other files.
APART = ("test_autoload", "test_espnet_newer", "test_espnet_plugin", "test_hydra_plugin")


@pytest.hookimpl(trylast=True)  # when those that were not asked for are gone
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Of two workers each begins with one half, and takes tests from the end of the other's when it
    # is done. So one runs all files that need a toolkit, which the other one need not import (20 s)
    # nor start processes that have it; the other one begins with the slow ones; and both end with
    # short tests, so that neither waits for the other.
    toolkit: list[pytest.Item] = []
    slow: list[pytest.Item] = []
    fast: list[pytest.Item] = []
    marks: dict[Path, set[str]] = {}
    for item in items:
        marks.setdefault(item.path, set()).update(mark.name for mark in item.iter_markers())
    for item in items:
        found = marks[item.path]
        if found & {"espnet", "nemo"} and item.path.stem not in APART:
            toolkit.append(item)
        else:
            (slow if "slow" in found else fast).append(item)
    first = max(0, len(items) // 2 - len(toolkit))
    items[:] = [*toolkit, *fast[:first], *slow, *fast[first:]]
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not on_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="this machine has no CUDA device"))

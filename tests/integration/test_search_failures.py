"""Searches that end in the middle of anything, and disks that are full."""

from __future__ import annotations

import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from search_samples import (
    SEED,
    Stop,
    finished_search,
    measure_costs_once,
    outcome,
    quick_config,
    require_same,
    stop_at,
)

from nas_encoder.common import documents as io
from nas_encoder.data import AsrLoader
from nas_encoder.errors import CheckpointError
from nas_encoder.search import run_search
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.gradient.loop import GradientSearch
from nas_encoder.search.gradient.recorder import Recorder
from nas_encoder.search.gradient.steps import Steps

# Where a search can end; io.os.replace is between a file's content and its name.
PLACES: tuple[tuple[Any, str, int], ...] = (
    (Steps, "weight_step", 4),
    (Steps, "architecture_step", 4),
    (Steps, "score", 2),
    (io.os, "replace", 9),
    (RunFolder, "save_checkpoint", 4),
    (RunFolder, "save_genotype", 2),
    (GradientSearch, "_finish_epoch", 2),
    (GradientSearch, "_steps", 2),
    (Recorder, "__call__", 2),
    (AsrLoader, "make_batch", 12),
)


@pytest.fixture(scope="module")
def corpus(shared_folder: Callable[..., Path]) -> tuple[str, str]:
    """Training and validation data: 12 and 4 utterances of about 0.6 s."""
    return finished_search(shared_folder)[1]


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report out, which takes as long as the search."""
    monkeypatch.setattr("nas_encoder.search.run.write_report", lambda folder: None)
    measure_costs_once(monkeypatch)


@pytest.fixture(scope="module")
def finished(shared_folder: Callable[..., Path]) -> Path:
    """Return the folder of a quick search that nothing interrupted; not to be changed."""
    return finished_search(shared_folder)[0]


def search(corpus: tuple[str, str], output: Path) -> None:
    """Begin or go on."""
    run_search(quick_config(), corpus[0], output, valid=corpus[1], seed=SEED, resume=True)


@pytest.mark.slow
def test_ends_at_every_kind_of_place(
    corpus: tuple[str, str], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One search, ended again and again: genotype, alphas, weights, metrics stay bit-identical."""
    rng, output = random.Random(0), tmp_path / "run"
    for owner, name, most in rng.sample(PLACES, len(PLACES)):
        count, original = rng.randint(1, most), getattr(owner, name)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stop_at(count, original))
            try:
                search(corpus, output)
            except Stop:
                continue
            # It came to its end before that: begin another one.
            require_same(outcome(output), outcome(finished))
            output = tmp_path / f"run-{name}"
            patch.setattr(owner, name, stop_at(count, original))
            with pytest.raises(Stop):
                search(corpus, output)
    search(corpus, output)
    require_same(outcome(output), outcome(finished))


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Make writing fail after so many bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(
    corpus: tuple[str, str], finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", stop_at(3, RunFolder.save_checkpoint))
        with pytest.raises(Stop):
            search(corpus, output)
    good = (output / "last.ckpt").read_bytes()
    with files_of_at_most(len(good) // 2), pytest.raises(CheckpointError) as caught:
        search(corpus, output)
    assert "last.ckpt: cannot be written: File too large" in str(caught.value)
    assert (output / "last.ckpt").read_bytes() == good
    assert not [path for path in output.iterdir() if path.name.startswith(".")]
    # With free space again it resumes, and nothing is lost.
    search(corpus, output)
    require_same(outcome(output), outcome(finished))


@pytest.mark.slow
def test_a_folder_that_cannot_be_made(corpus: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made: Not a directory"):
        search(corpus, tmp_path / "file" / "run")

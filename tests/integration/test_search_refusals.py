"""What a search refuses: data it cannot use, losses that are no number, data that changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from search_samples import (
    RATE,
    SEED,
    Stop,
    finished_search,
    outcome,
    quick_config,
    require_same,
    stop_at,
    tone_corpus,
)

from nas_encoder.errors import CheckpointError, ConfigError, DataError
from nas_encoder.search import SearchConfig, run_search
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.gradient.steps import Steps
from nas_encoder.training.diverged import DivergedError


@pytest.fixture(scope="module")
def corpus(shared_folder: Callable[..., Path]) -> tuple[str, str]:
    """Training and validation data: 12 and 4 utterances of about 0.6 s."""
    return finished_search(shared_folder)[1]


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report out, which takes as long as the quick search itself."""
    monkeypatch.setattr("nas_encoder.search.run.write_report", lambda folder: None)


def require_refused(
    train: Path | str, valid: Path | str, output: Path, *texts: str, config: Any = None
) -> None:
    """The search stops with a DataError that holds the texts, before any training."""
    with pytest.raises(DataError) as caught:
        run_search(config or quick_config(), train, output, valid=valid)
    for text in texts:
        assert text in str(caught.value), str(caught.value)
    assert not output.exists()  # a start that failed leaves nothing
    # The folder is not taken by a run that never began.
    RunFolder(output).begin(quick_config(), {}, resume=False)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_arguments_that_no_search_can_have(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty --output is a variable that a script has not set; it does not mean this folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        run_search(quick_config(), "train", "", seed=seed)
    assert list(caught.value.problems) == [
        "--output: is empty",
        f"--seed: must be in 0..9223372036854775807, got {seed}",
    ]
    assert not list(tmp_path.iterdir())


def test_audio_with_nan(corpus: tuple[str, str], tmp_path: Path) -> None:
    train = tone_corpus(tmp_path / "train", 8, seed=4, seconds=0.6)
    samples = np.full(RATE // 2, 0.1, dtype=np.float32)
    samples[100] = np.nan
    soundfile.write(train / "wav" / "spk41-u005.wav", samples, RATE, subtype="FLOAT")
    (train / "wav.scp").write_text((train / "wav.scp").read_text())
    require_refused(train, corpus[1], tmp_path / "run", "spk41-u005", "NaN")


def test_empty_data(corpus: tuple[str, str], tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for name in ("wav.scp", "text", "utt2spk"):
        (empty / name).write_text("")
    manifest = tmp_path / "empty.json"
    manifest.write_text("")
    for data in (empty, manifest):
        require_refused(data, corpus[1], tmp_path / "run1", "empty")
        require_refused(corpus[0], data, tmp_path / "run2", "empty")


def test_missing_audio(corpus: tuple[str, str], tmp_path: Path) -> None:
    train = tone_corpus(tmp_path / "train", 8, seed=4, seconds=0.6)
    (train / "wav" / "spk42-u006.wav").unlink()
    require_refused(train, corpus[1], tmp_path / "run", "spk42-u006", "does not exist")
    require_refused(tmp_path / "nowhere", corpus[1], tmp_path / "run", "nowhere")


def test_tokens_that_training_does_not_have(corpus: tuple[str, str], tmp_path: Path) -> None:
    train = tone_corpus(tmp_path / "train", 8, seed=4, seconds=0.6, letters="abc")
    strict = SearchConfig.from_dict(quick_config().to_dict() | {"unknown_tokens": "error"})
    texts = ("valid: not in the token set: 6 of 24", "'d' (6, first in", "set unknown_tokens")
    require_refused(train, corpus[1], tmp_path / "run", *texts, config=strict)


def test_utterances_too_short_or_with_too_many_tokens(
    corpus: tuple[str, str], tmp_path: Path
) -> None:
    short = tone_corpus(tmp_path / "short", 8, seed=4, seconds=0.1)
    require_refused(short, corpus[1], tmp_path / "run1", "train: no usable utterance among 8")
    fast = tone_corpus(tmp_path / "fast", 8, seed=5, seconds=0.2)
    require_refused(fast, corpus[1], tmp_path / "run2", "have more tokens", "than output frames")


def test_one_utterance_cannot_be_halved(corpus: tuple[str, str], tmp_path: Path) -> None:
    single = tone_corpus(tmp_path / "one", 1, seed=1, seconds=0.6, letters="d")
    require_refused(single, single, tmp_path / "run", "two halves need 2 utterances")


def test_a_search_that_diverges_names_the_batch(
    corpus: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = quick_config(
        weights={"optimizer": "sgd", "lr": 1e6, "momentum": 0.0, "grad_clip": 0.0}
    )
    with pytest.raises(DivergedError, match=r"(the loss|a weight) is .* of spk1") as caught:
        run_search(config, corpus[0], tmp_path / "run", valid=corpus[1])
    assert "lower weights.lr" in str(caught.value)
    saved = torch.load(tmp_path / "run" / "diverged_batch.pt", weights_only=True)
    assert saved["features"].dim() == 3 and len(saved["ids"]) == len(saved["features"])


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("count", [4, 3])
def test_weights_that_a_step_has_ruined_reach_no_checkpoint(
    corpus: tuple[str, str],
    shared_folder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
) -> None:
    """After the last step of the second epoch, where no further loss would tell, and between."""
    step = Steps.weight_step
    done = []

    def ruining(self: Steps, *arguments: Any) -> float:
        loss = step(self, *arguments)
        done.append(loss)
        if len(done) == count:
            next(self.network.parameters()).data.view(-1)[0] = float("nan")
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(Steps, "weight_step", ruining)
        with pytest.raises(DivergedError, match="a weight is NaN or infinite after step") as caught:
            run_search(quick_config(), corpus[0], tmp_path / "run", valid=corpus[1], seed=SEED)
    assert "stage 1, whose last batch is of spk1" in str(caught.value)
    folder = RunFolder(tmp_path / "run")
    saved = torch.load(folder.path / "diverged_batch.pt", weights_only=True)
    assert len(saved["ids"]) == len(saved["features"])
    state = folder.load_checkpoint()
    assert state is not None
    assert all(bool(torch.isfinite(v.float()).all()) for v in state["network"].values())
    assert len(folder.rows()) == 1  # of the first epoch
    # It resumes from before that step.
    output = tmp_path / "run"
    run_search(quick_config(), corpus[0], output, valid=corpus[1], seed=SEED, resume=True)
    require_same(outcome(output), outcome(finished_search(shared_folder)[0]))


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_data_that_changed_under_a_run(
    corpus: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = tone_corpus(tmp_path / "train", 8, seed=4, seconds=0.6)
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", stop_at(2, RunFolder.save_checkpoint))
        with pytest.raises(Stop):
            run_search(quick_config(), train, output, valid=corpus[1])
    # One more letter, and one audio file is another.
    whole, _ = soundfile.read(train / "wav" / "spk41-u005.wav")
    lines = (train / "text").read_text().splitlines()
    (train / "text").write_text("\n".join([lines[0] + "e", *lines[1:]]) + "\n")
    (train / "wav" / "spk41-u005.wav").write_bytes((train / "wav" / "spk42-u006.wav").read_bytes())
    with pytest.raises(CheckpointError) as caught:
        run_search(quick_config(), train, output, valid=corpus[1], resume=True)
    assert caught.value.subject == f"cannot resume {output}, its data have changed"
    assert caught.value.problems[1:] == (
        "train: 1 of 8 texts differ, first: spk40-u000",
        "resume with the data that it began with, or begin anew with another --output",
    )
    assert "train: 1 of 8 lengths (in samples) differ, first: spk41-u005" in str(caught.value)
    # Other audio of the same lengths is told by its statistics.
    (train / "text").write_text("\n".join(lines) + "\n")
    samples, rate = soundfile.read(original := train / "wav" / "spk42-u006.wav")
    soundfile.write(train / "wav" / "spk41-u005.wav", whole, rate)
    soundfile.write(original, samples[::-1] * 0.3, rate)
    with pytest.raises(CheckpointError, match="the training audio differs from that the run"):
        run_search(quick_config(), train, output, valid=corpus[1], resume=True)

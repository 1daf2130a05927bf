"""A corpus in which each letter is a tone, a quick search on it, and runs that end anywhere."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from nas_encoder.search import SearchConfig, run, run_search
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.gradient.objective import Objective

RATE = 16000
TONES = {"a": 400.0, "b": 900.0, "c": 1600.0, "d": 2700.0}  # Hz


def speak(text: str, rng: np.random.Generator, seconds: float = 1.0) -> np.ndarray:
    """Return samples (N,): for each letter a tone with harmonics, silence for a space."""
    size = round(seconds * RATE) // len(text)
    pieces = []
    for letter in text:
        time = np.arange(size) / RATE
        pitch = TONES.get(letter, 0.0) * rng.uniform(0.97, 1.03)
        tone = np.sin(2 * np.pi * pitch * time) + 0.3 * np.sin(4 * np.pi * pitch * time)
        pieces.append(0.3 * tone * np.hanning(size))
    samples = np.concatenate(pieces)
    return samples + 0.003 * rng.standard_normal(len(samples))


def tone_corpus(
    folder: Path,
    utterances: int = 24,
    *,
    seed: int = 0,
    seconds: float = 1.0,
    letters: str = "abcd",
) -> Path:
    """Write a Kaldi data folder; the same arguments give the same files."""
    chosen = random.Random(seed)
    rng = np.random.default_rng(seed)
    (folder / "wav").mkdir(parents=True)
    lines: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
    for number in range(utterances):
        key = f"spk{seed}{number % 4}-u{number:03d}"
        # Every letter occurs in the first utterances, so that the token set is complete.
        text = "".join(chosen.choice(letters) for _ in range(5)) + letters[number % len(letters)]
        path = folder / "wav" / f"{key}.wav"
        length = seconds * chosen.uniform(0.8, 1.2)
        soundfile.write(path, speak(text, rng, length), RATE)
        lines["wav.scp"].append(f"{key} {path}")
        lines["text"].append(f"{key} {text}")
        lines["utt2spk"].append(f"{key} {key.split('-')[0]}")
    for name, content in lines.items():
        (folder / name).write_text("\n".join(sorted(content)) + "\n", encoding="utf-8")
    return folder


def two_corpora(folder: Path) -> tuple[str, str]:
    """Write training and validation data: 12 and 4 utterances of about 0.6 s."""
    train = tone_corpus(folder / "train", 12, seed=1, seconds=0.6)
    return str(train), str(tone_corpus(folder / "valid", 4, seed=2, seconds=0.6))


# A search of a few seconds that has all that a long one has: stages, warm-up, pruning.
QUICK: dict[str, Any] = {
    "name": "quick",
    "network": {"output_size": 12, "stem_stride": [1, 2]},
    "features": {"num_mel_bins": 16},
    "augment": {"frames_mask_size": 8, "features_mask_size": 2},
    "stages": [
        {"layers": 3, "channels": 1, "operations": 8, "epochs": 2, "warmup_epochs": 1},
        {"layers": 3, "channels": 2, "operations": 3, "epochs": 2, "warmup_epochs": 0},
    ],
    "weights": {"optimizer": "adam", "lr": 0.005, "weight_decay": 0.0},
    "architecture": {"lr": 0.1},
    "batch": {"max_utterances": 3},
    "trainer": {"checkpoint_minutes": 0, "score_utterances": 4, "accelerator": "cpu"},
}


def quick_config(**sections: dict[str, Any]) -> SearchConfig:
    """Return the quick search with some settings changed, section by section."""
    document = {name: value for name, value in QUICK.items()}
    for name, section in sections.items():
        document[name] = {**document.get(name, {}), **section}
    return SearchConfig.from_dict(document)


_OBJECTIVES: dict[str, Any] = {}


def measure_costs_once(patch: pytest.MonkeyPatch) -> None:
    """Measure the costs of a space once for many searches, each of which would do it again."""
    own = Objective.of

    def once(*given: Any) -> Any:
        key = repr(given)
        if key not in _OBJECTIVES:
            _OBJECTIVES[key] = own(*given)
        return _OBJECTIVES[key]

    patch.setattr(Objective, "of", once)


SEED = 3  # of the finished search


def finished_search(shared_folder: Callable[..., Path]) -> tuple[Path, tuple[str, str]]:
    """Return the folder of the quick search, which nothing interrupted, and its data."""

    def search(folder: Path) -> None:
        train, valid = two_corpora(folder)
        run_search(quick_config(), train, folder / "run", valid=valid, seed=SEED)

    folder = shared_folder("quick-search", search)
    return folder / "run", (str(folder / "train"), str(folder / "valid"))


def search_in_a_process(train: str, valid: str, output: str) -> None:
    """Run or resume the quick search, without its report; for processes that are killed."""
    run.write_report = lambda folder: None  # type: ignore[assignment]
    run_search(quick_config(), train, output, valid=valid, seed=SEED, resume=True)


def outcome(folder: Path) -> dict[str, Any]:
    """Return everything that a search computes: genotypes, metrics, weights, optimizers."""
    rows = [
        {key: value for key, value in row.items() if key != "seconds"}
        for row in RunFolder(folder).rows()
    ]
    state = RunFolder(folder).load_checkpoint()
    assert state is not None
    for part in (state["position"], *state["records"]):
        part.pop("seconds")
    del state["run"]
    genotypes = {p.name: p.read_text() for p in sorted((folder / "genotypes").iterdir())}
    result = (folder / "genotype.yaml").read_text()
    return {"rows": rows, "state": state, "genotypes": genotypes, "result": result}


def require_same(ours: Any, theirs: Any, place: str = "") -> None:
    """Compare bit by bit, so that a difference is named."""
    if isinstance(ours, torch.Tensor):
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs), place
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys(), place
        for key in ours:
            require_same(ours[key], theirs[key], f"{place}/{key}")
    elif isinstance(ours, (list, tuple)):
        assert len(ours) == len(theirs), place
        for index, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            require_same(mine, other, f"{place}/{index}")
    else:
        assert ours == theirs, place


class Stop(BaseException):
    """The process ends here."""


def stop_at(count: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, which ends the process instead of its n-th call."""
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == count:
            raise Stop
        return function(*args, **kwargs)

    return counted

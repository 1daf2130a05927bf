"""Damaged run folders: every file deleted, cut, emptied, changed or taken from another run.

:func:`cases` damages copies of finished and half-done folders of each strategy and runs what reads
them: ``--resume`` (up to the first step; of trials to the end), ``report``, ``derive`` and the
loading of genotypes, as ``show`` does. The outcome must be one of our errors, or exactly what the
whole folder gives; a file may be rebuilt or the checkpoint before be taken only with a warning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from search_samples import QUICK, measure_costs_once, two_corpora
from trials_samples import lookup_config, write_table

from nas_encoder.errors import NasEncoderError
from nas_encoder.genotype import load_genotype
from nas_encoder.search import SearchConfig, run, run_search
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.gradient.loop import GradientSearch
from nas_encoder.search.gradient.recorder import Recorder
from nas_encoder.search.gradient.rederive import rederive
from nas_encoder.search.report.build import build_report
from nas_encoder.search.strategies import TRIALS, strategies

CHAIN = {"layers": 6, "channels": 4, "operations": 4, "epochs": 2, "warmup_epochs": 0}
WARM = [{**CHAIN, "phase": "warmup", "epochs": 1}, CHAIN]
PRUNED = [CHAIN, {**CHAIN, "operations": 2, "epochs": 1}]
GRADIENT: dict[str, dict[str, Any]] = {
    "pdarts": {"stages": PRUNED},
    "darts": {"strategy": "darts", "stages": [CHAIN]},
    "stnas": {"strategy": "stnas", "stages": WARM},
    "seeds": {"stages": [CHAIN], "seeds": [4, 9]},
}
DAMAGES = ("delete", "cut", "empty", "change", "swap")
SEED, OTHER = 3, 7
TRIALS_EACH, HALF = 8, 6
REPORT = "nas_encoder.search.report"


@dataclass(frozen=True)
class Folder:
    """A run folder to damage, that of another run of the same kind, and how to resume it."""

    name: str
    path: Path
    other: Path
    resume: Callable[[Path], Any]
    is_trials: bool


class Reached(BaseException):
    """A search has read all that it resumes from."""


# -- folders -------------------------------------------------------------------------------------


def make_folders(root: Path) -> list[Folder]:
    """Search with each strategy, twice; return the folders, finished and half-done."""
    train, valid = two_corpora(root)
    found = []
    with pytest.MonkeyPatch.context() as patch:
        leave_out(patch)
        for name, document in GRADIENT.items():
            config = SearchConfig.from_dict(
                {**QUICK, "space": "tdnn_chain", "network": {"output_size": 8}, **document}
            )
            # The other run differs in what no file says but those of the run.
            other = SearchConfig.from_dict(
                {**config.to_dict(), "weights": {"optimizer": "adam", "lr": 0.02}}
            )
            seed = None if name == "seeds" else SEED
            search = partial(run_search, config, train, valid=valid, seed=seed)
            halves = {"own": root / f"{name}-half", "other": root / f"{name}-half-other"}
            with halfway(halves["own"], root / name, 3):
                search(root / name)
            with halfway(halves["other"], root / f"{name}-other", 3):
                run_search(other, train, root / f"{name}-other", valid, seed and OTHER)
            resume = partial(resume_gradient, config, train, valid, seed)
            whole = root / name, root / f"{name}-other"
            found += [
                Folder(f"{name} finished", *whole, resume, False),
                Folder(f"{name} half-done", *halves.values(), resume, False),
            ]
        table = write_table(root / "table.sqlite", "tdnn_chain", 60)
        for name in strategies(TRIALS):
            config = few_trials(lookup_config(name, table))
            for seed in (SEED, OTHER):
                path, half = root / f"{name}-{seed}", root / f"{name}-half-{seed}"
                run_some_trials(config, path, seed, HALF)
                shutil.copytree(path, half, ignore=shutil.ignore_patterns("*.lock*"))
                run_some_trials(config, path, seed, TRIALS_EACH)
            for part, stem in (("finished", name), ("half-done", f"{name}-half")):
                paths = [root / f"{stem}-{seed}" for seed in (SEED, OTHER)]
                own = partial(resume_trials, config, SEED)
                found.append(Folder(f"{name} {part}", paths[0], paths[1], own, True))
    return found


def leave_out(patch: pytest.MonkeyPatch) -> None:
    """Leave out what no command reads, and measure the costs of a space once."""
    patch.setattr(run, "write_report", lambda folder: None)
    patch.setattr(Recorder, "_open_board", lambda self: None)
    measure_costs_once(patch)


@contextmanager
def halfway(copy: Path, path: Path, saves: int) -> Iterator[None]:
    """Copy a run folder when the n-th checkpoint in it or below it has been written."""
    save, done = RunFolder.save_checkpoint, []

    def saving(self: RunFolder, state: Any) -> None:
        save(self, state)
        done.append(self)
        if len(done) == saves:
            shutil.copytree(path, copy, ignore=shutil.ignore_patterns("*.lock*"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", saving)
        yield
    assert copy.is_dir()


def few_trials(config: TrialsConfig) -> TrialsConfig:
    """Return the configuration of a search with few trials."""
    document = config.to_dict()
    return TrialsConfig.from_dict(
        {**document, "trials": {**document["trials"], "count": TRIALS_EACH}}
    )


def run_some_trials(config: TrialsConfig, path: Path, seed: int, count: int) -> None:
    """Run trials up to a number, or go on; a half-done folder lacks the result of the others."""
    from nas_encoder.search.trials.run import run_trials
    from nas_encoder.search.trials.study import Worker

    calls = 0
    one = Worker._one_trial

    def stopping(self: Worker) -> bool:
        nonlocal calls
        calls += 1
        if calls > count:
            raise Reached
        return one(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nas_encoder.search.trials.run._WRITE_EVERY", -1.0)
        patch.setattr(Worker, "_one_trial", stopping)
        try:
            run_trials(config, None, path, seed=seed, resume=True)
        except Reached:
            assert count < TRIALS_EACH


# -- what reads them -----------------------------------------------------------------------------


def digest(value: Any) -> str:
    """Return a digest of plain values, tensors and records."""
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(np.ascontiguousarray(value.numpy()).tobytes()).hexdigest()
    if isinstance(value, dict):
        return digest([(str(key), digest(item)) for key, item in value.items()])
    if isinstance(value, (list, tuple)):
        return hashlib.sha256("|".join(map(digest, value)).encode()).hexdigest()
    return repr(value)


_DATA: dict[tuple[str, int], Any] = {}


def resume_gradient(
    config: SearchConfig, train: str, valid: str, seed: int | None, path: Path
) -> Any:
    """Resume a search up to its first step; return what it would go on from."""
    reached: list[Any] = []
    opened = run.open_data

    def open_once(settings: Any, paths: Any, check: Any, **options: Any) -> Any:
        key = (train, options["seed"])
        if key not in _DATA:
            _DATA[key] = opened(settings, paths, **options)
        check(_DATA[key].fingerprints)
        return _DATA[key]

    def stop(self: GradientSearch, state: Any) -> NoReturn:
        rows = [record.to_row() for record in self.recorder.epochs]
        about = {key: self.recorder.run[key] for key in ("seed", "train", "config")}
        kept = {key: item for key, item in (state or {}).items() if key != "records"}
        reached.append(digest([kept, json.dumps(rows), about]))
        raise Reached

    with pytest.MonkeyPatch.context() as patch:
        leave_out(patch)
        patch.setattr(run, "open_data", open_once)
        patch.setattr(GradientSearch, "run", stop)
        try:
            return run_search(config, train, path, valid, seed, resume=True).to_dict()
        except Reached:
            return reached


def resume_trials(config: TrialsConfig, seed: int, path: Path) -> Any:
    """Resume a search by trials to its end; return the result and all records."""
    from nas_encoder.search.trials.run import run_trials

    genotype = run_trials(config, None, path, seed=seed, resume=True)
    rows = [
        {key: item for key, item in row.items() if key not in ("finished", "seconds")}
        for row in RunFolder(path).rows()
    ]
    return [genotype.architecture, rows]


def report(path: Path) -> Any:
    """Return what the report says; its pictures are not drawn."""
    with pytest.MonkeyPatch.context() as patch:
        for module in [found for name, found in sys.modules.items() if name.startswith(REPORT)]:
            if hasattr(module, "to_png"):
                patch.setattr(module, "to_png", lambda *_, **__: b"")
        text = build_report(RunFolder(path)).read_text("utf-8")
    # It only offers to browse the study where there is one.
    return re.sub(r"<p>Browse.*?</pre>\n", "", text, flags=re.DOTALL)


def derive(epoch: int | None, path: Path) -> Any:
    """Derive the genotype of a recorded epoch."""
    return rederive(RunFolder(path), epoch=epoch, stage=1 if epoch else None).to_dict()


def show(file: Path, path: Path) -> Any:
    """Load a genotype of the folder."""
    return load_genotype(path / file).to_dict()


# -- cases ---------------------------------------------------------------------------------------


def damage(path: Path, file: Path, other: Path, how: str, rng: random.Random) -> str:
    """Damage a file of a folder; return what was done."""
    target = path / file
    if how == "delete":
        target.unlink()
    elif how == "swap":
        own = other / file
        if not own.is_file():
            return ""
        shutil.copyfile(own, target)
    else:
        data = bytearray(target.read_bytes())
        if how == "empty":
            data = bytearray()
        elif how == "cut":
            data = data[: rng.randrange(len(data))] if data else data
        else:
            for _ in range(rng.randint(1, 3) if data else 0):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        target.write_bytes(data)
    return f"{how} {file}"


class Warned(logging.Handler):
    """Counts the package's warnings."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count one."""
        self.count += 1


def outcome(action: Callable[[Path], Any], path: Path) -> tuple[str, Any]:
    """Return ``refused`` and the error, or ``told`` or ``silent`` and the result."""
    handler, package = Warned(), logging.getLogger("nas_encoder")
    package.addHandler(handler)
    try:
        result = action(path)
    except NasEncoderError as error:
        return "refused", str(error)
    finally:
        package.removeHandler(handler)
    return ("told" if handler.count else "silent"), result


def files_of(path: Path) -> list[Path]:
    """Return all files of a folder but those that no command reads."""
    unread = ("tensorboard", "report.html")
    found = (file.relative_to(path) for file in sorted(path.rglob("*")) if file.is_file())
    return [file for file in found if not set(file.parts) & set(unread)]


def is_genotype(file: Path) -> bool:
    """Tell whether ``show`` reads a file of a run folder."""
    return file.match("*genotype*/*.yaml") or file.name == "genotype.yaml"


def actions_of(
    folder: Folder, rng: random.Random, file: Path | None = None
) -> dict[str, Callable[[Path], Any]]:
    """Return what can be done with a folder, by name; ``show`` of a file, or of any."""
    found: dict[str, Callable[[Path], Any]] = {"resume": folder.resume, "report": report}
    genotypes = [file] if file else [own for own in files_of(folder.path) if is_genotype(own)]
    if any(map(is_genotype, genotypes)):
        found["show"] = partial(show, rng.choice(genotypes))
    if not folder.is_trials:
        found["derive"] = partial(derive, rng.choice([None, 1, 2]))
    return found


Case = tuple[Folder, Path, str, int | None]  # the last: which action; None: any


def any_order(folders: list[Folder], rng: random.Random) -> list[Case]:
    """Return each kind of damage to each file of each folder."""
    every = [(folder, file) for folder in folders for file in files_of(folder.path)]
    plan: list[Case] = [(*place, how, None) for place in every for how in DAMAGES]
    return rng.sample(plan, len(plan))


def cases(
    seed: int,
    count: int | None,
    folders: list[Folder] | None = None,
    planned: Callable[[list[Folder], random.Random], list[Case]] = any_order,
) -> Counter[str]:
    """Damage ``count`` folders, or each that is planned; return how often which outcome was found.

    Raises:
        AssertionError: Something else than our error was raised, or a result differs in silence.
    """
    if folders is None:
        with TemporaryDirectory() as made:
            return cases(seed, count, make_folders(Path(made)), planned)
    rng, found = random.Random(seed), Counter[str]()
    whole: dict[tuple[str, str, str], tuple[str, Any]] = {}
    root = folders[0].path.parent / f"damaged-{seed}"
    shutil.rmtree(root, ignore_errors=True)
    plan = planned(folders, rng)
    for number in range(len(plan) if count is None else count):
        folder, file, how, turn = plan[number % len(plan)]
        names = list(actions := actions_of(folder, rng, None if turn is None else file))
        name = rng.choice(names) if turn is None else names[turn % len(names)]
        key = (folder.name, name, str(getattr(actions[name], "args", "")))
        path = root / "run"
        if key not in whole:
            shutil.copytree(folder.path, path)
            whole[key] = outcome(actions[name], path)
            shutil.rmtree(root)
        shutil.copytree(folder.path, path)
        done = damage(path, file, folder.other, how, rng)
        place = f"case {number}: {name} of {folder.name}, {done}"
        try:
            kind, result = outcome(actions[name], path)
        except Exception as error:
            raise AssertionError(f"{place}: {type(error).__name__}: {error}") from error
        finally:
            shutil.rmtree(root, ignore_errors=True)
        before = whole[key]
        if kind == "refused":
            found["refused" if before[0] != "refused" else "as before"] += 1
        elif kind == "told":
            found["told"] += 1
        else:
            assert result == before[1], f"{place}: another result, silently"
            found["as before"] += 1
    return found

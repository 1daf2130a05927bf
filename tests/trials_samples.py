"""Made-up tables for the tests of searches by trials: a known error for every architecture."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.trials import run_trials
from nas_encoder.spaces import SearchSpace, get_space
from nas_encoder.tabular import Table, TableFile, Training, model_hash

EPOCHS = 9
SEEDS = (11, 12)


def quality(space: SearchSpace, vector: list[int]) -> float:
    """Return a share in 0..1 of choices that are not the best ones: every choice counts alike."""
    best = [bound - 1 for bound in space.bounds]
    return sum(a != b for a, b in zip(vector, best, strict=True)) / len(best)


def made_up_table(name: str, count: int, seed: int = 0) -> Table:
    """Return a table of so many architectures, with errors that fall over the epochs.

    The error after the last epoch is 0.1 for the best choices and 0.8 for the worst, plus noise
    that differs between the seeds of trainings.
    """
    space = get_space(name)
    rng = random.Random(seed)
    rows: dict[tuple[int, int], dict[str, Training]] = {(EPOCHS, s): {} for s in SEEDS}
    static: dict[str, dict[str, Any]] = {}
    documents: dict[str, dict[str, Any]] = {}
    latencies: dict[str, float] = {}
    while len(documents) < count:
        genotype = space.sample(rng)
        key = model_hash(genotype)
        if key in documents:
            continue
        vector = space.encode(genotype)
        last = 0.1 + 0.7 * quality(space, vector)
        documents[key] = genotype.to_dict()
        static[key] = {"params": 1000 + sum(vector), "macs": 10**6 * (1 + sum(vector))}
        latencies[key] = 0.001 * (1 + sum(vector))
        for training in SEEDS:
            noise = rng.uniform(0, 0.02)
            vals = tuple(last + noise + 0.1 * (EPOCHS - e) / EPOCHS for e in range(1, EPOCHS + 1))
            rows[EPOCHS, training][key] = Training(vals, last + 0.05)
    about = {"space": name, "note": "made up"}
    return Table(name, rows, {"a device": latencies}, static, documents, about)


def write_table(path: Path, name: str, count: int) -> Path:
    """Write such a table to a file."""
    with TableFile(path) as file:
        file.set_about(space=name)
        file.add_table(made_up_table(name, count))
    return path


def shared_table(shared_folder: Callable[..., Path], name: str = "tdnn_chain") -> Path:
    """Return such a table of 60 architectures, which all tests share."""

    def write(folder: Path) -> None:
        folder.mkdir()
        write_table(folder / "t.sqlite", name, 60)

    return Path(shared_folder(f"table-{name}", write) / "t.sqlite")


def lookup_config(strategy: str, source: Path, **more: Any) -> TrialsConfig:
    """Return the configuration of a quick search in a table."""
    objectives = ["error", "macs"] if strategy == "nsga2" else ["error"]
    document: dict[str, Any] = {
        "strategy": strategy,
        "space": "tdnn_chain",
        "name": strategy,
        "objectives": objectives,
        "training": {"epochs": None},
        "table": {"source": str(source)},
        "trials": {"count": 12},
        "evolution": {"population": 4, "sample": 2},
    }
    for name, section in more.items():
        both = isinstance(section, dict) and isinstance(document.get(name), dict)
        document[name] = {**document[name], **section} if both else section
    return TrialsConfig.from_dict(document)


def work_in_a_process(config: dict[str, Any], output: str, slow: float, url: str | None) -> None:
    """Be a worker whose every epoch takes a while; for processes that are killed."""
    import time

    from nas_encoder.search.trials.evaluate import TableEvaluator

    errors = TableEvaluator.errors

    def slowly(self: TableEvaluator, genotype: Any) -> Any:
        for error in errors(self, genotype):
            time.sleep(slow)
            yield error

    TableEvaluator.errors = slowly  # type: ignore[method-assign]
    run_trials(TrialsConfig.from_dict(config), None, output, seed=5, resume=True, storage=url)

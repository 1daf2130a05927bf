"""Folders of made-up searches, for tests of what is made from them."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

from choice_samples import all_candidates

from nas_encoder.genotype import Genotype
from nas_encoder.search import SearchConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.records import EpochRecord
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.space import KINDS, derive_cell

CONFIG = SearchConfig.from_dict(
    {
        "name": "found",
        "stages": [
            {"layers": 5, "operations": 8, "epochs": 2, "warmup_epochs": 1},
            {"layers": 11, "operations": 3, "epochs": 2, "warmup_epochs": 1},
        ],
    }
)
SPACE = get_space(CONFIG.space)


def make_run(path: Path, epochs: int = 4, sharpness: float = 3.0, **run: Any) -> RunFolder:
    """Write the folder of a made-up search.

    Args:
        path: The folder.
        epochs: How many of the four epochs are done.
        sharpness: How far the choice is from uniform.
        **run: For run.yaml.
    """
    folder = RunFolder(path)
    about: dict[str, Any] = {"seed": 7, "train": "data/train", "valid": "data/dev"}
    about |= {"commit": "abc123", "machine": "a machine", "config": "small", **run}
    folder.begin(CONFIG, about, resume=False)
    strategy, rng = CONFIG.new_strategy(), random.Random(0)
    alive = all_candidates(SPACE)
    records: list[EpochRecord] = []
    for number in range(epochs):
        stage, epoch = divmod(number, 2)
        if number == 2:
            alive = strategy.next_candidates(0, records[-1].probabilities)
        table = {kind: [softmax(edge, sharpness, rng) for edge in alive[kind]] for kind in KINDS}
        genotype = derived(table)
        record = EpochRecord(
            stage=stage + 1,
            epoch=epoch + 1,
            steps=10,
            train_loss=3.0 - 0.3 * number,
            architecture_loss=None if epoch == 0 else 2.5,
            valid_loss=3.1 - 0.3 * number,
            valid_ter=80.0 - 10 * number,
            dropout=0.0,
            entropy={
                kind: sum(-p * math.log(p) for e in table[kind] for p in e.values()) / 14
                for kind in KINDS
            },
            uniform_entropy={kind: math.log(len(alive[kind][0])) for kind in KINDS},
            seconds=61.5,
            probabilities=table,
            genotype=genotype.hash,
        )
        folder.save_genotype(genotype, *record.place)
        records.append(record)
    folder.write_records(records)
    if epochs == 4:
        folder.save_result(genotype)
    return folder


def softmax(names: Any, sharpness: float, rng: random.Random) -> dict[str, float]:
    powers = {op: math.exp(sharpness * rng.random()) for op in names}
    return {op: power / sum(powers.values()) for op, power in powers.items()}


def derived(table: dict[str, Any]) -> Genotype:
    limits = {"normal": CONFIG.regularization.at_most, "reduction": {}}
    cells = {kind: derive_cell(table[kind], SPACE.nodes, limits[kind]).to_dict() for kind in KINDS}
    document = {"schema": 1, "name": "found", "space": SPACE.name, **cells}
    return Genotype.from_dict(document | {"provenance": {"kind": "search"}})

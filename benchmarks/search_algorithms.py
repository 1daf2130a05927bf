"""All search algorithms in one space: those of trials on a table, those with gradients beside them.

Searches ``tdnn_chain`` with gradients (DARTS and ST-NAS), then builds a table of random members
of the space and of what was found, all trained by one recipe, and compares on it: regret over
the epochs spent, with quartiles over seeds. Everything is small enough for minutes on one core,
and says as little about larger networks.

    python benchmarks/search_algorithms.py --train train/cuts.jsonl.gz --valid dev/cuts.jsonl.gz \
        --test test/cuts.jsonl.gz --output exp/algorithms
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

from nas_encoder.cli.main import main as nas_encoder
from nas_encoder.search import SearchConfig, run_search
from nas_encoder.search.runfolder import RunFolder
from nas_encoder.search.tabular.build import TableBuilder
from nas_encoder.search.tabular.config import TableConfig
from nas_encoder.spaces import get_space

SPACE = "tdnn_chain"
STRATEGIES = ("darts", "stnas")
FEATURES = {"num_mel_bins": 24}
WIDTH = 64


def gradient_config(strategy: str, epochs: int) -> SearchConfig:
    """Return a search of the width of the table's networks; half of its epochs warm up."""
    size = {"layers": 6, "channels": WIDTH, "operations": 4, "dropout": 0.0}
    half = epochs // 2
    stages: list[dict[str, Any]] = [{**size, "epochs": epochs, "warmup_epochs": half}]
    if strategy == "stnas":
        stages = [
            {**size, "phase": "warmup", "epochs": half, "warmup_epochs": 0},
            {**size, "epochs": epochs - half, "warmup_epochs": 0},
        ]
    return SearchConfig.from_dict(
        {
            "strategy": strategy,
            "space": SPACE,
            "name": strategy,
            "tokens": "phone",
            "architecture_data": "valid",
            "features": FEATURES,
            "network": {"output_size": WIDTH},
            "stages": stages,
            "weights": {"optimizer": "adam", "lr": 0.002, "min_lr": 0.0002, "weight_decay": 0.0},
            "architecture": {"lr": 0.03, "betas": [0.9, 0.999], "weight_decay": 0.0},
            "regularization": {"operations": [], "at_most": {}},
            "batch": {"max_utterances": 4},
            "trainer": {"accelerator": "cpu", "score_utterances": 32},
        }
    )


def table_config(genotypes: list[Path], epochs: int, seeds: int) -> TableConfig:
    """Return the configuration of the table of these genotypes."""
    return TableConfig.from_dict(
        {
            "name": "algorithms",
            "space": SPACE,
            "architectures": {"kind": "list", "genotypes": [str(path) for path in genotypes]},
            "network": {"channels": WIDTH, "output_size": WIDTH, "dropout": 0.0},
            "features": FEATURES,
            "tokens": "phone",
            "folding": "timit39",
            "beam": 1,
            "recipe": {
                "epochs": [epochs],
                "seeds": [1234 + place for place in range(seeds)],
                "batch": 4,
                "lr": 0.002,
                "decay": 0.8,
                "decay_from": max(1, epochs - 3),
                "warm_up": [],
            },
            "device": "cpu",
            "note": f"{len(genotypes)} chains of width {WIDTH}, trained for seconds on 80 "
            "utterances of synthetic speech: random members of the space and the results of "
            "gradient searches.",
        }
    )


def main() -> None:
    """Search, build, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("train", "valid", "test", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--architectures", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=14, help="of a training in the table")
    parser.add_argument("--search-epochs", type=int, default=20, help="of a gradient search")
    parser.add_argument("--seeds", type=int, default=2, help="of each training in the table")
    parser.add_argument("--runs", type=int, default=50)
    args = parser.parse_args()
    output = Path(args.output)
    found = []
    for strategy in STRATEGIES:
        folder = output / strategy
        done = folder.is_dir() and RunFolder(folder).result() is not None
        if not done:
            gradient = gradient_config(strategy, args.search_epochs)
            run_search(gradient, args.train, folder, valid=args.valid, seed=0, resume=True)
        found.append(folder / "genotype.yaml")
    space, rng = get_space(SPACE), random.Random(0)
    genotypes = list(found)
    (output / "members").mkdir(exist_ok=True)
    for place in range(args.architectures):
        genotypes.append(output / "members" / f"{place:03d}.yaml")
        space.sample(rng).save(genotypes[-1])
    table = output / "algorithms.sqlite"
    config = table_config(genotypes, args.epochs, args.seeds)
    TableBuilder(config, args.train, args.valid, args.test, table, resume=True).run()
    command = ["table", "compare", str(table), "--output", str(output / "compared")]
    command += ["--runs", str(args.runs), "--gradient", *map(str, found)]
    raise SystemExit(nas_encoder(command))


if __name__ == "__main__":
    main()

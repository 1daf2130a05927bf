"""Trial and gradient search algorithms compared in one space.

Searches a space with gradients (DARTS and ST-NAS, several seeds each), adds the results to a table
of trained networks of that space, and compares all algorithms on it: regret over the epochs spent,
with quartiles over seeds. The supernets have the size of the table's networks and use its data.
With --table NAME the table is a copy of a shipped one (or a file), which must be of the same data;
without it a table of random chains is built first. Everything is small enough for minutes on one
core, and says as little about larger networks. Finished steps are not repeated.

    python benchmarks/search_algorithms.py --train train/cuts.jsonl.gz --valid dev/cuts.jsonl.gz \
        --test test/cuts.jsonl.gz --output exp/chains
    python benchmarks/search_algorithms.py --table synth_timit --train ... --output exp/nodes
"""

from __future__ import annotations

import argparse
import random
import shutil
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from nas_encoder.cli.main import main as nas_encoder
from nas_encoder.common.problems import Problems
from nas_encoder.common.resources import conf_root
from nas_encoder.errors import ConfigError
from nas_encoder.search import SearchConfig, run_search
from nas_encoder.search.folder import RunFolder
from nas_encoder.spaces import SearchSpace, get_space
from nas_encoder.tabular import list_tables
from nas_encoder.tabular.build import TableBuilder
from nas_encoder.tabular.config import TableConfig
from nas_encoder.tabular.store import TableFile

STRATEGIES = ("darts", "stnas")
CHAINS = {"channels": 64, "output_size": 64, "dropout": 0.0}


def _fits(space: SearchSpace, layers: int, section: Any) -> bool:
    space.check_layers(layers, section, "layers", found := Problems())
    return not found


def gradient_config(strategy: str, epochs: int, table: TableConfig) -> SearchConfig:
    """Return a search at the size of a table's networks; half of its epochs warm up."""
    space = get_space(table.space)
    network: Any = space.options.from_dict(
        {"input_size": table.features.num_mel_bins, **table.network}
    )
    names = [item.name for item in fields(space.section)]
    if unknown := sorted(set(table.network) - {*names, "channels", "dropout", "layers"}):
        raise ConfigError(f"table {table.name}", [f"network: a search knows no {unknown}"])
    shared = {name: getattr(network, name) for name in names}
    layers = next(n for n in range(3, 1025) if _fits(space, n, network))
    operations = len(next(iter(space.first_candidates().values()))[0])
    size = {
        "layers": layers,
        "channels": network.channels,
        "operations": operations,
        "dropout": network.dropout,
    }
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
            "space": table.space,
            "name": strategy,
            "tokens": table.tokens,
            "architecture_data": "valid",
            "features": asdict(table.features),
            "network": shared,
            "stages": stages,
            "weights": {"optimizer": "adam", "lr": 0.002, "min_lr": 0.0002, "weight_decay": 0.0},
            "architecture": {"lr": 0.03, "betas": [0.9, 0.999], "weight_decay": 0.0},
            "regularization": {"operations": [], "at_most": {}},
            "batch": {"max_utterances": 4},
            "trainer": {"accelerator": "cpu", "score_utterances": 32},
        }
    )


def chains_config(genotypes: list[Path], epochs: int, seeds: int) -> TableConfig:
    """Return the configuration of a table of these chains."""
    return TableConfig.from_dict(
        {
            "name": "algorithms",
            "space": "tdnn_chain",
            "architectures": {"kind": "list", "genotypes": [str(path) for path in genotypes]},
            "network": CHAINS,
            "features": {"num_mel_bins": 24},
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
            "note": f"{len(genotypes)} random chains of width {CHAINS['channels']} and the results "
            "of gradient searches, trained for seconds on 80 utterances of synthetic speech.",
        }
    )


def begin_table(args: Any, output: Path) -> tuple[TableConfig, Path]:
    """Return a table's configuration, and its file if it exists."""
    path = output / "algorithms.sqlite"
    if args.table is not None:
        shipped = Path(args.table)
        if args.table in list_tables():
            shipped = conf_root() / "table" / f"{args.table}.sqlite"
        with TableFile(shipped, create=False) as file:
            config = TableConfig.from_dict(file.about()["config"])
        if not path.is_file():
            shutil.copyfile(shipped, path)
        return config, path
    space, rng = get_space("tdnn_chain"), random.Random(0)
    genotypes = []
    (output / "members").mkdir(parents=True, exist_ok=True)
    for place in range(args.architectures):
        genotypes.append(output / "members" / f"{place:03d}.yaml")
        space.sample(rng).save(genotypes[-1])
    return chains_config(genotypes, args.epochs, args.seeds), path


def main() -> None:
    """Search, train the results, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("train", "valid", "test", "output"):
        parser.add_argument(f"--{name}", required=True)
    add = parser.add_argument
    add("--table", help="a shipped table or a file, of this data; default: random chains")
    add("--architectures", type=int, default=16, help="random chains")
    add("--epochs", type=int, default=14, help="of a chain's training")
    add("--seeds", type=int, default=2, help="of each chain's training")
    add("--searches", type=int, default=5, help="of each gradient strategy")
    add("--search-epochs", type=int, default=20, help="of a gradient search")
    add("--runs", type=int, default=50, help="of each algorithm on the table")
    args = parser.parse_args()
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    config, table = begin_table(args, output)
    if table.is_file():  # it will be extended, so report now whether it is of this data
        TableBuilder(config, args.train, args.valid, args.test, table, resume=True).run()
    found = []
    for strategy in STRATEGIES:
        for seed in range(args.searches):
            folder = output / "searches" / strategy / str(seed)
            found.append(folder / "genotype.yaml")
            if folder.is_dir() and RunFolder(folder).result() is not None:
                continue
            gradient = gradient_config(strategy, args.search_epochs, config)
            run_search(gradient, args.train, folder, valid=args.valid, seed=seed, resume=True)
    builder = TableBuilder(
        config, args.train, args.valid, args.test, table, resume=True, added=found
    )
    builder.run()
    command = ["table", "compare", str(table), "--output", str(output / "compared")]
    command += ["--runs", str(args.runs), "--gradient", *map(str, found)]
    raise SystemExit(nas_encoder(command))


if __name__ == "__main__":
    main()

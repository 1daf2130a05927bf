"""Tables of trained architectures: build one, merge shards, convert the published files, ask.

A table holds, for each architecture and seed, the validation error after every epoch and the test
error of the best one, and for each architecture its size, multiply-adds and measured latency.
"""

from __future__ import annotations

import argparse
import json
import string
from typing import Any

from nas_encoder.cli import add_settings, add_tokens, table_compare, token_settings
from nas_encoder.common.resources import list_configs
from nas_encoder.errors import ConfigError, DataError
from nas_encoder.genotype import load_genotype

EXAMPLES = """examples:
  nas-encoder table build --config nasbench_asr_timit --train data/train --valid data/dev \\
      --test data/test --output exp/table.sqlite
  nas-encoder table build ... --output exp/part2.sqlite --shard 2/8     (one of 8 machines)
  nas-encoder table build ... --output exp/part2.sqlite --shard 2/8 --resume
  nas-encoder table build ... --output exp/table.sqlite --resume --add exp/search/genotype.yaml
  nas-encoder table merge exp/part?.sqlite --output exp/table.sqlite
  nas-encoder table convert downloads/nb-asr --output nb-asr.sqlite
  nas-encoder table show synth_timit --top 5
  nas-encoder table query synth_timit '[[4,1],[1,0,0],[5,1,0,0]]' --seed mean --json
  nas-encoder table compare synth_timit --output exp/compared
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands and their options."""
    commands = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = commands.add_parser("build", help="train architectures of a space on your data")
    shipped = ", ".join(list_configs("table"))
    build.add_argument("--config", required=True, help=f"a YAML file, or one of: {shipped}")
    for name, what in (
        ("train", "training data: Kaldi or ESPnet folder, NeMo manifest, lhotse cuts"),
        ("valid", "data that the best epoch is chosen on"),
        ("test", "data that the best epoch is tested on"),
    ):
        build.add_argument(f"--{name}", required=True, metavar="DATA", help=what)
    build.add_argument("--output", required=True, metavar="FILE", help="SQLite file")
    build.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N", help="train part I of N"
    )
    build.add_argument("--resume", action="store_true", help="continue an existing file")
    build.add_argument(
        "--add",
        nargs="+",
        default=[],
        metavar="GENOTYPE",
        help="further architectures: zoo names or files; with --resume also into a finished table",
    )
    add_tokens(build, "the config's")
    add_settings(build, "change the configuration, for example recipe.batch=16")
    merge = commands.add_parser("merge", help="join the files of shards")
    merge.add_argument("parts", nargs="+", metavar="FILE")
    merge.add_argument("--output", required=True, metavar="FILE")
    convert = commands.add_parser("convert", help="write the published files as one SQLite file")
    convert.add_argument("source", help="folder with nb-asr-*.pickle, or any other table")
    convert.add_argument("--output", required=True, metavar="FILE")
    show = commands.add_parser("show", help="say what a table holds")
    show.add_argument("source", help="name of a shipped table, SQLite file or folder of pickles")
    show.add_argument("--top", type=int, default=10, help="best architectures (default 10)")
    query = commands.add_parser("query", help="all numbers of one architecture")
    query.add_argument("source", help="as for show")
    query.add_argument("architecture", help="vector, hash, name of the zoo or YAML file")
    query.add_argument("--seed", default="mean", help="a seed, or mean, median, min, max")
    query.add_argument("--epoch", type=int, help="epochs that count (default all)")
    query.add_argument("--target", type=int, help="target epochs (default the most there are)")
    comparison = commands.add_parser("compare", help="compare search algorithms on a table")
    table_compare.add_arguments(comparison)
    for command in (show, query):
        command.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Run the sub-command."""
    actions = {"build": _build, "merge": _merge, "convert": _convert, "show": _show}
    actions["compare"] = table_compare.run
    return actions.get(args.action, _query)(args)


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"must be I/N with 1 <= I <= N, got {text!r}")
    return int(part), int(parts)


def _build(args: argparse.Namespace) -> int:
    from nas_encoder.tabular.build import TableBuilder
    from nas_encoder.tabular.config import load_table_config

    config = load_table_config(args.config, [*token_settings(args), *args.settings])
    where = (args.train, args.valid, args.test, args.output)
    TableBuilder(config, *where, args.shard, args.resume, added=args.add).run()
    print(args.output)
    return 0


def _merge(args: argparse.Namespace) -> int:
    from nas_encoder.tabular.merge import merge_tables

    merge_tables(args.parts, args.output)
    print(args.output)
    return 0


def _convert(args: argparse.Namespace) -> int:
    from nas_encoder.tabular import convert

    table = convert(args.source, args.output)
    print(f"{args.output}  {len(table)} architectures")
    return 0


def _show(args: argparse.Namespace) -> int:
    from nas_encoder.tabular import load_table

    table = load_table(args.source)
    best = [
        {
            "model_hash": key,
            "val_per": error,
            "test_per": table.test_acc(key, seed="mean"),
            **table.static.get(key, {}),
            "latency": table.latencies_of(key),
        }
        for key, error in list(table.ranking())[: args.top]
    ]
    document = {
        "space": table.space,
        "architectures": len(table),
        "targets": table.targets,
        "seeds": table.seeds,
        "devices": table.devices,
        "best": best,
        "about": table.about,
    }
    if args.json:
        print(json.dumps(document))
        return 0
    print(f"space {table.space}, {len(table)} architectures")
    print(f"target epochs {_list(table.targets)}; seeds {_list(table.seeds)}")
    print(f"latencies on {'; '.join(table.devices) or 'no device'}")
    if note := table.about.get("note"):
        print(note)
    print("\nbest by validation error, mean over seeds:")
    sized = any("params" in row for row in best)
    print(f"  architecture                       valid %  test %{'   M params' * sized}")
    for row in best:
        params = f"{row['params'] / 1e6:10.3f}" if "params" in row else ""
        print(
            f"  {row['model_hash']:<34}{100 * row['val_per']:>8.2f}{100 * row['test_per']:>8.2f}"
            f" {params}"
        )
    return 0


def _query(args: argparse.Namespace) -> int:
    from nas_encoder.tabular import load_table, model_hash

    table = load_table(args.source)
    architecture = _architecture(args.architecture)
    seed: Any = int(args.seed) if args.seed.isdecimal() else args.seed
    key = model_hash(architecture, table.space)
    asked = {"seed": seed, "target": args.target}
    error = table.val_acc(key, epoch=args.epoch, **asked)
    if error is None:
        rule = f"it has no architecture {key}; 'nas-encoder table show' lists the best that it has"
        raise DataError(f"table {args.source}", [rule])
    document = {
        "model_hash": key,
        "seed": seed,
        "val_per": error,
        "last_val_per": table.val_acc(key, epoch=args.epoch, best=False, **asked),
        "test_per": table.test_acc(key, **asked),
        "latency": table.latencies_of(key),
        "info": table.info(key) if table.static else None,
    }
    if args.json:
        print(json.dumps(document))
    else:
        for name, value in document.items():
            print(f"{name:<13} {value}")
    return 0


def _architecture(text: str) -> Any:
    """Read a vector, a hash, a zoo name or a path."""
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError("architecture", [f"is no vector: {error}"]) from None
    if len(text) in (16, 32) and set(text) <= set(string.hexdigits.lower()):
        return text
    return load_genotype(text)


def _list(values: list[Any]) -> str:
    return ", ".join(map(str, values)) or "none"

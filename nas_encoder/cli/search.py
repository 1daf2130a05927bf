"""Search a genotype on speech data, with gradients or by trials.

The data are a Kaldi or ESPnet data folder, a NeMo manifest, lhotse cuts, or a folder made by
'nas-encoder data prepare'. The run folder holds the result (genotype.yaml), the genotype after
each epoch, metrics, TensorBoard events, a report and the checkpoint that --resume continues from.
With several seeds, each has such a folder below the run folder, and the best derived network by
validation is the result. Ctrl-C and SIGTERM write a checkpoint and print the command that goes on.
"""

from __future__ import annotations

import argparse
import json

from nas_encoder.cli import add_settings, add_tokens, quiet_profiler, token_settings
from nas_encoder.common.resources import list_configs

EXAMPLES = """examples:
  nas-encoder search --config small --train data/train --valid data/dev --output exp/search
  nas-encoder search --config he2020_revised --train dump/raw/train_sp --output exp/he --seed 1 \\
      --set batch.max_utterances=8 --set trainer.precision=bf16-mixed
  nas-encoder search --config small --train data/train --valid data/dev --output exp/search --resume
  nas-encoder search --config small --train dump/raw/train_sp --valid dump/raw/dev \\
      --output exp/zh --tokens data/zh_token_list/char/tokens.txt
  nas-encoder search --config small --train data/train --valid data/dev --output exp/three \\
      --seeds 0 1 2
  nas-encoder search --config small --train data/train --valid data/dev --output exp/light \\
      --set objective.parameters=4000000
  nas-encoder search --config he2020_revised --train dump/raw/train_sp --output exp/he2 --seed 0 \\
      --set trainer.devices=2
searches by trials (random, evolution, hyperband, nsga2, tpe) with Optuna:
  nas-encoder search --config evolution --train data/train --valid data/dev --output exp/evolution
  nas-encoder search --config nsga2 --train data/train --valid data/dev --output exp/front
  nas-encoder search --config tpe --output exp/lookup --set space=nasbench_asr \\
      --set table.source=nb-asr.sqlite
  nas-encoder search --config tpe ... --output exp/lookup --resume --set trials.count=200  (longer)
  more workers: the same command with --resume for a shared folder, or on many machines with
      --storage postgresql://user@host/studies; watch them with
      optuna-dashboard sqlite:///exp/evolution/study.db (pip install optuna-dashboard)
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    shipped = ", ".join(list_configs("search"))
    parser.add_argument("--config", required=True, help=f"a YAML file, or one of: {shipped}")
    parser.add_argument(
        "--train", metavar="DATA", help="training data (needed, but for a search in a table)"
    )
    parser.add_argument(
        "--valid",
        metavar="DATA",
        help="validation data (a search with gradients can do without: then scores are those of "
        "the half of the training data that the architecture learns from)",
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="run folder")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument(
        "--seed", type=int, help="of everything random (default: the config's seeds, or 0)"
    )
    seeds.add_argument(
        "--seeds", type=int, nargs="+", metavar="N", help="search with each; the best one is kept"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue a stopped run, or join a trial-based one"
    )
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="searches by trials: any Optuna storage (default: study.db in the run folder)",
    )
    add_tokens(parser, "the config's")
    add_settings(
        parser, "change the configuration, for example weights.lr=0.02 or stages.0.epochs=3"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    quiet_profiler()
    from nas_encoder.search import run_search
    from nas_encoder.search.config.load import load_any_search_config

    settings = [*token_settings(args), *args.settings]
    if args.seeds is not None:
        settings.append(f"seeds={args.seeds}")
    genotype = run_search(
        load_any_search_config(args.config, settings),
        args.train,
        args.output,
        valid=args.valid,
        seed=args.seed,
        resume=args.resume,
        config_name=str(args.config),
        storage=args.storage,
    )
    if args.json:
        result = {"genotype": genotype.to_dict(), "hash": genotype.hash, "output": args.output}
        print(json.dumps(result))
    else:
        print(f"{args.output}/genotype.yaml  {genotype.hash}")
    return 0

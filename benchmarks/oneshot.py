"""The one-shot supernet of block encoders: what sharing costs, and what its scores are worth.

``step``: a training step (forward, and backward to all weights) of the biggest and the smallest
encoder of some draws, with shared weights and as the plain network, in turns; the median of
--repeats, and the shared one as a share of the plain one. On a GPU also with ``--bf16``, and with
``--compile``, by ``torch.compile``; the first of a network's steps, which compiles, does not count.

``rank``: trains a supernet by a search configuration (``training``), scores --networks random
networks with it, trains each of them alone by ``--seconds``, and prints Kendall's tau of the two
errors, and that of the number of parameters, which is what a search without scores would go by.
A run folder that is given again goes on where it stopped.

    python benchmarks/oneshot.py step
    python benchmarks/oneshot.py rank --config oneshot --train DATA --valid DATA --output DIR
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nas_encoder.common.provenance import environment
from nas_encoder.deploy.timing import measure, quiet_clock
from nas_encoder.network import build_encoder
from nas_encoder.search.config.load import load_any_search_config
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.trials.supernet import SupernetEvaluator
from nas_encoder.search.trials.training import TrainingEvaluator
from nas_encoder.spaces import get_space


def config_of(args: argparse.Namespace) -> TrialsConfig:
    """Return the configuration of a search with a supernet."""
    config = load_any_search_config(args.config, args.set)
    if not isinstance(config, TrialsConfig) or config.supernet is None:
        raise SystemExit(f"--config {args.config}: has no section 'supernet'")
    return config


def step(args: argparse.Namespace) -> dict[str, Any]:
    """Measure training steps with shared weights and with those of the plain network."""
    config = config_of(args)
    space, device = get_space(config.space), torch.device(args.device)
    torch.manual_seed(0)
    sizes = {**config.network, "input_size": config.features.num_mel_bins}
    shared: Any = space.oneshot.build(space, config.choices, space.options.from_dict(sizes))
    shared = shared.to(device).train()
    weights = sum(p.numel() for p in shared.parameters())
    draws, rng = shared.draws, random.Random(0)
    if args.compile:
        shared = torch.compile(shared)
    x = torch.randn(args.batch, args.frames, sizes["input_size"], device=device)
    lengths = torch.linspace(args.frames, 0.4 * args.frames, args.batch, device=device).long()
    rows = []
    for _ in range(args.draws):
        for name, genotype in zip(("biggest", "smallest"), draws(rng, 0), strict=True):
            plain: Any = build_encoder(genotype, **sizes).to(device).train()
            if args.compile:
                plain = torch.compile(plain)

            def run(module: Any, *more: Any) -> None:
                module.zero_grad()
                with torch.autocast(device.type, torch.bfloat16) if args.bf16 else nullcontext():
                    y = module(x, lengths, *more)[0]
                y.float().square().mean().backward()

            calls = {
                "shared": lambda given=genotype: run(shared, given),
                "plain": lambda module=plain: run(module),
            }
            times = measure(calls, args.repeats, clock=quiet_clock(device))
            row = {side: round(1e3 * found.median, 2) for side, found in times.items()}
            share = round(times["shared"].median / times["plain"].median, 3)
            rows.append({"network": name, "hash": genotype.hash, **row, "share": share})
            print(name, row, "share", share, file=sys.stderr)
    return {"weights": weights, "batch": args.batch, "frames": args.frames, "rows": rows}


def rank(args: argparse.Namespace) -> dict[str, Any]:
    """Compare the scores of a supernet with trainings."""
    from scipy.stats import kendalltau

    config, data = config_of(args), (args.train, args.valid, args.seed)
    evaluator = SupernetEvaluator(config.supernet, config, *data)  # type: ignore[arg-type]
    folder = Path(args.output)
    folder.mkdir(parents=True, exist_ok=True)
    evaluator.prepare(RunFolder(folder))
    rng = random.Random(args.seed)
    drawn = [evaluator.space.sample(rng) for _ in range(args.networks)]
    scores = [next(iter(evaluator.errors(genotype))) for genotype in drawn]
    training = replace(config.training, epochs=None, seconds=args.seconds, evaluate_at=(1.0,))
    alone = TrainingEvaluator(replace(config, supernet=None, training=training), *data)
    rows: list[dict[str, Any]] = []
    for genotype, score in zip(drawn, scores, strict=True):
        error = list(alone.errors(genotype))[-1]
        size = evaluator.costs(genotype)["parameters"]
        rows.append({"hash": genotype.hash, "shared": score, "alone": error, "parameters": size})
        print(rows[-1], file=sys.stderr, flush=True)
    errors = [row["alone"] for row in rows]
    tau = {
        "shared": float(kendalltau([row["shared"] for row in rows], errors).statistic),
        "parameters": float(kendalltau([-row["parameters"] for row in rows], errors).statistic),
    }
    epochs = len(evaluator.history)
    return {"supernet_epochs": epochs, "seconds": args.seconds, "tau": tau, "rows": rows}


def main() -> int:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("what", choices=("step", "rank"))
    parser.add_argument("--config", default="oneshot", help="of a search with a supernet")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true", help="step: by torch.compile")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--frames", type=int, default=400)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--train")
    parser.add_argument("--valid")
    parser.add_argument("--output")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--networks", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=100.0, help="of a network's training")
    args = parser.parse_args()
    if args.what == "rank" and not (args.train and args.valid and args.output):
        parser.error("rank needs --train, --valid and --output")
    torch.set_num_threads(args.threads)
    found = {"step": step, "rank": rank}[args.what](args)
    print(json.dumps({**environment(), "threads": args.threads, **found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Predicted against measured latency of random block encoders, on this machine.

Draws encoders whose parameters are in a range, measures every piece that they have
(``nas-encoder bench --operations`` measures the pieces of a whole space likewise), and some other
encoders, which give the factor of all sums and what each piece costs besides; then compares
predictions with measurements. Everything is measured in --rounds rounds, pieces and encoders alike,
and the fastest round counts, as other load only slows; how much a latency differs between two
rounds says how noisy the machine is.

    python benchmarks/latency_blocks.py --widths 32 48 64 80 96 112 --parameters 0.2e6 0.5e6
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from scipy.stats import kendalltau, spearmanr

from nas_encoder.common.provenance import environment
from nas_encoder.deploy.latency import BenchSettings, measure_network, measuring
from nas_encoder.genotype import Genotype
from nas_encoder.spaces import get_space


def draw(args: argparse.Namespace, pieces: Any, costs: Any) -> list[tuple[Genotype, float]]:
    """Return encoders within the range, each with its number of parameters."""
    rng, found = random.Random(args.seed), []
    low, high = args.parameters
    while len(found) < args.networks + args.calibration:
        genotype = pieces.sample(rng)
        parameters = costs.of(genotype.architecture)["parameters"]
        if low <= parameters <= high:
            found.append((genotype, parameters))
    return found


def measure_all(
    args: argparse.Namespace, pieces: Any, drawn: list[tuple[Genotype, float]]
) -> tuple[dict[Any, list[float]], list[list[float]]]:
    """Return the milliseconds of each round, of each piece and of each encoder."""
    settings = BenchSettings(
        threads=args.threads, seconds=args.seconds, repeats=args.repeats, seed=args.seed
    )
    parts = list(
        dict.fromkeys(p for genotype, _ in drawn for p in pieces.pieces_of(genotype.architecture))
    )
    of_pieces: dict[Any, list[float]] = {piece: [] for piece in parts}
    of_networks: list[list[float]] = [[] for _ in drawn]
    with measuring(settings) as timed:
        for number in range(args.rounds):
            work: list[Any] = [*parts, *range(len(drawn))]
            random.Random(number).shuffle(work)
            began = time.monotonic()
            for done, item in enumerate(work):
                if isinstance(item, int):
                    genotype = drawn[item][0]
                    ms = measure_network(genotype, pieces.config, args.frames, settings, timed)
                    of_networks[item].append(ms)
                else:
                    torch.manual_seed(args.seed)
                    part = pieces.build(item)
                    of_pieces[item].append(timed(part) / part.copies)
                if done % 200 == 199:
                    left = (time.monotonic() - began) * (len(work) / (done + 1) - 1)
                    print(
                        f"round {number + 1} of {args.rounds}: {done + 1} of {len(work)}, "
                        f"{left:.0f} s left of it",
                        file=sys.stderr,
                    )
    return of_pieces, of_networks


def compare(table: Any, measured: list[float], pieces: list[list[Any]]) -> dict[str, Any]:
    """Return errors of a table's predictions."""
    predicted = [table.predict(own) for own in pieces]
    errors = sorted(abs(p - m) / m for p, m in zip(predicted, measured, strict=True))
    return {
        "median_error": round(statistics.median(errors), 4),
        "mean_error": round(statistics.fmean(errors), 4),
        "error_90": round(errors[int(0.9 * len(errors))], 4),
        "largest_error": round(errors[-1], 4),
        "spearman": round(float(spearmanr(predicted, measured).statistic), 4),
        "kendall": round(float(kendalltau(predicted, measured).statistic), 4),
        "fastest_ms": round(min(measured), 2),
        "slowest_ms": round(max(measured), 2),
    }


def spread(rounds: list[list[float]]) -> float:
    """Return the median relative difference of the first and the last round."""
    return statistics.median(abs(own[0] - own[-1]) / min(own[0], own[-1]) for own in rounds)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument(
        "--calibration", type=int, default=12, help="other encoders, for the factor"
    )
    parser.add_argument(
        "--parameters", type=float, nargs=2, default=(0.2e6, 0.5e6), metavar=("LOW", "HIGH")
    )
    parser.add_argument(
        "--widths", type=int, nargs="+", default=[32, 48, 64, 80, 96, 112], help="of stages"
    )
    parser.add_argument("--input-size", type=int, default=80)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.1, help="at least, of each and round")
    parser.add_argument("--repeats", type=int, default=7, help="calls, at least, of each and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write all numbers")
    args = parser.parse_args()
    space: Any = get_space("blocks")
    options = space.options(input_size=args.input_size)
    costs = space.costs.build(space, options, args.frames)
    pieces = space.costs.pieces(space, options, args.frames, {"widths": args.widths})
    load = os.getloadavg()[0]
    drawn = draw(args, pieces, costs)
    of_pieces, of_networks = measure_all(args, pieces, drawn)
    ms = {piece: min(own) for piece, own in of_pieces.items()}
    measured = [min(own) for own in of_networks]
    of = [pieces.pieces_of(genotype.architecture) for genotype, _ in drawn]
    sums = [sum(ms[piece] for piece in own) for own in of]
    checks = [
        {"pieces": len(own), "sum_ms": total, "network_ms": whole}
        for own, total, whole in zip(of, sums, measured, strict=True)
    ][: args.calibration]
    table = space.costs.LatencyTable(ms, {}, tuple(checks))
    factor, constant = table.factors
    found = {
        "factor": round(factor, 4),
        "piece_ms": round(constant, 5),
        **compare(table, measured[args.calibration :], of[args.calibration :]),
    }
    about = {
        "environment": environment(),
        "arguments": {name: own for name, own in vars(args).items() if name != "json"},
        "pieces": len(ms),
        "load_before_and_after": [round(load, 1), round(os.getloadavg()[0], 1)],
        "networks_differ_between_rounds": round(spread(of_networks), 4),
        "pieces_differ_between_rounds": round(spread(list(of_pieces.values())), 4),
    }
    print(json.dumps({**about, **found}, indent=1))
    if args.json:
        names = ("name", "input_width", "width", "frames")
        rows = [
            {
                "hash": genotype.hash,
                "parameters": int(parameters),
                "measured_ms": [round(value, 4) for value in own],
                "pieces": len(own_pieces),
                "sum_ms": round(total, 4),
                "calibration": number < args.calibration,
            }
            for number, ((genotype, parameters), own, total, own_pieces) in enumerate(
                zip(drawn, of_networks, sums, of, strict=True)
            )
        ]
        listed = [
            [*(getattr(piece, name) for name in names), *(round(value, 5) for value in own)]
            for piece, own in of_pieces.items()
        ]
        document = {**about, **found, "networks": rows, "measured_pieces": listed}
        Path(args.json).write_text(json.dumps(document) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

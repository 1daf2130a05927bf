"""Compares strategies with random genotypes: means, deviations, rank tests, a picture."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_encoder.common.provenance import environment
from nas_encoder.errors import DataError
from nas_encoder.genotype import load_genotype
from nas_encoder.spaces import get_space
from tools.experiments.job_costs import read_costs
from tools.results.document import corpus_name, corpus_sentence, write_files
from tools.results.ranks import expected_best, rank_test
from tools.scripts import command

RANDOM = "random"
TITLES = {
    "pdarts": "P-DARTS",
    "darts_first": "DARTS, first order",
    "darts_second": "DARTS, second order",
    "stnas": "ST-NAS",
    "pdarts_edges": "P-DARTS, learned edges",
    "darts_first_edges": "DARTS, first order, learned edges",
    "darts_first_drawn": "DARTS, first order, drawn edges",
    "darts_second_edges": "DARTS, second order, learned edges",
    "stnas_edges": "ST-NAS, learned edges",
    RANDOM: "random genotypes",
}
SHAPES = {
    "depth": "most convolutions in a row",
    "inputs": "edges from the cell's two inputs",
    "pools": "poolings",
}


@dataclass(frozen=True)
class Group:
    """The trainings of a strategy's genotypes, or of the random ones.

    Attributes:
        name: The strategy's name, or ``random``.
        results: Results of ``local.train``, one for each genotype.
        search_seconds: CPU seconds of each search; empty for random genotypes.
    """

    name: str
    results: Sequence[Mapping[str, Any]]
    search_seconds: Sequence[float] = ()

    @property
    def errors(self) -> list[float]:
        """CER of each genotype in percent."""
        return [float(result["cer"]) for result in self.results]


def draws_for(group: Group, others: Group) -> int | None:
    """Return how many of the random genotypes cost as much as a search and its training."""
    if not group.search_seconds:
        return None
    training = statistics.mean(float(result["training_seconds"]) for result in others.results)
    own = statistics.mean(float(result["training_seconds"]) for result in group.results)
    count = round((statistics.mean(group.search_seconds) + own) / training)
    return min(max(1, count), len(others.results))


def read_groups(expdir: Path, strategies: Sequence[str], seeds: int, draws: int) -> list[Group]:
    """Read the trainings and the costs of the searches; DataError if results are missing."""
    missing: list[str] = []

    def read(name: str) -> Mapping[str, Any]:
        path = expdir / "train" / f"{name}.json"
        if not path.is_file():
            missing.append(f"{path} is not there")
            return {}
        kind, number = name.split("/")
        genotype = expdir / "search" / name / "genotype.yaml"
        if kind == RANDOM:
            genotype = expdir / RANDOM / f"{number}.yaml"
        result: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = load_genotype(genotype)
        # The whole genotype, so that it can be trained again without its search.
        numbers = get_space(found.space).shape(found.architecture)
        return {**result, "shape": numbers, "document": found.to_dict()}

    groups = []
    for strategy in strategies:
        runs = [f"{strategy}/{seed}" for seed in range(1, seeds + 1)]
        results = [read(run) for run in runs]
        searches = [] if missing else [read_costs(expdir, f"search/{run}") for run in runs]
        groups.append(Group(strategy, results, [cost["cpu_seconds"] for cost in searches]))
    groups.append(Group(RANDOM, [read(f"{RANDOM}/{draw}") for draw in range(1, draws + 1)]))
    if missing:
        raise DataError(str(expdir), missing)
    return groups


def rows(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Return one row of the table for each group, with its rank test against the random one."""
    found = []
    others = groups[-1].errors
    for group in groups:
        errors = group.errors
        test = {} if group.name == RANDOM else rank_test(errors, others)
        draws = draws_for(group, groups[-1])
        found.append(
            {
                "name": group.name,
                "genotypes": len(errors),
                "mean": statistics.mean(errors),
                "deviation": statistics.stdev(errors) if len(errors) > 1 else 0.0,
                "best": min(errors),
                "errors": errors,
                "search_seconds": (
                    statistics.mean(group.search_seconds) if group.search_seconds else None
                ),
                "equal_cost_draws": draws,
                "equal_cost_best": None if draws is None else expected_best(others, draws),
                "macs_10s": statistics.mean(float(result["macs_10s"]) for result in group.results),
                **{name: test.get(name) for name in ("lower", "p", "smallest_p")},
            }
        )
    return found


def table(found: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| genotypes of | number | CER %, mean ± sd | best | P(lower than random) | rank test p "
        "| MACs/10 s | search, CPU s | best of k random, same cost |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in found:
        test = ("-", "-") if row["p"] is None else (f"{row['lower']:.2f}", f"{row['p']:.3f}")
        cost = "-" if row["search_seconds"] is None else f"{row['search_seconds']:.0f}"
        equal = "-"
        if row["equal_cost_draws"] is not None:
            equal = f"{row['equal_cost_best']:.1f} (k = {row['equal_cost_draws']})"
        lines.append(
            f"| {TITLES.get(row['name'], row['name'])} | {row['genotypes']} "
            f"| {row['mean']:.1f} ± {row['deviation']:.1f} | {row['best']:.1f} "
            f"| {test[0]} | {test[1]} | {row['macs_10s'] / 1e6:.0f} M | {cost} | {equal} |"
        )
    return "\n".join(lines)


def sentences(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what each rank test supports at the 5 % level, and no more."""
    said = []
    for row in found:
        if row["p"] is None:
            continue
        title = TITLES.get(row["name"], row["name"])
        if row["p"] >= 0.05:
            text = f"no difference from random genotypes shown (p = {row['p']:.2f})"
        elif row["lower"] > 0.5:
            text = f"better than random genotypes (p = {row['p']:.3f})"
        else:
            text = f"worse than random genotypes (p = {row['p']:.3f})"
        said.append(
            f"- {title}: {text}; {row['genotypes']} genotypes could have shown p = "
            f"{row['smallest_p']:.3f} at best."
        )
    return said


def relations(
    shapes: Sequence[Mapping[str, int]], errors: Sequence[float]
) -> list[tuple[str, float, float]]:
    """Return the title, Spearman's rho with the errors, and p of each number that varies."""
    from scipy.stats import spearmanr

    found = []
    for name in shapes[0] if shapes else ():
        values = [shape.get(name) for shape in shapes]
        if None in values or len(set(values)) < 2:
            continue
        kind, number = name.split()
        result = spearmanr(values, errors)
        title = f"{SHAPES[number]}, {kind} cell"
        found.append((title, float(result.statistic), float(result.pvalue)))
    return sorted(found, key=lambda relation: relation[2])


def shapes_table(groups: Sequence[Group]) -> list[str]:
    """Return how the genotypes' shape correlates with the error, as Markdown; or nothing."""
    trainings = [result for group in groups for result in group.results]
    errors = [float(result["cer"]) for result in trainings]
    found = relations([result["shape"] for result in trainings], errors)
    if not found:
        return []
    lines = ["| of a genotype | Spearman's rho with its CER | p |", "| --- | ---: | ---: |"]
    lines += [f"| {title} | {rho:+.2f} | {p:.3f} |" for title, rho, p in found]
    return [
        "## What goes with the error",
        f"Over all {len(trainings)} genotypes, searched or random; p is for each line by itself, "
        "so that one in twenty is below 0.05 by chance.",
        "\n".join(lines),
    ]


def plot(found: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Plot every genotype's error and the means."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 0.6 * len(found) + 1.4), layout="constrained")
    for place, row in enumerate(reversed(found)):
        colour = "tab:gray" if row["name"] == RANDOM else "tab:blue"
        axes.plot(row["errors"], [place] * len(row["errors"]), "o", color=colour, alpha=0.7)
        axes.plot([row["mean"]], [place], "|", color="black", markersize=22)
    axes.set_yticks(
        range(len(found)), [TITLES.get(row["name"], row["name"]) for row in reversed(found)]
    )
    axes.set_xlabel("CER % on other sentences by other voices (synthetic speech); bar: mean")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--expdir", type=Path, required=True, help="experiments")
    add("--strategies", nargs="+", required=True)
    add("--seeds", type=int, required=True, help="searches of each strategy")
    add("--draws", type=int, required=True, help="random genotypes")
    add("--corpus", type=Path, required=True, help="corpus.json of the synthetic corpus")
    add("--command", required=True, help="the command line, to write down")
    add("--output", type=Path, required=True, help="folder for RESULTS.md and the others")
    args = parser.parse_args(arguments)
    groups = read_groups(args.expdir, args.strategies, args.seeds, args.draws)
    found = rows(groups)
    corpus = json.loads(args.corpus.read_text(encoding="utf-8"))
    facts = {"command": args.command, "corpus": corpus["sha256"], **environment()}
    data = {"facts": facts, "rows": found, "trainings": {g.name: g.results for g in groups}}
    origin = facts | {"corpus": corpus_name(corpus)}
    text = write_files(args.output, paragraphs(found, groups, corpus), origin, data)
    plot(found, args.output / "results.png")
    print(text)


def paragraphs(
    found: Sequence[Mapping[str, Any]], groups: Sequence[Group], corpus: Mapping[str, Any]
) -> list[str]:
    """Return the paragraphs of RESULTS.md."""
    trainings = [result for group in groups for result in group.results]
    sizes = sorted(result["encoder_parameters"] for result in trainings)
    steps = sorted({result["steps"] for result in trainings})
    return [
        "# Strategies against random genotypes, on a synthetic corpus",
        f"{corpus_sentence(corpus)} Every genotype is trained from scratch for "
        f"{', '.join(map(str, steps))} steps of equal batches, with {sizes[0]} to {sizes[-1]} "
        "parameters in the encoder; random genotypes are drawn uniformly from the same space.",
        table(found),
        "\n".join(sentences(found)),
        "![CER of every genotype](results.png)",
        *shapes_table(groups),
        "## How to read it",
        "CER counts the spaces between words. The deviation covers the seed of the search and that "
        "of the training together: each genotype was trained once, with the seed of its search or "
        "of its draw. P(lower than random): how often a genotype of the strategy has a lower error "
        "than a random one, over all pairs. Rank test: Mann-Whitney U, two-sided, not corrected "
        "for the number of strategies. Search: CPU seconds of one search, mean. Best of k random: "
        "for the cost of a search and the training of what it finds, k random genotypes can be "
        "trained instead; the expected lowest of k of these errors. That favours chance: the "
        "lowest is chosen by the test data themselves.",
    ]


if __name__ == "__main__":
    sys.exit(main())

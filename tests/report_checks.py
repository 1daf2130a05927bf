"""Checks what the page of a finished search shows, against the files beside it."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.axes import Axes
from report_pages import (
    Page,
    require_drawn,
    require_full_tables,
    require_whole_numbers,
    require_working_steps,
)
from scipy.stats import kendalltau

from nas_encoder.genotype import load_genotype
from nas_encoder.network.budgets import TITLES, UNITS, readable
from nas_encoder.search.folder import RunFolder
from nas_encoder.spaces import get_space
from nas_encoder.spaces.picture import architecture_lines


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl as they are."""
    return [json.loads(text) for text in (folder / "metrics.jsonl").read_text().splitlines()]


def check_page(folder: Path, page: Page) -> None:
    """Check what the page of a finished search shows, against the files beside it as they are."""
    kind = RunFolder(folder).kind()
    {"gradient": check_search, "seeds": check_seeds, "trials": check_trials}[kind](folder, page)
    require_drawn(page)
    require_full_tables(page)
    require_whole_numbers(page)
    require_working_steps(page)
    genotype = load_genotype(folder / "genotype.yaml")
    assert page.texts[f"Genotype {genotype.name}"] == ["\n".join(architecture_lines(genotype))]
    assert f"Hash {genotype.hash}" in page.words
    assert f"nas-encoder show {folder}/genotype.yaml" in page.words
    run = yaml.safe_load((folder / "run.yaml").read_text())
    shown = {name: "" if value is None else str(value) for name, value in run.items()}
    assert dict(page.tables["Provenance"]) == shown


def line(axes: Axes, label: str) -> np.ndarray:
    """Return the points (n, 2) of a line over the epochs, which is in pieces, one a stage."""
    colour = next(found.get_color() for found in axes.get_lines() if found.get_label() == label)
    pieces = [
        np.asarray(found.get_xydata())
        for found in axes.get_lines()
        if found.get_color() == colour and found.get_marker() == "o"
    ]
    return np.concatenate(pieces)


def check_search(folder: Path, page: Page) -> None:
    """Check the page of a search with gradients."""
    rows = rows_of(folder)
    searching = [row for row in rows if row["phase"] == "search"]
    genotype = load_genotype(folder / "genotype.yaml")
    space = get_space(genotype.space)
    kinds = list(rows[0]["probabilities"])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert f": finished, {len(rows)} of " in page.words
    assert yaml.safe_load(page.texts["Configuration"][0])["stages"] == config["stages"]

    # The result is that of the last epoch, or of the best one of a stage that stops early.
    last = [row for row in searching if row["stage"] == searching[-1]["stage"]]
    stops = config["stages"][last[0]["stage"] - 1].get("stop") is not None
    best = min(last, key=lambda row: row["valid_utterance_loss"]) if stops else last[-1]
    assert best["genotype"] == genotype.hash

    # Every epoch, as numbers and in the curves.
    table = page.rows("Epochs")
    assert [(row["stage"], row["epoch"]) for row in table] == [
        (f"{row['stage']} {row['phase']}", str(row["epoch"])) for row in rows
    ]
    for shown, row in zip(table, rows, strict=True):
        assert shown["training loss"] == f"{row['train_loss']:.3f}"
        assert shown["validation loss"] == f"{row['valid_loss']:.3f}"
        assert shown["token error rate, %"] == f"{row['valid_ter']:.1f}"
        assert shown["genotype"] == row["genotype"]
        shares = [100 * row["entropy"][kind] / row["uniform_entropy"][kind] for kind in kinds]
        cell = shown[f"entropy, % of uniform ({', '.join(kinds)})"]
        assert cell == ", ".join(f"{share:.1f}" for share in shares)
    losses, errors, entropy = page.figures["Training"].axes
    epochs = np.arange(1, len(rows) + 1)
    for axes, label, key in (
        (losses, "training", "train_loss"),
        (losses, "validation", "valid_loss"),
        (losses, "architecture's data", "architecture_loss"),
        (errors, "validation", "valid_ter"),
    ):
        values = [np.nan if row[key] is None else row[key] for row in rows]
        np.testing.assert_array_equal(line(axes, label), np.stack([epochs, values], 1))
    for kind in kinds:
        label = space.kinds[kind].title
        values = [row["entropy"][kind] / row["uniform_entropy"][kind] for row in rows]
        np.testing.assert_array_equal(line(entropy, label), np.stack([epochs, values], 1))
        if "edge_entropy" in rows[0]:
            values = [row["edge_entropy"][kind] for row in rows]
            np.testing.assert_array_equal(line(entropy, f"{label}, its edges")[:, 1], values)

    # The probabilities of every operation on every edge, and what is taken.
    for axes in page.figures["Operations over time"].axes:
        heights = np.array([[bar.get_height() for bar in bars] for bars in axes.containers])
        np.testing.assert_allclose(heights.sum(0), np.ones(len(searching)))
    for stage in {row["stage"] for row in searching}:
        last = [row for row in searching if row["stage"] == stage][-1]
        figure = page.figures[f"Edges after epoch {last['epoch']} of stage {stage}"]
        derived = load_genotype(
            folder / "genotypes" / f"stage{stage}_epoch{last['epoch']:03d}.yaml"
        )
        for kind, axes in zip(kinds, figure.axes, strict=False):
            names = [tick.get_text() for tick in axes.get_xticklabels()]
            (image,) = axes.get_images()
            values = np.ma.filled(image.get_array(), np.nan)
            expected = [
                [edge.get(op, np.nan) for op in names] for edge in last["probabilities"][kind]
            ]
            np.testing.assert_allclose(values, expected)
            chosen = dict(space.chosen(derived.architecture)[kind])
            framed = {
                round(patch.get_y() + 0.5): names[round(patch.get_x() + 0.5)]
                for patch in axes.patches
            }
            assert framed == chosen
    for kind in kinds:
        (axes,) = page.figures[f"Every edge of the {space.kinds[kind].title} over time"].axes
        places = dict(space.chosen(genotype.architecture)[kind])
        shown = {text.get_text(): text.get_fontweight() for text in axes.texts}
        assert shown == {
            f"{name}: {places[place]}" if place in places else name: (
                "bold" if place in places else "normal"
            )
            for place, name in enumerate(space.kinds[kind].names)
        }

    # Costs against budgets.
    costs = rows[-1]["costs"]
    assert [row["genotype"] for row in page.rows("Cost against budget")] == [
        readable(name, cost["derived"]) for name, cost in costs.items()
    ]
    for (name, cost), row in zip(costs.items(), page.rows("Cost against budget"), strict=True):
        budget = cost.get("budget")
        shown = "" if budget is None else readable(name, budget)
        assert row.get("budget", "") == shown
        over = budget is not None and cost["derived"] > budget
        assert any(f"than the budget of {shown}." in w for w in page.warnings) == over
    for (name, _), axes in zip(
        costs.items(), page.figures["Cost against budget"].axes, strict=True
    ):
        values = [UNITS[name][1] * row["costs"][name]["derived"] for row in rows]
        np.testing.assert_allclose(line(axes, "of the genotype derived")[:, 1], values)


def check_seeds(folder: Path, page: Page) -> None:
    """Check the page of a search with several seeds."""
    seeds = yaml.safe_load((folder / "run.yaml").read_text())["seeds"]
    result = load_genotype(folder / "genotype.yaml")
    found = {seed: load_genotype(folder / f"seed{seed}" / "genotype.yaml") for seed in seeds}
    assert f"finished: {len(seeds)} of {len(seeds)} searches" in page.words
    assert f"Of seed {result.provenance['seed']}, the lowest token error rate" in page.words
    trials = RunFolder(folder / f"seed{seeds[0]}").kind() == "trials"
    error = "error, %" if trials else "token error rate, %"
    best = min(float(row[error]) for row in page.rows("Candidates"))
    for seed, shown in zip(seeds, page.rows("Candidates"), strict=True):
        rows = rows_of(folder / f"seed{seed}")
        assert (shown["seed"], shown["genotype"]) == (str(seed), found[seed].hash)
        (check_trials_of_seed if trials else check_epochs_of_seed)(page, seed, rows, shown)
        if seed == result.provenance["seed"]:
            assert float(shown[error]) == best
    space = get_space(result.space)
    chance = re.search(r"drawn at random have (\d+\.\d) in common", page.words)
    assert chance is not None
    if result.space == "tdnn_chain":  # uniform and independent choices
        expected = sum(len(kind.names) / len(kind.operations) for kind in space.kinds.values())
        assert float(chance[1]) == pytest.approx(expected, abs=0.3)
    for (first, second), shown in zip(
        itertools.combinations(seeds, 2), page.rows("Do the seeds agree?"), strict=True
    ):
        one, other = (space.chosen(found[seed].architecture) for seed in (first, second))
        same = sum(len(set(one[kind]) & set(other[kind])) for kind in one)
        assert shown["seeds"] == f"{first} and {second}"
        assert shown["same choices"] == f"{same} of {sum(map(len, one.values()))}"


def check_epochs_of_seed(
    page: Page, seed: int, rows: list[dict[str, Any]], shown: dict[str, str]
) -> None:
    """Check what a page of several seeds shows of one search with gradients."""
    assert shown["epochs"] == str(len(rows))
    assert shown["token error rate, %"] == f"{rows[-1]['valid_ter']:.1f}"
    assert shown["validation loss"] == f"{rows[-1]['valid_loss']:.3f}"
    for name, cost in rows[-1]["costs"].items():
        assert shown[TITLES[name]] == readable(name, cost["derived"])
    for axes, key in zip(page.figures["Validation"].axes, ("valid_loss", "valid_ter"), strict=True):
        values = [row[key] for row in rows]
        np.testing.assert_array_equal(line(axes, f"seed {seed}")[:, 1], values)


def check_trials_of_seed(
    page: Page, seed: int, rows: list[dict[str, Any]], shown: dict[str, str]
) -> None:
    """Check what a page of several seeds shows of one search by trials."""
    assert shown["trials"] == str(len(rows))
    complete = [row for row in rows if row["state"] == "complete"]
    best = min(complete, key=lambda row: row["error"])
    assert shown["error, %"] == f"{best['error']:.2f}"
    errors = [row["error"] if row["state"] == "complete" else np.inf for row in rows]
    course = np.minimum.accumulate(errors)
    (axes,) = page.figures["Search histories"].axes
    (drawn,) = [found for found in axes.get_lines() if found.get_label() == f"seed {seed}"]
    expected = np.where(np.isinf(course), np.nan, course)
    np.testing.assert_array_equal(drawn.get_ydata(orig=True), expected)


def best_hash(folder: Path) -> str:
    """Return the hash of a run's result."""
    return load_genotype(folder / "genotype.yaml").hash


def check_scores(
    folder: Path, page: Page, complete: list[dict[str, Any]], config: dict[str, Any]
) -> None:
    """Check what the page and result.json say about cheap scores, against scipy."""
    document = json.loads((folder / "result.json").read_text())
    assert document["genotype"] == best_hash(folder)
    judged = {row["genotype"]: row for row in reversed(complete)}
    if config.get("supernet") is not None:
        judged = {key: row for key, row in judged.items() if "trained" in row}
    if not judged:
        assert document["scores"] == [] and document["why_no_scores"] in page.words
        return
    shown = {row["score"]: row for row in page.rows("What cheap scores are worth")}
    found = {one["score"]: one for one in document["scores"]}
    assert shown.keys() == found.keys()
    courses = [row.get("trained", row["errors"]) for row in judged.values()]
    finals = [course[-1] for course in courses]
    signs = {"more parameters": "parameters", "more multiply-adds": "macs"}
    for score, one in found.items():
        if score in signs:
            values = [-row[signs[score]] for row in judged.values()]
        elif score == "error with shared weights":
            values = [row["error"] for row in judged.values()]
        else:
            continue  # of a course; see below
        check_tau(one, shown[score], values, finals)
    early = [one for score, one in found.items() if score.startswith("error after")]
    assert bool(early) == (len(courses[0]) > 1)
    if early and len(courses[0]) <= 6:
        for place, one in enumerate(early):
            check_tau(one, shown[one["score"]], [own[place] for own in courses], finals)


def check_tau(
    one: dict[str, Any], shown: dict[str, str], values: list[float], finals: list[float]
) -> None:
    """Check one row of cheap scores."""
    expected = kendalltau(values, finals).statistic if len(finals) > 1 else np.nan
    if np.isnan(expected):
        assert one["why"] == shown["note"] != ""
        return
    assert one["tau"] == pytest.approx(float(expected), abs=1e-6) and one["count"] == len(finals)
    assert shown["tau [95 %]"].startswith(f"{one['tau']:.2f}")
    assert f"n = {len(finals)}" in shown["tau [95 %]"]
    assert (one["low"] is None) == (len(finals) < 8)


def check_trials(folder: Path, page: Page) -> None:
    """Check the page of a search by trials."""
    rows = rows_of(folder)
    complete = [row for row in rows if row["state"] == "complete"]
    count = len(rows)
    assert f": finished, {count} of {count} trials ({count - len(complete)} pruned)" in page.words
    best = min(row["error"] for row in complete)
    assert f", error {best:.2f} %." in page.words

    table = page.rows("Trials")
    assert sorted(int(row["trial"]) for row in table) == [row["trial"] for row in rows]
    ranked = [rows[int(row["trial"]) - 1] for row in table]
    assert ranked == sorted(ranked, key=lambda row: (row["state"] != "complete", row["error"]))
    for shown, row in zip(table, ranked, strict=True):
        assert (shown["state"], shown["genotype"]) == (row["state"], row["genotype"])
        assert (shown["error, %"], shown["epochs"]) == (f"{row['error']:.2f}", str(row["epochs"]))
        for name in UNITS.keys() & row.keys():
            unit, factor = UNITS[name]
            assert shown[f"{TITLES[name]}, {unit}"] == f"{factor * row[name]:.4g}"

    (axes,) = page.figures["Search history"].axes
    points = {found.get_label(): np.asarray(found.get_xydata()) for found in axes.get_lines()}
    for state in {row["state"] for row in rows}:
        expected = [(row["trial"], row["error"]) for row in rows if row["state"] == state]
        np.testing.assert_array_equal(points[state], expected)
    errors = [row["error"] if row["state"] == "complete" else np.inf for row in rows]
    course = np.minimum.accumulate(errors)
    np.testing.assert_array_equal(
        points["best so far"][:, 1], np.where(course < np.inf, course, np.nan)
    )
    config = yaml.safe_load((folder / "config.yaml").read_text())
    given = [(row["trial"], row["error"]) for row in rows if "initial" in row]
    assert ("given at the start" in points) == bool(given)
    if given:
        np.testing.assert_array_equal(points["given at the start"], given)
        assert [row["given as"] for row in table] == [row.get("initial", "") for row in ranked]
    seconds, shares = config["training"].get("seconds"), config["training"].get("evaluate_at")
    if config.get("supernet") is not None:  # the time of its training
        seconds = None
    if any(len(row["errors"]) > 1 for row in rows):
        title = "Epochs of the trials" if seconds is None else "Time of the trials"
        (axes,) = page.figures[title].axes
        for found, row in zip(axes.get_lines(), rows, strict=True):
            np.testing.assert_array_equal(found.get_ydata(), row["errors"])
            if seconds is not None:
                np.testing.assert_allclose(found.get_xdata(), np.multiply(shares, seconds))
    if seconds is not None:
        assert f", each trained for {seconds:g} s" in page.words
        shown_seconds = [row["training, s"] for row in table]
        assert shown_seconds == [f"{row['training_seconds']:.1f}" for row in ranked]
    check_scores(folder, page, complete, config)
    refused = sum(row.get("refused", 0) for row in rows)
    assert (f", {refused} genotypes outside the budgets" in page.words) == bool(refused)
    limits = config.get("objective", {})
    least = limits.get("at_least", {})
    limited = [name for name in UNITS if limits.get(name) is not None or name in least]
    assert ("Budgets" in page.headings) == bool(limited)
    if limited:
        assert f"{refused} genotypes that were drawn or proposed" in page.words
        for shown, name in zip(page.rows("Budgets"), limited, strict=True):
            values = [row[name] for row in rows]
            assert shown["cost"] == TITLES[name]
            ends = [value for value in (least.get(name), limits.get(name)) if value is not None]
            assert all(readable(name, value) in shown["budget"] for value in ends)
            assert (shown["least"], shown["most"]) == tuple(
                readable(name, value) for value in (min(values), max(values))
            )
            own = next(r for r in ranked if r["genotype"] == best_hash(folder))
            assert shown["of the best trial"] == readable(name, own[name])

    front = folder / "front.json"
    if not front.exists():
        assert not [name for name in page.pictures if name.startswith("Front")]
        return
    document = json.loads(front.read_text())
    members = document["front"]
    costs = [name for name in document["objectives"] if name != "error"]
    table = page.rows(f"Front: error and {TITLES[costs[-1]]}")
    assert [(row["trial"], row["genotype"]) for row in table] == [
        (str(member["trial"]), member["hash"]) for member in members
    ]
    for name in costs:
        (axes,) = page.figures[f"Front: error and {TITLES[name]}"].axes
        drawn = next(found for found in axes.get_lines() if found.get_label() == "Pareto front")
        expected = [(UNITS[name][1] * member[name], member["error"]) for member in members]
        points = np.asarray(drawn.get_xydata())
        np.testing.assert_allclose(
            points[np.lexsort(points.T)], sorted(expected, key=lambda p: p[::-1])
        )

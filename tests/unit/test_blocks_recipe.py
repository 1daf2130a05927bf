"""The recipe that compares encoders: its trainings, what it says about its numbers."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_samples import row, tiny_training
from search_samples import tone_corpus

from nas_encoder.errors import CheckpointError, ConfigError, StoppedError
from recipes.blocks.local import choose, decode, publish, train, verdicts
from recipes.blocks.local.encoders import Encoder, read_encoders
from recipes.blocks.local.figure import front
from tools.results.page import FILES, marks

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "blocks"


def test_a_list_with_mistakes(tmp_path: Path) -> None:
    path = tmp_path / "encoders.yaml"
    path.write_text("one: {role: best}\ntwo: {search: evolution, build: zipformer}\n")
    with pytest.raises(ConfigError) as refused:
        read_encoders(path)
    assert "one: role" in str(refused.value) and "two: search" in str(refused.value)


# -- trainings --------------------------------------------------------------------------------

SMALL = Encoder(
    title="small",
    build="dfsmn_san",
    options={
        "output_size": 8,
        "hidden_size": 8,
        "blocks": 1,
        "attention_layers": 1,
        "attention_heads": 2,
    },
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tones")
    tone_corpus(folder / "train")
    tone_corpus(folder / "valid", 6, seed=1)
    return folder


def training(folder: Path, corpus: Path, limit: train.Limit) -> train.Training:
    return tiny_training(folder, SMALL, corpus / "train", corpus / "valid", limit)


def test_rates() -> None:
    assert train.rate(2.0, 0.05, 0.1) == pytest.approx(1.0)
    assert train.rate(2.0, 0.1, 0.1) == pytest.approx(2.0)
    assert train.rate(2.0, 0.55, 0.1) == pytest.approx(1.0)
    assert train.rate(2.0, 1.2, 0.1) == pytest.approx(0.0)
    assert train.rate(2.0, 0.0, 0.0) == pytest.approx(2.0)


def test_a_training_of_a_time_ends_with_it(tmp_path: Path, corpus: Path) -> None:
    own = training(tmp_path, corpus, train.Limit(seconds=0.2))
    result = own.run(tmp_path)
    assert 0.2 <= result["seconds"] < 1.0
    assert result["steps"] > len(own.train) * (result["epochs"] - 1)
    assert own.steps.optimizer.param_groups[0]["lr"] < 0.001  # it fell to the end


def test_a_stopped_training_goes_on_where_it_was(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = train.Limit(epochs=3)
    for name in ("whole", "parts"):
        (tmp_path / name).mkdir()
    whole = training(tmp_path / "whole", corpus, limit)
    expected = whole.run(tmp_path / "whole")

    parts, stopped = training(tmp_path / "parts", corpus, limit), train.Training._step
    left = [len(parts.train) + 1]

    def step(self: train.Training, group: list[Any], lr: float) -> dict[str, float]:
        left[0] -= 1
        if left[0] < 0:
            raise StoppedError(15)
        return stopped(self, group, lr)

    with monkeypatch.context() as patch:
        patch.setattr(train.Training, "_step", step)
        with pytest.raises(StoppedError):
            parts.run(tmp_path / "parts")
    found = training(tmp_path / "parts", corpus, limit).run(tmp_path / "parts")
    assert found["losses"] == expected["losses"] and found["steps"] == expected["steps"]
    for name, value in whole.model.state_dict().items():
        again = torch.load(tmp_path / "parts" / train.MODEL, weights_only=True)["model"][name]
        assert torch.equal(again, value)


def test_what_was_trained_is_decoded(tmp_path: Path, corpus: Path) -> None:
    own = training(tmp_path, corpus, train.Limit(epochs=1))
    own.run(tmp_path)
    found = decode.decode(tmp_path, str(corpus / "valid"))
    assert found.keys() == {cut.id for cut in own.data.cuts["valid"]}
    decode.write_text(tmp_path / "out" / "text", found)
    lines = (tmp_path / "out" / "text").read_text(encoding="utf-8").splitlines()
    assert [line.split()[0] for line in lines] == sorted(found)
    with pytest.raises(CheckpointError, match="is missing"):
        decode.decode(tmp_path / "nowhere", str(corpus / "valid"))


def test_the_chosen_rate() -> None:
    results = [{"peak": peak, "valid_error": error} for peak, error in ((1e-3, 9.0), (2e-3, 8.0))]
    assert choose.choose(results)["peak"] == 2e-3
    assert choose.choose(results)["at_the_end"]
    middle = choose.choose([*results, {"peak": 4e-3, "valid_error": 8.0}])
    assert middle["peak"] == 2e-3 and not middle["at_the_end"]
    assert middle["next"] is None and choose.choose(results)["next"] is None
    assert choose.choose(results, further=True)["next"] == 4e-3
    low = [{**result, "valid_error": 9.5 - 1000 * result["peak"] * -1} for result in results]
    assert choose.choose(low, further=True)["next"] == 5e-4
    assert choose.choose([*results, {"peak": 4e-3, "valid_error": 8.5}], True)["next"] is None
    assert json.loads(json.dumps(middle))["errors"] == {"0.001": 9.0, "0.002": 8.0, "0.004": 8.0}


# -- what is said about the numbers -----------------------------------------------------------


def test_the_goal_is_met_where_all_its_parts_are() -> None:
    peer = row("peer", "peer", [4, 5, 4, 5] * 20)
    slower = row("slower", "peer", [4, 5, 5, 4] * 20, ms=30.0)  # as good as the best
    narrowed = row("narrowed", "narrowed", [3, 4, 4, 4] * 20)

    def goal(errors: list[int], ms: float) -> dict[str, bool]:
        rows = [row("searched", "searched", errors, ms), peer, slower, narrowed]
        (verdict,) = verdicts.verdicts(rows, 1, ["searched"])
        assert verdict.allowed_ms() == 10.0
        found = verdict.goal()
        assert found is not None
        return found

    assert all(goal([2, 3, 3, 3] * 20, 10.0).values())
    assert [*goal([2, 3, 3, 3] * 20, 11.0).values()] == [True, True, False]
    # A third fewer than the narrowed peer's, but 18 % fewer than the best as shipped.
    assert [*goal([3, 4, 4, 3] * 20, 9.0).values()] == [True, True, True]
    assert [*goal([3, 4, 4, 4] * 20, 9.0).values()] == [False, False, True]


def test_the_goal_is_about_the_first_searched_encoder_of_the_list() -> None:
    rows = [row("b", "searched", [1, 2]), row("a", "searched", [2, 2]), row("p", "peer", [3, 4])]
    assert [own.name for own in verdicts.verdicts(rows, 1, ["a", "p", "b"])] == ["a", "b"]


def test_the_sentences_of_duels() -> None:
    first, second = row("A", "searched", [1, 2] * 30, 4.0), row("B", "peer", [2, 2] * 30, 8.0)
    won = verdicts.Duel.of(first, second, seed=1)
    assert won.outcome == "won" and won.reduction == pytest.approx(0.25)
    assert won.sentence().startswith("A against B: 25 % fewer errors, -5.00 points [")
    assert won.sentence().endswith("4.0 against 8.0 ms.")
    lost = verdicts.Duel.of(second, first, seed=1)
    assert lost.outcome == "lost" and "33 % more errors" in lost.sentence()
    same = verdicts.Duel.of(first, row("C", "peer", [2, 1] * 30), seed=1)
    assert same.outcome == "open" and "no difference shown" in same.sentence()


def test_chance_by_counting() -> None:
    draws = [row(f"draw-{n}", "chance", [n, n]) for n in range(3, 9)]
    (found,) = verdicts.chance([*draws, row("searched", "searched", [2, 3], seeds=3)], 2)
    assert found["better_than"] == 6 and found["draws_best"] == pytest.approx(30)
    # All three below all six: the most extreme of C(9, 3) = 84 rankings, on two sides. Ties among
    # the three make scipy approximate.
    assert found["smallest_p"] == pytest.approx(2 / 84)
    assert found["lower"] == 1.0 and found["p"] < 0.05
    # The lower one of two of 30, 40, ..., 80 %.
    lower = [30 + 10 * min(pair) for pair in combinations(range(6), 2)]
    assert found["best_of_affordable"] == pytest.approx(sum(lower) / 15)
    assert "better than random points" in verdicts.chance_sentence(found)
    (worse,) = verdicts.chance([*draws, row("searched", "searched", [9, 9], seeds=3)], 2)
    assert "worse than random points" in verdicts.chance_sentence(worse)


def test_the_front() -> None:
    rows = [
        row("a", "peer", [4, 4], 5.0),
        row("b", "peer", [3, 3], 9.0),
        row("c", "peer", [3, 4], 9.5),
        row("d", "peer", [4, 4], 6.0),
    ]
    assert [found.name for found in front(rows)] == ["a", "b"]


# -- what README gets -----------------------------------------------------------------------------


def results(corpus: str, **rows: tuple[str, float, float]) -> dict[str, Any]:
    """Return a section with rows of (role, latency, error)."""
    return {
        "corpus": corpus,
        "condition": "time",
        "rows": [
            {"name": name, "title": name, "role": role, "latency_ms": ms, "error": error}
            | {"parameters": 300_000}
            for name, (role, ms, error) in rows.items()
        ],
    }


def test_readme_gets_the_figure_and_the_encoders_that_nothing_beats(tmp_path: Path) -> None:
    sections = [
        results(
            "one",
            found=("searched", 4.0, 10.0),
            fast=("narrowed", 3.0, 30.0),
            shipped=("peer", 15.0, 20.0),
            heavy=("peer", 30.0, 25.0),
            once=("chance", 1.0, 1.0),
        ),
        results(
            "two",
            found=("searched", 6.0, 40.0),
            fast=("narrowed", 3.0, 60.0),
            shipped=("peer", 15.0, 40.0),
            heavy=("peer", 30.0, 38.0),
        ),
        {**results("two"), "condition": "epochs"},
    ]
    facts = {"seeds": "1 2 3", "commit": "0123456789ab", "command": "run.sh --expdir exp"}
    document = {"sections": sections, "facts": facts, "options": {"seconds": 80}}
    folder = tmp_path / "run"
    folder.mkdir()
    for name in FILES:
        (folder / name).write_text("it", encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(document), encoding="utf-8")
    readme = tmp_path / "README.md"
    readme.write_text("a\n{}\nold\n{}\nb\n".format(*marks(publish.NAME)), encoding="utf-8")
    words = ["--results", folder, "--output", tmp_path / "sub" / "results", "--readme", readme]
    for _ in range(2):  # again is the same
        assert publish.main(list(map(str, words))) == 0
    page = readme.read_text(encoding="utf-8")
    assert page.startswith("a\n<!--") and page.endswith("-->\nb\n") and "old" not in page
    assert "(sub/results/results.png)" in page and "seeds: 3," in page
    assert [line for line in page.splitlines() if line.startswith("| ")][1:] == [
        "| 3.0 ms | fast | 0.30 M | 30.0 % | 60.0 % | 1.54 |",
        "| 5.0 ms | found | 0.30 M | 10.0 % | 40.0 % | 0.78 |",
    ]
    assert (tmp_path / "sub" / "results" / "results.svg").read_text() == "it"
    # Of a tree that is no commit of this repository.
    patch = tmp_path / "tree.patch"
    patch.write_text("--- a\n", encoding="utf-8")
    (folder / "RESULTS.md").write_text("- commit: 0123456789ab\n", encoding="utf-8")
    of_tree = list(map(str, [*words, "--base", "HEAD", "--changes", patch]))
    assert publish.main(of_tree) == 0
    published = tmp_path / "sub" / "results"
    assert (published / "changes.patch").read_text() == "--- a\n"
    assert (published / "RESULTS.md").read_text() == "- commit: HEAD with changes.patch\n"
    assert (
        json.loads((published / "results.json").read_text())["facts"]["commit"]
        == "HEAD with changes.patch"
    )
    assert "commit HEAD with changes.patch." in readme.read_text(encoding="utf-8")
    assert publish.main(list(map(str, words))) == 0  # of a commit again
    assert not (published / "changes.patch").exists()
    assert publish.main(of_tree[:-2]) == 1
    assert publish.main([*of_tree[:-1], str(tmp_path / "none.patch")]) == 1
    assert publish.main([*of_tree[:-4], "--base", "0" * 40, *of_tree[-2:]]) == 1
    readme.write_text(page, encoding="utf-8")
    facts["command"] = "run.sh --expdir /home/me/exp"
    (folder / "results.json").write_text(json.dumps(document), encoding="utf-8")
    assert publish.main(list(map(str, words))) == 1  # nobody else has that folder
    assert readme.read_text(encoding="utf-8") == page
    facts["command"] = "run.sh"
    (folder / "results.json").write_text(json.dumps(document), encoding="utf-8")
    readme.write_text("no marks", encoding="utf-8")
    assert publish.main(list(map(str, words))) == 1
    assert readme.read_text() == "no marks"

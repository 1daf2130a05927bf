"""The recipe that compares strategies with random genotypes: statistics, table, training."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from search_samples import tone_corpus

from nas_encoder.errors import CheckpointError, ConfigError, DataError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces import get_space
from recipes.mini.strategies.local import collect, train
from tools.results import ranks

ROOT = Path(__file__).resolve().parent.parent.parent / "recipes" / "mini" / "strategies"


def result(cer: float) -> dict[str, Any]:
    numbers = {"macs_10s": 1e8, "encoder_parameters": 100, "steps": 3, "training_seconds": 2.0}
    return {"cer": cer, **numbers}


def test_rank_test_against_counting() -> None:
    from itertools import combinations

    errors, others = [1.0, 2.5, 3.0], [2.0, 4.0, 5.0, 6.0]
    found = ranks.rank_test(errors, others)
    assert found["lower"] == pytest.approx(sum(e < o for e in errors for o in others) / 12)

    def larger(chosen: tuple[int, ...]) -> int:
        ranked = sorted(errors + others)
        mine = [ranked[i] for i in chosen]
        rest = [ranked[i] for i in range(7) if i not in chosen]
        return sum(a > b for a in mine for b in rest)

    mine = sum(e > o for e in errors for o in others)
    splits = [larger(chosen) for chosen in combinations(range(7), 3)]
    as_extreme = sum(abs(count - 6) >= abs(mine - 6) for count in splits)
    assert found["p"] == pytest.approx(as_extreme / len(splits))
    assert found["smallest_p"] == pytest.approx(2 / len(splits))


def test_the_best_of_some_random_ones_against_counting() -> None:
    from itertools import combinations

    errors = [4.0, 1.0, 7.0, 2.0, 2.0]
    for count in range(1, 6):
        lowest = [min(chosen) for chosen in combinations(errors, count)]
        assert ranks.expected_best(errors, count) == pytest.approx(sum(lowest) / len(lowest))
    assert ranks.expected_best(errors, 9) == 1.0
    others = collect.Group(collect.RANDOM, [result(cer) for cer in errors])
    dear = collect.Group("stnas", [result(3.0)], [1000.0])
    assert collect.draws_for(dear, others) == 5  # all that there are


def test_no_difference_and_complete_separation() -> None:
    same = ranks.rank_test([3.0, 3.0], [3.0, 3.0, 3.0])
    assert same["lower"] == 0.5 and same["p"] == 1.0
    groups = [
        collect.Group("stnas", [result(cer) for cer in (10, 11, 12)], [5.0, 6.0, 7.0]),
        collect.Group("pdarts", [result(cer) for cer in (50, 51, 52)], [9.0] * 3),
        collect.Group(collect.RANDOM, [result(20.0 + draw) for draw in range(8)]),
    ]
    found = collect.rows(groups)
    said = "\n".join(collect.sentences(found))
    assert "ST-NAS: better than random genotypes (p = 0.012)" in said
    assert "P-DARTS: worse than random genotypes" in said
    lines = collect.table(found).splitlines()
    assert "| ST-NAS | 3 | 11.0 ± 1.0 | 10.0 | 1.00 | 0.012 | 100 M | 6 | 20.8 (k = 4) |" in lines
    assert lines[-1].startswith("| random genotypes | 8 | 23.5")
    assert len({line.count("|") for line in lines}) == 1


def test_the_shape_of_a_genotype() -> None:
    document = {"schema": 1, "name": "g", "space": "asr_revised"}
    normal = [
        [("sep_conv_3x3", 0), ("avg_pool_3x3", 1)],  # 2 convolutions
        [("dil_conv_5x5", 2), ("max_pool_3x3", 2)],  # 3
        [("max_pool_3x3", 3), ("conv_7x1_1x7", 1)],  # 3: a pooling adds none
        [("sep_conv_5x5", 4), ("dil_conv_3x3", 0)],  # 5
    ]
    reduction = [[("max_pool_3x3", 0), ("avg_pool_3x3", 1)]] * 4
    for kind, nodes in (("normal", normal), ("reduction", reduction)):
        edges = [[{"op": op, "from": source} for op, source in node] for node in nodes]
        document[kind] = {"nodes": edges, "concat": [2, 3, 4, 5]}  # type: ignore[assignment]
    genotype = Genotype.from_dict(document)
    found = get_space(genotype.space).shape(genotype.architecture)
    assert [found[f"normal {name}"] for name in ("depth", "inputs", "pools")] == [5, 4, 3]
    assert [found[f"reduction {name}"] for name in ("depth", "inputs", "pools")] == [0, 8, 8]
    chain = get_space("tdnn_chain")
    assert chain.shape(chain.sample(random.Random(0)).architecture) == {}
    shapes = [{"normal depth": n, "normal pools": 1} for n in (1, 2, 3, 4)]
    ((title, rho, _),) = collect.relations(shapes, [1.0, 2.0, 4.0, 3.0])
    assert title == "most convolutions in a row, normal cell" and rho == pytest.approx(0.8)
    assert collect.relations([{}, {}], [1.0, 2.0]) == []


def test_missing_results_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        collect.read_groups(tmp_path, ["stnas"], 2, 1)
    assert len(caught.value.problems) == 3


def test_config_is_checked(tmp_path: Path) -> None:
    config = train.read_config(ROOT / "conf" / "train.yaml")
    assert set(config) == set(train.KEYS)
    bad = tmp_path / "train.yaml"
    bad.write_text("batch: 3\nbatches: 4\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="max_lr: is missing") as caught:
        train.read_config(bad)
    assert "batches: unknown key" in str(caught.value)


@pytest.mark.slow
def test_training_learns_and_goes_on_after_a_stop(tmp_path: Path) -> None:
    data = {name: str(tone_corpus(tmp_path / name, 16)) for name in ("train", "test")}
    config = train.read_config(ROOT / "conf" / "train.yaml")
    config["network"] = {"layers": 2, "channels": 2, "output_size": 16, "stem_stride": [1, 2]}
    config["match"] = {"fine": "output_size", "fine_range": [8, 64]}
    from nas_encoder import load_genotype

    def training() -> train.Training:
        return train.Training(config, load_genotype("darts_v2"), data, 4400, 6, 3)

    whole = training().run(tmp_path / "whole.ckpt")
    assert whole["losses"][-1] < whole["losses"][0] and len(whole["losses"]) == 3
    assert abs(whole["encoder_parameters"] / 4400 - 1) < 0.02 and whole["tokens"] == 16 * 6

    class Stop(Exception):
        pass

    stopped = training()
    save = stopped._save

    def save_and_stop(*arguments: Any) -> None:
        save(*arguments)
        raise Stop

    stopped._save = save_and_stop  # type: ignore[method-assign]
    with pytest.raises(Stop):
        stopped.run(tmp_path / "stopped.ckpt")
    again = training().run(tmp_path / "stopped.ckpt")
    for key in set(whole) - {"training_seconds"}:
        assert json.dumps(again[key]) == json.dumps(whole[key]), key
    # Other data are not mixed with those that it began with.
    text = Path(data["train"]) / "text"
    lines = text.read_text().splitlines()
    other = "b" if lines[0].endswith("a") else "a"
    text.write_text("\n".join([lines[0][:-1] + other, *lines[1:]]) + "\n")
    with pytest.raises(CheckpointError, match="1 of 16 texts differ, first: ") as caught:
        training().run(tmp_path / "stopped.ckpt")
    assert "or delete" in str(caught.value) and "to begin anew" in str(caught.value)

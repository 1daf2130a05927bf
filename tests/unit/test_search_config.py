"""Search configurations: shipped ones, the paper's figures, all errors at once, --set."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas_encoder.common.documents import write_yaml
from nas_encoder.common.resources import conf_root, find_config, list_configs
from nas_encoder.errors import ConfigError, GenotypeError
from nas_encoder.genotype import load_genotype
from nas_encoder.search import SearchConfig, load_search_config
from nas_encoder.search.config.load import load_any_search_config
from nas_encoder.spaces import get_space

SHIPPED = sorted((conf_root() / "search").rglob("*.yaml"))


def test_there_are_shipped_configurations() -> None:
    assert {path.stem for path in SHIPPED} >= {"tiny", "small", "he2020_revised", "he2020_darts"}
    assert list_configs("search") == sorted(path.stem for path in SHIPPED)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_load(path: Path) -> None:
    config = load_any_search_config(path)
    assert load_any_search_config(path.stem) == config
    # What a run folder records gives the same search again.
    assert type(config).from_dict(yaml.safe_load(yaml.safe_dump(config.to_dict()))) == config


@pytest.mark.parametrize("space", ["revised", "darts"])
def test_the_papers_figures(space: str) -> None:
    """He, Su, Yu 2020, sections 3 and 4.3."""
    config = load_search_config(f"he2020_{space}")
    assert config.strategy == "pdarts"
    assert config.space == {"revised": "asr_revised", "darts": "darts"}[space]
    assert [stage.epochs for stage in config.stages] == [15, 15, 15]
    assert [stage.warmup_epochs for stage in config.stages] == [6, 6, 6]
    assert [stage.channels for stage in config.stages] == [16, 16, 16]
    assert [stage.dropout for stage in config.stages] == [0.1, 0.1, 0.1]
    assert config.batch.max_utterances == 4 and config.batch.max_frames is None
    assert config.batch.longest_utterance == 1024
    weights = config.weights
    assert (weights.optimizer, weights.lr, weights.min_lr) == ("sgd", 0.01, 0.0)
    assert (weights.momentum, weights.weight_decay) == (0.9, 3e-4)
    assert config.features.num_mel_bins == 40 and config.network.deltas
    assert config.network.stem_stride == (1, 1)
    assert set(config.regularization.operations) == {
        "dil_conv_3x3",
        "dil_conv_5x5",
        "avg_pool_3x3",
    }
    assert config.regularization.at_most == {"avg_pool_3x3": 2}
    assert config.architecture_data == "half"
    assert len(config.seeds) == 3 and config.selection is not None
    # P-DARTS (Chen et al. 2019), section 4.2 and its public code.
    assert [stage.layers for stage in config.stages] == [5, 11, 17]
    assert [stage.operations for stage in config.stages] == [8, 5, 3]
    architecture = config.architecture
    assert (architecture.lr, architecture.betas) == (6e-4, (0.5, 0.999))
    assert architecture.weight_decay == 1e-3
    assert len(get_space(config.space).operations) == 8


def problems_of(document: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        SearchConfig.from_dict(document)
    return caught.value.problems


def test_all_problems_are_reported_together() -> None:
    problems = problems_of(
        {
            "strategie": "pdarts",
            "strategy": "pdart",
            "space": "asr_revise",
            "name": "two words",
            "features": {"num_mel_bins": 2},
            "augment": {"p": 3},
            "network": {"output_size": 0, "stem_strid": [1, 1]},
            "stages": [{"layers": 2}, {"epochs": 3, "warmup_epochs": 3}, {"depth": 1}],
            "weights": {"lr": "1e-3", "optimizer": "lion"},
            "architecture": {"betas": [0.5]},
            "regularization": {"at_most": {"avg_pool_3x3": -1}},
            "batch": {"shortest_utterance": 2000},
            "trainer": {"precision": "16-mixed"},
        }
    )
    expected = [
        "strategie: unknown key (did you mean 'strategy'?)",
        "strategy: unknown strategy 'pdart' (did you mean 'pdarts'?)",
        "space: unknown search space 'asr_revise' (did you mean 'asr_revised'?)",
        "name: must be a genotype's name",
        "features.num_mel_bins: must be in 4..256, got 2",
        "augment.p: must be a number in 0..1, got 3",
        "network.output_size: must be in 1..",
        "network.stem_strid: unknown key (did you mean 'stem_stride'?)",
        "stages[0].layers: must be at least 3",
        "stages[1].warmup_epochs: must be in 0..2",
        "stages[2].depth: unknown key",
        "weights.lr: must be a number in 0..1e+06, got '1e-3' (YAML reads that as text",
        "weights.optimizer: unknown optimizer 'lion'",
        "architecture.betas: must have 2 entries",
        "regularization.at_most.avg_pool_3x3: must be in 0..8, got -1",
        "batch.shortest_utterance: must be at most batch.longest_utterance (1024), got 2000",
        "trainer.precision: unknown precision '16-mixed'",
    ]
    for text in expected:
        assert sum(problem.startswith(text) for problem in problems) == 1, (text, problems)
    assert len(problems) == len(expected), problems


@pytest.mark.parametrize(
    ("section", "value", "path"),
    [
        ("regularization", {"operations": 5}, "regularization.operations"),
        ("regularization", {"operations": ["skip_connect"]}, "regularization.operations[0]"),
        ("regularization", {"at_most": {"skip_connect": 2}}, "regularization.at_most.skip_connect"),
        ("stages", [], "stages"),
        ("stages", None, "stages"),
        ("stages", [{"operations": 5}], "stages[0].operations"),
        ("stages", [{}, {"operations": 9}], "stages[1].operations"),
        ("stages", [{"operations": 8}, {"operations": 5}, {"operations": 6}], "stages[2]"),
        ("weights", {"lr": float("nan")}, "weights.lr"),
        ("weights", 5, "weights"),
        ("augment", {"num_frame_masks": 0}, "augment.num_frame_masks"),
        ("augment", {"features_mask_size": 41}, "augment.features_mask_size"),
    ],
)
def test_one_problem(section: str, value: Any, path: str) -> None:
    problems = problems_of({section: value})
    assert len(problems) == 1 and problems[0].startswith(path), problems


def test_learned_edges() -> None:
    stages = [{"operations": 7}]
    config = SearchConfig.from_dict({"edges": "learned", "stages": stages})
    assert config.edges == "learned" and SearchConfig().edges == "operations"
    assert SearchConfig.from_dict(config.to_dict()) == config
    (problem,) = problems_of({"edges": "learned", "stages": [{"operations": 7.0}]})
    assert problem.startswith("stages[0].operations: must be an integer")
    for count in (8, 5):
        (problem,) = problems_of({"edges": "learned", "stages": [{"operations": count}]})
        assert problem == (
            "stages[0].operations: must be 7, all operations of the space 'asr_revised' without "
            f"'none' (edges are learned), got {count}"
        )
    (problem,) = problems_of({"edges": "learnt"})
    assert "edges: unknown way to choose edges 'learnt' (did you mean 'learned'?)" in problem
    (problem,) = problems_of(
        {
            "edges": "drawn",
            "stages": stages,
            "strategy": "darts",
            "order": "second",
        }
    )
    assert problem == "edges: 'drawn' is for first-order gradients, order is 'second'"
    chain = {"space": "tdnn_chain", "network": {"output_size": 8}}
    stage = {"layers": 6, "channels": 8, "operations": 4}
    (problem,) = problems_of({**chain, "edges": "learned", "stages": [stage]})
    assert problem == "edges: 'learned' is for spaces of cells with edges, not 'tdnn_chain'"


def test_limits_on_everything_are_refused() -> None:
    limits = {op: 2 for op in get_space("asr_revised").operations if op != "none"}
    problems = problems_of({"regularization": {"at_most": limits}})
    assert len(problems) == 1 and "must leave an operation without limit" in problems[0]


ODD_VALUES: list[Any] = [
    None, "x", 5, -1, 1.5, float("nan"), float("inf"), True, [], [1], ["x"], [None], {},
    {"x": 1}, [[1]], 10**30, [1, 2, 3], b"x", {1: 2}, [{}],
]  # fmt: skip


def _places(document: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    places = [place]
    if isinstance(document, dict):
        for key, value in document.items():
            places += _places(value, (*place, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            places += _places(value, (*place, index))
    return places


def test_odd_values_anywhere_give_our_error_or_none() -> None:
    document = SearchConfig.from_dict({"augment": {}}).to_dict()
    refused = 0
    for place in _places(document):
        for value in ODD_VALUES:
            changed = copy.deepcopy(document)
            holder: Any = changed
            for step in place[:-1]:
                holder = holder[step]
            if place:
                holder[place[-1]] = value
            else:
                changed = value
            try:
                SearchConfig.from_dict(changed)
            except ConfigError:
                refused += 1
    assert refused > 800


def test_settings_change_nested_values_and_lists() -> None:
    config = load_search_config(
        "tiny",
        [
            "weights.lr=0.5",
            "stages.1.epochs=7",
            "network.hidden_sizes=[32, 16]",
            "augment.num_frame_masks=3",  # not in the file: a section that is added
            "regularization.at_most.max_pool_3x3=1",
            "name=mine",
            "architecture.lr=3e-4",  # text to YAML 1.1, a number to people
            "batch.max_frames=null",
        ],
    )
    before = load_search_config("tiny")
    assert config.weights.lr == 0.5
    assert [s.epochs for s in config.stages] == [
        before.stages[0].epochs,
        7,
        before.stages[2].epochs,
    ]
    assert config.network.hidden_sizes == (32, 16)
    assert config.augment is not None and config.augment.num_frame_masks == 3
    assert config.regularization.at_most == {"avg_pool_3x3": 2, "max_pool_3x3": 1}
    assert (config.name, config.architecture.lr) == ("mine", 3e-4)
    assert config.weights.optimizer == before.weights.optimizer


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("weights.lr", "must be key=value"),
        ("=5", "must be key=value"),
        ("stages.9.epochs=1", "'9' must be an index in 0..2"),
        ("stages.-1.epochs=1", "'-1' must be an index in 0..2"),
        ("stages.\u00b2.epochs=1", "must be an index in 0..2"),
        ("stages.x=1", "'x' must be an index"),
        ("name.x=1", "its parent is no mapping and no list"),
        ("weights.lr.x=1", "its parent is no mapping and no list"),
        ("weights.rate=1", "weights.rate: unknown key"),
        ("optimizer.lr=1", "optimizer: unknown key"),
        ("weights.lr=fast", "weights.lr: must be a number"),
        ("name=[", "is not valid YAML"),
        ("name=&a [*a]", "aliases"),
        (".lr=1", "unknown key"),
    ],
)
def test_bad_settings(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_search_config("tiny", [setting])
    assert message in str(caught.value)


def test_bad_settings_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        load_search_config("tiny", ["weights.lr", "name.x=1", "weights.lr=0.1", "stages.x=1"])
    assert len(caught.value.problems) == 3


def test_an_unknown_name_lists_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="he2020_revised"):
        find_config("he2021", "search")
    with pytest.raises(ConfigError, match=r"of that name \(did you mean 'small'\?\); shipped: "):
        find_config("smal", "search")
    with pytest.raises(ConfigError, match="no file"):
        load_search_config(tmp_path / "no.yaml")


@pytest.mark.parametrize("text", ["", "[]", "5", "- a", "a: [", "a: 1\na: 2", "\x00"])
def test_files_that_hold_no_configuration(tmp_path: Path, text: str) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(text, encoding="utf-8")
    for settings in ([], ["weights.lr=1"]):
        with pytest.raises(ConfigError):
            load_search_config(path, settings)


def test_a_genotype_and_a_configuration_taken_for_each_other_are_told(tmp_path: Path) -> None:
    genotype, config = tmp_path / "genotype.yaml", tmp_path / "config.yaml"
    load_genotype("darts_v2").save(genotype)
    write_yaml(config, load_search_config("tiny").to_dict())
    with pytest.raises(ConfigError, match=r"is a genotype, not a configuration \(search\)"):
        load_search_config(genotype)
    with pytest.raises(GenotypeError, match="is the configuration of a search, not a genotype"):
        load_genotype(config)
    with pytest.raises(GenotypeError, match=r"is a folder; name the file in it"):
        load_genotype(tmp_path)

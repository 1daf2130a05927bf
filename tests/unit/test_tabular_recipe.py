"""Parts of building tables: rates, folding, decoding, architectures, configurations."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tabular_samples import config, numbers

from nas_encoder.common.resources import conf_root, list_configs
from nas_encoder.data.phones import FOLDINGS, PHONE_SETS, TIMIT_48_TO_39, fold
from nas_encoder.errors import ConfigError, GenotypeError
from nas_encoder.genotype import load_genotype
from nas_encoder.network import build_encoder
from nas_encoder.network.complexity import count_parameters
from nas_encoder.spaces.nasbench_asr.config import PUBLISHED
from nas_encoder.tabular import list_tables, load_table
from nas_encoder.tabular.build import TableBuilder, choose_architectures
from nas_encoder.tabular.config import Recipe, TableConfig, load_table_config
from nas_encoder.training.decoding import greedy, prefix_beam
from nas_encoder.training.optimizers import exponential
from tools.results.scoring import score


def test_the_rate_falls_from_the_fifth_epoch_on() -> None:
    recipe = Recipe()
    rates = [
        exponential(recipe.lr, recipe.decay, recipe.decay_from, epoch)
        for epoch in (-1, 0, 1, 5, 6, 7, 40)
    ]
    assert rates[:4] == [1e-4] * 4
    assert rates[4:] == pytest.approx([0.9e-4, 0.81e-4, 1e-4 * 0.9**35])


def test_48_phones_fold_to_39() -> None:
    from lhotse.recipes.timit import get_phonemes

    phones = sorted(set(get_phonemes(48).values()) - {""})
    assert len(phones) == 48
    assert len(set(fold(phones, TIMIT_48_TO_39))) == 39
    # lhotse's own 39 are the same ones, made from the 60 at once.
    direct, via = get_phonemes(39), get_phonemes(48)
    for phone, one in via.items():
        if one:
            assert fold([one], TIMIT_48_TO_39) == [direct[phone]], phone


def test_61_and_48_phones_are_scored_as_the_same_39() -> None:
    from lhotse.recipes.timit import get_phonemes

    folding = FOLDINGS["timit39"]
    transcribed = sorted(set(get_phonemes(48)) - {"sil"})  # lhotse's own name
    assert transcribed == sorted(PHONE_SETS[61]) and len(transcribed) == 61
    for size in (48, 39):
        table = get_phonemes(size)
        assert dict(PHONE_SETS[size]) == {phone: table[phone] for phone in transcribed}
    want = fold(transcribed, get_phonemes(39))  # without q, the glottal stop
    assert len(want) == 60 and len(set(want)) == 39
    for size in (61, 48, 39):  # whatever a network was trained with
        assert fold(fold(transcribed, PHONE_SETS[size]), folding) == want
    result = score({"u": "h# q ix tcl t h#"}, {"u": "sil ih cl t vcl"}, "timit39")
    assert (result.errors, result.lengths) == ((0,), (5,))


def sum_over_paths(log_probs: torch.Tensor) -> dict[tuple[int, ...], float]:
    """Return each sequence's probability, by all paths."""
    frames, tokens = log_probs.shape
    total: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(tokens), repeat=frames):
        p = math.exp(sum(float(log_probs[t, token]) for t, token in enumerate(path)))
        key = tuple(token for token, _ in itertools.groupby(path) if token)
        total[key] = total.get(key, 0.0) + p
    return total


@pytest.mark.parametrize("seed", range(12))
def test_a_wide_beam_finds_the_most_probable_sequence(seed: int) -> None:
    torch.manual_seed(seed)
    log_probs = (2 * torch.randn(5, 3, dtype=torch.float64)).log_softmax(1)
    total = sum_over_paths(log_probs)
    assert prefix_beam(log_probs, 500) == list(max(total, key=lambda key: total[key]))


def test_a_beam_adds_paths_up_and_greedy_decoding_does_not() -> None:
    log_probs = torch.tensor([[0.4, 0.3, 0.3], [0.4, 0.35, 0.25]], dtype=torch.float64).log()
    assert greedy(log_probs) == []
    assert prefix_beam(log_probs, 12) == [1]
    repeated = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.1, 0.9]]).log()
    assert greedy(repeated) == prefix_beam(repeated, 4) == [1, 1]
    assert greedy(torch.zeros(0, 3)) == prefix_beam(torch.zeros(0, 3), 4) == []


def test_architectures_are_different_and_always_the_same() -> None:
    chosen = choose_architectures(config(architectures={"count": 200, "seed": 5}))
    assert len({genotype.architecture.graph_hash for genotype in chosen}) == 200
    assert chosen == choose_architectures(config(architectures={"count": 200, "seed": 5}))
    assert len(choose_architectures(config(architectures={"kind": "all"}))) == 8242
    with pytest.raises(ConfigError, match="too large to be listed"):
        choose_architectures(config(space="darts", architectures={"kind": "all"}))
    with pytest.raises(ConfigError, match="5000 different ones were not found"):
        choose_architectures(config(space="tdnn_chain", architectures={"count": 5000}))


def test_architectures_can_be_listed_by_name(tmp_path: Path) -> None:
    other = choose_architectures(config(architectures={"count": 1}))[0]
    other.save(tmp_path / "other.yaml")
    names = ["nasbench_asr_example", str(tmp_path / "other.yaml"), "nasbench_asr_example"]
    chosen = choose_architectures(config(architectures={"kind": "list", "genotypes": names}))
    assert [genotype.hash for genotype in chosen] == [
        load_genotype("nasbench_asr_example").hash, other.hash
    ]  # fmt: skip
    with pytest.raises(GenotypeError, match="space: must be 'nasbench_asr', got 'darts'"):
        choose_architectures(config(architectures={"kind": "list", "genotypes": ["darts_v2"]}))
    for wrong in ({"kind": "list"}, {"kind": "all", "genotypes": ["darts_v2"]}):
        with pytest.raises(ConfigError, match="architectures.genotypes: belongs to the kind"):
            config(architectures=wrong)


def test_everything_wrong_in_a_configuration_is_named() -> None:
    document = {
        "name": "",
        "space": "darst",
        "colour": 1,
        "architectures": {"kind": "some", "count": 0},
        "network": {"input_size": 80},
        "features": {"num_mel_bins": 2},
        "folding": "timit",
        "beam": 0,
        "recipe": {"epochs": [10, 5], "seeds": [], "lr": "fast", "warm_up": [0], "steps": 3},
        "latency": {"repeats": 0},
    }
    with pytest.raises(ConfigError) as caught:
        TableConfig.from_dict(document)
    starts = [
        "colour:", "recipe.steps:", "name:", "space: unknown search space 'darst'", "folding:",
        "beam:", "network.input_size:", "architectures.kind:", "architectures.count:",
        "features.num_mel_bins:", "latency.repeats:", "recipe.epochs:", "recipe.seeds:",
        "recipe.lr:", "recipe.warm_up[0]:",
    ]  # fmt: skip
    assert len(caught.value.problems) == len(starts)
    for start in starts:
        assert any(problem.startswith(start) for problem in caught.value.problems), start
    with pytest.raises(ConfigError, match="recipe.epochs: must ascend"):
        config(recipe={"epochs": [10, 5]})
    with pytest.raises(ConfigError, match="lstm: unknown key"):
        bad = config(network={"lstm": 3})
        TableBuilder(bad, "train", "valid", "test", "out.sqlite")


def test_shipped_configurations_are_whole() -> None:
    names = list_configs("table")
    assert {"nasbench_asr_timit", "synth_timit"} <= set(names)
    for name in names:
        assert load_table_config(name).name == name
        assert not load_table_config(name).note  # it could not know whose data will be used
    paper = load_table_config("nasbench_asr_timit")
    assert paper.recipe == Recipe(l2=0.01)
    assert (paper.beam, paper.folding, paper.features.num_mel_bins) == (12, "timit39", 80)
    options = {**paper.network, "input_size": paper.features.num_mel_bins}
    assert options == PUBLISHED
    assert all((conf_root() / "table" / f"{name}.sqlite").is_file() for name in list_tables())


def test_a_note_is_not_that_of_other_settings(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("tokens: phone\nnote: 30 networks, trained on phones\n")
    assert load_table_config(path).note == "30 networks, trained on phones"
    assert load_table_config(path, ["tokens=phone"]).note == "30 networks, trained on phones"
    assert not caplog.records
    changed = load_table_config(path, ["architectures.count=4", "tokens=char"])
    assert changed.note == "" and changed.tokens == "char"
    (warning,) = caplog.records
    assert "own.yaml is left out: settings change what it describes" in warning.getMessage()
    own = load_table_config(path, ["tokens=char", "note=4 networks, trained on characters"])
    assert own.note == "4 networks, trained on characters"


def test_the_shipped_table_is_what_its_configuration_makes() -> None:
    table = load_table("synth_timit")
    settings = load_table_config("synth_timit")
    assert {**TableConfig.completed(table.about["config"]), "note": ""} == settings.to_dict()
    assert "synthetic" in table.about["note"]
    assert not table.about["environment"]["commit"].endswith("-dirty")
    chosen = choose_architectures(settings)
    drawn = {genotype.architecture.graph_hash for genotype in chosen}
    found = [table.genotype(key) for key in sorted(set(table.hashes()) - drawn)]
    assert drawn < set(table.hashes()) and len(drawn) == 30
    strategies = [genotype.provenance["strategy"] for genotype in found]
    assert sorted(strategies) == ["darts"] * 5 + ["stnas"] * 5
    assert table.targets == [4, 10] and table.seeds == [1234, 1235]
    assert len(numbers(table)) == 40 * 2 * 2
    for genotype in [*chosen, *found]:
        encoder: Any = build_encoder(genotype, input_size=24, **settings.network)
        output = (encoder.output_size + 1) * len(table.about["tokens"])
        assert table.params(genotype) == count_parameters(encoder) + output
        assert table.genotype(genotype).architecture == genotype.architecture
        ((seconds,),) = table.latency(genotype)  # type: ignore[misc]
        assert 1e-5 < seconds < 0.1
    errors = [table.val_acc(genotype, seed="mean") for genotype in chosen]
    assert len(set(errors)) > 25 and 0.2 < min(errors) < 0.5 < max(errors) <= 1.1  # type: ignore[type-var, operator]

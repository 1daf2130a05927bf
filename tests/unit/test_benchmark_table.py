"""The benchmark table: what is found, refused, tested, and what ESPnet itself counts."""

from __future__ import annotations

import csv
import json
import math
import random
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas_encoder.errors import DataError
from nas_encoder.genotype import load_genotype
from tools.benchmark.__main__ import main
from tools.benchmark.costs import of_espnet, speech_of_espnet, spoken_seconds
from tools.benchmark.layouts import find
from tools.benchmark.page import columns_of
from tools.benchmark.scores import compare, systems_of
from tools.results.matched_pairs import matched_pairs

COUNT = 40
WORDS = "the a cat dog runs sits sleeps here there now".split()
LOG = """\
[h] 2026-01-01 (trainer:394) INFO: 1epoch results: [train] iter_time=0.2, train_time=1.7, \
time=1 minute and 2.5 seconds, total_count=3, gpu_max_cached_mem_GB=1.500, [valid] loss=1.0, \
time=7.5 seconds, total_count=1, gpu_max_cached_mem_GB=0.5, [att_plot] time=2 seconds
[h] 2026-01-01 (trainer:394) INFO: 2epoch results: [train] time=58 seconds, [valid] time=0 seconds
"""
ENCODERS: dict[str, dict[str, Any]] = {
    "transformer_ctc": {"encoder": "transformer", "encoder_conf": {"num_blocks": 1}},
    "dfsmn_san_ctc": {
        "encoder": "nas_encoder.dfsmn_san",
        "encoder_conf": {"output_size": 16, "attention_heads": 2},
    },
    "nas_ctc": {
        "encoder": "nas",
        "encoder_conf": {"layers": 3, "channels": 1, "output_size": 8},
    },
}
ENCODERS["nas_ctc"]["encoder_conf"]["genotype"] = load_genotype("asrnet_b").to_dict()


def references(count: int = COUNT) -> dict[str, str]:
    rng = random.Random(0)
    return {f"s{n % 5}-u{n:03d}": " ".join(rng.choices(WORDS, k=6)) for n in range(count)}


def recognised(texts: dict[str, str], wrong: float, seed: int) -> dict[str, str]:
    rng = random.Random(seed)
    return {
        key: " ".join(w if rng.random() > wrong else "zebra" for w in text.split())
        for key, text in texts.items()
    }


def write_text(path: Path, texts: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key} {text}\n" for key, text in texts.items()))


def config_of(data: Path, encoder: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        **encoder,
        "frontend": "default",
        "frontend_conf": {"n_mels": 16, "fs": 16000, "hop_length": 160},
        "token_type": "bpe",
        "train_shape_file": ["stats/train/speech_shape"],
        "train_data_path_and_name_and_type": [[str(data / "train/wav.scp"), "speech", "sound"]],
        **more,
    }


def recipe_folder(root: Path, data: Path, **more: Any) -> Path:
    """A run of recipes/timit/espnet with three encoders; the last one is the best."""
    texts = references()
    write_text(data / "test" / "text", texts)
    for place, (name, encoder) in enumerate(ENCODERS.items()):
        model = root / "models" / name
        model.mkdir(parents=True)
        (model / "config.yaml").write_text(yaml.safe_dump(config_of(data, encoder, **more)))
        decoded = recognised(texts, 0.5 - 0.2 * place, place)
        for test in ("test", "dev"):
            write_text(root / "decode" / name / "beam" / test / "1best_recog" / "text", decoded)
        costs = root / "costs" / "train" / f"{name}.json"
        costs.parent.mkdir(parents=True, exist_ok=True)
        epochs = {str(n): {"cpu": 10.0 * (place + 1), "wall": 99.0} for n in (1, 2)}
        costs.write_text(json.dumps({"job": name, "epochs": epochs, "peak_memory_mib": 700.0}))
    shapes = root / "stats" / "train" / "speech_shape"
    shapes.parent.mkdir(parents=True)
    shapes.write_text("a 160000\nb 320000\n")
    options = {"command": "recipes/librispeech/espnet/run.sh --tiny true", "tiny": "true"}
    (root / "options.yaml").write_text(yaml.safe_dump({**options, "ngpu": 0}))
    return root


def asr_sh_folder(top: Path, wrong: float = 0.1) -> Path:
    """What ESPnet's asr.sh leaves, its .trn files included."""
    texts = references()
    folder = top / "exp" / "asr_train_raw_en"
    decoded = recognised(texts, wrong, 7)
    write_text(top / "dump" / "raw" / "test" / "text", texts)
    write_text(folder / "decode_ctc_asr_model" / "test" / "text", decoded)
    for kind, own in (("ref", texts), ("hyp", decoded)):
        path = folder / "decode_ctc_asr_model" / "test" / "score_wer" / f"{kind}.trn"
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{text}\t({key.partition('-')[0]}-{key})\n" for key, text in own.items()]
        path.write_text("".join(lines))
    config = config_of(top, ENCODERS["nas_ctc"])
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "train.log").write_text(LOG)
    return folder


@pytest.mark.slow
def test_the_whole_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = recipe_folder(tmp_path / "exp", tmp_path / "data" / "espnet")
    output = tmp_path / "out"
    command = [str(root), "--only", "dfsmn_san_ctc", "nas_ctc", "--threads", "1", "--speech", "0.3"]
    assert main([*command, "--repeats", "3", "--output", str(output), "--language", "en"]) == 0
    said = capsys.readouterr().out
    assert (output / "BENCHMARK.md").read_text() in said + "\n"
    assert "**A synthetic corpus**" in said and "| nas_ctc " in said
    document = json.loads((output / "benchmark.json").read_text())
    table = document["tests"]["test"]
    assert list(document["tests"]) == ["test"] and document["metric"] == "WER"
    best, worst = table["rows"]
    assert (best["name"], worst["name"]) == ("nas_ctc", "dfsmn_san_ctc")
    assert best["error"]["low"] <= best["error"]["estimate"] <= best["error"]["high"]
    cost = best["training_cost"]
    assert (cost["seconds"], cost["clock"], cost["memory_mib"]) == (60.0, "CPU", 700.0)
    assert cost["throughput"] == pytest.approx(2 * 30 / 60)
    measured = best["measured"]["cpu"]
    assert measured["inference"]["1"]["rtf"] > 0 and measured["step"]["1"]["ms"] > 0
    (versus,) = best["against"]
    assert versus["reference"] == "dfsmn_san_ctc" and versus["p_holm"] < 0.001
    assert "nas_ctc makes fewer errors than dfsmn_san_ctc" in said
    for name in ("test.png", "test.svg", "bench.json"):
        assert (output / name).stat().st_size > 1000
    rows = list(csv.reader((output / "scores.nemo.csv").read_text().splitlines()))
    rate = f"{100 * best['error']['estimate']:.1f}"
    assert rows[:2] == [["Model Name", "Language", "Librispeech Test"], ["nas_ctc", "en", rate]]
    page = (output / "RESULTS.espnet.md").read_text()
    assert "### WER\n\n|dataset|Snt|Wrd|" in page
    assert f"|beam/test|{COUNT}|{6 * COUNT}|" in page and f"|{rate}|" in page
    # Measurements of before.
    again = [str(root), "--only", "nas_ctc", "--bench", str(output / "bench.json")]
    assert main([*again, "--output", str(tmp_path / "again")]) == 0
    capsys.readouterr()
    assert main([str(root), "--bench", str(output / "bench.json")]) == 1
    assert "bench.json: lacks transformer_ctc" in capsys.readouterr().err


@pytest.mark.slow
def test_published_figures_are_marked_and_of_their_test_set(tmp_path: Path) -> None:
    root = recipe_folder(tmp_path / "exp", tmp_path / "data" / "espnet")
    command = [str(root), "--no-bench", "--corpus", "timit", "--output", str(tmp_path / "out")]
    assert main(command) == 0
    page = (tmp_path / "out" / "BENCHMARK.md").read_text()
    assert "PER % [95 %]" in page and "| *published:* ESPnet RNN" in page and "19.5" in page
    assert "Source: espnet egs2/timit/asr1/README.md" in page
    command[3:4] = ["aishell"]
    assert main([*command, "--unit", "char"]) == 0
    page = (tmp_path / "out" / "BENCHMARK.md").read_text()
    # The paper's figures are of other quantities, which their cells say.
    (row,) = [line for line in page.splitlines() if "published:* ASRNET-A, L=32 C=38" in line]
    assert "5.65 on AISHELL-2" in row
    assert "Another corpus: AISHELL-2; 40 bins with deltas" in page
    assert "| against transformer_ctc | against dfsmn_san_ctc |" in " ".join(page.split())
    # A pair of references is told once.
    assert len([line for line in page.splitlines() if "points [" in line]) == 3


def test_espnets_own_run(tmp_path: Path) -> None:
    folder = asr_sh_folder(tmp_path / "egs2" / "librispeech_100" / "asr1")
    for place in (folder, folder.parent, folder.parents[1]):
        (found,) = find([("", place)])
        assert (found.name, found.corpus) == ("train_raw_en", "librispeech_100")
    (named,) = find([("mine", folder)])
    assert named.name == "mine" and named.costs.clock == "wall"
    assert named.costs.seconds == pytest.approx(62.5 + 7.5 + 2 + 58)
    assert named.costs.epochs == 2 and named.costs.memory_mib == 1536
    (system,) = systems_of([named], "test", "word", {})
    assert len(system.score.utterances) == COUNT
    assert system.score.substitutions == sum(
        text.split().count("zebra") for text in system.recognised.values()
    )


def test_it_is_comparable_with_a_recipe_here_and_the_worse_is_named_so(tmp_path: Path) -> None:
    root = recipe_folder(tmp_path / "a", tmp_path / "data" / "espnet")
    theirs = asr_sh_folder(tmp_path / "b", wrong=0.9)
    found = find([("ours", root), ("theirs", theirs)])
    systems = systems_of(found, "test", "word", {})
    assert [system.name for system in systems][-1] == "theirs"
    comparisons = compare(systems, ["dfsmn_san_ctc", "transformer_ctc"], 0)
    (first, second) = comparisons["nas_ctc"]
    by_name = {system.name: system.score for system in systems}
    plain = matched_pairs(by_name["nas_ctc"], by_name["dfsmn_san_ctc"])
    assert first.test == plain and first.difference.high < 0
    # Five pairs: nas and theirs with both, and the two with each other.
    assert first.adjusted is not None and plain.p <= first.adjusted <= 5 * plain.p
    assert second.adjusted is not None and second.adjusted <= first.adjusted
    (only,) = comparisons["dfsmn_san_ctc"]
    (back,) = comparisons["transformer_ctc"]
    assert only.adjusted == back.adjusted and only.difference.estimate < 0


def test_several_ways_of_decoding_are_rows_of_their_own(tmp_path: Path) -> None:
    root = recipe_folder(tmp_path / "exp", tmp_path / "data" / "espnet")
    again = root / "decode" / "nas_ctc" / "greedy" / "test" / "1best_recog" / "text"
    write_text(again, recognised(references(), 0.9, 1))
    names = [system.name for system in systems_of(find([("", root)]), "test", "word", {})]
    ways = ["nas_ctc (beam)", "nas_ctc (greedy)"]
    assert names == [ways[0], "dfsmn_san_ctc", "transformer_ctc", ways[1]]


def test_mixed_test_sets_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = recipe_folder(tmp_path / "a", tmp_path / "data" / "espnet")
    theirs = asr_sh_folder(tmp_path / "b")
    trn = theirs / "decode_ctc_asr_model" / "test" / "score_wer" / "ref.trn"
    lines = trn.read_text().splitlines(keepends=True)
    trn.write_text("other words\t" + lines[0].partition("\t")[2] + "".join(lines[1:]))
    command = [str(root), str(theirs), "--no-bench", "--output", str(tmp_path / "out")]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "train_raw_en: has other references than dfsmn_san_ctc for 1 utterances" in said
    text = root / "decode" / "nas_ctc" / "beam" / "test" / "1best_recog" / "text"
    text.write_text("".join(text.read_text().splitlines(keepends=True)[1:]))
    trn.write_text("".join(lines[1:]))
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "nas_ctc: 1 utterances are not recognised" in said
    assert "mixed test sets cannot be compared" in said
    assert not (tmp_path / "out").exists()


def test_everything_that_is_wrong_with_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), str(tmp_path / "gone")]) == 1
    said = capsys.readouterr().err
    assert "empty: holds no trained model" in said and "gone: is no folder" in said
    root = recipe_folder(tmp_path / "exp", tmp_path / "data" / "espnet")
    assert main([str(root), "--no-bench", "--tests", "other"]) == 1
    assert "--tests: must be of dev, test, got other" in capsys.readouterr().err
    assert main([str(root), "--no-bench", "--against", "conformer"]) == 1
    assert (
        "--against: must be of dfsmn_san_ctc, nas_ctc, transformer_ctc" in capsys.readouterr().err
    )
    (tmp_path / "data" / "espnet" / "test" / "text").unlink()
    assert main([str(root), "--no-bench"]) == 1
    assert "give it with --reference test=FILE" in capsys.readouterr().err
    assert main([str(root), str(root), "--no-bench"]) == 1
    assert "are found twice" in capsys.readouterr().err
    assert main([f"a={'b' * 300}", "c" * 300]) == 1
    assert capsys.readouterr().err.count("is no folder") == 2


def test_a_folder_that_cannot_be_made_is_named_before_measuring(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = recipe_folder(tmp_path / "exp", tmp_path / "data" / "espnet")
    (tmp_path / "file").write_text("")
    assert main([str(root), "--output", str(tmp_path / "file" / "out")]) == 1
    said = capsys.readouterr().err
    assert "--output: the folder" in said and "cannot be made: Not a directory" in said
    assert "inference" not in said  # nothing was measured


def test_few_utterances_have_no_p(tmp_path: Path) -> None:
    root = recipe_folder(tmp_path / "a", tmp_path / "data" / "espnet")
    few = references(29)
    write_text(tmp_path / "data" / "espnet" / "test" / "text", few)
    for name in ENCODERS:
        path = root / "decode" / name / "beam" / "test" / "1best_recog" / "text"
        write_text(path, dict(list(recognised(few, 0.3, len(name)).items())))
    systems = systems_of(find([("", root)]), "test", "word", {})
    found = compare(systems, ["transformer_ctc"], 0)["nas_ctc"][0]
    assert found.test is None and found.adjusted is None and math.isfinite(found.difference.low)


def test_columns_of_which_nothing_is_known_are_left_out() -> None:
    row: dict[str, Any] = {
        "name": "a", "toolkit": "nemo", "tokens": "bpe", "against": [], "measured": {},
        "error": {"estimate": 0.1, "low": 0.05, "high": 0.2}, "macs": None, "macs_of_seconds": None,
        "parameters": {"encoder": None, "model": 10}, "boundaries": None,
        "training_cost": {"seconds": None, "clock": "wall", "throughput": None, "memory_mib": None},
    }  # fmt: skip
    assert list(columns_of([row], "PER")) == ["PER % [95 %]", "parameters"]
    aligned = {**row, "boundaries": {"mean_ms": 12.34, "frame_ms": 40.0}, "toolkit": "espnet"}
    columns = columns_of([row, aligned], "PER")
    assert list(columns) == ["PER % [95 %]", "parameters", "toolkit", "boundaries ms"]
    assert [columns["boundaries ms"](one) for one in (row, aligned)] == ["-", "12.3 (40)"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5.34 seconds", 5.34),
        ("1 minute and 2.5 seconds", 62.5),
        ("1 day, 2 hours and 3 minutes", 93780.0),
        ("1 hour", 3600.0),
    ],
)
def test_times_as_espnet_writes_them(text: str, seconds: float) -> None:
    assert spoken_seconds(text) == pytest.approx(seconds)


def test_a_resumed_training_counts_its_last_epochs_and_shapes_may_be_frames(tmp_path: Path) -> None:
    (tmp_path / "train.1.log").write_text(LOG.replace("58 seconds", "100 seconds"))
    (tmp_path / "train.log").write_text(LOG.splitlines(keepends=True)[1])
    assert of_espnet(tmp_path, 10.0).seconds == pytest.approx(72 + 58)
    (tmp_path / "shape").write_text("a 100,80\nb 50,80\n")
    config = {"train_shape_file": ["shape"], "frontend_conf": {"hop_length": 160}}
    assert speech_of_espnet(config, [tmp_path]) == pytest.approx(1.5)
    assert speech_of_espnet({**config, "num_iters_per_epoch": 5}, [tmp_path]) is None
    (tmp_path / "shape").write_text("a x\n")
    with pytest.raises(DataError, match="line 1: must be a key and a shape"):
        speech_of_espnet(config, [tmp_path])


@pytest.mark.slow
def test_what_the_script_says_of_itself() -> None:
    script = Path(__file__).parents[2] / "recipes" / "benchmark.sh"
    done = subprocess.run(["bash", str(script), "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "recipes/benchmark.sh [-h]" in done.stdout, done.stderr


def test_configurations_of_another_kind_are_no_trainings(tmp_path: Path) -> None:
    root = recipe_folder(tmp_path / "exp", tmp_path / "data" / "espnet")
    (root / "models" / "nas_ctc" / "config.yaml").write_text("- a list\n")
    path = root / "models" / "dfsmn_san_ctc" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    del config["train_data_path_and_name_and_type"]
    path.write_text(yaml.safe_dump(config))
    found = {one.name: one for one in find([("", root)])}
    assert set(found) == {"dfsmn_san_ctc", "transformer_ctc"}
    assert found["dfsmn_san_ctc"].decodings[0].reference is None

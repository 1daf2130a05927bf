"""What an earlier version wrote, read by this one: nothing is lost.

golden/artefacts/ holds what commit 9cd53a1 wrote, with what it made of it itself;
golden/make_artefacts.py says how. Another processor rounds otherwise, so what is computed anew is
compared with a tolerance, and what was recorded is compared exactly.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from artefact_checks import require_kept, require_near, require_same_output, rows_of
from espnet_options import load_asr
from golden.artefact_cases import (
    BASELINES,
    ENCODERS,
    ESPNET_MORE,
    GRADIENT_CASES,
    TOOLKITS,
    TRIALS_CASES,
)
from golden.artefact_interface import KEYS, SAME, json_of, keys, options
from golden.artefact_networks import described, speech, wave
from golden.make_artefacts import numbers
from nemo_tones import WARNINGS, toolkit
from report_checks import check_page
from report_pages import read_page, saved_figures

from nas_encoder import Genotype, build_encoder, list_genotypes, load_genotype
from nas_encoder.baselines import DFSMNSAN, DFSMNSANConfig
from nas_encoder.cli.main import main
from nas_encoder.spaces import get_space, list_spaces

pytestmark = pytest.mark.slow  # archives are unpacked, searches go on
ARCHIVES = Path(__file__).parent.parent / "golden" / "artefacts"
TRIALS = list(TRIALS_CASES)
# Draws that depend on no error, and errors that are looked up: the same on every processor.
LOOKED_UP = {name for name, case in TRIALS_CASES.items() if "table" in case}
DRAWN = {"random_cells", "hyperband_nodes"} | LOOKED_UP
Expected = Callable[[str], dict[str, Any]]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artefacts, unpacked."""
    folder = tmp_path_factory.mktemp("artefacts")
    for archive in sorted(ARCHIVES.glob("*.tar.xz")):
        with tarfile.open(archive) as opened:
            opened.extractall(folder, filter="data")
    return folder


@pytest.fixture(autouse=True)
def expected(root: Path, monkeypatch: pytest.MonkeyPatch) -> Expected:
    """What the earlier version made of a group; the paths in it are relative to the root."""
    monkeypatch.chdir(root)

    def read(group: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((root / group / "expected.json").read_text("utf-8"))
        assert found["commit"] == "9cd53a1"
        return found

    return read


# -- searches ------------------------------------------------------------------------------------


def searched(
    group: str, part: str, name: str, case: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    """Resume a search; return what the command prints."""
    folder = f"{group}/{part}/{name}"
    # Given once more as it was given, and as the run folder has it.
    config = f"{group}/configs/{name}.yaml" if part == "half" else f"{folder}/config.yaml"
    command = ["search", "--config", config, *case["arguments"], "--output", folder, "--resume"]
    status = main([*command, "--json"])
    said = capsys.readouterr()
    assert status == 0, said.err
    printed: dict[str, Any] = json.loads(said.out)
    assert set(printed) >= {"genotype", "hash", "output"}
    genotype = load_genotype(f"{folder}/genotype.yaml")
    get_space(case["space"]).validate(genotype)
    assert printed["hash"] == genotype.hash
    return printed


def require_finished(
    group: str, name: str, expected: Expected, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resumed, it has nothing to do but its report, which is not among the artefacts."""
    case, folder = expected(group)[name], Path(group, "finished", name)
    assert not (folder / "report.html").exists()
    with saved_figures() as figures:
        printed = searched(group, "finished", name, case, capsys)
    assert printed["hash"] == case["finished"]["hash"]
    assert rows_of(str(folder)) == case["finished"]["rows"]
    page = read_page(folder, figures)
    check_page(folder, page)
    assert case["finished"]["hash"] in page.words


@pytest.mark.parametrize("name", GRADIENT_CASES)
def test_a_finished_gradient_search(
    name: str, expected: Expected, capsys: pytest.CaptureFixture[str]
) -> None:
    require_finished("gradient", name, expected, capsys)
    for path, rows in expected("gradient")[name]["finished"]["rows"].items():
        folder = Path("gradient/finished", name, path).parent
        for row in rows:
            place = ["--stage", str(row["stage"]), "--epoch", str(row["epoch"])]
            assert main(["derive", str(folder), *place, "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["hash"] == row["genotype"]


@pytest.mark.parametrize("name", TRIALS)
def test_a_finished_search_by_trials(
    name: str, expected: Expected, capsys: pytest.CaptureFixture[str]
) -> None:
    require_finished("trials", name, expected, capsys)
    page = Path("trials/finished", name, "report.html")
    text = page.read_text("utf-8")
    page.unlink()
    assert main(["report", str(page.parent), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"report": str(page)}
    assert page.read_text("utf-8") == text


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report out, which takes longer than these searches; the finished ones have it."""
    monkeypatch.setattr("nas_encoder.search.run.write_report", lambda folder: None)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("name", GRADIENT_CASES)
def test_a_gradient_search_that_was_killed_goes_on(
    name: str, expected: Expected, capsys: pytest.CaptureFixture[str]
) -> None:
    case = expected("gradient")[name]
    searched("gradient", "half", name, case, capsys)
    before, then = case["half"]["rows"], case["resumed"]["rows"]
    now = rows_of(f"gradient/half/{name}")
    assert now.keys() == then.keys()
    for path, rows in then.items():
        done = len(before.get(path, []))
        assert now[path][:done] == before.get(path, [])
        places = [(row["stage"], row["epoch"], row["phase"], row["steps"]) for row in rows]
        found = [(row["stage"], row["epoch"], row["phase"], row["steps"]) for row in now[path]]
        # How much is gained, and so when a stage with a stop ends, may differ by a rounding.
        stops = "stop" in json.dumps(GRADIENT_CASES[name][0])
        assert found == places or (stops and found[: done + 1] == places[: done + 1])
        for was, row in zip(rows[done : done + 1], now[path][done:], strict=False):
            assert set(was) <= set(row)
            require_near(was, row)


@pytest.mark.usefixtures("no_report")
@pytest.mark.parametrize("name", TRIALS)
def test_a_search_by_trials_that_was_killed_goes_on(
    name: str, expected: Expected, capsys: pytest.CaptureFixture[str]
) -> None:
    case = expected("trials")[name]
    printed = searched("trials", "half", name, case, capsys)
    folder = f"trials/half/{name}"
    (rows,), (then,) = rows_of(folder).values(), case["resumed"]["rows"].values()
    # The file lags behind the study, whose first three trials were finished.
    finished = [row for row in then if row["number"] < 3]
    assert len(finished) == 3 and len(rows) == len(then)
    compared = {"seconds", "finished"}  # when it was done
    for was, row in zip(then, rows, strict=True):
        assert set(was) <= set(row)
        if was["number"] < 3:
            assert row == was
        elif name in LOOKED_UP:
            left = {key: value for key, value in was.items() if key not in compared}
            require_kept(left, row)
        elif name in DRAWN:
            assert (row["number"], row["vector"]) == (was["number"], was["vector"])
    if name in LOOKED_UP:
        assert printed["hash"] == case["resumed"]["hash"]
    assert Path(folder, "front.json").is_file() == ("objectives" in TRIALS_CASES[name])


# -- tables --------------------------------------------------------------------------------------


def test_tables(expected: Expected, capsys: pytest.CaptureFixture[str]) -> None:
    found = expected("tables")
    for name in ("finished", "half", "part1"):
        assert numbers(f"tables/{name}.sqlite") == found[name], name
    for name in ("finished", "half"):
        output = ["--output", f"tables/{name}.sqlite", "--resume"]
        build = ["table", "build", "--config", "tables/quick.yaml", *found["arguments"], *output]
        assert main(build) == 0, capsys.readouterr().err
    assert numbers("tables/finished.sqlite") == found["finished"]
    resumed = numbers("tables/half.sqlite")
    assert [row[:3] for row in resumed] == [row[:3] for row in found["resumed"]]
    assert all(row in resumed for row in found["half"])
    assert not list(Path("tables").glob("*.ckpt"))
    parts = ["tables/part1.sqlite", "tables/part2.sqlite"]
    assert main(["table", "merge", *parts, "--output", "merged.sqlite"]) == 0
    assert numbers("merged.sqlite") == found["m"]


# -- networks and models -------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*ENCODERS, *BASELINES])
def test_weights_of_an_encoder(name: str, expected: Expected) -> None:
    found = expected("toolkits")["encoders"][name]
    bins, lengths = found["bins"], torch.tensor(found["lengths"])
    if name in BASELINES:
        network: Any = DFSMNSAN(DFSMNSANConfig(input_size=bins, **found["options"]))
    else:
        genotype = Genotype.from_dict(found["genotype"])
        network = build_encoder(genotype, input_size=bins, **found["options"])
    assert described(network.state_dict()) == found["state"]
    state = torch.load(f"toolkits/encoders/{name}.pt", weights_only=True)
    network.load_state_dict(state, strict=True)
    assert network.output_size == found["output_size"]
    assert network.subsampling_factor == found["subsampling_factor"]
    x = wave(len(lengths) * int(lengths.max()) * bins).view(len(lengths), -1, bins)
    with torch.no_grad():
        y, y_lengths = network.eval()(x, lengths)
    assert y_lengths.tolist() == found["output_lengths"]
    require_same_output(found["output"], y)


@pytest.mark.espnet
@pytest.mark.filterwarnings("ignore::FutureWarning:espnet2")
@pytest.mark.filterwarnings("ignore::UserWarning:torch")
def test_models_of_espnet(expected: Expected) -> None:
    asr = load_asr()
    from espnet2.bin.asr_inference import Speech2Text

    for name, found in expected("toolkits")["espnet_models"].items():
        folder = f"toolkits/espnet/{name}"
        files = (f"{folder}/config.yaml", f"{folder}/valid.cer_ctc.ave.pth")
        model, _ = asr.ASRTask.build_model_from_file(*files)
        assert described(model.state_dict()) == found["state"], name
        x = speech()
        with torch.no_grad():
            output, _ = model.eval().encode(x, torch.tensor([x.size(1)]))
        require_same_output(found["output"], output[0] if isinstance(output, tuple) else output)
        results = Speech2Text(*files, ctc_weight=1.0, lm_weight=0.0, beam_size=4)(x[0])
        text, _, _, hypothesis = (results[0] if isinstance(results, tuple) else results)[0]
        assert text == found["text"]
        assert float(hypothesis.score) == pytest.approx(found["score"], rel=1e-3)


@pytest.mark.nemo
@pytest.mark.filterwarnings(*(f"ignore:{warning}" for warning in WARNINGS))
def test_models_of_nemo(expected: Expected) -> None:
    models = toolkit()
    assert set(TOOLKITS) == set(expected("toolkits")["nemo_models"])
    for name, found in expected("toolkits")["nemo_models"].items():
        path = f"toolkits/nemo/{name}.nemo"
        model = models.ASRModel.restore_from(path, map_location="cpu", strict=True).eval()
        assert described(model.state_dict()) == found["state"], name
        assert model.cfg.encoder._target_ == found["target"]
        x = speech()
        with torch.no_grad():
            length = torch.tensor([x.size(1)])
            log_probs, _, _ = model(input_signal=x, input_signal_length=length)
        require_same_output(found["output"], log_probs)


@pytest.mark.parametrize("name", TOOLKITS)
def test_checkpoints_are_converted(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Read without the toolkits, whose files these are."""
    steps = {"nemo": [f"toolkits/nemo/{name}.nemo", f"back/{name}"]}
    if name not in ESPNET_MORE:  # which NeMo has not
        # Nor has it features that are normalized as those of these models.
        steps["espnet"] = [f"toolkits/espnet/{name}", f"there/{name}", "--encoder-only"]
    for source, step in steps.items():
        assert main(["convert", *step, "--json"]) == 0, capsys.readouterr().err
        document = json.loads(capsys.readouterr().out)
        assert document["from"] == source
        assert {"input", "to", "encoder", "left_out", "files"} <= set(document)


# -- names, options, documents -------------------------------------------------------------------


def test_genotypes(expected: Expected) -> None:
    hashes = expected("interface")["genotypes"]
    for name, known in hashes.items():
        genotype = load_genotype(f"interface/genotypes/{name}.yaml")
        assert genotype.hash == known, name
        get_space(genotype.space).validate(genotype)
        assert Genotype.from_dict(genotype.to_dict()) == genotype
    zoo = {name.removeprefix("zoo_"): known for name, known in hashes.items() if "zoo_" in name}
    assert {name: load_genotype(name).hash for name in list_genotypes()}.items() >= zoo.items()


TOLD = {
    "bench": ("output",),
    "data check": ("tokens",),
    "show": ("input_size", "channels", "layers", "output_size"),
}


def test_options_of_the_commands(expected: Expected) -> None:
    now = options()
    for name, rows in expected("interface")["options"].items():
        present = {(row["dest"], tuple(row["options"])): row for row in now[name]}
        for row in rows:
            found = present[row["dest"], tuple(row["options"])]
            assert set(row["choices"] or ()) <= set(found["choices"] or row["choices"] or ()), row
            # Not given is now told from given: then it is as --help says.
            told = row["dest"] in TOLD.get(name, ())
            for key in ("nargs", "required") if told else ("nargs", "required", "default"):
                assert found[key] == row[key], (name, row)


@pytest.mark.parametrize("line", SAME)
def test_documents_of_the_commands(line: str, expected: Expected) -> None:
    old, new = expected("interface")["same"][line], json_of(line)
    if line == "zoo --json":  # which has more entries now
        names = [row["name"] for row in old]
        new = [row for row in new if row["name"] in names]
    require_kept(old, new)


@pytest.mark.parametrize("line", KEYS)
def test_keys_of_the_commands(line: str, expected: Expected) -> None:
    require_kept(expected("interface")["keys"][line], keys(json_of(line)))


def test_configurations(expected: Expected) -> None:
    """Those that were shipped: their names are known, and the old files mean the same."""
    from nas_encoder.search.config.load import load_any_search_config
    from nas_encoder.tabular.config import load_table_config

    for name, document in expected("interface")["configs"].items():
        load: Any = load_table_config if name.startswith("table") else load_any_search_config
        for source in (f"interface/configs/{name}.yaml", name.split("/")[1]):
            now = load(source).to_dict()
            if source == "synth_timit":  # a note is of one table, not of all with its settings
                assert now.pop("note") == "" != document.pop("note")
            require_kept(without_foreign(document, now), now, source)


def without_foreign(document: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Leave out that a network has no part which only networks of other spaces can have."""
    if "stages" not in document:  # of trials: options of the encoder
        return document
    there, off = document["network"].items(), ([1, 1], [], 0)
    return {**document, "network": {k: v for k, v in there if k in now["network"] or v not in off}}


def test_registered_names(expected: Expected, repository: Path) -> None:
    from nas_encoder.tables import BASELINES as KNOWN
    from nas_encoder.tables import OPERATIONS, STRATEGIES

    old = expected("interface")["names"]
    assert set(old["spaces"]) <= set(list_spaces())
    assert set(old["operations"]) <= set(OPERATIONS)
    assert {*old["gradient strategies"], *old["trial strategies"]} <= set(STRATEGIES)
    assert set(old["baselines"]) <= set(KNOWN)
    for name in old["train configs"]:
        assert (repository / "conf" / name).is_file()
    # Every strategy has a search among the artefacts.
    cases = [*expected("gradient").values(), *expected("trials").values()]
    covered = {case["strategy"] for case in cases if isinstance(case, dict)}
    assert covered == {*old["gradient strategies"], *old["trial strategies"]}

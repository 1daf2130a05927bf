"""A package of others adds a space, an operation, two strategies and a baseline, as installed.

``tests/extension`` is installed by pip into a folder of its own, and every process finds it by its
entry point. Nothing here registers anything, and no test helper knows its space.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from search_samples import tone_corpus

from nas_encoder.extensions import SWITCH

pytestmark = pytest.mark.slow

SEARCH: dict[str, Any] = {
    "space": "slim_chain",
    "network": {"output_size": 8},
    "features": {"num_mel_bins": 16},
    "augment": {"frames_mask_size": 8, "features_mask_size": 2},
    "batch": {"max_utterances": 4},
    "trainer": {"accelerator": "cpu"},
}
STAGE = {"layers": 1, "channels": 1, "epochs": 1, "warmup_epochs": 0}
GRADIENT = SEARCH | {
    "strategy": "decisive",
    "stages": [{**STAGE, "operations": 4}, {**STAGE, "operations": 2}],
    "weights": {"optimizer": "adam", "lr": 0.005, "weight_decay": 0.0},
    "objective": {"macs": 150_000, "seconds": 1.0},
}
TRIALS = SEARCH | {
    "strategy": "no_repeats",
    "network": {"output_size": 8, "channels": 1},
    "training": {"epochs": 1, "optimizer": "adam", "lr": 0.005},
    "trials": {"count": 2},
}

# Every command of ours, and the contracts, in one process.
COMMANDS = """
import sys, yaml
import pytest
from contextlib import redirect_stdout
from nas_encoder.cli.main import main
def written(path, *arguments):
    with open(path, "w") as file, redirect_stdout(file):
        assert main([*arguments, "--json"]) == 0
for name in ("decisive", "no_repeats"):
    data = ["--train", "train", "--valid", "valid"]
    assert main(["search", "--config", name + ".yaml", *data, "--output", name]) == 0, name
    assert main(["report", name]) == 0
    found = name + "/genotype.yaml"
    assert main(["show", found, "--input-size", "16", "--plot", name + ".svg"]) == 0
    written(name + ".json", "show", found)
assert main(["search", "--config", "decisive.yaml", *data, "--output", "decisive", "--resume"]) == 0
size = ["--input-size", "16", "--output-size", "8", "--frames", "40"]
written("bench.json", "bench", found, *size)
with open("decisive.yaml") as file:
    document = yaml.safe_load(file)
with open("wrong.yaml", "w") as file:
    yaml.safe_dump({**document, "space": "slim_chains", "strategy": "decisiv"}, file)
assert main(["search", "--config", "wrong.yaml", *data, "--output", "wrong"]) == 2
print("CONTRACTS", flush=True)
sys.exit(pytest.main(sys.argv[1:]))
"""

# Both encoders in ESPnet, by their names alone, and from there to NeMo.
ESPNET = """
import sys
from espnet2.bin.asr_train import main
from nas_encoder.cli.main import main as ours
for encoder in ("nas", "stacked_gru"):
    main(["--config", encoder + ".yaml", "--output_dir", encoder, *sys.argv[1:]])
    checkpoint = ["--checkpoint", "valid.loss.best.pth"]
    assert ours(["convert", encoder, encoder + ".nemo", *checkpoint]) == 0
"""

# Both encoders in NeMo, by their class paths alone: a step of training, a file, and back.
NEMO = """
import pickle, sys, yaml
import torch
from nemo_tones import Tones, build, toolkit, trainer
from pathlib import Path
Path("tones").mkdir()
tones = Tones.create(Path("tones").absolute(), number=4, longest=1, silence=0.1)
with open("nas.yaml") as file:
    genotype = yaml.safe_load(file)["encoder_conf"]["genotype"]
for encoder in (
    {"_target_": "nas_encoder.nemo.NASEncoder", "genotype": genotype, "deltas": False},
    {"_target_": "nas_encoder.nemo.StackedGRUEncoder", "layers": 2},
):
    model = build("ctc_char", tones.config("ctc_char", {**encoder, "feat_in": 16, "d_model": 16}))
    fitting = trainer(1)
    model.set_trainer(fitting)
    fitting.fit(model)
    name = type(model.encoder).__name__
    model.save_to(name + ".nemo")
    again = toolkit().ASRModel.restore_from(name + ".nemo")
    x, lengths = again.encoder.input_example()
    y = [m.eval().encoder(audio_signal=x, length=lengths)[0] for m in (model, again)]
    torch.testing.assert_close(*y, rtol=0, atol=0)
    assert pickle.loads(pickle.dumps(type(model.encoder))) is type(model.encoder)
    print("NEMO", name, again.cfg.encoder.get("genotype", {}).get("space"))
from nemo.core.classes import common
allowed = ("nas_encoder.nemo.StackedGRUEncoder", "nas_encoder.nemo.NASEncoder")
for target in (*allowed, "slim_chain.gru.StackedGRU", allowed[0] + ".__base__", "nas_encoder.nemo"):
    assert common._is_target_allowed(target) == (target in allowed), target
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """Return a folder with the package in ``site``, a corpus and configurations."""
    folder = tmp_path_factory.mktemp("extension")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(folder / "site")]
    # A copy: setuptools builds beside the sources.
    source = shutil.copytree(repository / "tests" / "extension", folder / "source")
    subprocess.run([*pip, *options, str(source)], check=True, capture_output=True)
    tone_corpus(folder / "train", 8, seed=1, seconds=0.6)
    tone_corpus(folder / "valid", 4, seed=2, seconds=0.6)
    for document in (GRADIENT, TRIALS):
        (folder / f"{document['strategy']}.yaml").write_text(yaml.safe_dump(document))
    return folder


def run(home: Path, code: str, *arguments: str, **environment: str) -> str:
    """Run code in a fresh Python that has the package on its path; return all that it says."""
    path = os.pathsep.join([str(home / "site"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        cwd=home,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def said(home: Path, repository: Path) -> str:
    """Return what the commands say, and pytest."""
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "--rootdir", str(home)]
    return run(home, COMMANDS, *options, str(repository / "tests" / "extension" / "contracts.py"))


def test_the_commands_know_the_space(home: Path, said: str) -> None:
    for name in ("decisive", "no_repeats"):
        document = yaml.safe_load((home / name / "genotype.yaml").read_text())
        assert document["space"] == "slim_chain" and len(document["blocks"]) == 4
        assert document["provenance"]["strategy"] == name
        report = (home / name / "report.html").read_text()
        first = document["blocks"][0]
        assert "in the space slim_chain" in report
        assert f"1 = {first['op']} x {first['width']}" in report
        assert (home / f"{name}.svg").stat().st_size > 1000
        shown = json.loads((home / f"{name}.json").read_text())
        assert shown["genotype"] == document
        assert shown["output"]["subsampling_factor"] == 4
        assert shown["receptive_field"]["frames"] > 4
    (measured,) = json.loads((home / "bench.json").read_text())["networks"]
    assert measured["ms"] > 0
    assert "network of 4 blocks, 16 features" in said
    assert "unknown search space 'slim_chains' (did you mean 'slim_chain'?)" in said
    assert "unknown strategy 'decisiv' (did you mean 'decisive'?)" in said


@pytest.mark.espnet
def test_both_encoders_train_in_espnet(home: Path, said: str) -> None:
    config = {
        "token_list": ["<blank>", "<unk>", *"abcd", "<sos/eos>"],
        "token_type": "char",
        "frontend_conf": {"n_fft": 512, "hop_length": 256, "n_mels": 16},
        "normalize": None,
        "decoder": None,
        "model_conf": {"ctc_weight": 1.0, "interctc_weight": 0.3},
        "batch_type": "unsorted",
        "batch_size": 4,
        "max_epoch": 1,
        "best_model_criterion": [["valid", "loss", "min"]],
        "num_workers": 0,
        "num_att_plot": 0,
        "use_tensorboard": False,
    }
    encoders: dict[str, dict[str, Any]] = {
        "nas": {
            "genotype": str(home / "decisive" / "genotype.yaml"),
            "output_size": 16,
            "interctc_layer_idx": [2],
        },
        "stacked_gru": {"output_size": 16, "layers": 2, "interctc_layer_idx": [1]},
    }
    data = []
    for part in ("train", "valid"):
        for kind, key, form in (("wav.scp", "speech", "sound"), ("text", "text", "text")):
            data += [f"--{part}_data_path_and_name_and_type", f"{part}/{kind},{key},{form}"]
            data += [f"--{part}_shape_file", f"{part}/{kind}"]
    for name, options in encoders.items():
        document = config | {"encoder": name, "encoder_conf": options}
        (home / f"{name}.yaml").write_text(yaml.safe_dump(document))
    log = run(home, ESPNET, *data)
    assert "NASStreamingEncoder(" in log and "StackedGRUEncoder(" in log
    saved = yaml.safe_load((home / "nas" / "config.yaml").read_text())
    assert saved["encoder_conf"]["genotype"]["space"] == "slim_chain"
    for name in encoders:
        assert (home / f"{name}.nemo").is_file()


@pytest.mark.nemo
def test_both_encoders_train_in_nemo(home: Path, said: str) -> None:
    genotype = str(home / "decisive" / "genotype.yaml")
    (home / "nas.yaml").write_text(yaml.safe_dump({"encoder_conf": {"genotype": genotype}}))
    log = run(home, NEMO)
    assert "NEMO NASEncoder slim_chain" in log
    assert "NEMO StackedGRUEncoder None" in log


def test_it_keeps_the_contracts(said: str) -> None:
    log = said.partition("CONTRACTS\n")[2]
    assert " passed" in log and "failed" not in log and "skipped" not in log


def test_without_extensions_nothing_of_it_is_there(home: Path) -> None:
    code = "from nas_encoder.tables import *; print(*SPACES, *STRATEGIES, *BASELINES, *OPERATIONS)"
    names = {"slim_chain", "gated_cells", "decisive", "no_repeats", "stacked_gru", "gated_conv_3x3"}
    assert names <= set(run(home, code).split())
    assert not names & set(run(home, code, **{SWITCH: "0"}).split())

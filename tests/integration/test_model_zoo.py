"""A packed model through espnet_model_zoo and the hub's cache, with and without this package."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import Forks
from huggingface_hub import ModelCard
from wheel_environment import ENVIRONMENT, checked, inherit, install_wheel

from nas_encoder.cli.main import main
from nas_encoder.nemo.catalog import SHIPPED
from tools.synth.build import build
from tools.synth.corpus import Request
from tools.synth.layouts import LAYOUTS

pytestmark = [pytest.mark.slow, pytest.mark.espnet]

REPO = "me/synth_nas"
REVISION = "0" * 40
USE = """
import json, sys
from pathlib import Path

import soundfile
from espnet2.bin.asr_inference import Speech2Text
from espnet_model_zoo.downloader import ModelDownloader

archive, cache, wav = sys.argv[1:]
options = dict(ctc_weight=1.0, lm_weight=0.0, beam_size=1)
speech, _ = soundfile.read(wav)
said = {}
files = ModelDownloader(cache).download_and_unpack(archive)
for name, model in (
    ("downloader", Speech2Text(**files, **options)),
    ("file", Speech2Text.from_pretrained(archive, **options)),
    ("hub", Speech2Text.from_pretrained("me/synth_nas", **options)),
):
    said[name] = model(speech)[0][0]
    said["encoder"] = type(model.asr_model.encoder).__module__
print("SAID", json.dumps(said))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, espnet: Forks) -> Path:
    """The shipped model as ESPnet's recipes leave it, packed; and a sentence to recognize."""
    folder = tmp_path_factory.mktemp("model zoo")
    assert main(["convert", str(SHIPPED / "synth_ctc_char.nemo"), str(folder / "exp")]) == 0
    path = folder / "exp" / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert config["encoder"] == "nas_encoder" and config["encoder_conf"]["genotype"]["schema"] == 1
    assert config["normalize"] == "global_mvn"
    config["normalize_conf"]["stats_file"] = "exp/feats_stats.npz"  # relative, as in a recipe
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    results = "# RESULTS\n## Environments\n- date: `today`\n## decode\n### CER\n|dataset|Err|\n"
    (folder / "exp" / "RESULTS.md").write_text(results, encoding="utf-8")
    pack(espnet, folder, "--option", "exp/RESULTS.md", "--option", "exp/feats_stats.npz")
    size = {"utterances": (1, 1, 1), "speakers": (1, 1, 1), "seed": 5}
    request = Request(layout="librispeech", rates=LAYOUTS["librispeech"].rates, **size)
    build(request, folder / "corpus", jobs=1, progress=False)
    return folder


def pack(espnet: Forks, folder: Path, *options: str, output: str = "packed.zip") -> None:
    command = ["-m", "espnet2.bin.pack", "asr", "--outpath", output, *options]
    files = ["--asr_train_config", "exp/config.yaml", "--asr_model_file", "exp/model.pth"]
    espnet.checked([*command, *files], folder)


def hub_cache(folder: Path, cache: Path) -> None:
    """What huggingface_hub leaves of a repository that holds the unpacked model and its card."""
    place = cache / f"models--{REPO.replace('/', '--')}"
    snapshot = place / "snapshots" / REVISION
    snapshot.mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(REVISION)
    with zipfile.ZipFile(folder / "packed.zip") as archive:
        archive.extractall(snapshot)
    assert main(["card", str(folder / "packed.zip"), "--output", str(snapshot / "README.md")]) == 0


def run_elsewhere(python: Path, folder: Path, place: Path) -> subprocess.CompletedProcess[str]:
    """Use the model in a process that imports nothing of ours, in an empty folder, offline."""
    (recording,) = (folder / "corpus" / "LibriSpeech" / "test-clean").rglob("*.flac")
    place.mkdir()
    command = [python, "-c", USE, folder / "packed.zip", place / "cache", recording]
    return subprocess.run(
        [str(part) for part in command],
        cwd=place,
        env={**ENVIRONMENT, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def own_zoo(site_packages: Path) -> Path:
    """Copy espnet_model_zoo into an environment: it caches models in its own folder."""
    spec = find_spec("espnet_model_zoo")
    assert spec is not None and spec.origin is not None
    return Path(shutil.copytree(Path(spec.origin).parent, site_packages / "espnet_model_zoo"))


def test_a_packed_model_needs_nothing_but_pip_install(
    folder: Path, wheel: Path, tmp_path: Path
) -> None:
    python = install_wheel(wheel, tmp_path)
    (site_packages,) = tmp_path.glob("venv/lib/python3.*/site-packages")
    hub_cache(folder, own_zoo(site_packages))
    done = run_elsewhere(python, folder, tmp_path / "elsewhere")
    assert done.returncode == 0, done.stderr[-4000:]
    said: dict[str, Any] = json.loads(done.stdout.partition("SAID ")[2])
    assert "import nas_encoder" not in USE and said.pop("encoder") == "nas_encoder.espnet.encoder"
    (transcript,) = (folder / "corpus" / "LibriSpeech" / "test-clean").rglob("*.trans.txt")
    wanted = transcript.read_text().split(maxsplit=1)[1].strip()
    assert len(set(said.values())) == 1
    heard = said["hub"]
    right = sum(word in heard.split() for word in wanted.split())
    assert right >= len(wanted.split()) // 2, (heard, wanted)


def test_without_this_package_espnet_names_it(folder: Path, tmp_path: Path) -> None:
    checked([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], tmp_path)
    hub_cache(folder, own_zoo(inherit(tmp_path / "venv")))
    python = tmp_path / "venv" / "bin" / "python"
    done = run_elsewhere(python, folder, tmp_path / "elsewhere")
    assert done.returncode == 1
    # All that the user sees below the traceback; the card quotes it.
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ValueError: --encoder must be one of (")
    assert last.endswith("): --encoder nas_encoder")
    card = next((tmp_path / "venv").rglob("README.md")).read_text(encoding="utf-8")
    assert "ValueError: --encoder must be one of (...): --encoder nas_encoder" in card


def test_the_card_of_an_upload(
    folder: Path, espnet: Forks, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "upload" / "README.md"
    command = ["card", str(folder / "packed.zip"), "--output", str(output), "--repo", REPO]
    command += ["--language", "en", "--datasets", "librispeech_asr", "--license", "cc-by-4.0"]
    assert main(command) == 0
    assert "hubs also ask" not in capsys.readouterr().err
    text = output.read_text(encoding="utf-8")
    data = ModelCard(text).data.to_dict()
    assert data == {
        "library_name": "espnet",
        "pipeline_tag": "automatic-speech-recognition",
        "tags": ["espnet", "audio", "automatic-speech-recognition", "nas_encoder"],
        "language": "en",
        "datasets": ["librispeech_asr"],
        "license": "cc-by-4.0",
    }
    assert f"Speech2Text.from_pretrained('{REPO}', ctc_weight=1.0" in text
    assert "parameters of the encoder: 260,122" in text and "encoder nas_encoder" in text
    assert "multiply-adds of the encoder for 10 s: 339,160,000" in text
    assert "real-time factor of the encoder: 0." in text
    assert "### RESULTS" in text and "##### CER" in text and "\n# RESULTS" not in text
    assert "hash eed7f12e3da1c0d0" in text and "sep_conv_3x3(k-2)" in text
    config = yaml.safe_load(text.partition("```yaml\n")[2].partition("\n```")[0])
    assert config == yaml.safe_load((folder / "exp" / "config.yaml").read_text(encoding="utf-8"))
    # An archive that only its maker's machine could load.
    pack(espnet, folder, output="alone.zip")
    capsys.readouterr()
    assert main(["card", str(folder / "alone.zip"), "--no-timing", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert "normalize_conf.stats_file: exp/feats_stats.npz is not in it" in printed["notes"][0]
    assert "real-time factor" not in printed["text"] and "Nothing is known" in printed["text"]
    # Neither replaced by accident nor written with metadata that a hub refuses.
    assert main(command) == 2 and "--force" in capsys.readouterr().err
    assert main(["card", str(folder / "exp"), "--language", "English", "--repo", "x"]) == 2
    said = capsys.readouterr().err
    assert "--language: must be an ISO 639 code" in said and "--repo: must be an owner" in said

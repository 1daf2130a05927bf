"""The commands of docs/espnet.md and README.md, each as far as ESPnet's wheel reaches.

``nas-encoder config`` runs and writes what the document says; the options of ``run.sh`` go to the
parsers of ESPnet's programs as asr.sh gives them, and the model is built from the result.
"""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from espnet_options import load_asr

import nas_encoder
from nas_encoder import load_genotype
from nas_encoder.cli.main import build_parser, main
from nas_encoder.common.resources import list_configs
from tools.benchmark.__main__ import parser as benchmark_options
from tools.espnet_recipes.configs import choices, conf_folder, table

pytestmark = [
    pytest.mark.slow,
    pytest.mark.espnet,
    pytest.mark.filterwarnings("ignore:.torch.cuda.amp.:FutureWarning"),
]

DOCUMENTS = ("docs/espnet.md", "README.md")
# Options of asr.sh (ESPnet 202511) that the documents use, with its defaults.
ASR_SH = {
    "asr_config": "",
    "asr_args": "",
    "inference_asr_model": "valid.acc.ave.pth",
    "inference_config": "",
    "ngpu": "1",
    "use_streaming": "false",
}
TOKENS = ["<blank>", "<unk>", *"abcdefghij", "<sos/eos>"]
WHEEL = f"nas_encoder-{nas_encoder.__version__}-py3-none-any.whl"


def commands(repository: Path, document: str) -> list[list[str]]:
    """Return the words of every command in a document's ``sh`` blocks."""
    text = (repository / document).read_text(encoding="utf-8")
    found = []
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words:
                found.append(words)
    return found


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe's folder, and the genotype of a search."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    (tmp_path / "exp" / "search").mkdir(parents=True)
    load_genotype("asrnet_a").renamed("found").save("exp/search/genotype.yaml")
    return tmp_path


def check_run(words: list[str]) -> None:
    """Check a ``./run.sh`` line: what it trains is what it decodes."""
    asr = load_asr()
    options = dict(ASR_SH)
    for name, value in zip(words[::2], words[1::2], strict=True):
        assert name.startswith("--") and name[2:] in options, words
        options[name[2:]] = value
    arguments = asr.ASRTask.get_parser().parse_args(
        ["--config", options["asr_config"], "--frontend_conf", "fs=16k", "--output_dir", "exp/asr"]
        + shlex.split(options["asr_args"])
    )
    arguments.token_list = TOKENS
    model: Any = asr.ASRTask.build_model(arguments)
    averaged = {f"valid.{name}.ave.pth" for _, name, _ in arguments.best_model_criterion}
    assert options["inference_asr_model"] in averaged
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        streams = "_streaming" * (options["use_streaming"] == "true")
        program = importlib.import_module(f"espnet2.bin.asr_inference{streams}")
    decoding = ["--config", options["inference_config"]] if options["inference_config"] else []
    required = ["--output_dir", "x", "--data_path_and_name_and_type", "a,b,c"]
    required += ["--asr_train_config", "c", "--asr_model_file", "m"]
    weights = program.get_parser().parse_args([*required, *decoding])
    if model.decoder is None:
        assert (weights.ctc_weight, weights.lm_weight, weights.penalty) == (1.0, 0.0, 0.0)
    else:
        assert model.ctc_weight == 0.3 and bool(decoding) == bool(streams)
    if streams:
        assert type(model.encoder).__name__ == "NASStreamingEncoder" and weights.sim_chunk_length
    if "genotype" in options["asr_args"]:
        assert arguments.encoder_conf["genotype"]["name"] == "found"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_is_one_that_works(
    document: str, repository: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_asr()
    checked = {"run.sh": 0, "config": 0, "pip": 0}
    for words in commands(repository, document):
        program, *rest = words
        if words[:2] == ["nas-encoder", "config"] and ">" in words:
            place = words.index(">")
            capsys.readouterr()
            assert main(words[1:place]) == 0
            (recipe / words[place + 1]).write_text(capsys.readouterr().out)
            checked["config"] += 1
        elif program == "./run.sh":
            check_run(rest)
            checked["run.sh"] += 1
        elif program == "nas-encoder":
            if "..." not in rest:
                build_parser(only=rest[0]).parse_args(rest)
        elif program == "./nas_encoder/recipes/install.sh":
            shutil.copytree(repository / conf_folder("timit"), recipe / "conf", dirs_exist_ok=True)
        elif program.endswith("nas_encoder/recipes/benchmark.sh"):
            benchmark_options().parse_args(rest)
        elif program == "pip":
            # The package is on no index: only folders and wheels can be given to pip.
            (target,) = [word for word in rest[1:] if "nas_encoder" in word]
            assert target.startswith("./nas_encoder") or target == f"wheels/{WHEEL}", words
            checked["pip"] += 1
        else:
            assert program in ("cd", ".", "make", "python", "arecord"), words
    assert all(checked.values()), checked


def test_every_encoder_of_the_recipes_is_in_the_document_with_its_sizes(repository: Path) -> None:
    text = (repository / "docs/espnet.md").read_text(encoding="utf-8")
    corpora = table()["corpora"].values()
    for choice in choices("timit"):
        if choice.loss == "hybrid":
            sizes = [corpus["encoders"][choice.encoder]["millions"] for corpus in corpora]
            (row,) = re.findall(rf"^\| `{choice.name}` \|.*\| (.*) \|$", text, flags=re.MULTILINE)
            assert row == ", ".join(f"{size:.1f}" for size in sizes)


def test_every_shipped_config_is_in_the_document(repository: Path) -> None:
    text = (repository / "docs/espnet.md").read_text(encoding="utf-8")
    for folder in ("train/espnet", "decode/espnet"):
        for name in list_configs(folder):
            assert f"`{name}`" in text, name


def test_no_document_says_that_an_index_has_the_package(repository: Path) -> None:
    for document in (*DOCUMENTS, "CONTRIBUTING.md"):
        text = (repository / document).read_text(encoding="utf-8")
        assert not re.search(r"pip install '?nas_encoder", text), document

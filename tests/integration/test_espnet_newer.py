"""ESPnet 202611, the newer of the two versions that are supported.

``make setup`` puts it into a folder of its own. First on the path of a process, it hides the
ESPnet of the environment: so the tests of ESPnet's contract run again under it, and one of
ESPnet3's own recipes runs unmodified but for ``encoder: nas``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from espnet_streams import make_model, streams_are_decoded
from forked import Forks
from wheel_environment import NEWER_ESPNET

from nas_encoder import load_genotype
from tools.espnet_recipes.install import install

pytestmark = [pytest.mark.espnet, pytest.mark.slow]

VERSION = "202611"
# What holds under the other version, and what this one dropped: tests that are skipped, with their
# reason, and nothing else.
SAME: dict[str, list[str]] = {
    "contract/test_espnet_contract.py": ["this ESPnet has no 'init: chainer'"] * 3,
    "contract/test_espnet_contract_config.py": [],
    "integration/test_espnet_tasks.py": [],
    "integration/test_espnet_train_configs.py::test_parser_takes_every_key_as_it_is_written": [],
}


# What the recipe's run.py, its stages and the tests of the contract import.
IMPORTED = [
    "espnet3.systems.launch",
    "espnet3.systems.esp2_asr.system",
    "espnet3.systems.esp2_asr.task",
    "espnet2.bin.asr_inference",
]


def environment(repository: Path) -> dict[str, str]:
    """Return the variables with which Python has this ESPnet, and this package as a checkout."""
    kept = {key: value for key, value in os.environ.items() if key != "NAS_ENCODER_AUTOLOAD"}
    return kept | {"PYTHONPATH": os.pathsep.join(map(str, (NEWER_ESPNET, repository)))}


@pytest.fixture(scope="module")
def newer(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Run programs without the time of this ESPnet's imports."""
    with pytest.MonkeyPatch.context() as patch:  # what the recipe looks for its programs in
        tools = tmp_path_factory.mktemp("bin")
        (tools / "sph2pipe").write_text(SPH2PIPE.format(python=sys.executable))
        (tools / "sph2pipe").chmod(0o755)
        patch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
        variables = environment(repository)
    forks = Forks(tmp_path_factory.mktemp("forks"), IMPORTED, variables)
    yield forks
    forks.close()


def run(arguments: Sequence[str | Path], repository: Path) -> subprocess.CompletedProcess[str]:
    """Run a fresh Python with this ESPnet."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=repository,
        env=environment(repository),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


# Loads each of our configurations as run.py does, and builds its model but for the statistics.
LINKED = """
import os, pathlib
from espnet3.utils.config_utils import load_and_merge_config
os.chdir({recipe!r})
for file in sorted(pathlib.Path("conf/tuning").glob("training_*.yaml")):
    if not file.is_symlink():
        continue
    config = load_and_merge_config(file, "training.yaml")
    config.model.update(token_list=["<blank>", "a", "<sos/eos>"], vocab_size=3, normalize=None)
    config.model.encoder_conf.update({small!r}.get(config.model.encoder, {{}}))
    model = utils.get_espnet_model(config.task, config.model)
    print(config.exp_tag, config.stats_dir, config.model.encoder, model.decoder is not None)
"""


def test_a_hook_that_comes_late_reaches_espnet3_too(repository: Path, tmp_path: Path) -> None:
    # Links to our configurations in a recipe, which are read in the same process.
    recipe = tmp_path / "egs3" / "librispeech_100" / "esp2_asr"
    shutil.copytree(NEWER_ESPNET / "egs3" / "librispeech_100" / "esp2_asr", recipe)
    (there, *_), _ = install(tmp_path)
    assert there.place == recipe.relative_to(tmp_path) and len(there.made) == 5
    small = {"nas": {"channels": 8}, "dfsmn_san": {"blocks": 2, "hidden_size": 8}}
    code = (
        "from nas_encoder import autoload; autoload.uninstall()\n"
        "import espnet2, importlib.metadata as m; print(espnet2.__file__, m.version('espnet'))\n"
        "import espnet3.systems.base.training as training, espnet3.utils.task_utils as utils\n"
        "import espnet3.systems.esp2_asr.task as task\n"
        "before = training.save_espnet_config\n"
        "print('nas' in task.encoder_choices.classes, autoload.install())\n"
        "print('nas' in task.encoder_choices.classes, before is training.save_espnet_config)\n"
        "print(training.save_espnet_config is utils.save_espnet_config)\n"
    )
    code += LINKED.format(recipe=str(recipe), small=small)
    code += "from nas_encoder.espnet.interface import TooShortUttError; print(TooShortUttError)"
    done = run(["-c", code], repository)
    assert done.returncode == 0, done.stderr
    where, *printed, error = done.stdout.splitlines()
    # The folder hides the other version.
    assert where == f"{NEWER_ESPNET / 'espnet2' / '__init__.py'} {VERSION}"
    assert "'espnet2.legacy.nets." in error
    assert " ".join(printed[-8:-5]).split() == ["False", "True", "True", "False", "True"]
    assert printed[-5:] == [
        f"training_{name} ./exp/stats_{bins}_bins {encoder} True"
        for name, bins, encoder in (
            ("blocks", 80, "nas"),
            ("dfsmn_san", 40, "dfsmn_san"),
            ("nas", 40, "nas"),
            ("nas_asrnet_a", 40, "nas"),
            ("nas_streaming", 80, "nas"),
        )
    ]


def test_what_holds_under_the_other_version_holds_here(
    newer: Forks, repository: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report.xml"
    options = ["-q", "-n", "0", "-p", "no:cacheprovider", "--junit-xml", report]
    chosen = [f"tests/{name}" for name in SAME]
    command = ["-m", "pytest", *options, "--basetemp", tmp_path / "tests", *chosen]
    newer.checked(command, repository)
    passed: dict[str, int] = dict.fromkeys(SAME, 0)
    skipped: dict[str, list[str]] = {name: [] for name in SAME}
    for case in ElementTree.parse(report).iter("testcase"):
        place = case.attrib["classname"].removeprefix("tests.").replace(".", "/")
        (name,) = (name for name in SAME if name.startswith(f"{place}.py"))
        reasons = [skip.attrib["message"] for skip in case.iter("skipped")]
        skipped[name] += reasons
        passed[name] += not reasons
    assert skipped == SAME
    assert all(passed.values()), passed


def test_streams_that_the_other_version_trained_for(
    newer: Forks, espnet: Forks, shared_folder: Callable[..., Path], tmp_path: Path
) -> None:
    made = shared_folder("espnet_streams", lambda folder: make_model(folder, espnet, shared_folder))
    shutil.copytree(made, tmp_path / "asr1")
    refused = streams_are_decoded(newer, tmp_path / "asr1")
    # This version also takes a model that was built for something else.
    assert refused["built"] == refused["attention"]


TRAINING: dict[str, Any] = {
    "encoder": "nas",
    "encoder_conf": {
        "genotype": "./mine.yaml",
        "channels": 2,
        "layers": 3,
        "output_size": 8,
        "stem_stride": [1, 2],
    },
}

THREAD = {"env": "local", "n_workers": 1, "options": {"processes": False}}
TEST = [{"name": "test", "data_src_args": {"split": "test"}}]

# What the recipe converts its recordings with.
SPH2PIPE = """#!{python}
import io, sys, soundfile
samples, rate = soundfile.read(sys.argv[-1], dtype="int16")
wav = io.BytesIO()
soundfile.write(wav, samples, rate, format="WAV")
sys.stdout.buffer.write(wav.getvalue())
"""


def test_a_recipe_of_espnet3_trains_decodes_and_packs(newer: Forks, tmp_path: Path) -> None:
    recipe = tmp_path / "egs3" / "mini_an4" / "esp2_asr"
    shutil.copytree(NEWER_ESPNET / "egs3" / "mini_an4" / "esp2_asr", recipe)
    for name, change in (
        # The statistics in a thread; the inference in a process that Dask spawns.
        ("training_asr_transformer.yaml", {"model": TRAINING, "parallel": THREAD}),
        ("inference.yaml", {"dataset": {"test": TEST}}),
        ("publication.yaml", {"upload_model": {"hf_repo": "none"}}),
    ):
        config = yaml.safe_load((recipe / "conf" / name).read_text(encoding="utf-8"))
        for key, value in change.items():
            config[key] = config.get(key, {}) | value
        (recipe / "conf" / name).write_text(yaml.safe_dump(config), encoding="utf-8")
    genotype = recipe / "mine.yaml"
    load_genotype("darts_v2").renamed("mine").save(genotype)
    command = ["run.py", "--training_config", "conf/training_asr_transformer.yaml"]
    command += ["--inference_config", "conf/inference.yaml"]
    command += ["--publication_config", "conf/publication.yaml", "--stages"]

    stages = ["create_dataset", "train_tokenizer", "collect_stats", "train", "pack_model"]
    newer.checked([*command, *stages], recipe)
    experiment = recipe / "exp" / "training_asr_transformer"
    saved = yaml.safe_load((experiment / "config.yaml").read_text(encoding="utf-8"))
    inline = load_genotype(genotype).to_dict()
    assert saved["encoder"] == "nas_encoder"
    assert saved["encoder_conf"] == TRAINING["encoder_conf"] | {"genotype": inline}

    packed = experiment / "model_pack" / "conf" / "training.yaml"
    model = yaml.safe_load(packed.read_text(encoding="utf-8"))["model"]
    assert (model["encoder"], model["encoder_conf"]["genotype"]) == ("nas_encoder", inline)
    genotype.unlink()  # the saved configuration must do
    newer.checked([*command, "infer"], recipe)
    decoded = experiment / "inference" / "test" / "text.scp"
    assert len(decoded.read_text(encoding="utf-8").splitlines()) == 2

"""The built wheel in an environment of its own, under the real ESPnet: the whole cycle.

Nothing here calls our code: ESPnet's commands and classes are used as in a recipe, and only
``encoder: nas`` in a YAML file says that it is there. One test, because each step needs the one
before, in forks of one process, because ESPnet's imports take most of the time.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import wave
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from forked import Forks
from streaming_samples import causal
from wheel_environment import ENVIRONMENT, NEWER_ESPNET, checked, install_wheel

pytestmark = [pytest.mark.slow, pytest.mark.espnet]

# What a search under a lookahead finds: all but the first two cells are causal.
MINE = causal("darts_v2", 2).renamed("mine")

TOKENS = ["<blank>", "<unk>", "a", "b", "c", "<sos/eos>"]
TRAIN, VALID = 8, 4

CONFIG: dict[str, Any] = {
    "token_type": "char",
    "frontend_conf": {"n_fft": 512, "hop_length": 256, "n_mels": 20},
    "encoder": "nas",
    "encoder_conf": {
        "genotype": "./searched.yaml",
        "channels": 2,
        "layers": 6,
        "output_size": 16,
        "stem_stride": [1, 2],
        "interctc_layer_idx": [5],
        "interctc_use_conditioning": True,
    },
    "decoder": None,
    "model_conf": {"ctc_weight": 1.0, "interctc_weight": 0.3},
    "batch_type": "sorted",
    "batch_size": 4,
    "max_epoch": 2,
    "optim": "adam",
    "optim_conf": {"lr": 0.01},
    "best_model_criterion": [["valid", "loss", "min"]],
    "keep_nbest_models": 2,
    "num_workers": 0,
    "num_att_plot": 0,
    "use_tensorboard": False,
}

API = """
import json, multiprocessing, os, sys
import numpy as np


def in_spawned_child(config, model, queue):
    # As ESPnet's launcher for several GPUs: a new interpreter in which nobody imported us.
    from espnet2.tasks.asr import ASRTask

    built, _ = ASRTask.build_model_from_file(config, model)
    queue.put([type(built.encoder).__module__, sum(p.numel() for p in built.parameters())])


def main():
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    spawned = sys.argv[1] == "spawn"
    if spawned:
        child = context.Process(
            target=in_spawned_child, args=("exp/config.yaml", "exp/valid.loss.ave.pth", queue)
        )
        child.start()  # its imports run beside ours

    from espnet2.bin import asr_inference, pack
    from espnet2.main_funcs.pack_funcs import unpack
    import espnet2
    import torch

    result = {}
    asr_inference.main([
        "--asr_train_config", "exp/config.yaml", "--asr_model_file", "exp/valid.loss.ave.pth",
        "--data_path_and_name_and_type", "data/test/wav.scp,speech,sound",
        "--key_file", "data/test/wav.scp", "--output_dir", "decoded", "--ctc_weight", "1.0",
        "--lm_weight", "0.0", "--beam_size", "2", "--num_workers", "0", "--ngpu", "0",
    ])
    pack.main([
        "asr", "--asr_train_config", "exp/config.yaml",
        "--asr_model_file", "exp/valid.loss.ave_2best.pth", "--outpath", "packed.zip",
    ])
    options = dict(ctc_weight=1.0, lm_weight=0.0, beam_size=2)
    speech = np.random.RandomState(0).randn(12000).astype(np.float32)

    def hypothesis(**files):
        recognizer = asr_inference.Speech2Text(**files, **options)
        encoded, _ = recognizer.asr_model.encode(
            torch.from_numpy(speech)[None], torch.tensor([len(speech)])
        )
        nbest, intermediate = recognizer(speech)  # two, because of InterCTC
        return nbest[0][0], sorted(intermediate), encoded[0].detach().double().sum().item()

    result["packed"] = hypothesis(**unpack("packed.zip", "unpacked"))
    result["direct"] = hypothesis(
        asr_train_config="exp/config.yaml", asr_model_file="exp/valid.loss.ave_2best.pth"
    )
    if spawned:
        result["child"] = queue.get(timeout=500)
        child.join()
    if os.path.isdir(os.path.join(os.path.dirname(espnet2.__path__[0]), "espnetez")):
        result["moved"] = moved_by_espnetez()
    with open("result.json", "w") as file:
        json.dump(result, file)


def moved_by_espnetez():
    import torch
    import espnetez

    os.rename("hidden.yaml", "searched.yaml")
    config = espnetez.from_yaml("asr", "train.yaml")
    config.update(
        token_list="tokens.txt", max_epoch=1, keep_nbest_models=1,
        freeze_param=["encoder.network.stem"],
        init_param=["exp/valid.loss.ave_2best.pth:encoder:encoder"],
    )
    espnetez.Trainer(
        task="asr", train_config=config, train_dump_dir="data/train", valid_dump_dir="data/valid",
        data_info={"speech": ["wav.scp", "sound"], "text": ["text", "text"]},
        output_dir="exp_ez", stats_dir="stats", ngpu=0,
    ).train()
    start = torch.load("exp/valid.loss.ave_2best.pth", weights_only=True)
    end = torch.load("exp_ez/latest.pth", weights_only=True)
    return [
        key for key, value in end.items()
        if key.startswith("encoder.") and value.is_floating_point()
        and not torch.equal(value, start[key])
    ]


if __name__ == "__main__":
    main()
"""


def write_data(folder: Path) -> None:
    """Noise with random transcripts, as a Kaldi data folder; the last utterance is too short."""
    source = random.Random(0)
    for part, count in (("train", TRAIN), ("valid", VALID), ("test", 2)):
        data = folder / "data" / part
        data.mkdir(parents=True)
        wavs, texts = [], []
        for index in range(count):
            name = f"{part}{index}"
            samples = 600 if part == "test" and index else 10_000 + 700 * index
            with wave.open(str(data / f"{name}.wav"), "wb") as file:
                file.setparams((1, 2, 16_000, samples, "NONE", ""))
                file.writeframes(source.randbytes(2 * samples))
            wavs.append(f"{name} {data / name}.wav\n")
            texts.append(f"{name} {''.join(source.choices('abc', k=4))}\n")
        (data / "wav.scp").write_text("".join(wavs))
        (data / "text").write_text("".join(texts))
    (folder / "tokens.txt").write_text("\n".join(TOKENS) + "\n")
    (folder / "train.yaml").write_text(yaml.safe_dump(CONFIG))
    MINE.save(folder / "searched.yaml")


def options(values: Mapping[str, object]) -> list[str]:
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]


def asr_train(shapes: str, **values: object) -> list[str]:
    command = ["-m", "espnet2.bin.asr_train", "--config", "train.yaml"]
    command += options({"token_list": "tokens.txt", "ngpu": 0, **values})
    for part in ("train", "valid"):
        for kind, key, form in (("wav.scp", "speech", "sound"), ("text", "text", "text")):
            data = f"data/{part}/{kind}"
            command += [f"--{part}_data_path_and_name_and_type", f"{data},{key},{form}"]
            shape = shapes.format(part=part, key=key) if shapes else data
            command += [f"--{part}_shape_file", shape]
    return command


def train_on_two_ranks(espnet: Forks, folder: Path) -> str:
    """Train as ESPnet does on two machines: gloo, one rank in each of two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [
        espnet.start(
            asr_train(
                "stats/{part}/{key}_shape",
                output_dir="exp",
                dist_backend="gloo",
                dist_world_size=2,
                dist_rank=rank,
                dist_master_addr="127.0.0.1",
                dist_master_port=port,
            ),
            folder,
        )
        for rank in range(2)
    ]
    done = [rank.wait() for rank in ranks]
    for rank in done:
        assert rank.returncode == 0, (rank.stdout + rank.stderr)[-6000:]
    return done[0].stdout + done[0].stderr


@pytest.fixture
def forks(tmp_path: Path) -> Iterator[Callable[[Path], Forks]]:
    """Return a function that starts ESPnet's process with an interpreter."""
    with contextlib.ExitStack() as stack:

        def start(python: Path) -> Forks:
            (folder := tmp_path / "forks").mkdir()
            modules = ["espnet2.bin.asr_train", "espnet2.bin.asr_inference"]
            return stack.enter_context(
                contextlib.closing(Forks(folder, modules, ENVIRONMENT, python))
            )

        yield start


@pytest.mark.parametrize(("version", "first"), [("202511", ()), ("202611", (NEWER_ESPNET,))])
def test_whole_cycle_with_nothing_but_the_wheel(
    version: str,
    first: tuple[Path, ...],
    wheel: Path,
    repository: Path,
    tmp_path: Path,
    forks: Callable[[Path], Forks],
) -> None:
    python = install_wheel(wheel, tmp_path, *first)
    code = "import importlib.metadata as m; print(m.version('espnet'))"
    assert checked([python, "-c", code], tmp_path).strip() == version
    code = "import nas_encoder, sys; print(nas_encoder.__file__); print('\\n'.join(sys.path))"
    where, *paths = checked([python, "-c", code], tmp_path).splitlines()
    assert Path(where).is_relative_to(tmp_path / "venv")
    assert repository not in map(Path, paths), "the checkout must not be visible"

    # 1. Statistics, and the config that lies beside them.
    write_data(tmp_path)
    espnet = forks(python)
    espnet.checked(asr_train("", output_dir="stats.1", collect_stats="true"), tmp_path)
    aggregate = ["-m", "espnet2.bin.aggregate_stats_dirs", "--input_dir", "stats.1"]
    espnet.checked([*aggregate, "--output_dir", "stats"], tmp_path)
    inline = MINE.to_dict()
    assert inline["causal_after"] == 2
    assert _saved_genotype(tmp_path / "stats.1") == inline

    # 2. Two ranks under DDP (find_unused_parameters=False), two epochs, n-best averaging.
    log = train_on_two_ranks(espnet, tmp_path)
    assert "NASStreamingEncoder(" in log and "genotype=mine (published)" in log
    assert "loss_interctc_layer5=" in log
    assert _saved_genotype(tmp_path / "exp") == inline
    assert (tmp_path / "exp" / "valid.loss.ave_2best.pth").is_file()
    # From here on config.yaml must do, until espnetez reads train.yaml again, which names the file.
    (tmp_path / "searched.yaml").rename(tmp_path / "hidden.yaml")

    # 3. In one process: a spawned child, decoding, pack and unpack, Speech2Text, espnetez.
    (tmp_path / "api.py").write_text(API)
    older = version == "202511"
    log = espnet.checked(["api.py", "spawn" if older else ""], tmp_path)
    # An utterance of one frame is skipped with an empty result.
    lines = (tmp_path / "decoded" / "1best_recog" / "text").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["test0", "test1"]
    assert lines[1].split() == ["test1"] and "at least 4 are needed" in log
    result = json.loads((tmp_path / "result.json").read_text())
    # Under 202611, a recipe of ESPnet3 decodes in a spawned process (test_espnet_newer.py).
    assert ("child" in result) == older
    if older:
        assert result["child"][0] == "nas_encoder.espnet.encoder"
    assert result["packed"] == result["direct"]
    assert result["direct"][1] == [5], "the cell whose InterCTC output was decoded"
    assert ("moved" in result) == older, "202611 has no espnetez"
    if "moved" in result:
        moved = result["moved"]
        assert moved and not [key for key in moved if key.startswith("encoder.network.stem.conv")]
        assert _saved_genotype(tmp_path / "exp_ez") == inline


def _saved_genotype(folder: Path) -> Any:
    saved = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return saved["encoder_conf"]["genotype"]

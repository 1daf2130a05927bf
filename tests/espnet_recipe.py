"""ESPnet's ``asr.sh`` on a tiny corpus, as far as its wheel reaches: stages 5 and 10 to 12.

The wheel holds the programs but not the shell scripts, so these are the commands that the script
of ESPnet 202511 makes, with the same arguments.
"""

from __future__ import annotations

import contextlib
import itertools
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import soundfile
from forked import Forks

from nas_encoder.cli.main import main


def write_corpus(folder: Path, counts: Mapping[str, int]) -> None:
    """Write dump/raw as stages 1 to 4 leave it: each character is a tone of 0.15 s."""
    # More tokens than the 20 hypotheses of ESPnet's default beam.
    letters = itertools.cycle("abcdefghijklmnopqrstuvwx")
    for part, count in counts.items():
        data = folder / "dump" / "raw" / part
        data.mkdir(parents=True)
        lines: dict[str, list[str]] = {"wav.scp": [], "text": [], "utt2spk": []}
        for index in range(count):
            name, text = f"{part}{index:02d}", "".join(itertools.islice(letters, 5))
            time = np.arange(round(0.15 * 16000)) / 16000
            tones = [0.2 * np.sin(2 * np.pi * 40 * (ord(c) - 90) * time) for c in text]
            soundfile.write(data / f"{name}.wav", np.concatenate(tones), 16000)
            lines["wav.scp"].append(f"{name} {data / name}.wav")
            lines["text"].append(f"{name} {text}")
            lines["utt2spk"].append(f"{name} {name}")
        for file, content in lines.items():
            (data / file).write_text("\n".join(content) + "\n")
        (data / "feats_type").write_text("raw\n")


def make_recipe(folder: Path, espnet: Forks) -> None:
    """Make a recipe's folder up to stage 10, for 40 mel bins."""
    write_corpus(folder, {"train": 6, "dev": 2, "test": 2})
    (folder / "conf").mkdir()
    for name, file in (
        ("train_asr_nas_small", "train_asr_nas.yaml"),
        ("train_asr_nas_ctc", "train_asr_nas_ctc.yaml"),
        ("decode_ctc", "decode_ctc.yaml"),
    ):
        with (folder / "conf" / file).open("w") as written, contextlib.redirect_stdout(written):
            assert main(["config", "espnet", name]) == 0
    Recipe(folder, espnet).collect_stats("conf/train_asr_nas.yaml")


class Recipe:
    """One recipe folder; the options have the names of asr.sh's."""

    tokens = "data/token_list/char/tokens.txt"
    stats = "exp/asr_stats_raw_char"

    def __init__(self, folder: Path, espnet: Forks) -> None:
        self.folder, self.espnet = folder, espnet

    def run(self, *programs: Sequence[str]) -> list[subprocess.CompletedProcess[str]]:
        """Run programs like ``python -m``, one after the other; a failing one is the last."""
        done = []
        for program in programs:
            done.append(self.espnet.run(["-m", *program], self.folder))
            if done[-1].returncode:
                break
        return done

    def checked(self, *programs: Sequence[str]) -> str:
        """Run programs that must succeed; return what they said."""
        done = self.run(*programs)
        assert done[-1].returncode == 0, (done[-1].stdout + done[-1].stderr)[-6000:]
        return "".join(one.stdout + one.stderr for one in done)

    def token_list(self) -> list[str]:
        """Stage 5."""
        train = (self.folder / "dump/raw/train/text").read_text()
        (self.folder / "dump/raw/lm_train.txt").write_text(train)
        return shlex.split(
            "espnet2.bin.tokenize_text --token_type char --input dump/raw/lm_train.txt --output "
            f"{self.tokens} --non_linguistic_symbols none --field 2- --cleaner none --g2p none "
            "--write_vocabulary true --add_symbol '<blank>:0' --add_symbol '<unk>:1' "
            "--add_symbol '<sos/eos>:-1'"
        )

    def _train(self, asr_config: str, asr_args: str, rest: str) -> list[str]:
        return shlex.split(
            "espnet2.bin.asr_train --use_preprocessor true --bpemodel none --token_type char "
            f"--token_list {self.tokens} --non_linguistic_symbols none --cleaner none --g2p none "
            "--train_data_path_and_name_and_type dump/raw/train/wav.scp,speech,sound "
            "--train_data_path_and_name_and_type dump/raw/train/text,text,text "
            "--valid_data_path_and_name_and_type dump/raw/dev/wav.scp,speech,sound "
            "--valid_data_path_and_name_and_type dump/raw/dev/text,text,text "
            f"{rest} --config {asr_config} --frontend_conf fs=16k {asr_args}"
        )

    def collect_stats(self, asr_config: str, asr_args: str = "") -> None:
        """Stages 5 and 10."""
        logdir = f"{self.stats}/logdir"
        (self.folder / logdir).mkdir(parents=True)
        (self.folder / self.tokens).parent.mkdir(parents=True)
        for part, data in (("train", "train"), ("valid", "dev")):
            scp = (self.folder / f"dump/raw/{data}/wav.scp").read_text()
            (self.folder / f"{logdir}/{part}.1.scp").write_text(scp)
        rest = (
            f"--collect_stats true --train_shape_file {logdir}/train.1.scp --valid_shape_file "
            f"{logdir}/valid.1.scp --output_dir {logdir}/stats.1"
        )
        aggregate = f"--input_dir {logdir}/stats.1 --output_dir {self.stats}"
        self.checked(
            self.token_list(),
            self._train(asr_config, asr_args, rest),
            ["espnet2.bin.aggregate_stats_dirs", *aggregate.split()],
        )
        vocabulary = len((self.folder / self.tokens).read_text().splitlines())
        for part in ("train", "valid"):
            lines = (self.folder / self.stats / part / "text_shape").read_text().splitlines()
            shape = "".join(f"{line},{vocabulary}\n" for line in lines)
            (self.folder / self.stats / part / "text_shape.char").write_text(shape)

    def train(self, asr_config: str, asr_args: str = "", asr_exp: str = "exp/asr") -> list[str]:
        """Stage 11."""
        shapes = "".join(
            f"--{part}_shape_file {self.stats}/{part}/{kind} "
            for part in ("train", "valid")
            for kind in ("speech_shape", "text_shape.char")
        )
        rest = (
            f"{shapes} --resume true --init_param --ignore_init_mismatch false --fold_length 80000 "
            f"--fold_length 150 --output_dir {asr_exp} --normalize=global_mvn --normalize_conf "
            f"stats_file={self.stats}/train/feats_stats.npz --ngpu 0"
        )
        return self._train(asr_config, asr_args, rest)

    def decode(
        self,
        asr_exp: str = "exp/asr",
        inference_asr_model: str = "valid.acc.ave.pth",
        inference_config: str = "",
        inference_args: str = "",
        tool: str = "espnet2.bin.asr_inference",
    ) -> list[str]:
        """Stage 12."""
        config = f"--config {inference_config}" if inference_config else ""
        return shlex.split(
            f"{tool} --batch_size 1 --ngpu 0 --data_path_and_name_and_type "
            "dump/raw/test/wav.scp,speech,sound --key_file dump/raw/test/wav.scp "
            f"--asr_train_config {asr_exp}/config.yaml --asr_model_file "
            f"{asr_exp}/{inference_asr_model} --output_dir {asr_exp}/decoded {config} "
            f"{inference_args}"
        )

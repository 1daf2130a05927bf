"""Ten training steps of a block encoder with mixed precision, by ESPnet's trainer or NeMo's.

The speech is noise: what counts is that they run, and how fast. Prints one JSON object; ends with
status 3 and the reason where the toolkit is not installed.

    python benchmarks/gpu_training.py espnet --device cuda
    python benchmarks/gpu_training.py nemo --device cuda
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from nas_encoder.common.provenance import environment
from nas_encoder.common.resources import conf_root

RATE = 16000
MISSING = 3  # exit status
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SMALL = {"known": "hourglass", "width": 32, "blocks": [1, 1, 1]}


def write_noise(folder: Path, count: int, seconds: float) -> list[tuple[Path, float, str]]:
    """Write recordings of noise; return each with its length in seconds and a text."""
    import soundfile

    generator, found = np.random.default_rng(0), []
    for number in range(count):
        length = seconds * (1 - 0.5 * number / count)
        path = folder / f"u{number:03d}.wav"
        soundfile.write(path, 0.1 * generator.standard_normal(round(length * RATE)), RATE)
        text = "".join(generator.choice(list(LETTERS), max(2, round(4 * length))))
        found.append((path, length, text))
    return found


def espnet(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train by ``espnet2.bin.asr_train``."""
    sounds = write_noise(folder, args.batch, args.seconds)
    for name, values in (
        ("wav.scp", [f"{path.stem} {path}" for path, _, _ in sounds]),
        ("text", [f"{path.stem} {text}" for path, _, text in sounds]),
    ):
        (folder / name).write_text("\n".join(values) + "\n", encoding="utf-8")
    tokens = ["<blank>", "<unk>", *LETTERS, "<sos/eos>"]
    (folder / "tokens.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    options = {
        "config": conf_root() / "train" / "espnet" / "train_asr_blocks_13m.yaml",
        "output_dir": folder / "exp",
        "token_list": folder / "tokens.txt",
        "token_type": "char",
        "normalize": "none",
        "batch_type": "unsorted",
        "batch_size": args.batch,
        "max_epoch": 1,
        "num_iters_per_epoch": args.steps,
        "log_interval": 1,
        "num_workers": 0,
        "use_amp": "true",
        "ngpu": 1 if args.device == "cuda" else 0,
        "use_tensorboard": "false",
        "use_matplotlib": "false",
    }
    words = [f"--{key}={value}" for key, value in options.items()]
    for kind in ("train", "valid"):
        words += [f"--{kind}_shape_file={folder / 'wav.scp'}"]
        for file, name in (("wav.scp", "speech,sound"), ("text", "text,text")):
            words += [f"--{kind}_data_path_and_name_and_type={folder / file},{name}"]
    if args.tiny:
        words.append(f"--encoder_conf=genotype={json.dumps(SMALL)}")
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "espnet2.bin.asr_train", *words],
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(f"espnet2.bin.asr_train ended with status {done.returncode}: {said}")
    lines = [line for line in said.splitlines() if ":train:" in line and "loss=" in line]
    # Without a step, ESPnet says that the gradients are invalid and ends all the same.
    return {
        "toolkit": "espnet",
        "seconds": time.perf_counter() - began,
        "losses": [float(value) for line in lines for value in re.findall(r" loss=([^,]+)", line)],
        "step_seconds": [
            float(v) for line in lines for v in re.findall(r"train_time=([^,]+)", line)
        ],
        "invalid_gradients": said.count("The grad norm is"),
    }


def nemo(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train by NeMo's ``EncDecCTCModel`` and Lightning's trainer."""
    warnings.simplefilter("ignore")
    import lightning.pytorch as pl
    from nemo.collections.asr.models import EncDecCTCModel
    from omegaconf import OmegaConf

    manifest = folder / "noise.json"
    lines = [
        json.dumps({"audio_filepath": str(path), "duration": seconds, "text": text})
        for path, seconds, text in write_noise(folder, args.batch, args.seconds)
    ]
    manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
    configs = conf_root() / "train" / "nemo"
    # Not resolved: interpolations go with their sections.
    document, blocks = (
        OmegaConf.to_container(OmegaConf.load(configs / f"{name}.yaml"))["model"]
        for name in ("nas_ctc_char", "blocks_ctc_bpe")
    )
    document |= {part: blocks[part] for part in ("encoder", "preprocessor", "spec_augment")}
    if args.tiny:
        document["encoder"] |= {"genotype": SMALL, "d_model": SMALL["width"]}
    data = {"manifest_filepath": str(manifest), "num_workers": 0, "batch_size": args.batch}
    for part in ("train_ds", "validation_ds"):
        document[part] |= data
    config = OmegaConf.create({"model": document})
    losses: list[float] = []
    times: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            losses.append(float(outputs["loss"]))  # waits for the device
            times.append(time.perf_counter())

    trainer = pl.Trainer(
        max_steps=args.steps,
        max_epochs=-1,
        accelerator="gpu" if args.device == "cuda" else "cpu",
        devices=1,
        precision="bf16-mixed",
        callbacks=[Watch()],
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=str(folder),
    )
    began = time.perf_counter()
    trainer.fit(EncDecCTCModel(cfg=config.model, trainer=trainer))
    return {
        "toolkit": "nemo",
        "seconds": time.perf_counter() - began,
        "losses": losses,
        "step_seconds": [after - before for before, after in zip(times, times[1:], strict=False)],
    }


def main() -> int:
    """Train and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("toolkit", choices=("espnet", "nemo"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tiny", action="store_true", help="a small encoder, two steps")
    args = parser.parse_args()
    if find_spec({"espnet": "espnet2", "nemo": "nemo"}[args.toolkit]) is None:
        print(f"{args.toolkit} is not installed", file=sys.stderr)
        return MISSING
    args.steps, args.batch, args.seconds = (2, 2, 1.0) if args.tiny else (10, 16, 12.0)
    with tempfile.TemporaryDirectory() as folder:
        found = {"espnet": espnet, "nemo": nemo}[args.toolkit](args, Path(folder))
    if len(found["losses"]) != args.steps or not np.isfinite(found["losses"]).all():
        print(f"not {args.steps} steps with a finite loss: {found}", file=sys.stderr)
        return 1
    later = found["step_seconds"][1:] or found["step_seconds"]
    found["median_step_seconds"] = statistics.median(later)
    print(json.dumps({**environment(), "arguments": vars(args), **found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

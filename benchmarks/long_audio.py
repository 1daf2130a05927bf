"""Peak memory and CPU time of an inference over audio of up to an hour, in one piece.

    python benchmarks/long_audio.py                      # 15 and 60 minutes, 15 CPU min, 4 GB
    python benchmarks/long_audio.py --minutes 5 --sides network step

Each side runs in a process of its own, with random weights, on noise at 16 kHz: the network on
features, the same in chunks of 10 s with :meth:`step`, ESPnet's model (``encode`` and the best CTC
path, with ``frontend: nemo``), NeMo's (``transcribe``), an export (``nas-encoder transcribe``).
Memory is what the process had at its peak above what it had with the model loaded: of the whole
process, libraries included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nas_encoder import autoload, build_encoder
from nas_encoder.common.provenance import environment

RATE, BINS, TOKENS, SEED = 16000, 80, 32, 1
_ATTENTION = {"kind": "attention", "heads": 4, "window": 64, "chunk": 16}
_CONVOLUTION = {"kind": "convolution", "kernel": 15, "causal": True}
ENCODERS: dict[str, dict[str, Any]] = {
    "hourglass": {"genotype": {"known": "hourglass", "width": 256, "blocks": [4, 10, 4]}},
    "windows": {  # a Conformer's modules, attention in chunks of 16 with 64 frames before them
        "genotype": {
            "schema": 1,
            "name": "windows",
            "space": "blocks",
            "front": {"kind": "conv2d", "channels": 32},
            "stages": [
                {
                    "width": 256,
                    "blocks": 8,
                    "modules": [
                        {"kind": "feed_forward", "expansion": 4, "step": 0.5},
                        _ATTENTION,
                        _CONVOLUTION,
                        {"kind": "feed_forward", "expansion": 4, "step": 0.5},
                    ],
                }
            ],
        }
    },
    "cells": {"genotype": "asrnet_b", "layers": 8, "channels": 12, "output_size": 256},
}
SIDES = ("network", "step", "espnet", "nemo", "transcribe")
IN_PIECES = ("step", "transcribe")  # cells need 0.4 GB for a minute in one piece


def network_of(encoder: str) -> Any:
    """Return an encoder's network."""
    torch.manual_seed(SEED)
    options = dict(ENCODERS[encoder])
    return build_encoder(options.pop("genotype"), input_size=BINS, **options).eval()


def write_noise(path: Path, minutes: float) -> None:
    """Write a WAV file of noise."""
    import soundfile

    generator = torch.Generator().manual_seed(SEED)
    with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_16") as file:
        for _ in range(max(1, round(minutes * 6))):
            file.write(0.1 * torch.randn(10 * RATE, generator=generator).numpy())


def on_features(encoder: str, minutes: float, chunk: int | None) -> Callable[[], object]:
    """Return the network's call on features, whole or in chunks of so many frames."""
    network = network_of(encoder)
    frames = round(minutes * 6000)
    x = torch.randn(1, frames, BINS, generator=torch.Generator().manual_seed(SEED))

    def whole() -> object:
        return network(x, torch.tensor([frames]))[0].sum()

    def chunks() -> object:
        state, total = network.initial_state(1), torch.zeros(())
        for start in range(0, frames, chunk or frames):
            part = x[:, start : start + (chunk or frames)]
            y, state = network.step(part, state, start + part.size(1) == frames)
            total = total + y.sum()
        return total

    return whole if chunk is None else chunks


def with_espnet(encoder: str, path: Path) -> Callable[[], object]:
    """Return ESPnet's encoder and best path on a file."""
    import espnet2.tasks.asr
    import soundfile

    from nas_encoder.espnet.registration import register

    register(espnet2.tasks.asr)
    task = espnet2.tasks.asr.ASRTask
    config = {
        **task.get_default_config(),
        "token_list": ["<blank>", *(f"t{n}" for n in range(TOKENS)), "<sos/eos>"],
        "encoder": "nas",
        "encoder_conf": dict(ENCODERS[encoder]),
        "decoder": None,
        # ESPnet's own makes a mask of frames times frames: 16 GB for 15 minutes.
        "frontend": "nemo",
        "frontend_conf": {"features": BINS, "n_window_size": 400, "normalize": "per_feature"},
        "normalize": None,
        "specaug": None,
        "model_conf": {"ctc_weight": 1.0},
    }
    model = task.build_model(argparse.Namespace(**config)).eval()

    def call() -> object:
        samples = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        encoded, _ = model.encode(samples[None], torch.tensor([len(samples)]))
        return model.ctc.argmax(encoded).sum()

    return call


def nemo_model(encoder: str) -> Any:
    """Return a CTC model of NeMo's."""
    from nemo.collections.asr.models import EncDecCTCModel
    from nemo.utils import logging
    from omegaconf import OmegaConf

    logging.setLevel(logging.ERROR)
    modules = "nemo.collections.asr.modules"
    options = dict(ENCODERS[encoder])
    if "output_size" in options:
        options["d_model"] = options.pop("output_size")
    labels = [chr(ord("a") + n % 26) + str(n // 26) for n in range(TOKENS)]
    config = {
        "sample_rate": RATE,
        "labels": labels,
        "preprocessor": {
            "_target_": f"{modules}.AudioToMelSpectrogramPreprocessor",
            "features": BINS,
            "n_fft": 512,
            "window_size": 0.025,
            "window_stride": 0.01,
            "normalize": "per_feature",
            "dither": 0.0,
            "pad_to": 0,
        },
        "encoder": {"_target_": "nas_encoder.nemo.NASEncoder", "feat_in": BINS, **options},
        "decoder": {
            "_target_": f"{modules}.ConvASRDecoder",
            "feat_in": None,
            "num_classes": TOKENS,
            "vocabulary": labels,
        },
    }
    torch.manual_seed(SEED)
    return EncDecCTCModel(cfg=OmegaConf.create(config)).eval()


def exported(encoder: str, path: Path, folder: Path) -> Callable[[], object]:
    """Return the call of an exported model on a file."""
    from nas_encoder.export.runtime import open_model
    from nas_encoder.export.transcribe import Transcriber

    model = folder / encoder / "model.onnx"
    if not model.exists():
        saved = folder / f"{encoder}.nemo"
        script = "import sys; from benchmarks.long_audio import nemo_model; "
        script += "nemo_model(sys.argv[1]).save_to(sys.argv[2])"
        subprocess.run([sys.executable, "-c", script, encoder, str(saved)], check=True)
        words = ["export", str(saved), str(model.parent), "--lengths", "10"]
        quiet = subprocess.DEVNULL
        subprocess.run([sys.executable, "-m", "nas_encoder", *words], check=True, stdout=quiet)
    transcriber = Transcriber(open_model(model))
    return lambda: transcriber.text(path)


def side(name: str, encoder: str, minutes: float, folder: Path) -> dict[str, Any]:
    """Measure one side in this process."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    autoload.install()
    path = folder / f"{minutes:g}.wav"
    if name in ("network", "step"):
        call = on_features(encoder, minutes, None if name == "network" else 1000)
    elif name == "espnet":
        call = with_espnet(encoder, path)
    elif name == "nemo":
        model = nemo_model(encoder)

        def call() -> object:
            return model.transcribe([str(path)], batch_size=1, verbose=False)
    else:
        call = exported(encoder, path, folder)
    with torch.inference_mode(name != "nemo"):
        before, began = peak_mb(), time.process_time()
        call()
    found = {"side": name, "encoder": encoder, "minutes": minutes}
    return found | {
        "mb": round(peak_mb() - before),
        "loaded_mb": round(before),
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def peak_mb() -> float:
    """Return the process's peak of resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    """Measure; print a table and, as the last line, JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--minutes", type=float, nargs="+", default=[15.0, 60.0])
    parser.add_argument("--sides", nargs="+", choices=SIDES, help="all; of cells those in pieces")
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument("--one", nargs=4, metavar="X", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, encoder, minutes, folder = args.one
        print(json.dumps(side(name, encoder, float(minutes), Path(folder))))
        return 0
    root = Path(__file__).resolve().parents[1]
    rows: list[dict[str, Any]] = []
    print(f"{'encoder':<11}{'side':<12}{'minutes':>8}{'MB more':>9}{'MB loaded':>11}{'CPU s':>8}")
    with tempfile.TemporaryDirectory() as place:
        for minutes in args.minutes:
            write_noise(Path(place, f"{minutes:g}.wav"), minutes)
        for encoder in args.encoders:
            for name in args.sides or (IN_PIECES if encoder == "cells" else SIDES):
                for minutes in args.minutes:
                    words = ["--one", name, encoder, f"{minutes:g}", place]
                    command = [sys.executable, "-m", "benchmarks.long_audio", *words]
                    done = subprocess.run(
                        command, cwd=root, capture_output=True, text=True, check=False
                    )
                    if done.returncode:
                        print(done.stderr[-2000:], file=sys.stderr)
                        raise SystemExit(f"{encoder}, {name}, {minutes:g} min: {done.returncode}")
                    row = json.loads(done.stdout.splitlines()[-1])
                    rows.append(row)
                    print(
                        f"{encoder:<11}{name:<12}{minutes:>8g}{row['mb']:>9}{row['loaded_mb']:>11}"
                        f"{row['cpu_seconds']:>8}",
                        flush=True,
                    )
    sizes = {name: sum(p.numel() for p in network_of(name).parameters()) for name in args.encoders}
    print(json.dumps({**environment(), "parameters": sizes, "rows": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

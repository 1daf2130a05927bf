"""Streaming models under load: latencies of parallel streams at real time.

Makes block encoders of a Conformer's modules that stream with a lookahead below 200 ms, with random
weights and a CTC layer that says something now and then, exports each as ``nas-encoder export
--stream`` does, and plays streams of a minute through ``nas-encoder transcribe --stream
--real-time``. The CPU time of a step is that of one thread.

    python benchmarks/live_streams.py --streams 8 --threads 2 --output live.json
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile
import torch

from nas_encoder import load_genotype
from nas_encoder.cli.main import main as nas_encoder
from nas_encoder.export.export import ExportOptions
from nas_encoder.export.material import generated
from nas_encoder.export.streaming.export import export_stream
from nas_encoder.export.streaming.runtime import StreamRuntime
from nas_encoder.interchange.features import ESPnetFeatures
from nas_encoder.interchange.model import Encoder, Features, Head, Model
from nas_encoder.network import build_encoder

RATE, BINS = 16000, 80
TOKENS = ["<blank>", "<unk>", "<space>", *(chr(65 + n) for n in range(26)), "<sos/eos>"]
SIZES = {"small": (96, 8, 4), "medium": (176, 16, 4)}  # width, blocks, heads


def genotype(width: int, blocks: int, heads: int) -> dict[str, Any]:
    """Return a Conformer that streams: attention in chunks of 160 ms, 1.3 s back; causal else."""
    modules = [
        {"kind": "feed_forward", "expansion": 4.0, "step": 0.5},
        {"kind": "attention", "heads": heads, "window": 32, "chunk": 4},
        {"kind": "convolution", "kernel": 9, "causal": True, "norm": "layer"},
        {"kind": "feed_forward", "expansion": 4.0, "step": 0.5},
    ]
    stage = {"width": width, "blocks": blocks, "modules": modules}
    front = {"kind": "conv2d", "channels": 64, "padded": True}
    return {
        "schema": 1,
        "name": f"streaming_conformer_{width}",
        "space": "blocks",
        "front": front,
        "stages": [stage],
    }


@torch.no_grad()
def model(name: str) -> Model:
    """Return a model with random weights, as one of ESPnet is read."""
    torch.manual_seed(0)
    document = load_genotype(genotype(*SIZES[name])).to_dict()
    network: Any = build_encoder(document, input_size=BINS).eval()
    options = {"hop_length": 160, "win_length": 400, "n_mels": BINS, "normalize": "global"}
    features = ESPnetFeatures(**options).eval()
    features.mean.fill_(-8.0)
    features.std.fill_(4.0)
    sound = generated(RATE)[3].samples
    encoded, _ = network(*features(sound[None], torch.tensor([len(sound)])))
    weight = torch.randn(len(TOKENS), network.output_size) / (encoded[0].std(0) + 1e-3)
    bias = -weight @ encoded[0].mean(0)
    bias[0] += float((encoded[0] @ weight.T + bias).std())  # mostly blank
    own = {"genotype": document, "input_size": BINS, "output_size": network.output_size}
    weights = {f"network.{key}": value for key, value in network.state_dict().items()}
    found = Model(
        f"streaming Conformer {name}, random weights",
        "espnet",
        Encoder("nas", own, weights),
        Head(TOKENS, weight, bias),
        Features("espnet", options, features.state_dict()),
    )
    found.check({}, {})
    return found


def step_time(runtime: StreamRuntime, streams: int) -> float:
    """Return the CPU milliseconds of a step of so many streams."""
    assert runtime.form is not None
    frames = runtime.form.frames
    states = [runtime.new_state() for _ in range(streams)]
    rows = [torch.randn(runtime.form.size) * 0.1 for _ in range(streams)]
    begun = 0.0
    for number in range(23):
        if number == 3:
            begun = time.process_time()
        _, _, states = runtime.step(rows, [frames] * streams, states)
    return round((time.process_time() - begun) / 20 * 1000, 2)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--chunk", type=float, default=160.0, help="milliseconds")
    parser.add_argument("--seconds", type=int, default=60, help="of each stream")
    parser.add_argument("--output", help="file to write, JSON")
    args = parser.parse_args()
    rows = []
    for name in args.sizes.split(","):
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            given = model(name)
            done = export_stream(given, ExportOptions(lengths=8), args.chunk)
            done.write(folder)
            sound = torch.cat([one.samples for one in generated(RATE)])
            sound = sound.repeat(1 + args.seconds * RATE // len(sound))[: args.seconds * RATE]
            soundfile.write(folder / "sound.wav", sound.numpy(), RATE, subtype="PCM_16")
            words = ["transcribe", str(folder / "model.onnx"), str(folder / "sound.wav")]
            words += ["--stream", "--real-time", "--json", "--threads", str(args.threads)]
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                status = nas_encoder([*words, "--streams", str(args.streams)])
        report = json.loads(said.getvalue().splitlines()[-1])
        row = {"model": name, "parameters": given.encoder.parameters, "status": status}
        row |= {"step_cpu_ms": {n: step_time(done.runtime, n) for n in (1, args.streams)}}
        row |= {"lookahead_ms": done.report["lookahead_ms"], **report}
        print(json.dumps(row), flush=True)
        rows.append(row)
    if args.output:
        Path(args.output).write_text(json.dumps(rows, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()

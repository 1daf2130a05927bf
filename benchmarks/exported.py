"""Exported encoders in onnxruntime against their eager evaluation, and against NeMo's own export.

Writes each encoder with random weights as ONNX, in float32 and in 8 bits, into --folder: ours as
``nas-encoder export`` does, NeMo's Conformer-S and FastConformer-S with NeMo's own ``export``. Then
``nas-encoder bench`` measures all, eager and exported, in one process and in turns. In 8 bits no
layer is left in float32 for accuracy, as there is nothing to recognize: for what a trained model
loses, see ``nas-encoder export --int8``.

    python benchmarks/exported.py --threads 1,2 --output exported.json
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch

from nas_encoder.bench.sources import read_source
from nas_encoder.bench.subjects import build
from nas_encoder.cli.main import main as nas_encoder
from nas_encoder.export.graph import to_onnx
from nas_encoder.export.quantize import candidates, method_of, multiply_adds, quantize
from nas_encoder.export.recognizer import FEATURES, Parts, Recognizer

# Name of the files -> what `nas-encoder bench` builds. A zoo entry of either space, and our
# implementations of NeMo's two at the same sizes.
OURS = {
    "cells": "asrnet_b{layers: 17, channels: 24, stem_stride: [1, 2]}",
    "conformer": "nemo_conformer{width: 176, hidden: 704, blocks: 16}",
    "fast_conformer": "fast_conformer{width: 176, hidden: 704, blocks: 16}",
}
NEMO = {
    "nemo_conformer_s": "nemo_conformer{d_model: 176, n_layers: 16, n_heads: 4}",
    "nemo_fast_conformer_s": "nemo_fast_conformer{d_model: 176, n_layers: 16, n_heads: 4}",
}


def graph_of(module: Any, toolkit: str, path: Path) -> Any:
    """Return the ONNX model of an encoder in evaluation mode."""
    if toolkit == "ours":
        parts = Parts(module, None, None, None, "nemo")
        return to_onnx(Recognizer(parts, FEATURES), module.input_size, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tracing
        module.encoder.export(str(path))
    return onnx.load(path)


def write(name: str, text: str, toolkit: str, args: argparse.Namespace) -> list[str]:
    """Write an encoder in float32 and in 8 bits; return what ``bench`` is to measure."""
    torch.manual_seed(args.seed)
    source = read_source(text)
    module = build(source, features=args.input_size).module
    assert module is not None
    folder, measured = Path(args.folder), [f"{name} eager={text}"]
    graph = graph_of(module.eval(), toolkit, folder / f"{name}.onnx")
    onnx.save(graph, folder / f"{name}.onnx")
    noise = [torch.randn(frames, args.input_size) for frames in (500, 700, 1000)]
    costs = multiply_adds(graph, noise[0], FEATURES)
    method, nodes = method_of(costs), candidates(costs)
    onnx.save(quantize(graph, method, nodes, noise, FEATURES), folder / f"{name}.int8.onnx")
    share = sum(costs[node][1] for node in nodes) / sum(count for _, count in costs.values())
    print(f"{name}: {method}, {len(nodes)} layers, {share:.0%} of products in 8 bits", flush=True)
    files = {"fp32": f"{name}.onnx", "int8": f"{name}.int8.onnx"}
    return [*measured, *(f"{name} {form}={folder / file}" for form, file in files.items())]


def main() -> int:
    """Write the files, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", help="for the files (default: a temporary one)")
    parser.add_argument("--only", nargs="+", choices=[*OURS, *NEMO], help="of the encoders")
    parser.add_argument("--input-size", type=int, default=80, help="features (default 80)")
    parser.add_argument("--speech", type=float, nargs="+", default=[10.0], help="seconds")
    parser.add_argument("--threads", default="1", help="as in 'nas-encoder bench'")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", action="append", default=[], metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        args.folder = args.folder or temporary
        Path(args.folder).mkdir(parents=True, exist_ok=True)
        measured: list[str] = []
        for toolkit, encoders in (("ours", OURS), ("nemo", NEMO)):
            for name, text in encoders.items():
                if args.only is None or name in args.only:
                    measured += write(name, text, toolkit, args)
        options = ["--no-training", "--threads", args.threads, "--input-size", str(args.input_size)]
        options += ["--speech", *map(str, args.speech)]
        for path in args.output:
            options += ["--output", path]
        return nas_encoder(["bench", *measured, *options])


if __name__ == "__main__":
    sys.exit(main())

"""Our block encoders against the toolkits' own of the same size, side by side in one process.

For each encoder: the inference of one utterance of --frames frames (10 s), and a training step
(forward, and backward to all weights) of four padded utterances of 10 to 4 s; the median of
--repeats alternating measurements, and ours as a share of theirs. On one CPU thread the process
time counts. An encoder of a toolkit that is not installed is left out.

    python benchmarks/blocks.py --json blocks.json

With ``--scaled``, genotypes of blocks at the sizes ``--parameters``, by the rule of ``nas-encoder
scale``, against the toolkits' encoders of those sizes with their authors' settings: inference
alone, of all encoders in turns.

    python benchmarks/blocks.py --scaled hourglass exp/search/genotype.yaml --repeats 15
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.bench.measure import EncoderSettings, benchmark
from nas_encoder.bench.subjects import of_module
from nas_encoder.cli.scale import parse_count
from nas_encoder.common.provenance import environment
from nas_encoder.deploy.timing import measure, quiet_clock
from nas_encoder.errors import MissingDependencyError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.network import build_encoder
from nas_encoder.network.complexity import count_parameters
from nas_encoder.peers import build_peer
from nas_encoder.spaces import get_space
from nas_encoder.spaces.blocks import points
from nas_encoder.spaces.blocks.architecture import BlockArchitecture

BINS = 80
WIDTH, BLOCKS, KERNEL = 144, 12, 31  # of ESPnet's; NeMo's have their authors' sizes
SHARES = (1.0, 0.8, 0.6, 0.4)  # of the frames, of the utterances of a batch
# Name -> the peer, and its sizes: those of the authors' configs. 4x is a setting that NeMo has too.
_SMALL, _MEDIUM = ({"d_model": d, "n_layers": 16, "n_heads": 4} for d in (176, 256))
_RECIPE = {"output_size": 256, "linear_units": 1024, "cgmlp_linear_units": 1024}
_LESS = {"output_size": 192, "linear_units": 768, "cgmlp_linear_units": 768}
PEERS: dict[str, tuple[str, dict[str, int]]] = {
    "NeMo Conformer-S": ("nemo_conformer", _SMALL),
    "NeMo FastConformer-S": ("nemo_fast_conformer", _SMALL),
    "NeMo FastConformer-S, 4x": ("nemo_fast_conformer", {**_SMALL, "subsampling_factor": 4}),
    "NeMo Conformer-M": ("nemo_conformer", _MEDIUM),
    "NeMo FastConformer-M": ("nemo_fast_conformer", _MEDIUM),
    "NeMo FastConformer-M, 4x": ("nemo_fast_conformer", {**_MEDIUM, "subsampling_factor": 4}),
    "ESPnet E-Branchformer, 192": (
        "espnet_e_branchformer",
        {**_LESS, "attention_heads": 4, "num_blocks": 12},
    ),
    "ESPnet E-Branchformer, 256": (
        "espnet_e_branchformer",
        {**_RECIPE, "attention_heads": 4, "num_blocks": 12},
    ),
}
Encode = Callable[[Tensor, Tensor], Tensor]


def espnet(name: str) -> tuple[nn.Module, Encode]:
    """Return ESPnet's encoder and a call."""
    from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
    from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
    from espnet2.asr.encoder.transformer_encoder import TransformerEncoder

    size = {"output_size": WIDTH, "attention_heads": 4, "num_blocks": BLOCKS}
    rates = {"dropout_rate": 0.1, "attention_dropout_rate": 0.1, "positional_dropout_rate": 0.1}
    hidden = {"linear_units": 4 * WIDTH}
    macaron = {"rel_pos_type": "latest", "macaron_style": True, "cnn_module_kernel": KERNEL}
    gated = {"cgmlp_linear_units": 4 * WIDTH, "cgmlp_conv_kernel": KERNEL}
    merged = {"use_ffn": True, "macaron_ffn": True, "merge_conv_kernel": KERNEL}
    builders: dict[str, Callable[[], nn.Module]] = {
        "transformer": lambda: TransformerEncoder(BINS, **size, **rates, **hidden),
        "conformer": lambda: ConformerEncoder(BINS, **size, **rates, **hidden, **macaron),
        "e_branchformer": lambda: EBranchformerEncoder(
            BINS, **size, **rates, **hidden, **gated, **merged
        ),
    }
    module = builders[name]()
    return module, lambda x, lengths: module(x, lengths)[0]


def nemo(name: str) -> tuple[nn.Module, Encode]:
    """Return NeMo's encoder and a call."""
    from nemo.collections.asr.modules.conformer_encoder import ConformerEncoder

    size = {"feat_in": BINS, "n_layers": 16, "d_model": 176, "n_heads": 4}
    fast = {
        "subsampling": "dw_striding",
        "subsampling_factor": 8,
        "subsampling_conv_channels": 256,
        "conv_kernel_size": 9,
    }
    module = ConformerEncoder(**size, **(fast if name == "fast_conformer" else {}))
    return module, lambda x, lengths: module(audio_signal=x.transpose(1, 2), length=lengths)[0]


def ours(architecture: BlockArchitecture) -> tuple[nn.Module, Encode]:
    """Return our encoder and a call."""
    module = build_encoder(Genotype("point", "blocks", architecture), input_size=BINS)
    return module, lambda x, lengths: module(x, lengths)[0]


def pairs() -> Iterator[tuple[str, Any, Any]]:
    """Yield a name, ours and theirs."""
    same: dict[str, Any] = {"width": WIDTH, "blocks": BLOCKS, "hidden": 4 * WIDTH}
    gated = {"mlp_hidden": 4 * WIDTH, "merge_kernel": KERNEL}
    known = {
        "transformer": points.transformer(**same),
        "conformer": points.conformer(**same, kernel=KERNEL),
        "e_branchformer": points.e_branchformer(**same, **gated, kernel=KERNEL),
    }
    if find_spec("espnet2") is not None:
        for name, architecture in known.items():
            yield f"ESPnet {name}", ours(architecture), espnet(name)
    if find_spec("nemo") is not None:
        yield "NeMo conformer S", ours(points.nemo_conformer()), nemo("conformer")
        yield "NeMo fast conformer S", ours(points.fast_conformer()), nemo("fast_conformer")


def step(module: nn.Module, encode: Encode, x: Tensor, lengths: Tensor) -> None:
    """Run a training step without the optimizer."""
    module.zero_grad()
    encode(x, lengths).square().mean().backward()


def compare(name: str, sides: dict[str, Any], frames: int, repeats: int) -> dict[str, Any]:
    """Return the medians of both sides, and ours as a share of theirs."""
    x = torch.randn(len(SHARES), frames, BINS)
    lengths = torch.tensor([round(frames * share) for share in SHARES])
    row: dict[str, Any] = {"encoder": name}
    row |= {f"{side}_parameters": count_parameters(module) for side, (module, _) in sides.items()}
    for module, _ in sides.values():
        module.eval()
    clock = quiet_clock("cpu")
    with torch.inference_mode():
        calls = {
            side: lambda e=encode: e(x[:1], lengths[:1]) for side, (_, encode) in sides.items()
        }
        found = {"inference": measure(calls, 3 * repeats, warm_up=2, clock=clock)}
    for module, _ in sides.values():
        module.train()
    calls = {side: lambda p=pair: step(*p, x, lengths) for side, pair in sides.items()}
    found["step"] = measure(calls, repeats, clock=clock)
    for what, times in found.items():
        for side in sides:
            row[f"{what}_{side}_ms"] = round(1e3 * times[side].median, 1)
        row[f"{what}_share"] = round(times["ours"].median / times["theirs"].median, 3)
        spread = max(times[side].iqr / times[side].median for side in sides)
        row[f"{what}_spread"] = round(spread, 3)
    return row


def scaled_encoders(
    genotypes: Sequence[str],
    sizes: Sequence[str],
    peers: Mapping[str, tuple[str, Mapping[str, int]]] = PEERS,
) -> dict[str, nn.Module]:
    """Return the genotypes at each size, and the peers whose toolkit is installed."""
    found: dict[str, nn.Module] = {}
    for source in genotypes:
        genotype = load_genotype(source)
        space = get_space(genotype.space)
        for size in sizes:
            options = space.options.from_dict({"input_size": BINS}, "scale")
            larger, _ = space.scaling.scale(genotype, parse_count(size), options)
            found[f"{source}, {size}"] = build_encoder(larger, input_size=BINS)
    for name, (peer, own) in peers.items():
        try:
            found[name] = build_peer(peer, own, BINS)
        except MissingDependencyError as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
    return found


def side_by_side(
    encoders: Mapping[str, nn.Module], frames: int, repeats: int
) -> list[dict[str, Any]]:
    """Return a row for each encoder: the inference of one utterance, all in turns."""
    subjects = [of_module(name, module, BINS) for name, module in encoders.items()]
    settings = EncoderSettings(
        frames=frames, repeats=repeats, seconds=0.0, training=False,
        threads=(torch.get_num_threads(),),
    )  # fmt: skip
    rows = []
    for found in benchmark(subjects, settings)["networks"]:
        (times,) = found["inference"].values()
        row = {"encoder": found["label"], "parameters": found["parameters"], "macs": found["macs"]}
        rows.append(row | {name: round(times[name], 1) for name in ("ms", "iqr_ms")})
    return sorted(rows, key=lambda row: float(row["ms"]))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frames", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write all numbers")
    parser.add_argument(
        "--scaled", nargs="+", metavar="GENOTYPE", help="of blocks: measure these, scaled"
    )
    parser.add_argument("--parameters", nargs="+", default=["13M", "30M"], help="of --scaled")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.scaled:
        encoders = scaled_encoders(args.scaled, args.parameters)
        rows = side_by_side(encoders, args.frames, args.repeats)
    else:
        rows = [
            compare(name, {"ours": own, "theirs": theirs}, args.frames, args.repeats)
            for name, own, theirs in pairs()
        ]
    document = {
        "environment": environment(),
        "arguments": {name: own for name, own in vars(args).items() if name != "json"},
        "rows": rows,
    }
    print("  ".join(f"{key}: {value}" for key, value in environment().items()))
    if args.scaled:
        print_scaled(rows)
    else:
        print_pairs(rows)
    if args.json:
        Path(args.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


def print_scaled(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of encoders in turns, the fastest first."""
    print(f"{'':<32}{'parameters':>12}{'MACs':>9}{'ms':>9}{'quartiles apart':>17}")
    for row in rows:
        print(
            f"{row['encoder']:<32}{row['parameters']:>12,}{row['macs'] / 1e9:>8.2f}G"
            f"{row['ms']:>9.1f}{row['iqr_ms']:>17.1f}"
        )


def print_pairs(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the table of ours and theirs."""
    print(f"{'':<24}{'parameters':>12}{'inference ms':>26}{'training step ms':>26}")
    print(f"{'':<24}{'ours':>12}" + 2 * f"{'ours':>9}{'theirs':>9}{'share':>8}")
    for row in rows:
        numbers = (
            f"{row[f'{what}_ours_ms']:>9.1f}{row[f'{what}_theirs_ms']:>9.1f}"
            f"{row[f'{what}_share']:>8.2f}"
            for what in ("inference", "step")
        )
        print(f"{row['encoder']:<24}{row['ours_parameters']:>12,}" + "".join(numbers))


if __name__ == "__main__":
    sys.exit(main())

"""Export a trained ESPnet or NeMo model to ONNX, checked against torch.

Writes model.onnx, tokens.txt and export.json into a folder. Batch and time are free in the graph,
masks, normalization and the CTC layer are inside; with --input audio, the default, the features
too, and 'nas-encoder transcribe' runs it. With --input features it takes log-mel features, as
sherpa-onnx gives them (--nemo-ctc-model); an encoder alone always does. Before anything is
written, the graph is compared with torch on utterances of --data, or on generated sounds: at every
length from one frame to --lengths, alone and in padded batches. If it differs, nothing is written.
--int8 and --fp16 write smaller forms too, whose errors on --data are counted: if there are more
than allowed, layers stay in float32; if that does not help, the form is not written, and the status
is 1. --bf16 counts those of the same file in OpenVINO's bfloat16. With --stream the graph takes a
chunk and caches and gives new caches, so that audio is recognized as it arrives ('nas-encoder
transcribe --stream'); streams of the utterances are compared with what torch gives for the whole
ones, from the first chunk to the last frame. A transducer becomes encoder.onnx, decoder.onnx and
joiner.onnx; of a model with both heads --head chooses.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_encoder.cli import add_runtime, add_settings
from nas_encoder.deploy.engines import EXACT, OPENVINO

if TYPE_CHECKING:
    from nas_encoder.export.export import Exported, ExportOptions, Written
    from nas_encoder.interchange.model import Model

_INCREASE = 1.0  # percent
_FORMS = ("int8", "fp16", "bf16")

EXAMPLES = """examples:
  nas-encoder export exp/asr_train_nas exported --data dump/raw/dev
  nas-encoder export model.nemo exported --input features --license cc-by-4.0
  nas-encoder export model.nemo exported --data dev.json --int8 --runtime openvino
  nas-encoder export exp/asr_streaming exported --data dump/raw/dev --stream --chunk 320
  nas-encoder export hybrid.nemo exported --head transducer --data dev.json
  nas-encoder export asrnet_b exported --weights encoder.pt --set input_size=80

The last one exports an encoder alone.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "input",
        help="ESPnet: folder with config.yaml, .pth file in one, packed .zip; NeMo: .nemo file; "
        "with --weights: a genotype",
    )
    parser.add_argument("output", help="folder to write")
    parser.add_argument(
        "--input",
        dest="takes",
        choices=("audio", "features"),
        help="what the graph takes (default audio; with --weights: features)",
    )
    parser.add_argument(
        "--head",
        choices=("ctc", "transducer", "none"),
        help="what is exported with the encoder (default: the CTC layer if there is one, else the "
        "transducer)",
    )
    parser.add_argument(
        "--lookahead",
        type=int,
        metavar="FRAMES",
        help="of an encoder trained with several 'lookaheads', the one to use (default: the first)",
    )
    parser.add_argument("--data", metavar="DATA", help="utterances to check it with (a manifest)")
    parser.add_argument(
        "--utterances", type=int, metavar="N", help="how many of them, at most (default 16)"
    )
    parser.add_argument(
        "--lengths", type=int, default=100, help="check every length to this (default 100 frames)"
    )
    add_runtime(parser, "what it is checked and measured in", EXACT)
    parser.add_argument("--license", default="unknown", metavar="NAME", help="of the model")
    parser.add_argument(
        "--checkpoint", metavar="NAME", help="which .pth file of the folder (default: the average)"
    )
    parser.add_argument(
        "--bpe-model", metavar="FILE", help="SentencePiece model, if not where the config says"
    )
    parser.add_argument("--weights", metavar="FILE", help="of the encoder of a genotype")
    add_settings(parser, "with --weights: an option of the network, such as input_size=80")
    live = parser.add_argument_group("streaming")
    live.add_argument(
        "--stream", action="store_true", help="write a model that takes audio as it arrives"
    )
    live.add_argument(
        "--chunk",
        type=float,
        metavar="MS",
        help="milliseconds that it takes at once (default: what the encoder allows from 160 on)",
    )
    small = parser.add_argument_group("smaller forms, which need --data with texts")
    small.add_argument("--int8", action="store_true", help="also write model.int8.onnx")
    small.add_argument("--fp16", action="store_true", help="also write model.fp16.onnx, for GPUs")
    small.add_argument(
        "--bf16",
        action="store_true",
        help="also count errors of model.onnx in bfloat16, with --runtime openvino",
    )
    small.add_argument(
        "--max-increase",
        type=float,
        metavar="PERCENT",
        help="more character errors than in float32, relative (default 1)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Export; say what was checked and written."""
    options = _options(args)
    if args.stream:
        return _stream(args, options)
    from nas_encoder.errors import CheckpointError
    from nas_encoder.export.export import export_model

    model = _model(args)
    if args.head == "transducer" or (args.head is None and _is_transducer(model)):
        return _transducer(args, model, options)
    if args.head == "ctc":
        problems = ["has no CTC layer", *model.obstacles] if model.head is None else _unfit(model)
        if problems:
            raise CheckpointError(model.source, [f"--head ctc: {line}" for line in problems])
    if args.head == "none":
        model.head = None
    elif model.transducer is not None:
        model.notes.append("holds a transducer too, which --head transducer exports")
    exported = export_model(model, options)
    if any(getattr(args, form) for form in _FORMS):
        _add_smaller(exported, args)
    files = exported.write(Path(args.output))
    facts = {**exported.report, "files": [str(file) for file in files]}
    print(json.dumps(facts, indent=2) if args.json else "\n".join(_text(exported, files)))
    return 1 if exported.report.get("not_written") else 0


def _stream(args: argparse.Namespace, options: ExportOptions) -> int:
    from nas_encoder.export.streaming.export import export_stream

    exported = export_stream(_model(args), options, args.chunk)
    files = exported.write(Path(args.output))
    facts = {**exported.report, "files": [str(file) for file in files]}
    print(json.dumps(facts, indent=2) if args.json else "\n".join(_text(exported, files)))
    return 0


def _unfit(model: Model) -> list[str]:
    """Return why the CTC layer does not fit the encoder, which is then exported without it."""
    return [] if model.head is None else model.head.problems(model.encoder.options["output_size"])


def _is_transducer(model: Model) -> bool:
    """Whether there is a transducer and no CTC layer."""
    return model.head is None and (model.transducer is not None or bool(model.no_transducer))


def _transducer(args: argparse.Namespace, model: Model, options: ExportOptions) -> int:
    from nas_encoder.errors import ConfigError
    from nas_encoder.export.transducer.export import export_transducer

    if any(getattr(args, form) for form in _FORMS):
        rule = "--int8, --fp16, --bf16: do not go with a transducer, whose graphs are in float32"
        raise ConfigError("options", [rule])
    exported = export_transducer(model, options)
    files = exported.write(Path(args.output))
    facts = {**exported.report, "files": [str(file) for file in files]}
    print(json.dumps(facts, indent=2) if args.json else "\n".join(_text(exported, files)))
    return 0


def _options(args: argparse.Namespace) -> ExportOptions:
    """Return the options; ConfigError lists all that is wrong with the command line."""
    from nas_encoder.errors import ConfigError
    from nas_encoder.export.control import option_problems
    from nas_encoder.export.export import ExportOptions
    from nas_encoder.interchange.files import folder_problem

    problems = []
    alone, smaller = args.weights is not None, any(getattr(args, form) for form in _FORMS)
    if alone:
        given = {
            "--checkpoint": args.checkpoint is not None,
            "--bpe-model": args.bpe_model is not None,
            "--input audio": args.takes == "audio",
            "--int8": args.int8,
            "--fp16": args.fp16,
            "--bf16": args.bf16,
            "--stream": args.stream,
            "--head": args.head is not None,
        }
        problems += [
            f"{name}: does not go with --weights, which are those of an encoder alone"
            for name in given
            if given[name]
        ]
    elif args.settings:
        problems.append("--set: goes with --weights: a trained model has its options")
    if args.data is not None and not Path(args.data).expanduser().exists():
        problems.append(f"--data: {args.data}: no such file or folder")
    if args.stream and smaller:
        problems.append(
            "--int8, --fp16, --bf16: do not go with --stream, whose models are in float32"
        )
    if args.head in ("transducer", "none") and (args.stream or smaller):
        problems.append(f"--head {args.head}: does not go with --stream and smaller forms")
    if args.chunk is not None and not args.stream:
        problems.append("--chunk: goes with --stream, whose models take so much at once")
    if args.utterances is not None and args.data is None:
        problems.append("--utterances: goes with --data, of which so many are taken")
    if args.bf16 and args.runtime != OPENVINO:
        problems.append(f"--bf16: goes with --runtime {OPENVINO}, which alone computes so")
    if args.max_increase is not None and not smaller:
        problems.append(
            "--max-increase: goes with --int8, --fp16 and --bf16, whose errors it limits"
        )
    elif smaller and not alone:
        increase = _INCREASE if args.max_increase is None else args.max_increase
        problems += [f"--{line}" for line in option_problems(args.data, increase)]
    output = folder_problem(Path(args.output))
    problems += [f"output: {output}"] if output else []
    takes = args.takes or ("features" if alone else "audio")
    count = 16 if args.utterances is None else args.utterances
    try:
        options = ExportOptions(
            takes, args.data, count, args.lengths, args.license, args.runtime, args.lookahead
        )
    except ConfigError as error:
        problems += [f"--{line}" for line in error.problems]
    if problems:
        raise ConfigError("options", problems)
    return options


def _model(args: argparse.Namespace) -> Model:
    from nas_encoder.export.sources import encoder_model
    from nas_encoder.interchange.convert import read

    if args.weights is not None:
        return encoder_model(args.input, Path(args.weights), args.settings)
    return read(Path(args.input), args.checkpoint, args.bpe_model, adopting=True)


def _add_smaller(exported: Exported, args: argparse.Namespace) -> None:
    """Add the smaller forms, or to the report why there is none."""
    from nas_encoder.errors import CheckpointError
    from nas_encoder.export.control import add_bfloat, add_half, add_int8, reducer

    increase = _INCREASE if args.max_increase is None else args.max_increase
    given = reducer(exported, args.data, increase)
    add = {
        "int8": lambda: add_int8(given, _progress),
        "fp16": lambda: add_half(given),
        "bf16": lambda: add_bfloat(given),
    }
    for form in (name for name in _FORMS if getattr(args, name)):
        try:
            add[form]()
        except CheckpointError as error:
            exported.report.setdefault("not_written", {})[form] = list(error.problems)


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\rlayers tried alone: {done} of {total}", end=end, file=sys.stderr, flush=True)


def _text(exported: Written, files: list[Path]) -> list[str]:
    facts: dict[str, Any] = exported.report
    checked, metadata = facts["checked"], facts["metadata"]
    name = f"{metadata['encoder']}, an encoder alone"
    if "vocab_size" in metadata:
        tokens = f"{metadata['vocab_size']} tokens and the blank"
        head = "transducer" if metadata.get("head") else "CTC"
        name = f"{metadata['encoder']}, {head} over {tokens}"
    lines = [
        f"{facts['input']} -> ONNX",
        f"  model      {name}",
        f"  takes      {facts['takes']} of {metadata['sample_rate']} Hz",
    ]
    how = "alone and in batches"
    if "chunk_ms" in facts:
        how = "streamed, beside others of all ages"
        lines.append(
            f"  streams    chunks of {facts['chunk_ms']:g} ms, lookahead {facts['lookahead_ms']:g} "
            f"ms, {facts['state_bytes']} bytes of state"
        )
        if checked["longest_ms"] <= facts["steady_ms"]:
            lines.append(
                f"  unchecked  what streams give after {facts['steady_ms'] / 1000:.1f} s, which "
                f"the encoder sees: no utterance has more than {checked['longest_ms'] / 1000:.1f} s"
            )
    lines += [
        f"  checked    in {facts['engine']}: every length from 1 to {checked['lengths']} frames "
        f"and {checked['utterances']} utterances, {how}: {checked['with']}",
        f"  differs    by at most {checked['worst']:.1e} from torch",
    ]
    if "search" in facts:
        steps = facts["search"]
        lines += [
            f"  search     {steps['steps']} steps differ by at most {steps['worst']:.1e}; "
            f"{steps['differing']} of {steps['utterances']} utterances get other tokens",
            f"  greedy     {_limit(metadata['max_symbols_per_frame'])} tokens of a frame",
        ]
    for form in _FORMS:
        if form in facts:
            lines += _smaller(form, facts[form], facts["bytes"])
    for form, problems in facts.get("not_written", {}).items():
        fails = "does not do" if form == "bf16" else "is not written"  # it has no file of its own
        lines += [f"  {form:<10} {fails}: {line}" for line in problems]
    lines += [f"  sherpa     {line}" for line in facts["sherpa_onnx"]]
    for names in facts["left_out"].values():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"  left out   {', '.join(names[:3])}{more}")
    lines += [f"  note       {note}" for note in facts["notes"]]
    return [*lines, *(f"  wrote      {file}" for file in files)]


def _limit(most: str) -> str:
    return f"at most {most}" if most.isdigit() else "any number of"


def _smaller(form: str, facts: dict[str, Any], sizes: dict[str, int]) -> list[str]:
    found = []
    if "layers" in facts:
        kept = len(facts["left_in_float32"])
        found = [
            f"{facts['method']}, {facts['layers']} layers, {kept} left in float32 for accuracy"
        ]
    for name in ("cer", "wer"):
        before, after = facts["before"][name], facts["after"][name]
        rates = " -> ".join(
            f"{rate['percent']:.2f} [{rate['interval'][0]:.2f}, {rate['interval'][1]:.2f}]"
            for rate in (before, after)
        )
        found.append(f"{name.upper()} {rates} % on {facts['utterances']} utterances")
    times = facts["milliseconds_for_10_s"]
    if f"model.{form}.onnx" in sizes:
        size = [sizes["model.onnx"] / 1e6, sizes[f"model.{form}.onnx"] / 1e6]
        found.append(f"{size[0]:.2f} -> {size[1]:.2f} MB")
    found.append(f"{times['float32']:g} -> {times[form]:g} ms for 10 s, one thread")
    return [f"  {form:<10} {line}" for line in found]

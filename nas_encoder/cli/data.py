"""Read a speech corpus for lhotse, ESPnet and NeMo, or check data before a search.

``prepare`` reads a corpus, compares it with what was published, and writes lhotse manifests, ESPnet
data folders and NeMo manifests. ``tokens`` makes the token list of training texts. ``check`` looks
at training and validation data, in any of these forms, and reports everything that would spoil a
search.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nas_encoder.cli import add_tokens
from nas_encoder.errors import ConfigError

EXAMPLES = """\
examples:
  nas-encoder data prepare aishell /corpora/aishell data/aishell
  nas-encoder data prepare librispeech /corpora/LibriSpeech data/ls100 \\
      --train train-clean-100 --dev dev-clean,dev-other --test test-clean
  nas-encoder data prepare timit /corpora/TIMIT data/timit --phones 39 --jobs 4
  nas-encoder data prepare aishell /corpora/aishell data/aishell_syllables --units syllable
  nas-encoder data prepare prompts /corpora/prompts data/prompts --sampling-rate 16000
  nas-encoder data tokens data/ls100 data/ls100/bpe_unigram5000 --kind bpe --size 5000
  nas-encoder data check --train data/timit/espnet/train --valid data/timit/nemo/dev.json \\
      --tokens phone
  nas-encoder data check --train dump/raw/train_sp --valid dump/raw/dev --full \\
      --tokens data/zh_token_list/char/tokens.txt
"""

_SPLITS = ("train", "dev", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions and their options."""
    actions = parser.add_subparsers(dest="action", metavar="{prepare,tokens,check}", required=True)

    prepare = actions.add_parser("prepare", help="read a corpus; write lhotse, ESPnet, NeMo data")
    # No `choices`: the names are in a table of nas_encoder.data, which needs lhotse.
    prepare.add_argument("corpus", help="aishell, librispeech, prompts or timit")
    prepare.add_argument("corpus_dir", type=Path, help="where the corpus was unpacked")
    prepare.add_argument("output_dir", type=Path, help="receives lhotse/, espnet/ and nemo/")
    prepare.add_argument("--jobs", type=int, default=1, help="threads (default 1)")
    prepare.add_argument(
        "--partial",
        action="store_true",
        help="take a part of the corpus: tell what differs from the published counts, and leave "
        "out what cannot be read, instead of refusing it",
    )
    prepare.add_argument(
        "--phones", type=int, default=48, help="TIMIT: phone set, 61, 48 (default) or 39"
    )
    prepare.add_argument(
        "--units",
        default="char",
        help="AISHELL: what texts become: char (default; they stay), syllable (jin1) or "
        "initial_final (j in1)",
    )
    prepare.add_argument(
        "--keep-sa", action="store_true", help="TIMIT: keep the SA sentences, which all speak"
    )
    for split in _SPLITS:
        prepare.add_argument(
            f"--{split}", metavar="SUBSETS", help=f"LibriSpeech: subsets of '{split}', by comma"
        )
    prepare.add_argument(
        "--sampling-rate",
        type=int,
        metavar="HZ",
        help="write all audio again at this rate, to audio/ (default: name the corpus's files)",
    )
    prepare.add_argument(
        "--lm-text",
        type=Path,
        metavar="FILE",
        help="LibriSpeech: librispeech-lm-norm.txt.gz, to be written to lm/text",
    )
    prepare.add_argument("--json", action="store_true", help="print the result as JSON")

    tokens = actions.add_parser("tokens", help="make the token list of training texts")
    tokens.add_argument("train", help="a prepared folder, or training data as for 'check'")
    tokens.add_argument("output_dir", type=Path, help="receives the files")
    tokens.add_argument(
        "--kind", default="char", help="char (default), word, phone, syllable, initial_final, bpe"
    )
    tokens.add_argument("--size", type=int, metavar="N", help="pieces, for --kind bpe")
    tokens.add_argument(
        "--model-type", default="unigram", help="of sentencepiece: unigram (default) or bpe"
    )
    tokens.add_argument(
        "--fixed",
        action="store_true",
        help="all syllables of Mandarin (or their parts) and the phones of English, not only those "
        "of the texts",
    )
    tokens.add_argument(
        "--layout",
        default="espnet",
        help="espnet (default): tokens.txt and bpe.model; nemo: a tokenizer folder "
        "(tokenizer.model, tokenizer.vocab, vocab.txt), or vocab.txt of characters",
    )
    tokens.add_argument(
        "--no-sos-eos", action="store_true", help="without <sos/eos>, which ESPnet's decoders need"
    )

    check = actions.add_parser("check", help="check training and validation data")
    check.add_argument("--train", required=True, help="ESPnet folder, NeMo manifest or lhotse cuts")
    check.add_argument("--valid", required=True, help="the same for validation")
    add_tokens(check, "char")
    check.add_argument(
        "--unknown-tokens",
        choices=("unk", "error"),
        default="unk",
        help="whether tokens of the texts that are not among these are read as <unk> (default) "
        "or are an error",
    )
    check.add_argument("--num-mel-bins", type=int, default=40, help="filters (default 40)")
    check.add_argument(
        "--sampling-rate", type=int, default=None, help="Hz (default: the rate of the data)"
    )
    check.add_argument(
        "--subsampling-factor", type=int, default=4, help="frames per output frame (default 4)"
    )
    check.add_argument(
        "--max-frames", type=int, default=1024, help="longest utterance used (default 1024)"
    )
    check.add_argument(
        "--full", action="store_true", help="read all audio, not only 8 utterances of each set"
    )
    check.add_argument("--jobs", type=int, default=None, help="threads that read audio")
    check.add_argument("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the action; return 0, or 1 if the check found errors."""
    return {"prepare": _prepare, "tokens": _tokens, "check": _check}[args.action](args)


def _prepare(args: argparse.Namespace) -> int:
    from nas_encoder.data import PrepareOptions, prepare_corpus

    asked = {split: getattr(args, split) for split in _SPLITS if getattr(args, split)}
    if asked and args.corpus != "librispeech":
        raise ConfigError("data prepare", [f"--{split}: LibriSpeech only" for split in asked])
    options = PrepareOptions(
        jobs=args.jobs,
        phones=args.phones,
        units=args.units,
        keep_sa=args.keep_sa,
        subsets={split: names.split(",") for split, names in asked.items()},
        sampling_rate=args.sampling_rate,
        partial=args.partial,
        lm_text=args.lm_text,
    )
    prepared = prepare_corpus(args.corpus, args.corpus_dir, args.output_dir, options)
    if args.json:
        print(json.dumps(prepared.to_dict(), indent=2))
        return 0
    print(prepared.counts)
    for name, split in prepared.splits.items():
        print(
            f"{name}: {split.utterances} utterances, {split.hours:.2f} h, {split.speakers} "
            f"speakers -> {args.output_dir}/{{lhotse/{name},espnet/{name},nemo/{name}.json}}"
        )
    if prepared.lm_lines is not None:
        print(f"text for language models: {prepared.lm_lines:,d} lines -> {args.output_dir}/lm")
    return 0


def _tokens(args: argparse.Namespace) -> int:
    from nas_encoder.data.token_lists import ListOptions, write_token_list

    options = ListOptions(
        args.kind,
        args.size,
        args.model_type,
        fixed=args.fixed,
        sos_eos=not args.no_sos_eos,
        layout=args.layout,
    )
    tokens = write_token_list(args.train, args.output_dir, options)
    print(f"{len(tokens)} tokens of kind {tokens.kind} -> {args.output_dir}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from nas_encoder.data import FeatureConfig, TokenSet, check_data, open_cuts, transcripts
    from nas_encoder.data.vocabulary import widened

    least = {"jobs": args.jobs, "subsampling-factor": args.subsampling_factor}
    least["max-frames"] = args.max_frames
    problems = [
        f"--{name}: must be at least 1, got {value}"
        for name, value in least.items()
        if value is not None and value < 1
    ]
    if problems:
        raise ConfigError("data check", problems)
    sets = {name: open_cuts(getattr(args, name), jobs=args.jobs) for name in ("train", "valid")}
    pairs = {name: transcripts(cuts) for name, cuts in sets.items()}
    spec, size = args.tokens or "char", args.bpe_size
    tokens = TokenSet.of(spec, (text for _, text in pairs["train"]), size=size)
    if args.unknown_tokens == "unk":
        missing = {name: tokens.missing(own) for name, own in pairs.items()}
        tokens = widened(tokens, missing, spec)
    report = check_data(
        sets["train"],
        sets["valid"],
        tokens,
        FeatureConfig(num_mel_bins=args.num_mel_bins, sampling_rate=args.sampling_rate),
        subsampling_factor=args.subsampling_factor,
        max_frames=args.max_frames,
        probe=None if args.full else 8,
        raise_errors=False,
        unknown=args.unknown_tokens,
        jobs=args.jobs,
        progress=args.full,
    )
    if args.json:  # a text may hold what no terminal can be sent, which JSON escapes
        text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False)
        print(text.encode(errors="backslashreplace").decode())
    else:
        print(report)
    return 0 if report.ok else 1

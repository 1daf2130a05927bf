"""Makes a synthetic speech corpus in the folder layout of a public one.

The audio comes from espeak-ng, the sentences from small grammars: for tests and
demonstrations without any download. Speakers and sentences differ between train,
dev and test. The same arguments give the same files, bit for bit, for any number
of jobs; an interrupted run resumes; an existing corpus is left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nas_encoder.common.provenance import usable_cores  # noqa: E402
from nas_encoder.errors import MissingDependencyError, NasEncoderError  # noqa: E402

EXAMPLES = """\
examples:
  # The demo's corpus: clean, 40 + 4 + 8 speakers. lhotse reads corpus/LibriSpeech.
  python tools/synth_corpus.py --layout librispeech --output corpus \\
      --train 1000 --dev 80 --test 160 --speakers 40 4 8 --seed 1

  # Noise at 5 to 20 dB and rooms; the subsets are then train-other-500, dev-other, test-other.
  python tools/synth_corpus.py --layout librispeech --output noisy --snr 5 20 --reverb

  # Clean training data, a clean and a noisy test set.
  python tools/synth_corpus.py --layout librispeech --output both --test-other 160

  # All seven subsets of LibriSpeech, no reader in two of them.
  python tools/synth_corpus.py --layout librispeech --output all --more train-clean-360=400 \\
      train-other-500=400 dev-other=80 test-other=160

  # Mandarin as AISHELL-1; lhotse reads the folder itself.
  python tools/synth_corpus.py --layout aishell --output mandarin

  # American English with phone and word boundaries as TIMIT; lhotse reads the folder itself,
  # ESPnet's recipe wants TIMIT=phones/data.
  python tools/synth_corpus.py --layout timit --output phones --speakers 40 8 24
"""

NEEDED = ("numpy", "scipy", "soundfile", "tqdm", "espeakng_loader")


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    result = argparse.ArgumentParser(
        prog="synth_corpus.py",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--layout", required=True, choices=("librispeech", "aishell", "timit"))
    add("--output", required=True, type=Path, metavar="DIR", help="corpus folder to make")
    add("--train", type=int, default=1000, metavar="N", help="utterances (default 1000)")
    add("--dev", type=int, default=80, metavar="N", help="utterances (default 80)")
    add("--test", type=int, default=160, metavar="N", help="utterances (default 160)")
    add(
        "--speakers", type=int, nargs=3, default=(40, 4, 8), metavar=("TRAIN", "DEV", "TEST"),
        help="speakers in each split, all different (default 40 4 8)",
    )  # fmt: skip
    add("--seed", type=int, default=1, metavar="N", help="seed of everything (default 1)")
    add(
        "--snr", type=float, nargs=2, metavar=("LO", "HI"),
        help="add noise with a signal-to-noise ratio in this range, in dB (default none)",
    )  # fmt: skip
    add("--reverb", action="store_true", help="let rooms reverberate, 0.2 to 0.6 s")
    add(
        "--rate", type=int, nargs=2, metavar=("LO", "HI"),
        help="slowest and fastest speaker in espeak's words a minute (default: English 110 150, "
        "Mandarin 140 200); above about 170 English characters come faster than the output "
        "frames of a network that subsamples 4 times",
    )  # fmt: skip
    add(
        "--subsets", nargs=3, metavar=("TRAIN", "DEV", "TEST"),
        help="librispeech: names of the subsets (default train-clean-100 dev-clean test-clean, "
        "with --snr or --reverb train-other-500 dev-other test-other)",
    )  # fmt: skip
    add(
        "--test-other", type=int, default=0, metavar="N",
        help="librispeech: another test subset test-other, N utterances by further held-out "
        "speakers, with reverberation and noise (5 to 15 dB, or --snr)",
    )  # fmt: skip
    add(
        "--more", nargs="+", type=subset_size, default=(), metavar="SUBSET=N",
        help="librispeech: further subsets and their utterances, by other readers; those named "
        "'other' with reverberation and noise",
    )  # fmt: skip
    add("--jobs", type=int, metavar="N", help="processes (default: cores, at most 8)")
    add("--json", action="store_true", help="print the manifest instead of a summary")
    add("--quiet", action="store_true", help="no progress bar")
    return result


def subset_size(text: str) -> tuple[str, int]:
    """Return the two parts of ``SUBSET=N``."""
    name, _, count = text.partition("=")
    if not count.isdecimal():
        raise argparse.ArgumentTypeError(f"SUBSET=N is expected, got {text!r}")
    return name, int(count)


def summary(manifest: dict[str, Any], output: Path) -> str:
    """Return a summary of a corpus as text."""
    lines = [f"{output}: synthetic, seed {manifest['seed']}, layout "
             f"{manifest['arguments']['layout']}"]  # fmt: skip
    infeasible = 0
    for name, split in manifest["splits"].items():
        seconds = split["seconds"]
        infeasible += len(split["infeasible"])
        lines.append(
            f"  {name}: {split['utterances']} utterances, {split['sentences']} sentences, "
            f"{len(split['speakers'])} speakers, {split['hours']:.3f} h, "
            f"{seconds['min']:.2f}/{seconds['mean']:.2f}/{seconds['max']:.2f} s min/mean/max, "
            f"{len(split['infeasible'])} infeasible for CTC, {split['peak_limited']} made quieter "
            "to fit 16 bits"
        )
    if infeasible:
        lines.append(
            f"  {infeasible} utterances have more tokens (and blanks between equal ones) than "
            f"frames after subsampling by {manifest['subsampling_of_feasibility']}; they are kept, "
            "corpus.json lists them. A lower --rate avoids them."
        )
    lines.append(f"  sha256 {manifest['sha256']}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    args = parser().parse_args(arguments)
    try:
        for package in NEEDED:
            if find_spec(package) is None:
                name = package.replace("_", "-")
                raise MissingDependencyError(name, "dev", "tools/synth_corpus.py")
        from tools.synth.build import build
        from tools.synth.corpus import Request
        from tools.synth.layouts import LAYOUTS

        request = Request(
            layout=args.layout,
            utterances=(args.train, args.dev, args.test),
            speakers=tuple(args.speakers),
            seed=args.seed,
            rates=tuple(args.rate or LAYOUTS[args.layout].rates),
            snr=tuple(args.snr) if args.snr else None,
            reverb=args.reverb,
            subsets=tuple(args.subsets) if args.subsets else None,
            test_other=args.test_other,
            more=tuple(args.more),
        )
        jobs = args.jobs if args.jobs is not None else min(8, usable_cores())
        # All cores are in use: worker processes start no threads of their own.
        os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
        manifest, made = build(request, args.output, jobs, progress=not args.quiet)
    except (NasEncoderError, OSError) as error:
        print(f"synth_corpus.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from here", file=sys.stderr)
        return 130
    if args.json:
        print(json.dumps(manifest, indent=2, ensure_ascii=False))
        return 0
    if not made:
        print("nothing to do, this corpus exists already:")
    print(summary(manifest, args.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Write the README.md that a model hub shows beside a trained model of ESPnet or NeMo.

It has the metadata that hubs read, how to install this package and decode with the model, its size,
speed, results (RESULTS.md), genotype and configuration. Nothing is uploaded.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from nas_encoder.errors import ConfigError

EXAMPLES = """examples:
  nas-encoder card exp/asr_train_nas --language en --datasets librispeech_asr --license cc-by-4.0
  nas-encoder card packed.zip --output upload/README.md --repo me/librispeech_nas --language en
  nas-encoder card model.nemo --output upload/README.md --repo me/aishell_nas --language zh \\
      --requirement https://huggingface.co/me/aishell_nas/resolve/main/nas_encoder-0.1.0-py3-none-any.whl

Metadata that are not given are left out, and named on standard error; hubs ask for them.
docs/model_zoo.md shows a whole upload.
"""

REPEATS = 5
ASKED = ("language", "datasets", "license")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("model", help="ESPnet: folder with config.yaml, .pth file in one, packed .zip; .nemo file")
    add("--output", metavar="FILE", help="README.md to write (default: print)")
    add("--repo", metavar="OWNER/NAME", help="where it will be uploaded; the demo code loads it")
    add("--language", nargs="+", default=[], metavar="CODE", help="ISO 639, such as en or zh")
    add("--datasets", nargs="+", default=[], metavar="NAME", help="what it was trained on")
    add("--license", metavar="NAME", help="of the model, such as cc-by-4.0")
    add("--requirement", metavar="WHAT", help="what users give to pip for this package")
    add("--results", metavar="FILE", help="Markdown (default: RESULTS.md beside or in the model)")
    add("--checkpoint", metavar="NAME", help="which .pth file of the folder")
    add("--no-timing", action="store_false", dest="timed", help="no real-time factor")
    add("--force", action="store_true", help="replace a file that exists")
    add("--json", action="store_true", help="print JSON: output, notes, text")


def _seconds(network: Any, frames: int, bins: int) -> float:
    """Return the median time of one utterance, one thread."""
    import torch

    from nas_encoder.deploy import timing

    x = torch.randn(1, frames, bins, generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(1)
    with torch.inference_mode():
        calls = {"network": lambda: network(x, torch.tensor([frames]))}
        return float(timing.measure(calls, REPEATS)["network"].median)


def run(args: argparse.Namespace) -> int:
    """Write or print the card."""
    from nas_encoder.interchange import card
    from nas_encoder.interchange.files import make_folder
    from nas_encoder.interchange.readme import write_readme

    output = Path(args.output) if args.output is not None else None
    if output is not None and output.exists() and not args.force:
        raise ConfigError("--output", [f"{output} exists; --force replaces it"])
    text, notes = write_readme(
        Path(args.model),
        repo=args.repo,
        language=args.language,
        datasets=args.datasets,
        license=args.license,
        requirement=args.requirement or card.WHEEL,
        results=Path(args.results) if args.results is not None else None,
        checkpoint=args.checkpoint,
        time=_seconds if args.timed else None,
    )
    missing = [f"--{name}" for name in ASKED if not getattr(args, name)]
    if missing:
        notes.append(f"hubs also ask for {', '.join(missing)}")
    if output is not None:
        make_folder(output.parent)
        card.write(output, text)
    if args.json:
        print(json.dumps({"output": args.output, "notes": notes, "text": text}, indent=2))
    else:
        print(text if output is None else f"wrote {output}")
    for note in notes:
        print(f"nas-encoder card: {note}", file=sys.stderr)
    return 0

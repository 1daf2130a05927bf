"""The ``nas-encoder`` command. One file per sub-command; see :mod:`nas_encoder.cli.main`."""

import json
import os
from collections.abc import Sequence
from typing import Any

from nas_encoder.deploy.engines import ENGINES


def quiet_profiler() -> None:
    """Before torch is imported: its profiler, which measures memory, else tells of every start."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")


def add_settings(parser: Any, text: str) -> None:
    """Add --set, which changes a configuration, to a parser or a group of one."""
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="settings", help=text
    )


def add_runtime(parser: Any, text: str, choices: Sequence[str] = ENGINES) -> None:
    """Add --runtime."""
    parser.add_argument(
        "--runtime", choices=choices, default=ENGINES[0], help=f"{text} (default {ENGINES[0]})"
    )


def add_tokens(parser: Any, default: str) -> None:
    """Add --tokens and --bpe-size; ``default`` is what holds without them."""
    parser.add_argument(
        "--tokens",
        metavar="KIND|FILE",
        help=f"char, word, phone, syllable, initial_final, bpe, or a token list (tokens.txt of "
        f"ESPnet) or BPE .model file (default: {default})",
    )
    parser.add_argument("--bpe-size", type=int, metavar="N", help="pieces, for --tokens bpe")


def token_settings(args: Any) -> list[str]:
    """Return the settings of a configuration that --tokens and --bpe-size mean."""
    size = [] if args.bpe_size is None else [f"bpe_size={args.bpe_size}"]
    if args.tokens is None:
        return size
    # JSON is YAML in which a path cannot be taken for anything else.
    chosen = [f"tokens={json.dumps(args.tokens)}", "token_kind=null"]
    return [*chosen, *(size or ["bpe_size=null"])]

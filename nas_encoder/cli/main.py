"""Entry point of ``nas-encoder``: finds the sub-command, runs it, turns our errors into messages.

A sub-command is one module with ``add_arguments(parser)`` and ``run(args) -> int`` (the exit
status), and one line in :data:`COMMANDS`. Only the module of the command that is asked for gets
imported, so ``nas-encoder zoo`` does not wait for torch.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from nas_encoder import __version__
from nas_encoder.errors import NasEncoderError, StoppedError

# name -> (module, one-line help)
COMMANDS: dict[str, tuple[str, str]] = {
    "zoo": ("nas_encoder.cli.zoo", "list the genotypes that have names; give and take names"),
    "show": ("nas_encoder.cli.show", "show a genotype: cells, parameters, MACs, receptive field"),
    "scale": ("nas_encoder.cli.scale", "print a genotype at another size"),
    "data": ("nas_encoder.cli.data", "read a corpus with lhotse, export it to ESPnet and NeMo"),
    "config": ("nas_encoder.cli.config", "print a shipped configuration for ESPnet or NeMo"),
    "search": ("nas_encoder.cli.search", "search a genotype on speech data"),
    "derive": ("nas_encoder.cli.derive", "derive a genotype from any epoch of a search"),
    "report": ("nas_encoder.cli.report", "make the report of a search from its run folder"),
    "table": ("nas_encoder.cli.table", "tables of trained architectures: build, convert, ask"),
    "bench": ("nas_encoder.cli.bench", "measure encoders side by side, or a space's operations"),
    "convert": ("nas_encoder.cli.convert", "turn an ESPnet model into a NeMo one, and back"),
    "export": ("nas_encoder.cli.export", "export a trained model to ONNX, checked against torch"),
    "transcribe": ("nas_encoder.cli.transcribe", "recognize audio with an exported model"),
    "align": ("nas_encoder.cli.align", "align texts to speech; measure boundary errors in ms"),
    "card": ("nas_encoder.cli.card", "write the README.md for a model hub"),
    "doctor": ("nas_encoder.cli.doctor", "say what is installed and registered, and what to do"),
    "enable": ("nas_encoder.cli.enable", "register with ESPnet and NeMo in this environment"),
    "disable": ("nas_encoder.cli.disable", "undo 'enable'"),
}


class Parser(argparse.ArgumentParser):
    """A parser that refuses unknown options with its own usage, not with that of its parent."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse; exit with status 2 if something is left."""
        found, left = super().parse_known_args(args, namespace)
        if left:
            word, known = left[0].partition("=")[0], self._option_string_actions
            close = difflib.get_close_matches(word, known, n=1)
            guess = f" (did you mean {close[0]}?)" if close else ""
            self.error(f"unrecognized arguments: {' '.join(left)}{guess}")
        return found, left


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Build the parser; with ``only``, import and fill in just that sub-command."""
    parser = Parser(
        prog="nas-encoder",
        description="Speech encoders found by neural architecture search.",
        epilog="'nas-encoder COMMAND --help' shows a command's options and examples.",
    )
    parser.add_argument("--version", action="version", version=f"nas-encoder {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module_name, help_line) in COMMANDS.items():
        if only is not None and name != only:
            commands.add_parser(name, help=help_line)
            continue
        module = import_module(module_name)
        sub = commands.add_parser(
            name,
            help=help_line,
            description=(module.__doc__ or help_line).split("\n\n")[0],
            epilog=getattr(module, "EXAMPLES", None),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its status.

    0 done, 1 negative finding, 2 bad input, 130 or 143 stopped by SIGINT or SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    asked = next((word for word in arguments if word in COMMANDS), "")
    args = build_parser(only=asked).parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        return int(args.run(args))
    except (StoppedError, KeyboardInterrupt) as stopped:
        text = str(stopped) or "interrupted"
        if hasattr(args, "resume"):
            words = arguments if args.resume else [*arguments, "--resume"]
            text += f"; go on with:\n  {shlex.join(['nas-encoder', *words])}"
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            print(f"nas-encoder {args.command}: {text}", file=sys.stderr)
        return stopped.status if isinstance(stopped, StoppedError) else 130
    except NasEncoderError as error:
        print(f"nas-encoder {args.command}: error: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:  # `nas-encoder zoo | head`
        sys.stderr.close()
        return 0


if __name__ == "__main__":
    sys.exit(main())

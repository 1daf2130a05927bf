"""Checks that every utterance to be decoded in chunks is longer than one.

ESPnet's ``asr_inference_streaming`` cuts ``len(speech) // sim_chunk_length`` chunks and takes what
is behind the last one as the end. If there is none, the end begins where that of the utterance
before did, so audio is lost; or the program fails with an ``UnboundLocalError`` at the first one.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from nas_encoder.common.documents import read_yaml
from nas_encoder.common.problems import show
from nas_encoder.errors import ConfigError, DataError
from tools.espnet_recipes.lengths import samples_of
from tools.espnet_recipes.standalone import RATE
from tools.scripts import command, write_json

OPTION = "sim_chunk_length"
_SHOWN = 10  # utterances of a folder that are named


def chunk_of(config: Path, options: str) -> int:
    """Return the samples of a chunk; 0 for whole utterances.

    Args:
        config: A decoding configuration.
        options: Words after it on the command line, which have precedence.

    Raises:
        ConfigError: It cannot be read, or is no number of samples.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{OPTION}", default=read_yaml(config, ConfigError).get(OPTION, 0))
    given = getattr(parser.parse_known_args(shlex.split(options))[0], OPTION)
    if not str(given).isdecimal():
        raise ConfigError(str(config), [f"{OPTION}: must be samples, 0 or more, got {show(given)}"])
    return int(given)


def check(folder: Path, chunk: int) -> int:
    """Return the samples of the shortest utterance of a data folder.

    Raises:
        DataError: Some are no longer than a chunk; or ``utt2dur`` cannot be read, or is empty.
    """
    found = samples_of(folder)
    place = str(folder / "utt2dur")
    if not found:
        raise DataError(place, ["holds no utterance"])
    short = [(name, samples) for name, samples in found.items() if chunk and samples <= chunk]
    if not short:
        return min(found.values())
    lines = [
        f"{name}: has {samples} samples ({samples / RATE:.3f} s), and must have more than {chunk}"
        for name, samples in short[:_SHOWN]
    ]
    more = f", and of {len(short) - _SHOWN} more that are as short" if len(short) > _SHOWN else ""
    remedy = (
        f"--decoding streaming: ESPnet would lose the audio of these{more}; cut shorter chunks "
        f"(--inference_args '--{OPTION} N', above the features' window), or leave them out"
    )
    raise DataError(place, [*lines, remedy])


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("folders", type=Path, nargs="+", metavar="FOLDER", help="with utt2dur")
    add("--config", type=Path, required=True, help="a decoding configuration")
    add("--options", default="", help="more options of the decoding, as one word")
    add("--output", type=Path, required=True, help="JSON to write")
    args = parser.parse_args(arguments)
    chunk = chunk_of(args.config, args.options)
    problems, shortest = [], {}
    for folder in args.folders:
        try:
            shortest[str(folder)] = check(folder, chunk)
        except DataError as error:
            problems += [f"{folder}: {line}" for line in error.problems]
    if problems:
        raise DataError("utterances to decode in chunks", problems)
    write_json(args.output, {"chunk": chunk, "shortest": shortest})
    print(f"{args.output}: chunks of {chunk} samples, shortest utterances {shortest}")


if __name__ == "__main__":
    sys.exit(main())

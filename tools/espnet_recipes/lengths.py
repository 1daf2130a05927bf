"""Lists the utterances of a data folder that are trained on, as asr.sh's stage 4 chooses them.

ESPnet's trainer takes the utterances that its shape files name, so a list does in the place of a
copy of the folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import DataError
from tools.espnet_recipes.standalone import RATE
from tools.scripts import command


def table_of(path: Path) -> dict[str, str]:
    """Return the lines of a Kaldi file: what follows an utterance, "" for nothing.

    Raises:
        DataError: It cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), [f"cannot be read: {error}"]) from None
    rows = (line.split(maxsplit=1) for line in lines)
    return {row[0]: row[1] if len(row) > 1 else "" for row in rows if row}


def samples_of(folder: Path) -> dict[str, int]:
    """Return the samples of all utterances of a folder with ``utt2dur``.

    Raises:
        DataError: It cannot be read, or a duration is no number.
    """
    path, found = folder / "utt2dur", {}
    for name, duration in table_of(path).items():
        try:
            found[name] = round(float(duration) * RATE)
        except (ValueError, OverflowError):
            rule = f"{name}: must have a duration in seconds, got '{duration}'"
            raise DataError(str(path), [rule]) from None
    return found


def chosen(folder: Path, least: float, most: float) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the utterances that are longer than ``least`` and shorter than ``most`` seconds.

    Both in whole samples, as asr.sh counts. Utterances without a text are left out too.

    Args:
        folder: With ``utt2dur`` and ``text``.
        least: In seconds.
        most: In seconds.

    Returns:
        The durations of the chosen ones as they are written, and the others by the reason.

    Raises:
        DataError: A file cannot be read, the bounds leave nothing, or a duration is no number.
    """
    durations, texts = table_of(folder / "utt2dur"), table_of(folder / "text")
    shortest, longest = int(least * RATE), int(most * RATE)
    counted = samples_of(folder)
    kept: dict[str, str] = {}
    left: dict[str, list[str]] = {"too short": [], "too long": [], "without a text": []}
    for name, duration in durations.items():
        samples = counted[name]
        if samples <= shortest:
            left["too short"].append(name)
        elif samples >= longest:
            left["too long"].append(name)
        elif not texts.get(name, "").strip():
            left["without a text"].append(name)
        else:
            kept[name] = duration
    if not kept:
        rule = f"none of {len(durations)} utterances has a text and {least:g} to {most:g} s"
        raise DataError(str(folder), [f"{rule}; change --min_wav_duration or --max_wav_duration"])
    return kept, left


def report(kept: dict[str, str], left: dict[str, list[str]]) -> str:
    """Return how many are left out, and the first of each kind."""
    total = len(kept) + sum(map(len, left.values()))
    parts = [f"{len(names)} {kind} ({names[0]}, ...)" for kind, names in left.items() if names]
    return f"{len(kept)} of {total} utterances; left out: {', '.join(parts) or 'none'}"


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="with utt2dur and text")
    parser.add_argument("--least", type=float, required=True, help="seconds; longer are taken")
    parser.add_argument("--most", type=float, required=True, help="seconds; shorter are taken")
    parser.add_argument("--output", type=Path, required=True, help="an utt2dur of those")
    args = parser.parse_args(arguments)
    kept, left = chosen(args.folder, args.least, args.most)
    lines = "".join(f"{name} {duration}\n" for name, duration in kept.items())
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(args.output, lines.encode(), DataError)
    print(report(kept, left))


if __name__ == "__main__":
    sys.exit(main())

"""LibriSpeech's text for language models: ``librispeech-lm-norm.txt.gz`` of openslr.org/11."""

from __future__ import annotations

import gzip
import logging
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm

from nas_encoder.errors import DataError

logger = logging.getLogger(__name__)

LINES = 40_418_261  # of the published file
_EVERY = 1 << 16  # lines between two steps of the bar


def write_lm_text(source: Path, target: Path, published: bool) -> int:
    """Write a text, gzipped or not, as ESPnet's recipe does: ``librispeech_lng_00000001 WORDS``.

    Args:
        source: One sentence a line.
        target: A Kaldi ``text``, which appears when it is whole.
        published: Whether the number of lines must be that of the published text.

    Returns:
        Number of lines. Empty ones, of which the published text has some, are counted but not
        written, since a Kaldi ``text`` may not hold them.

    Raises:
        DataError: The source is missing, cut short, or not UTF-8; has no or, against
            ``published``, another number of lines.
        OSError: The target cannot be written.
    """
    partial, lines, empty = target.with_name(f".partial-{target.name}"), 0, 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8") as file:
        for line in tqdm(_lines(source), desc="LM text", unit="line", miniters=_EVERY, delay=2):
            lines += 1
            if words := " ".join(line.split()):
                file.write(f"librispeech_lng_{lines:08d} {words}\n")
            else:
                empty += 1
        file.flush()
        os.fsync(file.fileno())
    problems = [] if lines > empty else ["holds no sentence"]
    if lines != LINES:
        problem = f"{LINES:,d} lines expected, {lines:,d} found"
        if published:
            problems.append(f"{problem}: it is not the published text, or not all of it")
        logger.warning("%s: %s", source, problem)
    if problems:
        partial.unlink()
        raise DataError(f"text {source}", problems)
    partial.replace(target)
    return lines


def _lines(source: Path) -> Iterator[str]:
    subject = f"text {source}"
    try:
        opened = gzip.open(source, "rt", encoding="utf-8") if source.suffix == ".gz" else None
        with opened or source.open(encoding="utf-8") as file:
            yield from file
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(subject, [f"is cut short or damaged, copy it again: {error}"]) from error
    except UnicodeDecodeError as error:
        raise DataError(subject, [f"is not UTF-8: {error}"]) from error
    except OSError as error:
        raise DataError(subject, [f"cannot be read: {error.strerror or error}"]) from error

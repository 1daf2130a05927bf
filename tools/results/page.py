"""Results in pages that people write: copied into the repository, and shown between two marks."""

from __future__ import annotations

import shutil
from pathlib import Path

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import DataError

FILES = ("RESULTS.md", "results.json", "results.png", "results.svg")
ROOT = Path(__file__).resolve().parents[2]


def marks(name: str) -> tuple[str, str]:
    """Return the marks between which a page shows what has this name."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def inserted(page: str, name: str, part: str) -> str:
    """Return a page with ``part`` between the marks of ``name``.

    Raises:
        DataError: It has not one of each, in this order.
    """
    begin, end = marks(name)
    if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
        rule = f"must hold '{begin}' and, after it, '{end}', once each"
        raise DataError("page", [rule])
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{part}\n{end}{rest.partition(end)[2]}"


def path_from(page: Path, folder: Path) -> str:
    """Return a folder as links of a page name it."""
    root, own = page.resolve().parent, folder.resolve()
    return (own.relative_to(root) if own.is_relative_to(root) else own).as_posix()


def publish(results: Path, output: Path, page: Path, name: str, part: str) -> None:
    """Copy results into a folder of the repository, and show ``part`` in a page.

    Raises:
        DataError: A file is missing, or the page has no such marks; nothing has changed then.
    """
    missing = [file for file in FILES if not (results / file).is_file()]
    if missing:
        raise DataError(str(results), [f"lacks {', '.join(missing)}"])
    text = inserted(page.read_text(encoding="utf-8"), name, part)
    output.mkdir(parents=True, exist_ok=True)
    for file in FILES:
        shutil.copyfile(results / file, output / file)
    write_atomically(page, text.encode(), DataError)

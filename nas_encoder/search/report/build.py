"""The report of a search: one self-contained HTML file."""

from __future__ import annotations

import logging
from pathlib import Path

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import CheckpointError, MissingDependencyError
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.report.page import render
from nas_encoder.search.report.pictures import require_matplotlib
from nas_encoder.search.report.seeds import REPORTS, SeedsReport

logger = logging.getLogger(__name__)

NAME = "report.html"


def write_report(folder: RunFolder) -> Path | None:
    """Write ``report.html`` into a run folder, at the end of a search.

    A search never fails because of its report: errors here are logged, and ``nas-encoder report``
    can write it later.

    Returns:
        The file, or None if it could not be written.
    """
    try:
        return build_report(folder)
    except MissingDependencyError as error:
        logger.warning("no report is written: %s", error)
    except Exception:  # logged in full; the search's result is already on disk
        logger.exception("no report is written; the search's result is not affected")
    return None


def build_report(folder: RunFolder) -> Path:
    """Write ``report.html`` into the folder of a run, finished or not.

    Raises:
        CheckpointError: It is no run folder, a file in it is damaged, or it cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    require_matplotlib()
    html = render({**REPORTS, "seeds": SeedsReport}[folder.kind()](folder).page())
    path = folder.path / NAME
    write_atomically(path, html.encode(), CheckpointError)
    return path

"""The training of a supernet, as a section of the report of a search by trials."""

from __future__ import annotations

import json

from nas_encoder.common.sealed import ANEW
from nas_encoder.errors import CheckpointError
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.report.page import Section, duration
from nas_encoder.search.report.pictures import finish, new_panels, to_png
from nas_encoder.search.trials.supernet import HISTORY

_BIGGEST, _SMALLEST = "#0072b2", "#d55e00"


def supernet_section(folder: RunFolder) -> Section | None:
    """Draw the course of a supernet's training; None if there is none yet.

    Raises:
        CheckpointError: Its file is damaged.
    """
    text = folder.read_text(HISTORY, ANEW)
    if text is None:
        return None
    try:
        epochs = json.loads(text)["epochs"]
        course = [(row["epoch"], row["biggest_ter"], row["smallest_ter"]) for row in epochs]
        seconds = sum(row["seconds"] for row in epochs)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(str(folder.path / HISTORY), [f"is damaged: {error}"]) from None
    figure, (axes,) = new_panels(3.2, "token error rate, %")
    places, *lines = zip(*course, strict=True)
    for errors, colour, label in zip(
        lines, (_BIGGEST, _SMALLEST), ("a biggest network", "a smallest one"), strict=True
    ):
        axes.plot(places, errors, "-o", ms=3, color=colour, label=label)
    finish(axes, "epoch of the supernet", whole=True)
    return Section(
        "Supernet",
        f"Trained for {len(course)} epochs in {duration(seconds)}; the weights score all trials. "
        "Errors are those with shared weights: they rank networks, and are higher than after a "
        "training of their own.",
        to_png(figure),
    )

"""What the grammars share: templates whose slots stand for words of lists."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

Categories = Mapping[str, Sequence[str]]

_SLOT = re.compile(r"\{(\w+)\}")


def vocabulary(categories: Categories, templates: Sequence[str]) -> set[str]:
    """Return every word that a sentence can contain."""
    entries = [entry for category in categories.values() for entry in category]
    entries += [_SLOT.sub(" ", template) for template in templates]
    return {word for entry in entries for word in entry.split()}


def draw(categories: Categories, templates: Sequence[str], rng: random.Random) -> list[str]:
    """Draw the words of a sentence, in which a list's entry occurs once: not "old and old"."""
    used: set[str] = set()

    def fill(match: re.Match[str]) -> str:
        entry = rng.choice([entry for entry in categories[match[1]] if entry not in used])
        used.add(entry)
        return entry

    return _SLOT.sub(fill, rng.choice(templates)).split()

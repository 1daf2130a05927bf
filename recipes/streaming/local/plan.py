"""What is done: the plan of recipes/blocks, with a bound of the lookahead for each encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_encoder.errors import ConfigError
from recipes.blocks.local.encoders import Encoder, read_encoders
from recipes.blocks.local.plan import Plan

SHARED = Path(__file__).resolve().parents[2] / "blocks" / "conf"
CELLS = "cells"
# What recipes/blocks does besides: random points, and trainings of equal epochs.
_NOT_HERE = {"draws": 0, "draw_corpora": "", "draw_rate": "", "epochs": 0, "epochs_corpora": ""}


class StreamingPlan(Plan):
    """The runs of the workflow.

    Args:
        recipe: Folder of the recipe.
        options: Options of ``run.sh``.

    Raises:
        ConfigError: An option names a corpus, an encoder, a search or a bound that there is not.
    """

    def __init__(self, recipe: Path, options: Mapping[str, Any]) -> None:
        self.recipe = recipe
        self.bounds = [float(bound) for bound in str(options["bounds"]).split()]
        listed = read_encoders(self.conf("encoders"))
        words = str(options["searches"]).split()
        known = {encoder.lookahead_ms for encoder in listed.values()}
        problems = [
            f"bounds: no encoder of the list has {bound:g} ms"
            for bound in self.bounds
            if bound not in known
        ]
        searches = [f"{name}_{bound:g}ms" for bound in self.bounds for name in words]
        made = {encoder.search for encoder in listed.values()}
        problems += [
            f"searches: no encoder of the list is that of '{name}'"
            for name in searches
            if name not in made
        ]
        within = [name for name, own in listed.items() if own.lookahead_ms in self.bounds]
        problems += [
            f"encoders: '{name}' has another bound than those of --bounds"
            for name in str(options["encoders"]).split()
            if name in listed and name not in within
        ]
        if problems:
            raise ConfigError("options", problems)
        given = {**_NOT_HERE, **options, "searches": " ".join(searches)}
        if options["encoders"] == "all":
            given["encoders"] = " ".join(within)
        super().__init__(recipe, given)

    def conf(self, name: str) -> Path:
        """Return a document of the recipe's ``conf``, or of that of recipes/blocks."""
        own = super().conf(name)
        return own if own.is_file() else SHARED / own.name

    def _searched_on(self, strategy: str) -> list[str]:
        """Return the corpora on which a search is made."""
        if strategy not in self.searches:
            return []
        if not strategy.startswith(f"{CELLS}_"):
            return self.search_corpora
        return [name for name in self._words("cells_corpora") if name in self.search_corpora]

    def bound_of(self, encoder: str) -> float:
        """Return what an encoder may see ahead, in ms."""
        bound = self.encoders[encoder].lookahead_ms
        assert bound is not None
        return bound

    def bound_of_search(self, search: str) -> str:
        """Return what encoders of a search may see ahead, in ms."""
        return search.rpartition("_")[2].removesuffix("ms")

    def search_document(self, search: str) -> str:
        """Return the configuration of a search: of blocks or of cells."""
        return str(self.conf(search.rpartition("_")[0]))

    def search_documents(self, encoder: str) -> list[str]:
        """Return the configuration that an encoder was searched with, if it was."""
        found: Encoder = self.encoders[encoder]
        return [] if found.search is None else [self.search_document(found.search)]

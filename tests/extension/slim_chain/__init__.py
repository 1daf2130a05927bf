"""An extension of nas_encoder; CONTRIBUTING.md walks through its files."""

from __future__ import annotations

from nas_encoder import tables


def register() -> None:
    """Add everything to the tables, by address: nothing of it is imported before it is used."""
    tables.SPACES.refer("slim_chain", "slim_chain.space:SLIM_CHAIN")
    tables.SPACES.refer("gated_cells", "slim_chain.cells:GATED_CELLS")
    tables.OPERATIONS.refer("gated_conv_3x3", "slim_chain.operation:GatedConv3")
    tables.BASELINES.refer("stacked_gru", "slim_chain.gru:StackedGRU")
    tables.STRATEGIES.refer("decisive", "slim_chain.strategies:DECISIVE")
    tables.STRATEGIES.refer("no_repeats", "slim_chain.strategies:NO_REPEATS")

"""A space of cells that offers the operation: one line. Imports no torch."""

from __future__ import annotations

from nas_encoder.spaces.cells.space import CellSpace

GATED_CELLS = CellSpace("gated_cells", ("none", "skip_connect", "avg_pool_3x3", "gated_conv_3x3"))

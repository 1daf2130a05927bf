"""The space ``darts``: the operations of Liu et al. 2019, which He et al. 2020 call original."""

from nas_encoder.genotype.vocabulary import DARTS_OPERATIONS
from nas_encoder.spaces.cells import CellSpace

SPACE = CellSpace("darts", DARTS_OPERATIONS)

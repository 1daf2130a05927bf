"""The space ``asr_revised`` of He et al. 2020, section 3.2: 1x7-7x1 instead of skip_connect."""

from nas_encoder.genotype.vocabulary import ASR_REVISED_OPERATIONS
from nas_encoder.spaces.cells import CellSpace

SPACE = CellSpace("asr_revised", ASR_REVISED_OPERATIONS)

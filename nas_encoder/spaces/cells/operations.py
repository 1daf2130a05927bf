"""Names of the operations of each space, in the order of a supernet.

Plain data, so that genotypes can be checked without torch; the operations themselves are in
:mod:`nas_encoder.ops`.
"""

from __future__ import annotations

NONE = "none"  # no connection: a candidate in a search, never part of a genotype

# Liu et al. 2019 (DARTS), section 3.1; the candidate set that He et al. 2020 call "original".
DARTS_OPERATIONS = (
    NONE,
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)

# He et al. 2020, section 3.2: a 1x7 then 7x1 convolution replaces skip_connect.
ASR_REVISED_OPERATIONS = (
    NONE,
    "max_pool_3x3",
    "avg_pool_3x3",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "conv_7x1_1x7",
)

# Of both.
ALL_OPERATIONS = (*DARTS_OPERATIONS, "conv_7x1_1x7")

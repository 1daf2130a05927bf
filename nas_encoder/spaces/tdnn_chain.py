"""The space ``tdnn_chain`` of ST-NAS (Zheng, An, Ou 2021): 6 TDNN layers, 4,096 networks.

Each layer has its own half of the context (1 or 2 frames at the layer's dilation) and its own
dilation (1 or 2).
"""

from nas_encoder.genotype.vocabulary import CHAIN_BLOCKS, TDNN_OPERATIONS
from nas_encoder.spaces.chain import ChainSpace

SPACE = ChainSpace("tdnn_chain", TDNN_OPERATIONS, CHAIN_BLOCKS)

"""The extensible tables: one line per entry, by its address.

Entries are imported on first use, so listing names is cheap and does not load torch. Third-party
packages add entries through :mod:`nas_encoder.extensions`.
"""

from __future__ import annotations

from typing import Any

from nas_encoder.extensions import INSTALLED
from nas_encoder.registry import Registry

# Each a nas_encoder.spaces.base.SearchSpace.
SPACES: Registry[Any] = Registry("search space", INSTALLED)
SPACES.refer("darts", "nas_encoder.spaces.cells.space:DARTS")
SPACES.refer("asr_revised", "nas_encoder.spaces.cells.space:ASR_REVISED")
SPACES.refer("tdnn_chain", "nas_encoder.spaces.tdnn_chain.space:TDNN_CHAIN")
SPACES.refer("nasbench_asr", "nas_encoder.spaces.nasbench_asr.space:NASBENCH_ASR")
SPACES.refer("blocks", "nas_encoder.spaces.blocks.space:BLOCKS")
SPACES.refer("streaming_cells", "nas_encoder.spaces.cells.space:STREAMING_CELLS")
SPACES.refer("streaming_blocks", "nas_encoder.spaces.blocks.space:STREAMING_BLOCKS")

# Builders of the operations on the edges of cells, see nas_encoder.ops.
OPERATIONS: Registry[Any] = Registry("operation", INSTALLED)
OPERATIONS.refer("none", "nas_encoder.ops.identity:Zero.build")
OPERATIONS.refer("max_pool_3x3", "nas_encoder.ops.pooling:MaxPool3.build")
OPERATIONS.refer("avg_pool_3x3", "nas_encoder.ops.pooling:AvgPool3.build")
OPERATIONS.refer("skip_connect", "nas_encoder.ops.identity:skip_connect")
OPERATIONS.refer("sep_conv_3x3", "nas_encoder.ops.convolution:SEP_CONV_3X3")
OPERATIONS.refer("sep_conv_5x5", "nas_encoder.ops.convolution:SEP_CONV_5X5")
OPERATIONS.refer("dil_conv_3x3", "nas_encoder.ops.convolution:DIL_CONV_3X3")
OPERATIONS.refer("dil_conv_5x5", "nas_encoder.ops.convolution:DIL_CONV_5X5")
OPERATIONS.refer("conv_7x1_1x7", "nas_encoder.ops.convolution:ConvPair7")

# Ways to search, each a nas_encoder.search.strategies.Strategy.
STRATEGIES: Registry[Any] = Registry("strategy", INSTALLED)
for _name in ("pdarts", "darts", "stnas", "random", "evolution", "hyperband", "nsga2", "tpe"):
    STRATEGIES.refer(_name, f"nas_encoder.search.strategies:{_name.upper()}")

# Encoders to compare against, see nas_encoder.baselines: classes; the toolkits' classes have their
# name plus "Encoder", where "nas" is the encoder of a genotype.
NAS = "nas"
BASELINES: Registry[Any] = Registry("baseline encoder", INSTALLED, reserved=["NAS"])
BASELINES.refer("dfsmn_san", "nas_encoder.baselines.dfsmn_san:DFSMNSAN")

# Encoders of the toolkits that are networks of a space, by toolkit and name: functions from (their
# options, a name for errors) to a nas_encoder.spaces.adopted.Adopted.
ADOPTED: Registry[Any] = Registry("encoder of a toolkit", INSTALLED)
_TOOLKITS = "nas_encoder.spaces.blocks.toolkits"
ADOPTED.refer("espnet.transformer", f"{_TOOLKITS}.espnet:Transformer.adopt")
ADOPTED.refer("espnet.conformer", f"{_TOOLKITS}.espnet:Conformer.adopt")
ADOPTED.refer("espnet.branchformer", f"{_TOOLKITS}.espnet:Branchformer.adopt")
ADOPTED.refer("espnet.e_branchformer", f"{_TOOLKITS}.espnet:EBranchformer.adopt")
ADOPTED.refer("nemo.ConformerEncoder", f"{_TOOLKITS}.nemo:Conformer.adopt")

# Well-known encoders as genotypes: functions from their sizes, by keyword, to a Genotype.
KNOWN: Registry[Any] = Registry("known encoder", INSTALLED)
for _name in (
    "transformer",
    "conformer",
    "branchformer",
    "e_branchformer",
    "nemo_conformer",
    "fast_conformer",
    "dfsmn_san",
    "squeezeformer",
    "efficient_conformer",
    "hourglass",
):
    KNOWN.refer(_name, f"nas_encoder.spaces.blocks.points:KNOWN.{_name}")

# Encoders to train and measure side by side, see nas_encoder.peers.
PEERS: Registry[Any] = Registry("encoder to compare", INSTALLED)
PEERS.refer("genotype", "nas_encoder.peers.own:genotype")
PEERS.refer("dfsmn_san", "nas_encoder.peers.own:dfsmn_san")
PEERS.refer("espnet_transformer", "nas_encoder.espnet.peers:transformer")
PEERS.refer("espnet_conformer", "nas_encoder.espnet.peers:conformer")
PEERS.refer("espnet_e_branchformer", "nas_encoder.espnet.peers:e_branchformer")
PEERS.refer(
    "espnet_contextual_block_conformer", "nas_encoder.espnet.peers:contextual_block_conformer"
)
PEERS.refer("nemo_conformer", "nas_encoder.nemo.peers:conformer")
PEERS.refer("nemo_fast_conformer", "nas_encoder.nemo.peers:fast_conformer")
PEERS.refer("nemo_cache_aware_fast_conformer", "nas_encoder.nemo.peers:cache_aware_fast_conformer")
PEERS.refer("zipformer", "nas_encoder.peers.zipformer:zipformer")


# What ESPnet's streaming inference wants to find in ``encoder_conf``. DFSMN-SAN has an option of
# its own with one of these names.
BLOCK_OPTIONS = ("block_size", "hop_size", "look_ahead")


def encoder_stems() -> dict[str, str]:
    """Return the names of the toolkits' classes, without "Encoder", by registered name."""
    return {NAS: "NAS", **{name: BASELINES.attribute(name) for name in BASELINES}}


def saved_name(name: str) -> str:
    """Return a second name of a class of ours in ESPnet, for the configurations that it saves.

    Where this package is missing, the name in the file is all that ESPnet's error tells.
    """
    return "nas_encoder" if name == NAS else f"nas_encoder.{name}"


def encoder_targets() -> dict[str, str]:
    """Return the class paths of our encoders in NeMo by registered name."""
    return {name: f"nas_encoder.nemo.{stem}Encoder" for name, stem in encoder_stems().items()}

"""Speech data for search and training: corpora, manifests, tokens, features, batches.

Everything is read through lhotse. The usual way from files to batches::

    train = open_cuts("OUT/espnet/train")            # or a NeMo manifest, or lhotse cuts
    valid = open_cuts("OUT/nemo/dev.json")
    tokens = fit_tokens("char", {"train": transcripts(train), "valid": transcripts(valid)})
    features = FeatureExtractor.fit(FeatureConfig(num_mel_bins=40), train)
    check_data(train, valid, tokens, features)       # reports every problem before training
    config = LoaderConfig(max_cuts=16, shuffle=True, seed=1, subsampling_factor=4)
    loader = AsrLoader(train, tokens, features, config)
    loader.set_epoch(0)
    for batch in loader:              # or loader.iterate(start=k), to resume mid-epoch
        ...                           # batch.features (B, T, F), batch.targets (B, U)

Bad data raises :class:`nas_encoder.errors.DataError`, bad settings
:class:`nas_encoder.errors.ConfigError`; both list every problem found.
"""

from __future__ import annotations

from nas_encoder.errors import MissingDependencyError

try:
    import lhotse  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "lhotse":
        raise
    raise MissingDependencyError("lhotse", "search", "reading speech data") from error

from nas_encoder.data.augment import SpecAugment, SpecAugmentConfig
from nas_encoder.data.batches import AsrLoader, Batch, LoaderConfig
from nas_encoder.data.check import DataReport, SplitReport, check_data
from nas_encoder.data.corpora import CORPORA, PreparedCorpus, PrepareOptions, prepare_corpus
from nas_encoder.data.export import write_espnet_dir, write_nemo_manifest
from nas_encoder.data.features import Cmvn, FeatureConfig, FeatureExtractor
from nas_encoder.data.manifests import open_cuts, split_half, texts, transcripts
from nas_encoder.data.selection import Selection, ctc_frames_needed, select_utterances
from nas_encoder.data.splitting import BLANK, SPACE, UNK
from nas_encoder.data.tokens import TokenSet
from nas_encoder.data.vocabulary import fit_tokens

__all__ = [
    "BLANK",
    "CORPORA",
    "SPACE",
    "UNK",
    "AsrLoader",
    "Batch",
    "Cmvn",
    "DataReport",
    "FeatureConfig",
    "FeatureExtractor",
    "LoaderConfig",
    "PrepareOptions",
    "PreparedCorpus",
    "Selection",
    "SpecAugment",
    "SpecAugmentConfig",
    "SplitReport",
    "TokenSet",
    "check_data",
    "ctc_frames_needed",
    "fit_tokens",
    "open_cuts",
    "prepare_corpus",
    "select_utterances",
    "split_half",
    "texts",
    "transcripts",
    "write_espnet_dir",
    "write_nemo_manifest",
]

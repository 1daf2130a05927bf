"""The encoder classes: NeMo's interface around our networks.

Letters in shapes: B batch, F features of a frame, T frames, D output features, T' output frames (in
most networks ceil(T / S), S the subsampling factor).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import torch
from nemo.core.classes import Exportable, NeuralModule, typecheck
from nemo.core.classes.mixins import AccessMixin, adapter_mixins
from nemo.utils import logging
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor, nn

from nas_encoder.errors import ConfigError, InputError, UtteranceTooShortError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.nemo.adapters import POINTS, add_points, in_streams
from nas_encoder.nemo.neural_types import cache_types, graph_types, input_types, output_types
from nas_encoder.nemo.options import (
    DEFAULT_GENOTYPE,
    build_network,
    nemo_options,
    signature,
    width,
    widths,
)
from nas_encoder.nemo.streaming import CacheAwareEncoder, check_caches
from nas_encoder.network.stream_rows import StreamRows
from nas_encoder.ops.masking import is_capturing
from nas_encoder.ops.norm import MaskedBatchNorm2d, restore_masked
from nas_encoder.spaces import get_space
from nas_encoder.tables import BASELINES, NAS, encoder_stems


class NetworkEncoder(
    NeuralModule,
    CacheAwareEncoder,
    Exportable,
    AccessMixin,
    adapter_mixins.AdapterModuleMixin,
):
    """NeMo's interface around a network of ours; :func:`encoder_class` gives the classes.

    Args:
        options: Those of :class:`NASEncoder`, or the fields of the baseline's config under NeMo's
            names.

    Raises:
        ConfigError: Lists everything that is wrong with the options.

    Attributes:
        kind: Its name in ESPnet: ``nas`` or a baseline.
        network: The network; its parameters are ``encoder.network.*`` in NeMo's models, as in
            ESPnet's.
        d_model: D.
        subsampling_factor: S, input frames per output frame.
    """

    kind: ClassVar[str]

    def __init__(self, **options: Any) -> None:
        super().__init__()
        network, warnings = build_network(self.kind, plain(options))
        self.network: Any = network
        self.d_model: int = self.network.output_size
        self.subsampling_factor: int = self.network.subsampling_factor
        # The names that NeMo's models read.
        self._feat_in = self.network.config.input_size
        self._feat_out = self.d_model
        self._masked_norms = [
            name for name, part in network.named_modules() if isinstance(part, MaskedBatchNorm2d)
        ]
        for text in warnings:
            logging.warning(text)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """Add a child, and keep masked batch norms masked.

        ``trainer.sync_batchnorm: true``, set in NeMo's Conformer configs, replaces every batch norm
        by ``nn.SyncBatchNorm``, which ignores masks, and then adds each child to its parent again.
        """
        if name == "network" and module is not None:
            restore_masked(module, self._masked_norms)
        super().add_module(name, module)

    @classmethod
    def portable(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return what makes an ``encoder`` block, in plain types, independent of other files."""
        return widths(options, nemo_options(cls.kind))

    @property
    def input_types(self) -> dict[str, Any]:
        """Neural types of the inputs."""
        return input_types()

    @property
    def output_types(self) -> dict[str, Any]:
        """Neural types of the outputs."""
        return output_types()

    @property
    def input_types_for_export(self) -> dict[str, Any]:
        """Neural types of an exported graph's inputs, whose sizes are fixed if it has caches."""
        return graph_types(cache_types()) if self.export_cache_support else input_types()

    @property
    def disabled_deployment_input_names(self) -> set[str]:
        """Inputs that an exported graph does not have."""
        caches = set(cache_types()) if self.export_cache_support else set()
        return set(input_types()) - {"audio_signal", "length"} - caches

    @property
    def disabled_deployment_output_names(self) -> set[str]:
        """Outputs that an exported graph does not have."""
        if self.export_cache_support:
            return set()
        return set(output_types()) - {"outputs", "encoded_lengths"}

    def input_example(self, max_batch: int = 2, max_dim: int = 256) -> tuple[Tensor, ...]:
        """Return (B, F, T) noise and (B,) unequal lengths, for tracing; T is ``max_dim``.

        For an export with caches, T is that of ``streaming_cfg``, and the caches of new streams,
        batch first, are added.
        """
        device = next(self.parameters()).device
        if self.export_cache_support:
            max_dim = self._cached_graph().frames
        signal = torch.randn(max_batch, self._feat_in, max_dim, device=device)
        shortest = min(max_dim, max(self.network.min_length, max_dim // 2))
        lengths = torch.linspace(max_dim, shortest, max_batch, device=device).round()
        example = signal, lengths.to(torch.int64)
        if not self.export_cache_support:
            return example
        channels, times, clock = self.get_initial_cache_state(max_batch, device=device)
        return (*example, channels.transpose(0, 1), times.transpose(0, 1), clock)

    @typecheck()
    def forward(
        self,
        audio_signal: Tensor,
        length: Tensor,
        cache_last_channel: Tensor | None = None,
        cache_last_time: Tensor | None = None,
        cache_last_channel_len: Tensor | None = None,
        bypass_pre_encode: bool = False,
    ) -> tuple[Tensor, ...]:
        """Encode a padded batch, or with caches a chunk of a batch of streams.

        An utterance with too few frames for one output frame, an error in ESPnet, is extended with
        zero frames here, as in NeMo's own encoders; it gives one frame, an empty one none.

        Args:
            audio_signal: (B, F, T) features; padding frames are ignored.
            length: (B,) valid frames of each utterance.
            cache_last_channel: Of streams; see :meth:`cache_aware_stream_step`.
            cache_last_time: As well.
            cache_last_channel_len: As well.
            bypass_pre_encode: Must be false: what comes behind the front end cannot be given.

        Returns:
            (B, D, T'), zero in padding frames, and (B,) the valid ones. If the model uses InterCTC,
            the outputs of ``model.interctc.apply_at_layers`` (cells or blocks, counted from 0 as in
            NeMo) are registered for it. With caches, what :meth:`cache_aware_stream_step` returns,
            of a chunk that is not the last.

        Raises:
            InputError: A shape is wrong, or a valid frame is not finite.
            ConfigError: InterCTC names a layer that cannot be tapped.
        """
        if bypass_pre_encode:
            raise InputError("bypass_pre_encode is not possible: the front end is searched, too")
        caches = (cache_last_channel, cache_last_time, cache_last_channel_len)
        if any(cache is not None for cache in caches):
            return self._stream(audio_signal.transpose(1, 2), length, caches)
        return self._encode(audio_signal, length)

    def forward_for_export(
        self,
        audio_signal: Tensor,
        length: Tensor,
        cache_last_channel: Tensor | None = None,
        cache_last_time: Tensor | None = None,
        cache_last_channel_len: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Encode what NeMo's export traces: a padded batch, as :meth:`forward` does, or a chunk.

        Args:
            audio_signal: (B, F, T).
            length: (B,).
            cache_last_channel: With ``model.set_export_config({"cache_support": True})``: what
                :meth:`get_initial_cache_state` gives with the batch first, as the next two.
            cache_last_time: As well.
            cache_last_channel_len: As well.

        Returns:
            As :meth:`forward`, or the five values of :class:`.CachedGraph`.

        Raises:
            ConfigError: The encoder does not stream, or not in chunks as those of ``streaming_cfg``
                without overlap.
            InputError: Some of the caches are missing.
        """
        caches = (cache_last_channel, cache_last_time, cache_last_channel_len)
        state = [own for own in caches if own is not None]
        if not state:
            return self._encode(audio_signal, length)
        check_caches(state)
        return self._cached_graph()(audio_signal.transpose(1, 2), length, *state)

    def _encode(self, audio_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        features = audio_signal.transpose(1, 2)  # (B, F, T) -> (B, T, F)
        lengths = length.to(device=features.device, dtype=torch.int64)
        layers = self._interctc_layers()
        if is_capturing():
            output, lengths, taps = self.network.forward_taps(features, lengths, taps=layers)
        else:
            output, lengths, taps = self._run(features, lengths, layers)
        for number, tap in taps:
            self.register_accessible_tensor(
                name=f"interctc/layer_output_{number - 1}", tensor=tap.transpose(1, 2)
            )
            self.register_accessible_tensor(
                name=f"interctc/layer_length_{number - 1}", tensor=lengths
            )
        return output.transpose(1, 2), lengths.to(length.dtype)  # (B, T', D) -> (B, D, T')

    def _run(
        self, features: Tensor, lengths: Tensor, layers: list[int]
    ) -> tuple[Tensor, Tensor, list[tuple[int, Tensor]]]:
        try:  # the network checks the lengths anyway; a second check would wait for the GPU
            result: Any = self.network.forward_taps(features, lengths, taps=layers)
            return result  # type: ignore[no-any-return]
        except UtteranceTooShortError:
            pass  # NeMo's own encoders accept short utterances, so they are extended below
        fewest = self.network.min_length
        index = torch.arange(features.size(1), device=features.device)
        padding = index[None, :] >= lengths[:, None]
        features = features.masked_fill(padding[:, :, None], 0.0)
        missing = max(0, fewest - features.size(1))
        features = nn.functional.pad(features, (0, 0, 0, missing))
        extended = lengths.clamp(min=fewest)
        output, found, taps = self.network.forward_taps(features, extended, taps=layers)
        lengths = torch.where(lengths > 0, found, 0)
        index = torch.arange(output.size(1), device=output.device)
        kept = (index[None, :] < lengths[:, None])[:, :, None].to(output.dtype)
        return output * kept, lengths, [(number, tap * kept) for number, tap in taps]

    # -- InterCTC -----------------------------------------------------------------------------

    def _interctc_layers(self) -> list[int]:
        """Return the numbers, from 1, of the cells or blocks that the model taps."""
        if not self.is_access_enabled(getattr(self, "model_guid", None)):
            return []
        wanted = list(self.access_cfg.get("interctc", {}).get("capture_layers", []))
        possible = [number - 1 for number in self.network.possible_taps]
        problems = [
            f"no output can be taken after cell or block {layer!r} (counted from 0); possible "
            f"here: {', '.join(map(str, possible)) or 'none'}"
            for layer in wanted
            if layer not in possible
        ]
        if problems:
            raise ConfigError("model.interctc.apply_at_layers", problems)
        return [layer + 1 for layer in wanted]

    # -- adapters -----------------------------------------------------------------------------

    def add_adapter(self, name: str, cfg: Any) -> None:
        """Add one of NeMo's linear adapters after every cell or block."""
        if not hasattr(self, POINTS):
            self.adapter_points = add_points(self.network)
        for point in self._points():
            point.add(name, cfg)

    def is_adapter_available(self) -> bool:
        """Return whether any adapter was added."""
        return any(point.is_adapter_available() for point in self._points())

    def set_enabled_adapters(self, name: str | None = None, enabled: bool = True) -> None:
        """Switch one adapter, or all, on or off."""
        for point in self._points():
            point.set_enabled_adapters(name=name, enabled=enabled)

    def get_enabled_adapters(self) -> list[str]:
        """Return the names of the enabled adapters."""
        return sorted({name for point in self._points() for name in point.get_enabled_adapters()})

    def _points(self) -> list[Any]:
        return list(getattr(self, POINTS, {}).values())

    def _streams(self) -> StreamRows:
        enabled = self.get_enabled_adapters()
        if enabled and not in_streams(self.network):
            rule = f"{', '.join(enabled)}: enabled, and would be left out of a stream; disable them"
            remedy = "(set_enabled_adapters(enabled=False)) or encode whole utterances"
            raise ConfigError("streaming", [f"adapters: {rule} {remedy}"])
        return super()._streams()


class NASEncoder(NetworkEncoder):
    """``_target_: nas_encoder.nemo.NASEncoder``: the network of a genotype.

    Args:
        feat_in: F.
        genotype: A zoo name, the path of a YAML file, or the document as a mapping. The model's
            config, and so every checkpoint, holds the mapping.
        d_model: D; if not given 512, of a block encoder the width of its last stage.
        options: Other network options of the genotype's space, for example ``channels``,
            ``layers``, ``stem_stride``, ``dropout``, ``drop_path``.
        leftovers: Options of another NeMo encoder; each is ignored with a warning, except those
            that give the output width that the decoder expects.

    """

    kind = NAS
    __signature__ = signature(nemo_options(NAS))

    @classmethod
    def portable(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the genotype as a mapping and the widths; GenotypeError if it cannot be loaded."""
        genotype = options.get("genotype")
        document = load_genotype(DEFAULT_GENOTYPE if genotype is None else genotype)
        found = {"genotype": document.to_dict(), **super().portable(options)}
        if width(options) is None and "output_size" not in get_space(document.space).sizes:
            with torch.device("meta"):  # the genotype's own, at the size that was asked for
                network, _ = build_network(cls.kind, plain(options))
            found["d_model"] = network.output_size
        return found

    def extra_repr(self) -> str:
        """Name the genotype and its origin in the model's summary."""
        genotype: Genotype = self.network.genotype
        kind = genotype.provenance.get("kind")
        return f"genotype={genotype.name} ({kind}), hash={genotype.hash}"


@cache
def encoder_class(name: str) -> type[NetworkEncoder]:
    """Return our class for ``nas`` or a baseline; RegistryError if there is no such encoder."""
    if name == NAS:
        return NASEncoder
    cls = f"{encoder_stems()[name]}Encoder"
    summary = (inspect.getdoc(BASELINES[name]) or "a baseline.").partition("\n")[0]
    contents = {
        "__module__": __name__,
        "__doc__": f"``_target_: nas_encoder.nemo.{cls}``: {summary}",
        "__signature__": signature(nemo_options(name)),
        "kind": name,
    }
    return type(cls, (NetworkEncoder,), contents)


def __getattr__(attribute: str) -> Any:
    for name, stem in encoder_stems().items():
        if attribute == f"{stem}Encoder":  # where NeMo and pickles look up generated classes
            return encoder_class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Convert Hydra's containers to plain types."""
    return {
        name: OmegaConf.to_container(value, resolve=True)
        if isinstance(value, (DictConfig, ListConfig))
        else value
        for name, value in options.items()
    }

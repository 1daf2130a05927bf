"""The encoder classes: ESPnet's interface around our networks.

Letters in shapes: B batch, T frames, F features of a frame, T' output frames (in most networks
ceil(T / S), S the subsampling factor), D output features.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from nas_encoder.baselines import options_of
from nas_encoder.errors import InputError, UtteranceTooShortError
from nas_encoder.espnet.interface import (
    AbsEncoder,
    ContextualBlockConformerEncoder,
    TooShortUttError,
)
from nas_encoder.espnet.options import CONDITIONING, build_network, signature
from nas_encoder.espnet.streaming import obstacles, step
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.network.streaming import StreamState
from nas_encoder.spaces.options import first_options
from nas_encoder.tables import BASELINES, NAS, encoder_stems

Taps: TypeAlias = list[tuple[int, Tensor]]
_ADDED = ("lora_", "adapter")  # in names of tensors, ESPnet's adapters


class NetworkEncoder(AbsEncoder):
    """ESPnet's interface around a network of ours; :func:`encoder_class` gives the classes.

    Args:
        input_size: F.
        genotype: For ``nas`` only.
        interctc_layer_idx: Cells or blocks, counted from 1, for InterCTC; those of cells must
            follow the second reduction cell.
        interctc_use_conditioning: Self-conditioned CTC there.
        block_size, hop_size, look_ahead: For encoders that stream, a bound: see
            :func:`~nas_encoder.espnet.streaming.check_blocks`. ``dfsmn_san`` has a ``look_ahead``
            of its own.
        **options: The options of the genotype's space, or the fields of the baseline's config.

    Raises:
        ConfigError: Lists everything that is wrong with the options.

    Attributes:
        kind: Its name in configs: ``nas`` or a baseline.
        network: The network; its parameters are ``encoder.network.*`` in ESPnet's models.
        conditioning_layer: (vocabulary -> D), set by ESPnet's model if conditioning is on.
        infix: Set by a mixin: what precedes "Encoder" in the names of its classes.
        of_tasks: Set by a mixin: the tasks that it is for.
        more_options: Set by a mixin: the additional parameters of its constructor.
    """

    kind: ClassVar[str]
    infix: ClassVar[str] = ""
    of_tasks: ClassVar[str] = ""
    more_options: ClassVar[tuple[inspect.Parameter, ...]] = ()

    def __init__(
        self,
        /,  # an option of that name is an unknown one
        input_size: int,
        genotype: str | Mapping[str, Any] | None = None,
        *,
        interctc_layer_idx: Sequence[int] = (),
        interctc_use_conditioning: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        if genotype is not None:
            options["genotype"] = genotype
        self.network: Any = build_network(
            self.kind, input_size, interctc_layer_idx, interctc_use_conditioning, options
        )
        # Some of ESPnet's models read this attribute instead of output_size().
        self._output_size: int = self.network.output_size
        self.interctc_layer_idx = list(interctc_layer_idx or ())
        self.interctc_use_conditioning = bool(interctc_use_conditioning)
        self.conditioning_layer: Any = None
        # ESPnet asks for the class of an encoder that streams, but only the network knows.
        plain = type(self) is encoder_class(self.kind, NetworkEncoder)
        if plain and not obstacles(self.network):
            self.__class__ = encoder_class(self.kind, StreamingEncoder)

    @classmethod
    def portable_conf(cls, conf: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``encoder_conf`` as ESPnet must save it, independent of other files."""
        return dict(conf)

    def output_size(self) -> int:
        """Return D."""
        return self._output_size

    def forward(
        self,
        xs_pad: Tensor,
        ilens: Tensor,
        prev_states: StreamState | None = None,
        ctc: Any = None,
        return_all_hs: bool = False,
        is_final: bool = True,
        infer_mode: bool = False,
    ) -> tuple[Tensor | tuple[Tensor, Any], Tensor, StreamState | None]:
        """Encode a padded batch, or the next chunk of streams.

        Args:
            xs_pad: (B, T, F).
            ilens: (B,), valid frames of each utterance.
            prev_states: With ``infer_mode``, what the chunk before returned.
            ctc: ESPnet's CTC module, needed only for self-conditioning.
            return_all_hs: Return intermediate outputs as ESPnet's speech translation models
                expect.
            is_final: With ``infer_mode``, whether the chunk is the last one.
            infer_mode: Encode a chunk of streams in step, all its frames valid, and return the
                frames that are complete, T' >= 0, no intermediate outputs, and the next state,
                None after the last one: all chunks give what whole utterances give.

        Returns:
            (B, T', D), (B,) its lengths, None. With ``interctc_layer_idx`` the first item is
            ``(out, [(layer, (B, T', D)), ...])``, with ``return_all_hs``
            ``(out, [(B, T', D), ..., out])``.

        Raises:
            TooShortUttError: (ESPnet's) an utterance has too few frames for one output frame.
            InputError: Anything else that cannot be encoded, or the encoder does not stream.
        """
        if infer_mode:
            return self._stream(xs_pad, ilens, prev_states, is_final, self._condition(ctc))
        if prev_states is not None:
            raise InputError("prev_states: belongs to infer_mode=True, which was not given")
        output, lengths, taps = self._run(xs_pad, ilens, self._condition(ctc))
        if return_all_hs:
            return (output, [*(tap for _, tap in taps), output]), lengths, None
        if taps:
            return (output, taps), lengths, None
        return output, lengths, None

    def _stream(
        self,
        xs_pad: Tensor,
        ilens: Tensor,
        prev_states: StreamState | None,
        is_final: bool,
        condition: Callable[[Tensor], Tensor] | None,
    ) -> tuple[Tensor, Tensor, StreamState | None]:
        why = "; ".join(obstacles(self.network)) or f"{type(self).__name__} takes whole utterances"
        raise InputError(f"infer_mode: this encoder does not stream: {why}")

    def _run(
        self, xs_pad: Tensor, ilens: Tensor, condition: Callable[[Tensor], Tensor] | None
    ) -> tuple[Tensor, Tensor, Taps]:
        lengths = ilens.to(device=xs_pad.device, dtype=torch.int64)
        # ESPnet asserts that the output is no longer than the longest length.
        xs_pad = xs_pad[:, : max(int(lengths.max()), 1)] if lengths.numel() else xs_pad
        try:
            output, lengths, taps = self.network.forward_taps(xs_pad, lengths, condition)
        except UtteranceTooShortError as error:
            raise TooShortUttError(str(error), error.actual, error.limit) from error
        return output, lengths, taps

    def _condition(self, ctc: Any) -> Callable[[Tensor], Tensor] | None:
        if not self.interctc_use_conditioning:
            return None
        if ctc is None or self.conditioning_layer is None:
            raise InputError(
                f"{CONDITIONING}: this ESPnet model does not support it (it gives its encoder "
                f"{'no CTC module' if ctc is None else 'no conditioning layer'})"
            )
        return lambda tap: self.conditioning_layer(ctc.softmax(tap))

    def espnet_initialization_fn(self) -> None:
        """Restore the initial values of norms and gates, which ESPnet's ``init`` overwrites."""
        for module in self.network.modules():
            if isinstance(module, (nn.modules.batchnorm._NormBase, nn.LayerNorm)):
                module.reset_parameters()
            elif hasattr(module, "reset_gate"):
                module.reset_gate()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # ESPnet loads with strict=False, so a checkpoint of another architecture would silently
        # leave random weights in place. What is added to trained encoders may be missing.
        mine = _own({prefix + name for name in self.state_dict()})
        given = _own({name for name in state_dict if name.startswith(prefix)})
        for what, names in (("lacks", mine - given), ("has unknown", given - mine)):
            if names and given:
                error_msgs.append(
                    f"The checkpoint {what} {len(names)} of {len(mine)} tensors of the encoder "
                    f"(for example {min(names)}): it was made with another genotype or other "
                    "options. Use the config.yaml that was saved beside it."
                )
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def _own(names: set[str]) -> set[str]:
    """Return the tensors that are no adapter's."""
    return {name for name in names if not any(word in name for word in _ADDED)}


class StreamingEncoder(NetworkEncoder):
    """An encoder whose network streams; NetworkEncoder's constructor makes it one.

    For ESPnet it is a ContextualBlockConformerEncoder, which is what its streaming inference
    decodes.
    """

    infix = "Streaming"
    of_tasks = "that streams"
    # The state of a stream that ended too short: ESPnet goes on to the next utterance without
    # forgetting it.
    _abandoned: StreamState | None = None

    def _stream(
        self,
        xs_pad: Tensor,
        ilens: Tensor,
        prev_states: StreamState | None,
        is_final: bool,
        condition: Callable[[Tensor], Tensor] | None,
    ) -> tuple[Tensor, Tensor, StreamState | None]:
        before = None if prev_states is self._abandoned else prev_states
        output, state = step(self.network, xs_pad, ilens, before, is_final, condition)
        self._abandoned = None
        limit = self.network.min_length
        if is_final and state.frames < limit:
            self._abandoned = prev_states
            rule = f"the stream has {state.frames} frames; at least {limit} are needed"
            raise TooShortUttError(f"{rule} for one output frame", state.frames, limit)
        lengths = torch.full_like(ilens, output.size(1))
        return output, lengths, None if is_final else state


ContextualBlockConformerEncoder.register(StreamingEncoder)


class NASEncoder(NetworkEncoder):
    """``encoder: nas``: the network of a genotype.

    Args:
        genotype: A zoo name, the path of a YAML file, or the document as a mapping. The
            ``config.yaml`` that ESPnet saves holds the mapping (see
            :mod:`nas_encoder.espnet.registration`).
        **options: Those of :class:`NetworkEncoder`; for example ``channels``, ``layers``,
            ``output_size``, ``stem_stride``, ``dropout``, ``drop_path``.
    """

    kind = NAS
    __signature__ = signature(
        NAS, first_options(), inspect.Parameter("genotype", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    )

    @classmethod
    def portable_conf(cls, conf: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``encoder_conf`` with the genotype inline; GenotypeError if there is none."""
        portable = dict(conf)
        if portable.get("genotype") is not None:
            portable["genotype"] = load_genotype(portable["genotype"]).to_dict()
        return portable

    def extra_repr(self) -> str:
        """Name the genotype and its origin in ESPnet's log."""
        genotype: Genotype = self.network.genotype
        kind = genotype.provenance.get("kind")
        return f"genotype={genotype.name} ({kind}), hash={genotype.hash}"


@cache
def encoder_class(name: str, variant: type[NetworkEncoder]) -> type:
    """Return our class for ``nas`` or a baseline; RegistryError if there is no such encoder.

    ``variant`` is NetworkEncoder, or the mixin for tasks that call their encoders differently.
    """
    contents: dict[str, Any] = {"__module__": variant.__module__}
    if variant is not NetworkEncoder:
        base: Any = encoder_class(name, NetworkEncoder)
        contents["__doc__"] = f"``encoder: {name}`` {variant.of_tasks}."
        parameters = [*base.__signature__.parameters.values(), *variant.more_options]
        contents["__signature__"] = base.__signature__.replace(parameters=parameters)
        bases: tuple[type, ...] = (variant, base)
    elif name == NAS:
        return NASEncoder
    else:
        encoder: Any = BASELINES[name]
        summary = (inspect.getdoc(encoder) or "a baseline.").partition("\n")[0]
        contents["__doc__"] = f"``encoder: {name}``: {summary}"
        contents |= {"__signature__": signature(name, options_of(name)), "kind": name}
        bases = (NetworkEncoder,)
    return type(f"{encoder_stems()[name]}{variant.infix}Encoder", bases, contents)


def named_class(attribute: str, variant: Any = NetworkEncoder) -> type:
    """Return the variant's class of that name, which pickles look up in its module.

    Raises:
        AttributeError: There is none.
    """
    for name, stem in encoder_stems().items():
        if attribute == f"{stem}{variant.infix}Encoder":
            return encoder_class(name, variant)
    raise AttributeError(f"module {variant.__module__!r} has no attribute {attribute!r}")


def __getattr__(attribute: str) -> Any:
    streaming = attribute.endswith(f"{StreamingEncoder.infix}Encoder")
    return named_class(attribute, StreamingEncoder if streaming else NetworkEncoder)

"""Our encoders for ESPnet's ``s2t_ctc`` task (OWSM-CTC, Peng et al. 2024, arXiv 2402.12654).

That task's model gives its encoder two prompts: embedded language and task tokens, which become
the first output frames, and an encoded text prompt to attend to. In ESPnet's own encoder every
block attends; here the network runs first and a single Transformer layer joins the prompts to
its output, because a convolution over time has no place for tokens that are not frames.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.baselines import DFSMNSANConfig
from nas_encoder.errors import ConfigError, InputError
from nas_encoder.espnet.encoder import DFSMNSANEncoder, NASEncoder, NetworkEncoder
from nas_encoder.espnet.options import signature
from nas_encoder.spaces.cells.config import EncoderConfig

_GENOTYPE = inspect.Parameter("genotype", inspect.Parameter.POSITIONAL_OR_KEYWORD)
_HEADS = inspect.Parameter("prompt_heads", inspect.Parameter.KEYWORD_ONLY, default=4)


class Prompted(NetworkEncoder):
    """Mixin: joins the prompts of OWSM-CTC to a network's output.

    Attributes:
        prompt_layer: Self-attention over tokens and frames, attention to the text prompt, and a
            feed-forward layer.
    """

    def _add_prompt_layer(self, heads: int) -> None:
        size = self.output_size()
        if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1 or size % heads:
            raise ConfigError(
                "encoder_conf",
                [f"prompt_heads: must divide output_size, which is {size}, got {heads!r}"],
            )
        self.prompt_layer = nn.TransformerDecoderLayer(
            size, heads, 4 * size, dropout=0.1, batch_first=True, norm_first=True
        )

    def forward(  # type: ignore[override]
        self,
        xs_pad: Tensor,
        ilens: Tensor,
        prev_states: Tensor | None = None,
        ctc: Any = None,
        prefix_embeds: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> tuple[Tensor | tuple[Tensor, Any], Tensor, None]:
        """Encode a padded batch under its prompts.

        P prompt tokens, L positions of the encoded text prompt; else as
        :class:`~nas_encoder.espnet.encoder.NetworkEncoder`.

        Args:
            xs_pad: (B, T, F).
            ilens: (B,).
            prev_states: Must be None.
            ctc: ESPnet's CTC module, for self-conditioning.
            prefix_embeds: (B, P, D).
            memory: (B, L, D).
            memory_mask: (B, 1, L), true where ``memory`` is valid.

        Returns:
            (B, P + T', D), the tokens first, (B,) its lengths, None; intermediate outputs as in
            the base class, with the tokens in front of them too.

        Raises:
            TooShortUttError: (ESPnet's) an utterance has fewer than S frames.
            InputError: Anything else that cannot be encoded; a prompt is missing.
        """
        if prefix_embeds is None or memory is None or memory_mask is None:
            raise InputError("prefix_embeds, memory, memory_mask: this encoder needs its prompts")
        encoded, lengths, _ = super().forward(xs_pad, ilens, prev_states, ctc)
        frames, taps = encoded if isinstance(encoded, tuple) else (encoded, [])
        joined = torch.cat([prefix_embeds, frames], dim=1)
        lengths = lengths + prefix_embeds.size(1)
        padding = torch.arange(joined.size(1), device=joined.device) >= lengths[:, None]
        output = self.prompt_layer(
            joined,
            memory,
            tgt_key_padding_mask=padding,
            memory_key_padding_mask=~memory_mask[:, 0].bool(),
        ).masked_fill(padding[..., None], 0.0)
        if not taps:
            return output, lengths, None
        with_tokens = [(layer, torch.cat([prefix_embeds, tap], dim=1)) for layer, tap in taps]
        return (output, with_tokens), lengths, None


class NASPromptedEncoder(Prompted, NASEncoder):
    """``encoder: nas`` for ``s2t_ctc``; takes ``prompt_heads`` beside the usual options."""

    __signature__ = signature(EncoderConfig, _GENOTYPE, _HEADS)

    def __init__(
        self,
        input_size: int,
        genotype: str | Mapping[str, Any] | None = None,
        *,
        prompt_heads: int = 4,
        interctc_layer_idx: Sequence[int] = (),
        interctc_use_conditioning: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            input_size,
            genotype,
            interctc_layer_idx=interctc_layer_idx,
            interctc_use_conditioning=interctc_use_conditioning,
            **options,
        )
        self._add_prompt_layer(prompt_heads)


class DFSMNSANPromptedEncoder(Prompted, DFSMNSANEncoder):
    """``encoder: dfsmn_san`` for ``s2t_ctc``; takes ``prompt_heads`` beside the usual options."""

    __signature__ = signature(DFSMNSANConfig, _HEADS)

    def __init__(
        self,
        input_size: int,
        *,
        prompt_heads: int = 4,
        interctc_layer_idx: Sequence[int] = (),
        interctc_use_conditioning: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            input_size,
            interctc_layer_idx=interctc_layer_idx,
            interctc_use_conditioning=interctc_use_conditioning,
            **options,
        )
        self._add_prompt_layer(prompt_heads)

"""Our encoders for ESPnet's ``s2t_ctc`` task (OWSM-CTC, Peng et al. 2024, arXiv 2402.12654).

That task's model gives its encoder two prompts: embedded language and task tokens, which become
the first output frames, and an encoded text prompt to attend to. In ESPnet's own encoder every
block attends; here a single Transformer layer joins the prompts to the network's output, because a
convolution over time cannot take tokens that are not frames.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.common.problems import is_integer
from nas_encoder.errors import ConfigError, InputError
from nas_encoder.espnet.encoder import NetworkEncoder, named_class


class Prompted(NetworkEncoder):
    """Mixin: joins the prompts of OWSM-CTC to the network's output.

    Attributes:
        prompt_layer: Self-attention over tokens and frames, attention to the text prompt, and a
            feed-forward layer.
    """

    infix = "Prompted"
    of_tasks = "for ``s2t_ctc``; takes ``prompt_heads`` beside the usual options"
    more_options = (inspect.Parameter("prompt_heads", inspect.Parameter.KEYWORD_ONLY, default=4),)

    def __init__(self, *args: Any, prompt_heads: int = 4, **options: Any) -> None:
        super().__init__(*args, **options)
        heads, size = prompt_heads, self.output_size()
        if not is_integer(heads, 1) or size % heads:
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
        prev_states: None = None,
        ctc: Any = None,
        prefix_embeds: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
    ) -> tuple[Tensor | tuple[Tensor, Any], Tensor, None]:
        """Encode a padded batch with its prompts.

        Letters: P prompt tokens, L positions of the encoded text prompt; others as in
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
            (B, P + T', D), tokens first, (B,) its lengths, None; intermediate outputs as in the
            base class, also with the tokens first.

        Raises:
            TooShortUttError: (ESPnet's) an utterance has fewer than S frames.
            InputError: Anything else that cannot be encoded, or a prompt is missing.
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


def __getattr__(attribute: str) -> Any:
    return named_class(attribute, Prompted)

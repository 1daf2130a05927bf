"""Options of the DFSMN-SAN baseline and its two published sizes."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from nas_encoder.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class DFSMNSANConfig:
    """Options of :class:`~nas_encoder.baselines.dfsmn_san.DFSMNSAN`.

    The four memory options take one number, or one for each block. [1] is Zhang et al. 2018
    (arXiv 1803.05030), [2] You et al. 2020 (arXiv 1910.13282).

    Attributes:
        input_size: Features a frame (F).
        output_size: Width of the memories, of the attention and of the output (D).
        hidden_size: Width of the ReLU layer inside each block.
        blocks: Number of DFSMN blocks.
        attention_layers: Number of self-attention layers; they stand at equal distances, the last
            one after the last block.
        attention_heads: Heads of each attention layer; must divide ``output_size``.
        look_back: Past taps of the memory (N1 in [1]), the present frame not counted.
        look_ahead: Future taps of the memory (N2 in [1]).
        look_back_stride: Distance between past taps, in output frames (s1 in [1]).
        look_ahead_stride: Distance between future taps, in output frames (s2 in [1]).
        subsampling_factor: Input frames for each output frame (S).
        context: Input frames that an output frame sees on each side of its own S. 4 is what the
            second-order delta of a window of 2 spans, so the first layer can compute deltas.
        persistent_memory: Learned key-value pairs that every attention layer can also attend to
            ([2]); 0 for none.
        dropout: Dropout in the blocks and on the output of the attention layers.
        attention_dropout: Dropout on the attention weights.
        checkpointing: Recompute the blocks in the backward pass instead of storing activations.
        taps: Numbers (from 1) of the blocks whose output ``forward_taps`` returns.
    """

    input_size: int = 40
    output_size: int = 512
    hidden_size: int = 1152
    blocks: int = 10
    attention_layers: int = 2
    attention_heads: int = 8
    look_back: int | Sequence[int] = 10
    look_ahead: int | Sequence[int] = 10
    look_back_stride: int | Sequence[int] = 1
    look_ahead_stride: int | Sequence[int] = 1
    subsampling_factor: int = 4
    context: int = 4
    persistent_memory: int = 0
    dropout: float = 0.1
    attention_dropout: float = 0.1
    checkpointing: bool = False
    taps: Sequence[int] = ()

    @classmethod
    def from_mapping(cls, options: Mapping[str, Any]) -> DFSMNSANConfig:
        """Build a checked config from plain values.

        Raises:
            ConfigError: An option is unknown or has a bad value; all of them are named.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = []
        for name in options:
            if name not in known:
                guess = difflib.get_close_matches(str(name), known, n=1)
                hint = f" (did you mean '{guess[0]}'?)" if guess else ""
                unknown.append(f"{name}: unknown option{hint}; known: {', '.join(known)}")
        config = cls(**{name: value for name, value in options.items() if name in known})
        problems = unknown + config.problems()
        if problems:
            raise ConfigError("dfsmn_san", problems)
        return config

    def problems(self) -> list[str]:
        """Return every rule that an option breaks, empty for a valid config."""
        found: list[str] = []
        minima = {
            "input_size": 1,
            "output_size": 1,
            "hidden_size": 1,
            "blocks": 1,
            "attention_layers": 0,
            "attention_heads": 1,
            "subsampling_factor": 1,
            "context": 0,
            "persistent_memory": 0,
        }
        for name, least in minima.items():
            _check_int(found, name, getattr(self, name), least)
        for name in ("dropout", "attention_dropout"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value < 1:
                found.append(f"{name}: must be a number in [0, 1), got {value!r}")
        checkpointing: object = self.checkpointing
        if checkpointing is not True and checkpointing is not False:
            found.append(f"checkpointing: must be true or false, got {checkpointing!r}")
        blocks = self.blocks if _is_int(self.blocks) and self.blocks > 0 else None
        for name in ("look_back", "look_ahead", "look_back_stride", "look_ahead_stride"):
            self._check_per_block(found, name, 1 if name.endswith("stride") else 0, blocks)
        if found:
            return found
        if self.output_size % self.attention_heads:
            found.append(
                f"attention_heads: must divide output_size {self.output_size}, "
                f"got {self.attention_heads}"
            )
        if self.attention_layers > self.blocks:
            found.append(
                f"attention_layers: at most one for each of the {self.blocks} blocks, "
                f"got {self.attention_layers}"
            )
        if self.persistent_memory and not self.attention_layers:
            found.append("persistent_memory: needs attention_layers of at least 1")
        found += self._tap_problems()
        return found

    def _check_per_block(self, found: list[str], name: str, least: int, blocks: int | None) -> None:
        value = getattr(self, name)
        if not isinstance(value, (list, tuple)):
            _check_int(found, name, value, least)
            return
        if blocks is not None and len(value) != blocks:
            found.append(
                f"{name}: must have one number for each of the {blocks} blocks, got {len(value)}"
            )
        for index, item in enumerate(value):
            _check_int(found, f"{name}[{index}]", item, least)

    def _tap_problems(self) -> list[str]:
        taps = self.taps
        if not isinstance(taps, (list, tuple)) or not all(_is_int(tap) for tap in taps):
            return [f"taps: must be a list of block numbers, got {taps!r}"]
        found = [
            f"taps[{index}]: must be a block before the last, 1 to {self.blocks - 1}, got {tap}"
            for index, tap in enumerate(taps)
            if not 1 <= tap < self.blocks
        ]
        if list(taps) != sorted(set(taps)):
            found.append(f"taps: must rise without repeats, got {list(taps)}")
        return found

    def per_block(self, name: str) -> list[int]:
        """Return a memory option as one number for each block."""
        value = getattr(self, name)
        return [value] * self.blocks if isinstance(value, int) else list(value)

    def attention_after(self) -> set[int]:
        """Return the numbers (from 1) of the blocks that an attention layer follows."""
        layers = self.attention_layers
        return {round(self.blocks * (index + 1) / layers) for index in range(layers)}


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_int(found: list[str], name: str, value: Any, least: int) -> None:
    if not _is_int(value) or value < least:
        found.append(f"{name}: must be a whole number of at least {least}, got {value!r}")


# The two sizes in He, Su and Yu (2020, arXiv 2008.11589), 14.4 M and 36.1 M, met to 1 % in
# encoder parameters. The paper gives the numbers of layers; every width is ours.
DFSMN_SAN_CONFIGS: dict[str, DFSMNSANConfig] = {
    "dfsmn_san_14m": DFSMNSANConfig(blocks=10, attention_layers=2, hidden_size=1152),
    "dfsmn_san_36m": DFSMNSANConfig(blocks=30, attention_layers=3, hidden_size=1056),
}

"""Greedy search of a transducer, as both toolkits do it.

Letters in shapes: L layers, H features of the prediction network, D of the encoder, V classes with
the blank last, T' output frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from nas_encoder.errors import CheckpointError
from nas_encoder.export.vocabulary import Vocabulary
from nas_encoder.interchange.transducer import MOST


class Steps(Protocol):
    """Prediction network and joint, in torch or in onnxruntime."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The classes."""
        ...

    @property
    def layers(self) -> int:
        """L."""
        ...

    @property
    def hidden(self) -> int:
        """H."""
        ...

    @property
    def most(self) -> int | None:
        """Most tokens of a frame; None if there is no limit."""
        ...

    def step(self, token: int, states: Any) -> tuple[Tensor, Any]:
        """Return the prediction (1, H, 1) after a token, and the states (L, 1, H), twice."""
        ...

    def scores(self, frame: Tensor, predicted: Tensor) -> Tensor:
        """Return scores (V,) of a frame (D,) and a prediction (1, H, 1)."""
        ...


class Greedy:
    """The best token of each frame in turn, until it is the blank, at most ``most`` of a frame.

    NeMo's greedy search takes up to ``decoding.greedy.max_symbols``, ESPnet's one. Without a limit
    NeMo's goes on for ever with a frame that has no blank; this one does not.
    """

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self.tokens: list[int] = []
        self.frames = 0
        zeros = torch.zeros(steps.layers, 1, steps.hidden)
        self.predicted, self.states = steps.step(steps.vocabulary.blank, (zeros, zeros))

    def feed(self, frames: Tensor) -> None:
        """Go on with frames (T', D).

        Raises:
            CheckpointError: There is no limit, and a frame gives tokens without end.
        """
        blank, most = self.steps.vocabulary.blank, self.steps.most
        for frame in frames:
            for _ in range(MOST if most is None else most):
                token = int(self.steps.scores(frame, self.predicted).argmax())
                if token == blank:
                    break
                self.tokens.append(token)
                self.predicted, self.states = self.steps.step(token, self.states)
            else:
                if most is None:
                    raise self._endless()
            self.frames += 1

    def _endless(self) -> CheckpointError:
        rule = (
            f"output frame {self.frames} gives {MOST} tokens and no blank, and the model limits "
            "them nowhere: set decoding.greedy.max_symbols in its configuration and export it anew"
        )
        return CheckpointError("greedy search of the transducer", [rule])

    @property
    def text(self) -> str:
        """The text so far."""
        return self.steps.vocabulary.text_of(self.tokens)


def recognize(steps: Steps, encoded: Sequence[Tensor]) -> list[list[int]]:
    """Return the tokens of utterances, each (T', D)."""
    found = []
    for frames in encoded:
        search = Greedy(steps)
        search.feed(frames)
        found.append(search.tokens)
    return found

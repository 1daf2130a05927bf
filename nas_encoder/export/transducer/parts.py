"""The prediction network and the joint of a transducer in torch, as they are exported.

Letters in shapes: B batch, L layers, H features of the prediction network, D of the encoder, V
classes with the blank last.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.export.vocabulary import Vocabulary
from nas_encoder.interchange.model import Transducer
from nas_encoder.interchange.transducer import ACTIVATIONS


class Prediction(nn.Module):
    """Embedding and LSTM: one step after one token."""

    def __init__(self, given: Transducer, order: list[int]) -> None:
        super().__init__()
        rows = given.embedding[order].float()
        self.embedding = nn.Embedding(rows.size(0), rows.size(1), _weight=rows)
        self.lstm = nn.LSTM(self.embedding.embedding_dim, given.hidden, given.layers)
        self.lstm.load_state_dict(given.recurrent)
        self.eval()

    def forward(
        self, tokens: Tensor, counts: Tensor, hidden: Tensor, cell: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Step.

        Args:
            tokens: (B, 1), the last token of each text; the blank at its beginning.
            counts: (B,), which NeMo's graphs have too; ignored.
            hidden: (L, B, H), zero at the beginning.
            cell: (L, B, H), zero at the beginning.

        Returns:
            (B, H, 1), the counts, and the new states.
        """
        y, (hidden, cell) = self.lstm(self.embedding(tokens).transpose(0, 1), (hidden, cell))
        return y.permute(1, 2, 0), counts, hidden, cell


class Joint(nn.Module):
    """From a frame and a step to the scores of the classes."""

    def __init__(self, given: Transducer, order: list[int]) -> None:
        super().__init__()
        self.of_encoder = _linear(given.of_encoder)
        self.of_prediction = _linear(given.of_prediction)
        head = given.classes
        self.last = _linear({"weight": head.weight[order], "bias": head.bias[order]})
        self.activation = ACTIVATIONS[given.activation]
        self.eval()

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        """Return scores (B, T', U, V), without softmax, of (B, D, T') and (B, H, U)."""
        frames = self.of_encoder(encoded.transpose(1, 2))[:, :, None]
        steps = self.of_prediction(predicted.transpose(1, 2))[:, None]
        scores: Tensor = self.last(self.activation(frames + steps))
        return scores


def _linear(given: dict[str, Tensor]) -> nn.Linear:
    weight = given["weight"]
    layer = nn.Linear(weight.size(1), weight.size(0), bias="bias" in given)
    layer.load_state_dict(given)
    return layer


class TransducerParts:
    """A transducer's parts besides the encoder, and its classes."""

    def __init__(self, given: Transducer) -> None:
        self.vocabulary, order = Vocabulary.of_head(given.classes)
        self.prediction, self.joint = Prediction(given, order), Joint(given, order)
        self.layers, self.hidden, self.most = given.layers, given.hidden, given.most

    def step(self, token: int, states: Any) -> tuple[Tensor, Any]:
        """Return the prediction (1, H, 1) after a token, and the states."""
        y, _, *states = self.prediction(torch.tensor([[token]]), torch.ones(1), *states)
        return y, states

    def scores(self, frame: Tensor, predicted: Tensor) -> Tensor:
        """Return scores (V,) of a frame (D,) and a prediction (1, H, 1)."""
        scores: Tensor = self.joint(frame[None, :, None], predicted)[0, 0, 0]
        return scores

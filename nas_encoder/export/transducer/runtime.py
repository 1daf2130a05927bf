"""Opens the graphs of an exported transducer, whoever wrote the files, and runs them.

Letters in shapes: L layers, H features of the prediction network, D of the encoder, V classes with
the blank last, N samples, T frames, F features, T' output frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_encoder.common.problems import one_line, show
from nas_encoder.deploy.engines import open_session
from nas_encoder.errors import CheckpointError
from nas_encoder.export.export import TRANSDUCER
from nas_encoder.export.runtime import Runtime, open_exported
from nas_encoder.export.vocabulary import Vocabulary
from nas_encoder.interchange.transducer import MOST

ENCODER, DECODER, JOINER = TRANSDUCER
# Inputs and outputs, named as NeMo names them.
ENCODED = ("outputs", "encoded_lengths")
DECODER_INPUTS = ("targets", "target_length", "states.1", "states.2")
DECODER_OUTPUTS = ("outputs", "prednet_lengths", "states", "states.3")
JOINER_INPUTS, JOINER_OUTPUTS = ("encoder_outputs", "decoder_outputs"), ("outputs",)
_NAMES: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    DECODER: (DECODER_INPUTS, DECODER_OUTPUTS),
    JOINER: (JOINER_INPUTS, JOINER_OUTPUTS),
}
_RANKS = {DECODER: (2, 1, 3, 3), JOINER: (3, 3)}
LIMIT, UNLIMITED = "max_symbols_per_frame", "none"
# Numbers in the metadata, and the largest that is taken.
NUMBERS = {"pred_rnn_layers": 64, "pred_hidden": 65536, LIMIT: MOST}


@dataclass(frozen=True)
class Sessions:
    """The prediction network and the joint in onnxruntime.

    Attributes:
        source: The folder, for messages.
        decoder: The session of one.
        joiner: That of the other.
        vocabulary: The classes.
        layers: L.
        hidden: H.
        most: Most tokens of a frame; None if there is no limit.
    """

    source: str
    decoder: Any
    joiner: Any
    vocabulary: Vocabulary
    layers: int
    hidden: int
    most: int | None

    def step(self, token: int, states: Any) -> tuple[Tensor, Any]:
        """See :class:`~nas_encoder.export.transducer.greedy.Steps`."""
        given = (torch.tensor([[token]], dtype=torch.int32), torch.ones(1, dtype=torch.int32))
        y, _, *states = self._run(self.decoder, DECODER_INPUTS, (*given, *states))
        return y, states

    def scores(self, frame: Tensor, predicted: Tensor) -> Tensor:
        """See :class:`~nas_encoder.export.transducer.greedy.Steps`."""
        (found,) = self._run(self.joiner, JOINER_INPUTS, (frame[None, :, None], predicted))
        if found.numel() != len(self.vocabulary.symbols):
            rule = f"gives {found.numel()} scores for {len(self.vocabulary.symbols)} classes"
            raise CheckpointError(f"{self.source}: {JOINER}", [rule])
        return found.flatten()

    def _run(self, session: Any, names: Sequence[str], given: Sequence[Tensor]) -> list[Tensor]:
        feed = {name: x.contiguous().numpy() for name, x in zip(names, given, strict=True)}
        try:
            return [torch.from_numpy(found) for found in session.run(None, feed)]
        except Exception as error:  # onnxruntime raises classes of its own for each status
            what = DECODER if session is self.decoder else JOINER
            raise CheckpointError(f"{self.source}: {what}", [one_line(error)]) from error


def open_search(runtime: Runtime, encoder: Path, threads: int = 1) -> Sessions:
    """Open the prediction network and the joint beside an open encoder.

    Args:
        runtime: The encoder, as :func:`~nas_encoder.export.runtime.open_model` opened it.
        encoder: Its file.
        threads: Of onnxruntime.

    Raises:
        CheckpointError: As of :func:`~nas_encoder.export.runtime.open_model`; or the graphs do not
            belong together.
        MissingDependencyError: onnx or onnxruntime is missing.
    """
    metadata, vocabulary = runtime.metadata, runtime.vocabulary
    if not runtime.is_transducer or vocabulary is None:
        raise CheckpointError(str(encoder), ["is no encoder of a transducer"])
    needed = {**NUMBERS}
    if metadata.get(LIMIT) == UNLIMITED:
        del needed[LIMIT]
    problems = [
        f"metadata: {name}: must be an integer from 1 to {most}, got {show(metadata.get(name))}"
        for name, most in needed.items()
        if not (metadata.get(name, "").isascii() and metadata.get(name, "").isdigit())
        or len(metadata[name]) > 9
        or not 1 <= int(metadata[name]) <= most
    ]
    if problems:
        raise CheckpointError(str(encoder), problems)
    decoder, joiner = (
        _open(encoder.with_name(name), runtime, threads) for name in (DECODER, JOINER)
    )
    layers, hidden, *most = (int(metadata[name]) for name in needed)
    limit = most[0] if most else None
    return Sessions(str(encoder.parent), decoder, joiner, vocabulary, layers, hidden, limit)


def _open(path: Path, runtime: Runtime, threads: int) -> Any:
    """Return the session of one of the other graphs, if it belongs to the encoder."""
    own, _, content = open_exported(path, None)
    if own.get("export_id") != runtime.metadata.get("export_id") or own.get("head") != path.stem:
        rule = f"does not belong to the {ENCODER} beside it; export the model anew"
        raise CheckpointError(str(path), [rule])
    session = open_session(content, str(path), threads, runtime.engine)
    names, outputs = _NAMES[path.name]
    found = [(one.name, len(one.shape)) for one in session.get_inputs()]
    wanted = list(zip(names, _RANKS[path.name], strict=True))
    if found != wanted:
        rule = f"its inputs (and their dimensions) must be {wanted}, got {show(found)}"
        raise CheckpointError(str(path), [rule])
    given = [one.name for one in session.get_outputs()]
    if given != [*outputs]:
        rule = f"must give {', '.join(outputs)}, gives {show(given)}"
        raise CheckpointError(str(path), [rule])
    return session

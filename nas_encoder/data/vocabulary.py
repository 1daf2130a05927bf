"""The tokens for a training: of a list, or of the training texts; able to encode all its sets."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from nas_encoder.data.splitting import TOKEN_KINDS, UNK
from nas_encoder.data.tokens import TokenSet
from nas_encoder.data.unknown import Missing
from nas_encoder.errors import DataError

logger = logging.getLogger(__name__)

UNKNOWN = ("unk", "error")  # what becomes of tokens that only other sets than the training's have


def fit_tokens(
    spec: str,
    sets: Mapping[str, Sequence[tuple[str, str]]],
    *,
    kind: str | None = None,
    size: int | None = None,
    unknown: str = "unk",
) -> TokenSet:
    """Return tokens that can encode all texts, with ``<unk>`` if some need it, which is told.

    Args:
        spec: A kind, to collect the tokens of the training texts, or the path of a list.
        sets: (utterance id, text) pairs by name; ``train`` are the training texts.
        kind: As in :meth:`TokenSet.load`.
        size: As in :meth:`TokenSet.build`.
        unknown: One of :data:`UNKNOWN`.

    Raises:
        DataError: No tokens can be had; a text holds ``<blank>``; most tokens of a set are
            unknown, or any are and that is an error.
        MissingDependencyError: As :meth:`TokenSet.of`.
    """
    tokens = TokenSet.of(spec, (text for _, text in sets["train"]), kind=kind, size=size)
    missing = {name: tokens.missing(pairs) for name, pairs in sets.items()}
    if unknown == "unk":
        tokens = widened(tokens, missing, spec)
    problems = [
        f"{name}: {line}"
        for name, own in missing.items()
        for line in own.problems(forbidden=unknown == "error" or not tokens.has_unk)
    ]
    if problems:
        if unknown == "error":
            problems.append(f"to read unknown tokens as {UNK}, set unknown_tokens to unk")
        raise DataError("tokens", problems)
    for name, own in missing.items():
        if own.count:
            logger.warning("%s: read as %s, not in the token set: %s", name, UNK, own)
    return tokens


def widened(tokens: TokenSet, missing: Mapping[str, Missing], spec: str) -> TokenSet:
    """Return tokens with ``<unk>`` if texts need it.

    A list, whose ids stay, gets it at its end; not if the training texts need it, since that list
    is then of other texts or lacks ``<unk>`` by mistake.
    """
    needed = {name for name, own in missing.items() if own.count}
    if not needed or (spec not in TOKEN_KINDS and "train" in needed):
        return tokens
    return tokens.with_unk(1 if spec in TOKEN_KINDS else None)

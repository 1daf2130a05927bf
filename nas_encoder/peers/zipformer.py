"""Zipformer (Yao et al. 2024), from its authors' package ``zipformer``.

B batch, T frames, F features of a frame, T' output frames, D output features.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.errors import ConfigError, MissingDependencyError
from nas_encoder.peers.peer import Peer, build_with

PACKAGE = "zipformer"
FRAME_SECONDS = 0.01
BATCH_SECONDS = 600.0  # of a batch of the authors, by which they count their schedules
SHORTEST = 9  # frames: the front end's T' is (T - 7) // 2
FRONT = ("layer1_channels", "layer2_channels", "layer3_channels")
SIZES = ("downsampling_factor", "num_encoder_layers", "encoder_dim", "feedforward_dim")
# The settings of the authors' recipes that do not depend on the size.
SHIPPED: Mapping[str, Any] = {
    "query_head_dim": 32,
    "pos_head_dim": 4,
    "value_head_dim": 12,
    "pos_dim": 48,
    "cnn_module_kernel": (31, 31, 15, 15, 15, 31),
}


class ZipformerPeer(Peer):
    """Front end and encoder as the authors' model joins them.

    Dropout, balancers and skipped modules follow schedules over the number of batches seen. Here
    a batch is ``batch_seconds`` of speech, and the count is part of the state.
    """

    seen: Tensor

    def __init__(
        self,
        front: nn.Module,
        encoder: nn.Module,
        input_size: int,
        width: int,
        batch_seconds: float,
    ) -> None:
        super().__init__(encoder, input_size, width, 4, SHORTEST)
        self.front = front
        self.batch_seconds = batch_seconds
        self.register_buffer("seen", torch.zeros((), dtype=torch.float64))
        self._counting = [part for part in self.modules() if hasattr(part, "batch_count")]

    def encode(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Call both, in training with the schedules' place."""
        if self.training:
            count = float(self.seen)
            for part in self._counting:
                part.batch_count = count  # type: ignore[assignment]  # plain number of theirs
            self.seen += lengths.sum() * (FRAME_SECONDS / self.batch_seconds)
        frames, lengths = self.front(x, lengths)
        padded = torch.arange(frames.size(1), device=x.device)[None, :] >= lengths[:, None]
        output, lengths = self.encoder(frames.transpose(0, 1), lengths, padded)
        return output.transpose(0, 1), lengths


def zipformer(options: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build a Zipformer.

    Args:
        options: Those of the authors' ``Zipformer``, ``layer1_channels`` to ``layer3_channels``
            of their front end, and ``batch_seconds``, by which their schedules count (default 600,
            the authors').
        input_size: F.

    Raises:
        ConfigError: An option is unknown, missing or refused.
        MissingDependencyError: The package is not installed.
    """
    encoders, fronts = authors_modules()
    settings = {**SHIPPED, **options}
    batch_seconds = settings.pop("batch_seconds", BATCH_SECONDS)
    if not isinstance(batch_seconds, int | float) or not batch_seconds > 0:
        raise ConfigError(PACKAGE, [f"batch_seconds: must be above 0, got {batch_seconds!r}"])
    stacks = len(settings.get("downsampling_factor", ()))
    settings = {
        key: tuple(value)[:stacks] if key == "cnn_module_kernel" and key not in options
        # Their classes tell tuples and numbers apart.
        else tuple(value) if isinstance(value, list) else value
        for key, value in settings.items()
    }  # fmt: skip
    encoder = build_with(PACKAGE, encoders.Zipformer, settings, SIZES, FRONT)
    dims = settings["encoder_dim"]
    widths = dims if isinstance(dims, tuple) else (dims,)
    front = fronts.Conv2dSubsampling(
        in_channels=input_size,
        out_channels=widths[0],
        **{name: settings[name] for name in FRONT if name in settings},
    )
    return ZipformerPeer(front, encoder, input_size, max(widths), float(batch_seconds))


@cache
def authors_modules() -> tuple[Any, Any]:
    """Return the modules with ``Zipformer`` and with its front end.

    The package imports data pipelines and an older torch's tools when it is imported, of which the
    networks need nothing. So these two are imported below parents without content.

    Raises:
        MissingDependencyError: The package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        # No extra: its metadata asks for a torch below 2.8, which its networks do not need.
        raise MissingDependencyError(
            PACKAGE, "", "the encoder 'zipformer'", "--no-deps zipformer==0.1.3"
        )
    with _empty_parents(Path(next(iter(found.submodule_search_locations)))):
        return (
            importlib.import_module(f"{PACKAGE}.modules.zipformer"),
            importlib.import_module(f"{PACKAGE}.modules.subsampling"),
        )


@contextmanager
def _empty_parents(folder: Path) -> Iterator[None]:
    """Let the package be found without running its ``__init__``; afterwards all is as before."""
    before = {name: sys.modules.pop(name) for name in _loaded()}
    for name, place in (("", folder), (".modules", folder / "modules")):
        parent = types.ModuleType(PACKAGE + name)
        parent.__path__ = [str(place)]
        sys.modules[PACKAGE + name] = parent
    tools = types.ModuleType(f"{PACKAGE}.utils")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tools.torch_autocast = partial(torch.amp.autocast, device)  # type: ignore[attr-defined]
    sys.modules[f"{PACKAGE}.utils"] = tools
    try:
        yield
    finally:
        for name in _loaded():
            del sys.modules[name]
        sys.modules.update(before)


def _loaded() -> list[str]:
    return [name for name in sys.modules if name == PACKAGE or name.startswith(f"{PACKAGE}.")]

"""The supernet of the public P-DARTS code, from a checkout, as one more side of supernet.py.

    git clone https://github.com/chenxin061/pdarts       # measured at commit b1575e1
    python benchmarks/supernet.py --public pdarts

Their network runs as it stands: stem, cells, mixed operations, dropout on skip connections, mean
over time and frequency, ten classes, cross-entropy. Their steps are those of their
``train_search.py``. Ours and the plain network take the same planes in, have dropout where theirs
has it, and do more after the last cell: a fully connected layer, 1434 tokens, CTC.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas_encoder.spaces.cells.space import KINDS

if TYPE_CHECKING:
    from supernet_sides import Batch

    from nas_encoder.common.choices import Candidates

FILES = ("operations", "genotypes", "model_search")
REGULARIZED = ("skip_connect",)  # the operations with dropout in their code
CLASSES = 10


@contextmanager
def _on_cpu(device: torch.device) -> Iterator[None]:
    """Let their ``.cuda()`` of the architecture leave it on a CPU."""
    original = torch.Tensor.cuda
    if device.type == "cpu":
        torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.cuda = original  # type: ignore[method-assign]


def load(folder: Path) -> ModuleType:
    """Import their ``model_search``; raise ``SystemExit`` where the folder has none."""
    missing = [f"{name}.py" for name in FILES if not (folder / f"{name}.py").is_file()]
    if missing:
        raise SystemExit(f"--public {folder}: no {', '.join(missing)}; give a checkout of P-DARTS")
    sys.path.insert(0, str(folder.resolve()))
    try:
        return importlib.import_module("model_search")
    finally:
        sys.path.remove(str(folder.resolve()))


class PublicSide:
    """Their supernet with the candidates of ours, and their two steps."""

    plain, mode = True, "eager"

    def __init__(self, folder: Path, alive: Candidates, layers: int, args: Any) -> None:
        self.device = torch.device(args.device)
        public = load(folder)
        switches = {
            kind: [[name in names for name in public.PRIMITIVES] for names in alive[kind]]
            for kind in KINDS
        }
        for kind in KINDS:
            if [sum(row) for row in switches[kind]] != [len(names) for names in alive[kind]]:
                raise SystemExit("--public: the public code has the operations of darts only")
        self.criterion = nn.CrossEntropyLoss()
        with _on_cpu(self.device):
            self.network: nn.Module = public.Network(
                args.channels,
                CLASSES,
                layers,
                self.criterion,
                switches_normal=switches["normal"],
                switches_reduce=switches["reduction"],
                p=args.dropout,
            )
        self.network.to(self.device).train()
        self.alphas: list[Tensor] = self.network.arch_parameters()  # type: ignore[operator]
        self.weights = torch.optim.SGD(
            self.network.parameters(), 0.01, momentum=0.9, weight_decay=3e-4
        )
        self.architecture = torch.optim.Adam(self.alphas, 6e-4, (0.5, 0.999), weight_decay=1e-3)

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy of a batch: (B, T, F), thrice, for their three planes."""
        planes = batch.features[:, None].expand(-1, 3, -1, -1).contiguous()
        classes = torch.arange(planes.size(0), device=self.device) % CLASSES
        loss: Tensor = self.criterion(self.network(planes), classes)
        return loss

    def weight_step(self, batch: Batch) -> float:
        """Update the weights."""
        self.weights.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.weights.step()
        return float(loss.detach())

    def architecture_step(self, batch: Batch) -> float:
        """Update the architecture."""
        self.architecture.zero_grad()
        loss = self.loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(self.alphas, 5.0)
        self.architecture.step()
        return float(loss.detach())

"""The transducer loss of the package warp-rnnt, for NeMo: ``model.loss.loss_name=warp_rnnt``.

NeMo looks losses up in the table ``RNNT_LOSS_RESOLVER`` and builds them in ``resolve_rnnt_loss``;
its ``warprnnt`` is another package. The import hook (:mod:`nas_encoder.autoload`) calls
:func:`register`, which adds our name and leaves all others to NeMo.

Source: Ivan Sorokin's CUDA-Warp RNN-Transducer (package ``warp_rnnt``), versions 0.4 and later, as
read; FastEmit: Yu et al. 2021 (arXiv 2010.11148).

NOT RUN: the package builds and runs only with CUDA, and we had no such machine. The test of the
loss (``tests/integration/test_nemo_rnnt_losses.py``) compares loss and gradient with NeMo's, and
is skipped without the package or a CUDA device.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.common.problems import is_number
from nas_encoder.common.wrapping import wrap_once
from nas_encoder.errors import ConfigError, InputError, MissingDependencyError

NAME = "warp_rnnt"


def available() -> bool:
    """Return whether the package is installed."""
    return importlib.util.find_spec(NAME) is not None


class WarpRNNTLoss(nn.Module):
    """Negative log-probability of the labels, summed over all alignments (Graves 2012).

    Args:
        blank: Index of the blank.
        fastemit_lambda: Weight of FastEmit, which favours emitting early; at least 0.

    Attributes:
        reduction: Set to None by NeMo's wrapper, which does the reduction.

    Raises:
        MissingDependencyError: The package is not installed.
        ConfigError: ``fastemit_lambda`` is not a number of at least 0.
    """

    def __init__(self, blank: int, fastemit_lambda: float = 0.0) -> None:
        super().__init__()
        if not available():
            raise MissingDependencyError("warp-rnnt", "rnnt", "the transducer loss 'warp_rnnt'")
        if not is_number(fastemit_lambda, 0):
            problem = f"fastemit_lambda: must be a number of at least 0, got {fastemit_lambda!r}"
            raise ConfigError(f"model.loss.{NAME}_kwargs", [problem])
        self.blank = blank
        self.fastemit_lambda = float(fastemit_lambda)
        self.reduction: str | None = None

    def forward(self, acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
        """Return the loss of each utterance.

        B batch, T encoder frames, U labels, V classes with the blank.

        Args:
            acts: (B, T, U + 1, V) on CUDA, the joint network's output. NeMo's joint gives logits
                on CUDA; log-probabilities do as well, because the softmax does not change them.
            labels: (B, U), padded with any valid class.
            act_lens: (B,) frames of each utterance.
            label_lens: (B,) labels of each utterance.

        Returns:
            (B,), float32.

        Raises:
            InputError: The tensors are not on a CUDA device.
        """
        if not acts.is_cuda:
            raise InputError(
                f"the transducer loss '{NAME}' runs on CUDA only, got tensors on '{acts.device}'; "
                "use model.loss.loss_name=default there"
            )
        import warp_rnnt

        losses: Tensor = warp_rnnt.rnnt_loss(
            torch.log_softmax(acts.float(), dim=-1),
            labels.to(acts.device, torch.int32).contiguous(),
            act_lens.to(acts.device, torch.int32).contiguous(),
            label_lens.to(acts.device, torch.int32).contiguous(),
            average_frames=False,
            reduction="none",
            blank=self.blank,
            gather=True,  # keeps only blank and label of the V classes: less memory
            fastemit_lambda=self.fastemit_lambda,
        )
        return losses


def register(module: ModuleType) -> None:
    """Add the loss to ``nemo.collections.asr.losses.rnnt``; a second call changes nothing."""
    table = module.RNNT_LOSS_RESOLVER
    if NAME in table:  # already ours, or a NeMo that supports the package itself
        return
    table[NAME] = module.RNNTLossConfig(
        loss_name=NAME,
        lib_name=NAME,
        is_available=available(),
        installation_msg="pip install 'nas_encoder[rnnt]'  (its source builds where CUDA is)",
        force_float32=True,
    )
    wrap_once(module, "resolve_rnnt_loss", partial(_resolve, module))


def _resolve(
    module: ModuleType,
    inner: Callable[..., nn.Module],
    loss_name: str,
    blank_idx: int,
    loss_kwargs: Any = None,
) -> nn.Module:
    if loss_name != NAME or not module.RNNT_LOSS_RESOLVER[NAME].is_available:
        return inner(loss_name, blank_idx, loss_kwargs)
    options = dict(loss_kwargs or {})
    loss = WarpRNNTLoss(blank_idx, options.pop("fastemit_lambda", 0.0))
    if options:
        module._warn_unused_additional_kwargs(loss_name, options)
    return loss

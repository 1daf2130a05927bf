"""The devices of a search, and the agreement of its processes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nas_encoder.common.problems import one_line
from nas_encoder.errors import ConfigError, MissingDependencyError
from nas_encoder.ops.norm import MaskedBatchNorm2d, SyncMaskedBatchNorm2d
from nas_encoder.training.config import TrainerConfig

if TYPE_CHECKING:  # it takes 4 s to import, which a search in a table need not wait for
    from lightning.fabric import Fabric


def open_fabric(config: TrainerConfig) -> Fabric:
    """Open the devices; with several, start the other processes or join those of torchrun.

    Raises:
        ConfigError: A device is missing, or there are too few.
        MissingDependencyError: Lightning is not installed.
    """
    try:
        from lightning.fabric import Fabric
        from lightning.fabric.utilities.exceptions import MisconfigurationException
    except ImportError as error:
        raise MissingDependencyError("lightning", "search", "training") from error

    several = config.devices > 1
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            strategy="ddp" if several else "auto",
            precision=config.precision,  # type: ignore[arg-type]
        )
    except (RuntimeError, ValueError, MisconfigurationException) as error:
        rule = f"no such devices: {one_line(error)}"
        raise ConfigError("trainer", [rule]) from error
    if several:
        fabric.launch()
        if not fabric.is_global_zero:  # or each process would log everything
            logging.getLogger("nas_encoder").setLevel(logging.ERROR)
    return fabric


def use_deterministic_algorithms(config: TrainerConfig, fabric: Fabric) -> None:
    """Refuse operations without a deterministic implementation, where configured.

    On CUDA, where the CTC loss is one of them, only warn.
    """
    torch.use_deterministic_algorithms(config.deterministic, warn_only=fabric.device.type == "cuda")


def average_gradients(fabric: Fabric, parameters: Iterable[nn.Parameter]) -> None:
    """Replace gradients by their mean over processes, in one message per dtype.

    The same parameters must have gradients in every process.
    """
    if fabric.world_size == 1:
        return
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_type.values():
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        reduced = mean_over_processes(fabric, flat)
        parts = torch.split(reduced, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def mean_over_processes(fabric: Fabric, value: Tensor) -> Tensor:
    """Return the mean of a tensor over processes."""
    if fabric.world_size == 1:
        return value
    reduced = fabric.all_reduce(value, reduce_op="sum")
    assert isinstance(reduced, Tensor)
    return reduced / fabric.world_size


def any_process(fabric: Fabric, flag: bool) -> bool:
    """Return whether the flag is set in any process."""
    if fabric.world_size == 1:
        return flag
    return float(mean_over_processes(fabric, torch.tensor(float(flag), device=fabric.device))) > 0


def of_all_processes(fabric: Fabric, value: Any) -> list[Any]:
    """Return the values of all processes, by rank."""
    if fabric.world_size == 1:
        return [value]
    values: list[Any] = [None] * fabric.world_size
    torch.distributed.all_gather_object(values, value)
    return values


def synchronize_norms(module: nn.Module) -> None:
    """Make masked batch norms share their statistics over all processes, in place."""
    for parent in list(module.modules()):
        for name, layer in parent.named_children():
            if type(layer) is MaskedBatchNorm2d:
                setattr(parent, name, SyncMaskedBatchNorm2d.in_place_of(layer))

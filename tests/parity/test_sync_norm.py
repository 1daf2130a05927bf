"""Batch norm over two processes equals batch norm over both their batches in one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from preloaded import fork
from torch import Tensor, distributed, nn

from nas_encoder.ops.masking import frame_mask
from nas_encoder.ops.norm import MaskedBatchNorm2d, SyncMaskedBatchNorm2d, restore_masked

LENGTHS = ([7, 7], [9, 3, 1])  # of the first process's batch, which needs no mask, and the other's
CHANNELS, BINS = 3, 5


def batch(rank: int) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return (B, C, T, F), the mask, and what the gradient of the output is."""
    generator = torch.Generator().manual_seed(rank)
    lengths = torch.tensor(LENGTHS[rank])
    shape = (len(lengths), CHANNELS, int(lengths.max()), BINS)
    x = 2 + torch.randn(shape, generator=generator, dtype=torch.float64)
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    return x, frame_mask(lengths, shape[2], x.dtype) if rank else None, grad


def plain_norm() -> nn.Module:
    """Return a module whose only part is a norm with some parameters."""
    norm = MaskedBatchNorm2d(CHANNELS).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
        norm.bias.copy_(torch.tensor([1.0, 0.0, -3.0]))
    return nn.Sequential(norm)


def run_rank(rank: int, folder: Path) -> None:
    """Be one of the two processes; write what came out."""
    rendezvous = f"file://{folder / 'rendezvous'}"
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=2)
    module = nn.SyncBatchNorm.convert_sync_batchnorm(plain_norm())
    restore_masked(module, ["0"])
    norm = module[0]
    x, mask, grad = batch(rank)
    x.requires_grad_()
    for _ in range(2):
        y = norm(x, mask)
    y.backward(grad)
    norm.eval()  # where processes need not be in step, there is no message
    alone = norm(x, mask) if rank == 0 else None
    torch.save(
        {
            "y": y.detach(),
            "x": x.grad,
            "weight": norm.weight.grad,
            "bias": norm.bias.grad,
            "state": norm.state_dict(),
            "alone": None if alone is None else alone.detach(),
        },
        folder / f"{rank}.pt",
    )
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_equal_one_with_both_batches(tmp_path: Path) -> None:
    processes = [fork("test_sync_norm:run_rank", rank, tmp_path) for rank in range(2)]
    for process in processes:
        process.join(timeout=120)
        assert process.exitcode == 0
    got = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]

    norm = plain_norm()[0]  # type: ignore[index]
    frames = max(map(max, LENGTHS))
    inputs = [batch(rank) for rank in range(2)]
    padded = [nn.functional.pad(x, (0, 0, 0, frames - x.size(2))) for x, _, _ in inputs]
    grads = [nn.functional.pad(grad, (0, 0, 0, frames - grad.size(2))) for *_, grad in inputs]
    x = torch.cat(padded).requires_grad_()
    mask = frame_mask(torch.tensor([*LENGTHS[0], *LENGTHS[1]]), frames, x.dtype)
    for _ in range(2):
        y = norm(x, mask)
    y.backward(torch.cat(grads) * mask)
    assert x.grad is not None
    for row, place in ((0, slice(0, 2)), (1, slice(2, 5))):
        size = max(LENGTHS[row])
        torch.testing.assert_close(got[row]["y"], y[place, :, :size])
        torch.testing.assert_close(got[row]["x"], x.grad[place, :, :size])
        torch.testing.assert_close(got[row]["state"], dict(norm.state_dict()))
    for name, parameter in norm.named_parameters():
        torch.testing.assert_close(got[0][name] + got[1][name], parameter.grad)
    norm.eval()
    torch.testing.assert_close(got[0]["alone"], norm(inputs[0][0], None))


@pytest.mark.parametrize("training", [True, False])
def test_restored_layer_is_the_old_one_in_a_process_of_its_own(training: bool) -> None:
    module = plain_norm().train(training)
    old = module[0]  # type: ignore[index]
    x, mask, _ = batch(1)
    expected = MaskedBatchNorm2d.forward(old, x, mask)
    old.load_state_dict(plain_norm()[0].state_dict())  # type: ignore[index]
    module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    assert type(module[0]) is nn.SyncBatchNorm
    restore_masked(module, ["0"])
    new = module[0]
    assert type(new) is SyncMaskedBatchNorm2d and new.training == training
    assert new.weight is old.weight and new.running_mean is old.running_mean
    torch.testing.assert_close(new(x, mask), expected)

"""Transducer losses in NeMo: its own two on CPU and on CUDA, and that of the package warp-rnnt."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import pytest
import torch
from nemo_tones import GAP, NAS, Tones, build, marks, toolkit
from torch import Tensor

from nas_encoder.errors import MissingDependencyError
from nas_encoder.nemo import rnnt_loss

pytestmark = marks()


@pytest.fixture(scope="module")
def losses() -> ModuleType:
    toolkit()
    return importlib.import_module("nemo.collections.asr.losses.rnnt")


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Tones:
    toolkit()
    return Tones.create(tmp_path_factory.mktemp("tones"), number=2, longest=1, silence=GAP)


def model_of(tones: Tones, loss: str, device: str = "cpu") -> Any:
    """A transducer; the weights depend on nothing but the seed."""
    torch.manual_seed(0)
    config = tones.config("rnnt_bpe", NAS, loss={"loss_name": loss})
    return build("rnnt_bpe", config).to(device)


def train(model: Any, tones: Tones, steps: int) -> list[float]:
    """Return the loss of each step on one batch."""
    signals = [torch.from_numpy(recording.samples()) for recording in tones.recordings]
    texts = [torch.tensor(model.tokenizer.text_to_ids(r.text)) for r in tones.recordings]
    signal = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True).to(model.device)
    lengths = torch.tensor([len(part) for part in signals], device=model.device)
    text = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True).to(model.device)
    sizes = torch.tensor([len(part) for part in texts], device=model.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    found = []
    for _ in range(steps):
        encoded, frames = model(input_signal=signal, input_signal_length=lengths)
        decoded, _, _ = model.decoder(targets=text, target_length=sizes)
        loss, _, _, _ = model.joint(
            encoder_outputs=encoded,
            decoder_outputs=decoded,
            encoder_lengths=frames,
            transcripts=text,
            transcript_lengths=sizes,
            compute_wer=False,
        )
        optimizer.zero_grad()
        loss.backward()
        assert all(parameter.grad is not None for parameter in model.encoder.parameters())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        found.append(loss.item())
    return found


def test_both_losses_that_run_on_cpu_train_the_same(tones: Tones, losses: ModuleType) -> None:
    default, pytorch = (train(model_of(tones, name), tones, 2) for name in ("default", "pytorch"))
    assert default == pytest.approx(pytorch, rel=1e-3)
    assert default[-1] < default[0]


@pytest.mark.gpu
def test_nemos_numba_loss_on_cuda_trains_as_on_cpu(tones: Tones) -> None:
    on_cpu = train(model_of(tones, "warprnnt_numba"), tones, 3)
    on_cuda = train(model_of(tones, "warprnnt_numba", "cuda"), tones, 3)
    assert on_cuda == pytest.approx(on_cpu, rel=1e-2)


# -- the package warp-rnnt --------------------------------------------------------------------


def test_its_name_is_added_and_nothing_else_changes(losses: ModuleType) -> None:
    from nemo.collections.asr.losses.rnnt import RNNT_LOSS_RESOLVER

    assert RNNT_LOSS_RESOLVER["warp_rnnt"].is_available == rnnt_loss.available()
    assert {"default", "pytorch", "warprnnt", "warprnnt_numba", "tdt"} <= set(RNNT_LOSS_RESOLVER)
    assert RNNT_LOSS_RESOLVER["default"].loss_name == "warprnnt_numba"
    resolve = losses.resolve_rnnt_loss
    rnnt_loss.register(losses)
    assert losses.resolve_rnnt_loss is resolve
    assert type(resolve("pytorch", 3)).__name__ == "RNNTLossPytorch"
    with pytest.raises(ValueError, match="not in list of available RNNT losses"):
        resolve("no_such_loss", 3)


@pytest.mark.skipif(rnnt_loss.available(), reason="warp-rnnt is installed here")
def test_where_it_is_missing_the_error_says_what_to_install(
    tones: Tones, losses: ModuleType
) -> None:
    with pytest.raises(ImportError) as caught:
        model_of(tones, "warp_rnnt")
    assert "To install the selected loss function" in str(caught.value)  # NeMo's words
    assert "pip install 'nas_encoder[rnnt]'" in str(caught.value)
    with pytest.raises(MissingDependencyError, match="nas_encoder\\[rnnt\\]"):
        rnnt_loss.WarpRNNTLoss(blank=3)


needs_warp_rnnt = pytest.mark.skipif(
    not rnnt_loss.available(),
    reason="the package warp-rnnt is not installed (its source builds only where CUDA is)",
)


def reference(acts: Tensor, labels: Tensor, act_lens: Tensor, label_lens: Tensor) -> Tensor:
    """The loss by the forward recursion of Graves (2012), one utterance after the other."""
    blank = acts.size(-1) - 1
    found = []
    for logits, text, frames, size in zip(acts, labels, act_lens, label_lens, strict=True):
        log_probs = logits.double().log_softmax(-1)
        alpha: dict[tuple[int, int], Tensor] = {}
        for t in range(int(frames)):
            for u in range(int(size) + 1):
                ways = [log_probs.new_zeros(())] if t == u == 0 else []
                if t:
                    ways.append(alpha[t - 1, u] + log_probs[t - 1, u, blank])
                if u:
                    ways.append(alpha[t, u - 1] + log_probs[t, u - 1, text[u - 1]])
                alpha[t, u] = torch.logsumexp(torch.stack(ways), 0)
        last = int(frames) - 1, int(size)
        found.append(-alpha[last] - log_probs[(*last, blank)])
    return torch.stack(found)


def lattice(device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    acts = torch.randn(3, 7, 5, 6, device=device)
    labels = torch.randint(0, 5, (3, 4), device=device)
    lengths = [7, 5, 2], [4, 2, 0]
    act_lens, label_lens = (torch.tensor(values, device=device) for values in lengths)
    return acts, labels, act_lens, label_lens


def compare(losses: ModuleType, name: str, device: str) -> None:
    acts, labels, act_lens, label_lens = lattice(device)
    results = []
    loss = losses.RNNTLoss(num_classes=5, loss_name=name, reduction="sum")
    for function in (
        lambda x: loss(
            log_probs=x, targets=labels, input_lengths=act_lens, target_lengths=label_lens
        ),
        lambda x: reference(x, labels, act_lens, label_lens).sum(),
    ):
        x = acts.clone().requires_grad_()
        value = function(x)
        value.backward()
        results.append((value.double(), x.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["default", "pytorch"])
def test_nemos_losses_are_those_of_the_reference(losses: ModuleType, name: str) -> None:
    """So the reference can be trusted where warp-rnnt is compared with it."""
    compare(losses, name, "cpu")


@pytest.mark.gpu
@needs_warp_rnnt
def test_warp_rnnt_gives_loss_and_gradient_of_the_reference(losses: ModuleType) -> None:
    compare(losses, "warp_rnnt", "cuda")


@pytest.mark.gpu
@needs_warp_rnnt
def test_warp_rnnt_trains_a_model_as_nemos_loss_does(tones: Tones) -> None:
    mine = train(model_of(tones, "warp_rnnt", "cuda"), tones, 3)
    theirs = train(model_of(tones, "warprnnt_numba", "cuda"), tones, 3)
    assert mine == pytest.approx(theirs, rel=1e-2)

"""Training in NeMo: InterCTC, adapters, freezing, bf16; by NeMo's own training steps."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from nemo_tones import BLOCKS, GAP, NAS, SAN, Tones, build, marks, toolkit, trainer
from torch import Tensor

pytestmark = marks(
    "The 'train_dataloader' does not have many workers",
    "The number of training batches",
)

# Six cells with the reductions at 2 and 4: NeMo counts the cells from 0, so 4 has a tap.
DEEP = NAS | {"layers": 6}
LAYER = 4


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Tones:
    toolkit()
    return Tones.create(tmp_path_factory.mktemp("tones"), number=4, longest=1, silence=GAP)


def fit(model: Any, steps: int, **options: Any) -> list[dict[str, Tensor]]:
    """Train by Lightning's trainer; return what each step logged."""
    import lightning.pytorch as pl

    logged = []

    class Record(pl.Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            assert torch.isfinite(outputs["loss"])
            logged.append({"loss": outputs["loss"], **copy.copy(trainer.logged_metrics)})

    fitting = trainer(steps, callbacks=[Record()], log_every_n_steps=1, **options)
    model.set_trainer(fitting)
    fitting.fit(model)
    assert len(logged) == steps
    return logged


@pytest.mark.parametrize(
    ("kind", "encoder"),
    [("ctc_char", DEEP), ("ctc_char", SAN), ("ctc_char", BLOCKS), ("hybrid_bpe", DEEP)],
    ids=["ctc-nas", "ctc-dfsmn_san", "ctc-blocks", "hybrid-nas"],
)
def test_interctc_trains(kind: str, encoder: dict[str, Any], tones: Tones) -> None:
    """The loss of a step is that without InterCTC and that of the layer, by their weights.

    (What NeMo logs as ``final_loss`` is the same tensor as the total: it adds in place.)
    """
    layer = {id(DEEP): LAYER, id(SAN): 1, id(BLOCKS): 2}[id(encoder)]
    interctc = {"loss_weights": [0.3], "apply_at_layers": [layer]}
    logged, models = [], []
    for options in ({}, {"interctc": interctc}):
        torch.manual_seed(0)
        models.append(build(kind, tones.config(kind, encoder, **options)))
        logged += fit(models[-1], 1)
    without, with_it = logged
    inter = with_it[f"inter_ctc_loss_l{layer}"]
    expected = 0.7 * without["train_loss"] + 0.3 * inter
    torch.testing.assert_close(with_it["train_loss"], expected, rtol=1e-3, atol=0)
    assert abs(inter - without["train_loss"]) > 0.01 * inter
    names = [name for name, _ in models[0].encoder.named_parameters()]
    gradients = [dict(model.encoder.named_parameters()) for model in models]
    for name in names:
        plain, more = (parameters[name].grad for parameters in gradients)
        assert plain is not None and more is not None and torch.isfinite(more).all()
        assert not torch.equal(plain, more), name


def encode(model: Any, tones: Tones) -> Tensor:
    training = model.training
    model.eval()
    signal = torch.from_numpy(tones.recordings[0].samples())[None]
    with torch.no_grad():
        output: Tensor = model(
            input_signal=signal, input_signal_length=torch.tensor([signal.size(1)])
        )[0]
    model.train(training)
    return output


@pytest.mark.parametrize(
    ("kind", "encoder"),
    [("ctc_char", NAS), ("ctc_char", SAN), ("hybrid_bpe", NAS)],
    ids=["ctc-nas", "ctc-dfsmn_san", "hybrid-nas"],
)
def test_adapters_train_alone(
    kind: str, encoder: dict[str, Any], tones: Tones, tmp_path: Path
) -> None:
    """As in NeMo's script train_asr_adapter.py: freeze the model, unfreeze what is adapted."""
    model = build(kind, tones.config(kind, encoder))
    base, base_output = copy.deepcopy(model.state_dict()), encode(model, tones)
    from nemo.collections.common.parts.adapter_modules import LinearAdapterConfig

    model.add_adapter("accent", LinearAdapterConfig(in_features=encoder["d_model"], dim=4))
    torch.testing.assert_close(encode(model, tones), base_output, rtol=0, atol=0)
    model.set_enabled_adapters(enabled=False)
    model.set_enabled_adapters("accent", enabled=True)
    model.freeze()
    model = model.train()
    model.unfreeze_enabled_adapters()
    before = copy.deepcopy(model.state_dict())
    fit(model, 2)
    after = model.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed and changed.isdisjoint(base), sorted(changed & set(base))
    new = set(after) - set(base)
    assert new and all(".adapter_layer.accent." in name for name in new)
    trained = encode(model, tones)
    assert not torch.equal(trained, base_output)

    path = str(tmp_path / "adapted.nemo")
    model.save_to(path)
    again = toolkit().ASRModel.restore_from(path)
    assert again.get_enabled_adapters() == ["accent"]
    torch.testing.assert_close(encode(again, tones), trained, rtol=0, atol=0)
    again.set_enabled_adapters(enabled=False)
    torch.testing.assert_close(encode(again, tones), base_output, rtol=0, atol=0)


@pytest.mark.parametrize("encoder", [NAS, SAN], ids=["nas", "dfsmn_san"])
def test_a_frozen_encoder_stays_and_the_rest_trains(encoder: dict[str, Any], tones: Tones) -> None:
    model = build("ctc_char", tones.config("ctc_char", encoder))
    model.encoder.freeze()
    before = copy.deepcopy(model.state_dict())
    fit(model, 2)
    for name, value in model.state_dict().items():
        if name.startswith("encoder."):
            assert torch.equal(value, before[name]), name
    assert not torch.equal(
        model.state_dict()["decoder.decoder_layers.0.weight"],
        before["decoder.decoder_layers.0.weight"],
    )
    model.encoder.unfreeze()
    fit(model, 1)
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())


@pytest.mark.parametrize("encoder", [NAS, SAN, BLOCKS], ids=["nas", "dfsmn_san", "blocks"])
def test_bf16_mixed_training(encoder: dict[str, Any], tones: Tones) -> None:
    """The loss stays finite and falls about as in float32; the weights stay float32."""
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        torch.manual_seed(0)
        model = build("ctc_char", tones.config("ctc_char", encoder))
        logged = fit(model, 6, precision=precision)
        losses[precision] = [float(step["loss"]) for step in logged]
        assert all(p.dtype == torch.float32 for p in model.parameters())
    exact, mixed = losses.values()
    assert mixed != exact  # it did run in bf16
    assert mixed[0] == pytest.approx(exact[0], rel=0.05)
    assert min(mixed[3:]) < 0.8 * mixed[0]


@pytest.mark.parametrize("encoder", [NAS, SAN], ids=["nas", "dfsmn_san"])
def test_inference_in_bf16(encoder: dict[str, Any], tones: Tones) -> None:
    """``model.to(bfloat16)`` as NeMo's inference scripts do it; features are float32 till then."""
    model = build("ctc_char", tones.config("ctc_char", encoder)).eval()
    exact = encode(model, tones)
    model.encoder.to(torch.bfloat16)
    x = torch.randn(2, model.encoder._feat_in, 60)
    y, _ = model.encoder(audio_signal=x.to(torch.bfloat16), length=torch.tensor([60, 33]))
    assert y.dtype == torch.bfloat16 and torch.isfinite(y).all()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.encoder.float()
        mixed = encode(model, tones)
    assert torch.isfinite(mixed).all()
    torch.testing.assert_close(mixed.float(), exact, rtol=0.1, atol=0.3)

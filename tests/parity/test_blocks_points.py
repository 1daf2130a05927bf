"""The toolkits' own encoders, and DFSMN-SAN, as genotypes: the same outputs by copied weights."""

from __future__ import annotations

import argparse
import copy
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nemo_tones import WARNINGS, Tones, build, toolkit
from point_samples import BINS, E_BRANCHFORMER, ESPNET, ESPNET_MODEL, FAST, NEMO, NEMOS, WIDTH
from torch import Tensor, nn

from nas_encoder import autoload
from nas_encoder.baselines import DFSMNSAN, DFSMNSANConfig
from nas_encoder.cli.main import main
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.interchange.convert import convert
from nas_encoder.network import build_encoder
from nas_encoder.spaces.adopted import Adopted
from nas_encoder.spaces.blocks import points
from nas_encoder.tables import ADOPTED

pytestmark = [
    pytest.mark.espnet,
    pytest.mark.nemo,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning:espnet2"),
    # Lightning, of torch.
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),
    *(pytest.mark.filterwarnings(f"ignore:{warning}") for warning in WARNINGS),
]

FRAMES = 61


@pytest.fixture(scope="module")
def nemo_models() -> Any:
    return toolkit()


@pytest.fixture(scope="module")
def asr_task() -> Any:
    """``espnet2.tasks.asr``, registered."""
    autoload.install()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("espnet2.tasks.asr")


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def randomized(module: nn.Module) -> nn.Module:
    """Give everything a value of its own, the running statistics of the norms too."""
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            positive = tensor.dim() == 1 and not name.endswith("bias")
            tensor.uniform_(0.5, 1.5) if positive else tensor.normal_(0.0, 0.3)
    return module.double().eval()


def adopted(kind: str, conf: dict[str, Any], theirs: nn.Module) -> tuple[Adopted, nn.Module]:
    """Return our network with the weights of a toolkit's encoder, both without dropout."""
    found: Adopted = ADOPTED[kind](conf, "encoder")
    options = {**found.options, "dropout": 0.0, "attention_dropout": 0.0}
    network = build_encoder(found.genotype, input_size=BINS, **options).double().eval()
    network.load_state_dict(found.weights(theirs.state_dict()))
    for module in theirs.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return found, network


def check_training(
    found: Adopted, ours: nn.Module, theirs: nn.Module, encode: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Check outputs, gradients and running statistics of a step; ``encode`` runs theirs."""
    x, lengths = torch.randn(2, FRAMES, BINS, dtype=torch.float64), torch.tensor([FRAMES] * 2)
    ours.train()
    theirs.train()
    output, expected = ours(x, lengths)[0], encode(x, lengths)
    assert difference(output, expected) < 1e-9
    direction = torch.randn_like(output)
    for y in (output, expected):
        (y * direction).sum().backward()
    gradients, known = (
        {
            name: module.get_parameter(name).grad if value.requires_grad else value
            for name, value in module.state_dict(keep_vars=True).items()
        }
        for module in (ours, theirs)
    )
    wanted = found.weights(known)
    assert gradients.keys() == wanted.keys()
    for name, value in gradients.items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-8, atol=1e-8, msg=name)


def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    assert expected.std() > 0.1
    return float((found - expected).detach().abs().max())


# -- ESPnet ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ESPNET)
def test_espnets_encoders(asr_task: Any, name: str) -> None:
    kind, conf, sizes = ESPNET[name]
    theirs = randomized(asr_task.encoder_choices.get_class(kind)(BINS, **conf))
    point, ours = adopted(f"espnet.{kind}", conf, theirs)
    if sizes is not None:
        known = points.point(kind, width=WIDTH, heads=4, blocks=2, **sizes)
        assert known.hash == point.genotype.hash
    # ESPnet counts padding frames as the utterance's at its end, so one utterance at a time.
    x = torch.randn(1, FRAMES, BINS, dtype=torch.float64)
    for frames in (FRAMES, 38, 15):
        lengths = torch.tensor([frames])
        expected, expected_lengths, _ = theirs(x[:, :frames], lengths)
        found, found_lengths = ours(x[:, :frames], lengths)
        assert found_lengths.tolist() == expected_lengths.tolist()
        assert difference(found, expected) < 1e-9
    check_training(point, ours, theirs, lambda x, lengths: theirs(x, lengths)[0])


# -- NeMo ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NEMOS)
def test_nemos_encoders(nemo_models: Any, name: str) -> None:
    from nemo.collections.asr.modules import ConformerEncoder

    changes, sizes = NEMOS[name]
    conf = {**NEMO, **changes}
    theirs: Any = randomized(ConformerEncoder(**conf))
    point, ours = adopted("nemo.ConformerEncoder", conf, theirs)
    if sizes is not None:
        kind = "fast_conformer" if "fast" in name else "nemo_conformer"
        known = points.point(
            kind, width=WIDTH, heads=4, hidden=2 * WIDTH, blocks=2, kernel=5, **sizes
        )
        assert known.hash == point.genotype.hash
    x = torch.randn(3, FRAMES, BINS, dtype=torch.float64)
    lengths = torch.tensor([FRAMES, 38, 15])
    expected, expected_lengths = theirs(audio_signal=x.transpose(1, 2), length=lengths)
    found, found_lengths = ours(x, lengths)
    assert found_lengths.tolist() == expected_lengths.tolist()
    for row, count in enumerate(found_lengths.tolist()):
        assert difference(found[row, :count], expected[row, :, :count].T) < 1e-9

    def encode(x: Tensor, lengths: Tensor) -> Tensor:
        output: Tensor = theirs(audio_signal=x.transpose(1, 2), length=lengths)[0]
        return output.transpose(1, 2)

    if "without biases" not in name:  # ours have gradients
        check_training(point, ours, theirs, encode)


# -- ours ------------------------------------------------------------------------------------------


def test_dfsmn_san() -> None:
    options = DFSMNSANConfig(
        input_size=BINS,
        output_size=WIDTH,
        hidden_size=30,
        blocks=5,
        attention_layers=2,
        attention_heads=4,
        look_back=3,
        look_ahead=2,
        look_back_stride=2,
        look_ahead_stride=2,
        context=3,
    )
    theirs = randomized(DFSMNSAN(options))
    architecture = points.dfsmn_san(
        WIDTH, 30, 5, options.attention_after(), 4, back=3, ahead=2, stride=2, context=3
    )
    ours = build_encoder(Genotype("dfsmn_san", "blocks", architecture), BINS).double().eval()
    state = theirs.state_dict()
    stack = state.pop("stack.weight")  # (D, F, frames)
    copied = {
        "front.output.weight": stack.transpose(1, 2).flatten(1),
        "front.output.bias": state.pop("stack.bias"),
        "final_norm.weight": state.pop("norm.weight"),
        "final_norm.bias": state.pop("norm.bias"),
    }
    words = {"hidden": "expand", "project": "project", "norm": "norm", "inputs": "inputs"}
    words["output"] = "output"
    for name in list(state):
        kind, place, layer, *rest = name.split(".")
        if layer in ("past", "future"):
            continue
        block, module = (int(place), 0) if kind == "blocks" else (int(place) - 1, 1)
        own = ".".join((words[layer], *rest))
        copied[f"blocks.{block}.layers.{module}.{own}"] = state.pop(name)
    for number in range(options.blocks):
        taps = [state.pop(f"blocks.{number}.{name}") for name in ("past", "future")]
        copied[f"blocks.{number}.layers.0.taps"] = torch.cat(taps, -1)
    assert not state
    ours.load_state_dict(copied)
    x = torch.randn(3, FRAMES, BINS, dtype=torch.float64)
    lengths = torch.tensor([FRAMES, 38, 15])
    expected, expected_lengths = theirs(x, lengths)
    found, found_lengths = ours(x, lengths)
    assert found_lengths.tolist() == expected_lengths.tolist()
    assert difference(found, expected) < 1e-9


# -- whole models ----------------------------------------------------------------------------------


def espnet_model(asr_task: Any, folder: Path, kind: str, conf: dict[str, Any]) -> Any:
    """Write what ESPnet leaves of a training; return the model."""
    config = {**ESPNET_MODEL, "encoder": kind, "encoder_conf": conf}
    model = asr_task.ASRTask.build_model(argparse.Namespace(**copy.deepcopy(config)))
    for part in (model.encoder, model.ctc, model.decoder):
        randomized(part).float()
    folder.mkdir()
    torch.save(model.state_dict(), folder / "valid.acc.ave.pth")
    (folder / "config.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return model


def texts(folder: Path, name: str, audio: Tensor) -> list[str]:
    """Return what ESPnet's search with CTC and the attention decoder finds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from espnet2.bin.asr_inference import Speech2Text

        decoder = Speech2Text(str(folder / "config.yaml"), str(folder / name), beam_size=4, nbest=3)
        found, _ = decoder(audio.numpy())  # the second: of InterCTC
        return [text for text, *_ in found]


def test_a_trained_espnet_model_goes_on_with_our_encoder(
    asr_task: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conf = {**E_BRANCHFORMER, "interctc_layer_idx": [1], "layer_drop_rate": 0.1}
    source, output = tmp_path / "exp", tmp_path / "nas"
    model = espnet_model(asr_task, source, "e_branchformer", conf)
    done = convert(source, output)
    assert (done.target, done.model.left_out) == ("espnet", {})
    assert [note.partition(":")[0] for note in done.model.notes] == [
        "layer_drop_rate 0.1",
        "interctc_layer_idx",
    ]
    config = yaml.safe_load((output / "config.yaml").read_text("utf-8"))
    given = yaml.safe_load((source / "config.yaml").read_text("utf-8"))
    assert {k: v for k, v in config.items() if not k.startswith("encoder")} == {
        k: v for k, v in given.items() if not k.startswith("encoder")
    }
    assert config["encoder"] == "nas_encoder"
    assert config["encoder_conf"]["interctc_layer_idx"] == [1]
    again, _ = asr_task.ASRTask.build_model_from_file(
        str(output / "config.yaml"), str(output / "model.pth"), "cpu"
    )
    assert type(again.encoder).__name__ == "NASEncoder"
    assert again.encoder.network.genotype.hash == done.to_dict()["encoder"]["hash"]
    audio = torch.randn(9000)
    for each in (model, again):
        each.eval().double()
    found, expected = (
        each.encode(audio[None].double(), torch.tensor([9000]))[0][0] for each in (again, model)
    )
    assert difference(found, expected) < 1e-9
    before, after = texts(source, "valid.acc.ave.pth", audio), texts(output, "model.pth", audio)
    assert before == after
    assert any(before)

    bare = tmp_path / "bare"
    convert(source, bare, encoder_only=True)
    assert load_genotype(bare / "genotype.yaml").hash == again.encoder.network.genotype.hash
    weights = torch.load(bare / "encoder.pth", weights_only=True)
    again.float().encoder.load_state_dict({n[len("encoder.") :]: t for n, t in weights.items()})

    # To the other toolkit: our encoder's way there.
    assert main(["convert", str(source), str(tmp_path / "m.nemo"), "--to", "nemo"]) == 0
    assert "e_branchformer as nas, genotype espnet_e_branchformer" in capsys.readouterr().out
    back = convert(tmp_path / "m.nemo", tmp_path / "back")
    state = torch.load(output / "model.pth", weights_only=True)
    for name, tensor in back.model.encoder.state.items():
        assert torch.equal(tensor, state[name]), name


def test_a_trained_nemo_model_goes_on_with_our_encoder(
    nemo_models: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tones = Tones.create(tmp_path, number=3)
    encoder = {
        **NEMO,
        **FAST,
        "_target_": "nemo.collections.asr.modules.ConformerEncoder",
        "feat_in": 16,
        "dropout_emb": 0.0,
    }
    model = build("hybrid_bpe", tones.config("hybrid_bpe", encoder))
    for part in (model.encoder, model.decoder, model.joint, model.ctc_decoder):
        randomized(part).float()
    source, output = tmp_path / "theirs.nemo", tmp_path / "ours.nemo"
    model.save_to(str(source))
    assert main(["convert", str(source), str(source)]) == 2
    assert "output: is the input" in capsys.readouterr().err
    assert main(["convert", str(source), str(output)]) == 0
    assert "the rest   as it was" in capsys.readouterr().out
    done = convert(source, output)
    assert (done.target, done.model.left_out, done.model.notes) == ("nemo", {}, [])
    again = nemo_models.ASRModel.restore_from(str(output), map_location="cpu")
    assert type(again) is type(model)
    assert type(again.encoder).__name__ == "NASEncoder"
    assert again.encoder.network.genotype.hash == done.to_dict()["encoder"]["hash"]
    mine, theirs = again.state_dict(), model.state_dict()
    assert all(torch.equal(mine[n], t) for n, t in theirs.items() if not n.startswith("encoder."))
    signal, lengths = torch.randn(2, 9000), torch.tensor([9000, 5000])
    features, frames = model.preprocessor(input_signal=signal, length=lengths)
    for each in (model, again):
        each.eval().double()
    (expected, counts), (found, found_counts) = (
        each.encoder(audio_signal=features.double(), length=frames) for each in (model, again)
    )
    assert found_counts.tolist() == counts.tolist()
    for row, count in enumerate(counts.tolist()):
        assert difference(found[row, :, :count], expected[row, :, :count]) < 1e-9
    before, after = (
        [item.text for item in each.float().transcribe(tones.paths, verbose=False)]
        for each in (model, again)
    )
    assert before == after
    assert any(before)

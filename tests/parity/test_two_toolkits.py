"""One encoder, two toolkits: the same outputs to the bit, and the same text after a conversion."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from encoder_samples import ZOO
from nemo_tones import BLOCKS as TONE_BLOCKS
from nemo_tones import SAN, WARNINGS, Tones, build, toolkit, trainer
from toolkit_texts import alike, espnet_texts, nemo_texts, spoken
from torch import Tensor

from nas_encoder import autoload, build_encoder
from nas_encoder.baselines import DFSMNSAN, DFSMNSANConfig
from nas_encoder.interchange.convert import convert
from nas_encoder.interchange.features import ESPnetFeatures, NeMoFeatures
from nas_encoder.nemo import catalog

pytestmark = [
    pytest.mark.espnet,
    pytest.mark.nemo,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning:espnet2"),
    # Lightning, of torch.
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec:FutureWarning"),
    *(pytest.mark.filterwarnings(f"ignore:{warning}") for warning in WARNINGS),
]

BINS, WIDTH = 12, 16
CELLS = {"channels": 2, "layers": 6, "stem_stride": [1, 2]}
BLOCKS = {"blocks": 3, "attention_layers": 1, "hidden_size": 12}
RATE = 16000


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


def randomize(module: torch.nn.Module) -> None:
    """Give everything a value of its own, the running statistics of the norms too."""
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5) if tensor.dim() == 1 else tensor.normal_(0.0, 0.2)


# -- encoders ------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", [*ZOO, "dfsmn_san", "blocks"])
def test_same_outputs_to_the_bit(nemo_models, asr_task, name: str, training: bool) -> None:
    from nas_encoder.nemo import DFSMNSANEncoder, NASEncoder

    choices = asr_task.encoder_choices
    if name == "dfsmn_san":
        options = {**BLOCKS, "dropout": 0.0, "attention_dropout": 0.0}
        core: Any = DFSMNSAN(DFSMNSANConfig(input_size=BINS, output_size=WIDTH, **options))
        espnet = choices.get_class("dfsmn_san")(BINS, output_size=WIDTH, **options)
        nemo = DFSMNSANEncoder(feat_in=BINS, d_model=WIDTH, **options)
    elif name == "blocks":
        drawn = {"genotype": TONE_BLOCKS["genotype"], "dropout": 0.0, "attention_dropout": 0.0}
        core = build_encoder(input_size=BINS, **drawn)
        espnet = choices.get_class("nas")(BINS, **drawn)
        nemo = NASEncoder(feat_in=BINS, **drawn)
    else:
        core = build_encoder(name, input_size=BINS, output_size=WIDTH, **CELLS)
        espnet = choices.get_class("nas")(BINS, genotype=name, output_size=WIDTH, **CELLS)
        nemo = NASEncoder(feat_in=BINS, genotype=name, d_model=WIDTH, **CELLS)
    randomize(core)
    weights = {f"network.{key}": value for key, value in core.state_dict().items()}
    espnet.load_state_dict(weights)
    nemo.load_state_dict(weights)
    features = torch.randn(3, 41, BINS)
    lengths = torch.tensor([41, 23, 9])
    for encoder in (core, espnet, nemo):
        encoder.train(training)
    expected, frames = core(features, lengths)
    from_espnet, espnet_frames, _ = espnet(features, lengths)
    from_nemo, nemo_frames = nemo(audio_signal=features.transpose(1, 2), length=lengths)
    assert expected.abs().max() > 0.1
    assert torch.equal(from_espnet, expected)
    assert torch.equal(from_nemo.transpose(1, 2), expected)
    assert torch.equal(espnet_frames, frames)
    assert torch.equal(nemo_frames, frames)


# -- features ------------------------------------------------------------------------------------


def speech_like() -> tuple[Tensor, Tensor]:
    lengths = torch.tensor([9000, 7345, 4001])
    signal = 0.1 * torch.randn(3, 9000)
    for row, length in zip(signal, lengths, strict=True):
        row[length:] = 0
    return signal, lengths


@pytest.mark.parametrize("normalize", ["global", "utterance", None])
def test_espnets_features_in_nemo(
    nemo_models, asr_task, tmp_path: Path, normalize: str | None
) -> None:
    from espnet2.asr.frontend.default import DefaultFrontend
    from espnet2.layers.global_mvn import GlobalMVN
    from espnet2.layers.utterance_mvn import UtteranceMVN

    from nas_encoder.nemo import ESPnetPreprocessor

    frontend = DefaultFrontend(n_fft=512, win_length=400, hop_length=160, n_mels=20, htk=True)
    ours = ESPnetPreprocessor(
        window_size=0.025, window_stride=0.01, features=20, htk=True, normalize=normalize
    )
    espnet: Any = UtteranceMVN(norm_vars=True)
    if normalize == "global":
        sums = np.linspace(-9, 3, 20, dtype="f4")
        np.savez(tmp_path / "s.npz", count=1, sum=sums, sum_square=sums**2 + np.linspace(1, 4, 20))
        espnet = GlobalMVN(str(tmp_path / "s.npz"))
        ours.featurizer.mean.copy_(espnet.mean)
        ours.featurizer.std.copy_(espnet.std)
    signal, lengths = speech_like()
    features, frames = ours.eval()(input_signal=signal, length=lengths)
    for index, length in enumerate(lengths.tolist()):  # ESPnet's own, one by one
        expected, count = frontend(signal[index : index + 1, :length], torch.tensor([length]))
        if normalize is not None:
            expected, count = espnet(expected, count)
        assert int(frames[index]) == int(count)
        mine = features[index].T[: int(count)]
        if normalize == "utterance":  # it sums over more zeros in a batch
            torch.testing.assert_close(mine, expected[0], atol=2e-6, rtol=0)
        else:
            assert torch.equal(mine, expected[0])
        assert not features[index, :, int(count) :].any()


@pytest.mark.parametrize("normalize", ["per_feature", "all_features", "NA"])
@pytest.mark.parametrize("guard", [("add", 2**-24), ("clamp", "eps")])
def test_nemos_features_in_espnet(nemo_models, asr_task, normalize: str, guard: Any) -> None:
    from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor

    options = {
        "normalize": normalize,
        "features": 20,
        "n_fft": 512,
        "lowfreq": 50,
        "log_zero_guard_type": guard[0],
        "log_zero_guard_value": guard[1],
    }
    theirs = AudioToMelSpectrogramPreprocessor(window_size=0.025, **options).eval()
    frontend = asr_task.frontend_choices.get_class("nemo")(n_window_size=400, **options).eval()
    signal, lengths = speech_like()
    expected, count = theirs(input_signal=signal.clone(), length=lengths)
    features, frames = frontend(signal, lengths)
    assert torch.equal(frames, count)
    assert torch.equal(features, expected[:, :, : features.size(1)].transpose(1, 2))
    assert not expected[:, :, features.size(1) :].any()


def test_no_setting_of_nemos_gives_espnets_features(nemo_models) -> None:
    """What the help and the documents say about the best native settings."""
    from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor

    native = AudioToMelSpectrogramPreprocessor(
        window_size=0.025,
        features=20,
        n_fft=512,
        normalize="NA",
        preemph=None,
        log_zero_guard_type="clamp",
        log_zero_guard_value=1e-10,
        pad_to=0,
    ).eval()
    ours = ESPnetFeatures(win_length=400, hop_length=160, n_mels=20)
    signal, lengths = speech_like()
    signal, lengths = signal[:1], lengths[:1]
    theirs, count = native(input_signal=signal, length=lengths)
    features, frames = ours(signal, lengths)
    assert int(frames) == int(count) + 1  # the last frame is dropped
    difference = (theirs[0].T[: int(count)] - features[0, : int(count)]).abs()
    assert 1e-3 < difference[3:-3].max() < 0.1  # the window is symmetric
    assert difference.max() > 0.2  # the ends are not reflected
    native.featurizer.window.copy_(torch.hann_window(400))  # a checkpoint can hold that
    theirs, count = native(input_signal=signal, length=lengths)
    difference = (theirs[0].T[: int(count)] - features[0, : int(count)]).abs()
    assert difference[3:-3].max() < 1e-5
    assert difference.max() > 0.2


def test_short_audio_gives_features(nemo_models) -> None:
    for samples in (1, 100, 256, 257):
        signal, lengths = torch.randn(2, 600), torch.tensor([samples, 600])
        features, frames = ESPnetFeatures(n_mels=8)(signal, lengths)
        assert frames.tolist() == [samples // 128 + 1, 600 // 128 + 1]
        assert features.isfinite().all()
        features, frames = NeMoFeatures(features=8)(signal, lengths)
        assert frames.tolist() == [samples // 160, 600 // 160]


# -- text ----------------------------------------------------------------------------------------


def test_espnet_model_says_the_same_in_nemo(nemo_models, asr_task, tmp_path: Path) -> None:
    """The shipped model, trained in ESPnet, on speech: ESPnet's form, NeMo's, and back again."""
    shipped = catalog.SHIPPED / "synth_ctc_char.nemo"
    folder, again = tmp_path / "espnet", tmp_path / "again.nemo"
    convert(shipped, folder)
    convert(folder, again)
    paths = list(spoken(tmp_path))
    searched, best_path = espnet_texts(folder, paths)
    for file in (shipped, again):
        model = nemo_models.ASRModel.restore_from(str(file), map_location="cpu")
        assert type(model) is nemo_models.EncDecCTCModel
        assert nemo_texts(model, paths) == best_path == searched
    assert all(len(text) > 20 for text in searched)
    assert alike(searched[0], "AFTER THE THUNDER THE VILLAGE WAS WHITE") > 0.8


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Tones:
    return Tones.create(tmp_path_factory.mktemp("tones"))


@pytest.mark.parametrize("kind", ["ctc_char", "ctc_bpe"])
def test_nemo_model_says_the_same_in_espnet(
    nemo_models, asr_task, tones: Tones, tmp_path: Path, kind: str
) -> None:
    """A model trained in NeMo with NeMo's own features, in ESPnet, and back again."""
    torch.manual_seed(0)
    model = build(kind, tones.config(kind, SAN | {"dropout": 0.0, "attention_dropout": 0.0}))
    trainer(100).fit(model)
    searched, expected = said_by_both(nemo_models, model, tones.paths[:6], tmp_path)
    # The search sums over alignments, so where the model hesitates it may end elsewhere.
    assert alike(" ".join(searched), " ".join(expected)) > 0.7


def test_a_block_encoder_says_the_same_in_both(
    nemo_models, asr_task, tones: Tones, tmp_path: Path
) -> None:
    """It is untrained, but its classifier is such that each class wins somewhere."""
    torch.manual_seed(0)
    model = build("ctc_bpe", tones.config("ctc_bpe", TONE_BLOCKS)).eval()
    classifier, encoded = model.decoder.decoder_layers[0], []
    with torch.no_grad():
        for recording in tones.recordings[:6]:
            signal = torch.from_numpy(recording.samples())[None]
            features, frames = model.preprocessor(
                input_signal=signal, length=torch.tensor([signal.size(1)])
            )
            encoded.append(model.encoder(audio_signal=features, length=frames)[0][0])
        every = torch.cat(encoded, dim=1)  # (D, T)
        classifier.weight.normal_().div_(every.std(1)[:, None])
        classifier.bias.copy_(-classifier.weight[:, :, 0] @ every.mean(1))
    said_by_both(nemo_models, model, tones.paths[:6], tmp_path)
    short = tmp_path / "short.wav"
    soundfile.write(short, np.zeros(900, dtype="float32"), RATE, subtype="PCM_16")
    assert len(nemo_texts(model, [str(short)])) == 1
    with pytest.raises(Exception) as caught:
        espnet_texts(tmp_path / "espnet", [str(short)])
    assert type(caught.value).__name__ == "TooShortUttError"
    assert caught.value.limit == 7  # type: ignore[attr-defined]


def said_by_both(
    nemo_models: Any, model: Any, paths: list[str], folder: Path
) -> tuple[list[str], list[str]]:
    """Compare a NeMo model with its ESPnet form, and back; return what search and NeMo say."""
    saved, converted, again = folder / "m.nemo", folder / "espnet", folder / "again.nemo"
    model.save_to(str(saved))
    convert(saved, converted)
    convert(converted, again)
    searched, best_path = espnet_texts(converted, paths)
    expected = nemo_texts(model, paths)
    assert best_path == expected
    assert len(set("".join(expected))) > 3  # it says something
    restored = nemo_models.ASRModel.restore_from(str(again), map_location="cpu")
    assert type(restored) is type(model)
    assert nemo_texts(restored, paths) == expected
    for name, value in model.state_dict().items():
        assert torch.equal(restored.state_dict()[name], value), name
    return searched, expected

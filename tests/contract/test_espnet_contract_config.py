"""ESPnet's contract with an encoder: configurations, saved models, registration."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml
from espnet_options import BINS, NAS, OPTIONS, arguments, both, encoder_of, load_asr

from nas_encoder import load_genotype
from nas_encoder.errors import ConfigError, RegistryError

pytestmark = [
    pytest.mark.espnet,
    pytest.mark.slow,  # the import of ESPnet alone
    pytest.mark.filterwarnings("ignore::FutureWarning:espnet2"),
]


@pytest.fixture(scope="module")
def asr() -> ModuleType:
    """ESPnet's ASR task, registered by the hook."""
    return load_asr()


def test_print_config_shows_our_options_with_their_defaults(asr: ModuleType) -> None:
    from espnet2.utils.get_default_kwargs import get_default_kwargs

    shown = get_default_kwargs(asr.encoder_choices.get_class("nas"))
    assert shown["channels"] == 24 and shown["stem_stride"] == [1, 1]
    assert shown["interctc_layer_idx"] == [] and "taps" not in shown and "genotype" not in shown
    assert get_default_kwargs(asr.encoder_choices.get_class("dfsmn_san"))["look_back"] == 10


def build_error(asr: ModuleType, conf: object) -> str:
    """Return the error of ESPnet's task about an ``encoder_conf``."""
    args = arguments(asr, "nas")
    args.encoder_conf = conf
    with pytest.raises(ConfigError) as caught:
        asr.ASRTask.build_model(args)
    return str(caught.value)


def test_input_size_is_refused_with_everything_else_that_is_wrong(asr: ModuleType) -> None:
    message = build_error(asr, NAS | {"input_size": 40, "chanels": 3, "layers": 1})
    for part in (
        "input_size: is not set here, because ESPnet passes the number of its features; remove it",
        "chanels: unknown key (did you mean 'channels'?); known: channels, ",
        "layers: must be in 2..1024, got 1",
    ):
        assert part in message
    assert "input_size" not in message.partition("known: ")[2], "an option that is none"


@pytest.mark.parametrize(
    ("conf", "part"),
    [
        (None, "genotype: is missing"),
        ([], "encoder_conf: must be a mapping of names, got []"),
        ({3: 4}, "encoder_conf: must be a mapping of names, got {3: 4}"),
        (NAS | {"self": 1}, "self: unknown key"),
    ],
)
def test_what_is_no_option_is_our_error(asr: ModuleType, conf: object, part: str) -> None:
    assert part in build_error(asr, conf)


def test_every_problem_of_encoder_conf_is_reported_together(asr: ModuleType) -> None:
    with pytest.raises(ConfigError) as caught:
        encoder_of(
            asr,
            "nas",
            genotype="asrnet_c",
            chanels=3,
            layers=1,
            dropout="much",
            taps=[3],
            interctc_use_conditioning=1,
        )
    lines = "\n".join(caught.value.problems)
    for part in (
        "genotype (genotype): unknown name 'asrnet_c' (did you mean 'asrnet_",
        "chanels: unknown key (did you mean 'channels'?)",
        "layers: must be in 2",
        "dropout: must be a number",
        "taps: is called interctc_layer_idx in ESPnet",
        "interctc_use_conditioning: must be true or false, got 1",
    ):
        assert part in lines, (part, lines)
    assert len(caught.value.problems) == 6
    with pytest.raises(ConfigError, match="genotype: is missing.*darts_v2"):
        encoder_of(asr, "nas", genotype=None)
    with pytest.raises(ConfigError, match=r"interctc_layer_idx\[0\]: must be 4"):
        encoder_of(asr, "nas", interctc_layer_idx=[2])
    with pytest.raises(ConfigError) as caught:
        encoder_of(
            asr, "dfsmn_san", block=3, output_size=9, attention_heads=4, interctc_layer_idx=[7]
        )
    lines = "\n".join(caught.value.problems)
    assert "block: unknown key (did you mean 'blocks'?)" in lines
    assert "attention_heads: must divide output_size 9" in lines
    assert "interctc_layer_idx[0]: must be a block before the last" in lines


def saved_config(args: argparse.Namespace, folder: Path) -> Path:
    """Write ``config.yaml`` as ESPnet's ``main_worker`` does."""
    from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump

    with (folder / "config.yaml").open("w", encoding="utf-8") as file:
        yaml_no_alias_safe_dump(vars(args), file, indent=4, sort_keys=False)
    return folder / "config.yaml"


@pytest.mark.parametrize("source", ["name", "path", "mapping"])
def test_saved_config_alone_rebuilds_the_model(
    asr: ModuleType, source: str, tmp_path: Path
) -> None:
    document = load_genotype("darts_v2")
    path = tmp_path / "mine.yaml"
    document.renamed("mine").save(path)
    args = arguments(asr, "nas conditioned", str(tmp_path))
    given = {"name": "darts_v2", "path": str(path), "mapping": document.to_dict()}[source]
    args.encoder_conf["genotype"] = given
    model = asr.ASRTask.build_model(args).eval()
    saved = saved_config(args, tmp_path)
    torch.save(model.state_dict(), tmp_path / "model.pth")
    path.unlink()  # a checkpoint never depends on a file

    conf = yaml.safe_load(saved.read_text(encoding="utf-8"))["encoder_conf"]
    expected = document.renamed("mine") if source == "path" else document
    assert conf["genotype"] == expected.to_dict()
    assert {key: conf[key] for key in conf if key != "genotype"} == {
        key: value for key, value in OPTIONS["nas conditioned"][1].items() if key != "genotype"
    }
    again, _ = asr.ASRTask.build_model_from_file(saved, tmp_path / "model.pth")
    x, lengths = torch.randn(1, 30, BINS), torch.tensor([30])
    with torch.no_grad():
        (before, _), (after, _) = (m.eval().encode(x, lengths)[0] for m in (model, again))
    torch.testing.assert_close(before, after, atol=0, rtol=0)


@both
def test_a_saved_config_names_the_package(asr: ModuleType, option: str) -> None:
    args = arguments(asr, option)
    first = asr.ASRTask.build_model(args).encoder
    # All that ESPnet prints about an encoder that it does not know.
    assert args.encoder == {"nas": "nas_encoder", "dfsmn_san": "nas_encoder.dfsmn_san"}[option]
    again = asr.ASRTask.build_model(args).encoder
    assert type(again) is type(first) and again.kind == option


def test_a_saved_config_names_the_package_of_the_features_too(asr: ModuleType) -> None:
    args = arguments(asr, "nas")
    args.input_size, args.frontend, args.frontend_conf = None, "nemo", {"features": BINS}
    for _ in range(2):
        features = asr.ASRTask.build_model(args).frontend
        assert (type(features).__name__, args.frontend) == ("NeMoFrontend", "nas_encoder.nemo")


def test_the_mapping_that_a_user_holds_is_left_alone(asr: ModuleType) -> None:
    args = arguments(asr, "nas")
    mine = args.encoder_conf
    asr.ASRTask.build_model(args)
    assert mine == NAS and args.encoder_conf["genotype"]["name"] == "darts_v2"


def test_a_genotype_that_cannot_be_read_is_reported_by_the_encoder(asr: ModuleType) -> None:
    args = arguments(asr, "nas")
    args.encoder_conf |= {"genotype": "no/such.yaml", "channels": 0}
    with pytest.raises(ConfigError, match=r"(?s)2 problems.*no/such.yaml.*channels: must be in 1"):
        asr.ASRTask.build_model(args)


@both
def test_weights_of_another_architecture_are_refused(asr: ModuleType, option: str) -> None:
    """ESPnet loads with ``strict=False``: random weights would stay."""
    model = torch.nn.ModuleDict({"encoder": encoder_of(asr, option)})
    longer = {"layers": 8} if option == "nas" else {"blocks": 5}
    other = torch.nn.ModuleDict({"encoder": encoder_of(asr, option, **longer)})
    state = model.state_dict()
    shared = set(state) & set(other.state_dict())
    same_shape = {
        key: state[key] for key in shared if state[key].shape == other.state_dict()[key].shape
    }
    with pytest.raises(RuntimeError, match="lacks .* it was made with another genotype or other"):
        other.load_state_dict(same_shape, strict=False)
    # The same, a base without its adapters, adapters or a decoder alone.
    added = {"encoder.network.x.lora_A": torch.zeros(1)}
    for given in (state, {**state, **added}, added, {"decoder.weight": torch.zeros(1)}):
        model.load_state_dict(given, strict=False)
    state.popitem()
    with pytest.raises(RuntimeError, match="lacks 1 of"):
        model.load_state_dict(state, strict=False)


@both
def test_freeze_and_init_by_name(asr: ModuleType, option: str, tmp_path: Path) -> None:
    from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

    trained, fresh = (asr.ASRTask.build_model(arguments(asr, option)) for _ in range(2))
    torch.save(trained.state_dict(), tmp_path / "model.pth")
    load_pretrained_model(
        f"{tmp_path}/model.pth:encoder.network:encoder.network", fresh, ignore_init_mismatch=False
    )
    mine, its = fresh.encoder.network.state_dict(), trained.encoder.network.state_dict()
    assert all(torch.equal(mine[key], its[key]) for key in mine)
    assert not torch.equal(fresh.ctc.ctc_lo.weight, trained.ctc.ctc_lo.weight)


def test_registering_twice_changes_nothing_and_a_taken_name_is_an_error(asr: ModuleType) -> None:
    from nas_encoder.espnet.registration import register

    before, method = dict(asr.encoder_choices.classes), asr.ASRTask.__dict__["build_model"]
    assert register(asr) == ("encoder_choices",)
    assert asr.encoder_choices.classes == before
    assert asr.ASRTask.__dict__["build_model"] is method

    taken = ModuleType("espnet2.tasks.mine")
    taken.encoder_choices = asr.ClassChoices("encoder", {"nas": int})  # type: ignore[attr-defined]
    with pytest.raises(RegistryError, match="another encoder 'nas' already"):
        register(taken)
    assert register(ModuleType("espnet2.tasks.lm")) == ()

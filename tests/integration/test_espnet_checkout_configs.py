"""The configurations for ESPnet's recipes: ESPnet's parser takes them and builds their models."""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from espnet_options import load_asr

from tools.espnet_recipes.configs import Choice, choices, decode_configs, table
from tools.espnet_recipes.standalone import averaged, tiny
from tools.espnet_recipes.write import stale

pytestmark = [
    pytest.mark.espnet,
    pytest.mark.slow,  # importing the task alone takes more than 10 s
    # ESPnet's own use of torch.
    pytest.mark.filterwarnings("ignore:.torch.cuda.amp.:FutureWarning"),
]

TOKENS = ["<blank>", "<unk>", "a", "b", "<sos/eos>"]
CORPORA = tuple(table()["corpora"])
# ESPnet's other transducer loss, for which a model is built without warprnnt_pytorch, which
# compiles only where CUDA is. Neither can be computed on a CPU.
PLAIN_LOSS = {"transducer_multi_blank_durations": [2]}


@pytest.fixture(scope="module")
def asr() -> Any:
    """ESPnet's ASR task module, with our encoders in it."""
    return load_asr()


@pytest.fixture(scope="module")
def parser(asr: Any) -> Any:
    """The parser of ``asr_train``."""
    return asr.ASRTask.get_parser()


def arguments(parser: Any, choice: Choice, repository: Path) -> argparse.Namespace:
    """Return what ``asr_train --config`` makes of a file, all of which it must take."""
    path = repository / choice.file
    found: argparse.Namespace = parser.parse_args(["--config", str(path), "--output_dir", "exp"])
    for key, value in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        got = getattr(found, key)
        if key == "best_model_criterion":
            got = [list(criterion) for criterion in got]
        assert got == value, (path, key)
    found.token_list = TOKENS
    if choice.loss == "transducer":
        found.model_conf = found.model_conf | PLAIN_LOSS
    return found


@cache
def parameters(encoder: str, bins: int, options: str) -> int:
    """Return how many an encoder of these options (YAML) has; several corpora share some."""
    with torch.device("meta"):
        built = load_asr().encoder_choices.get_class(encoder)(
            input_size=bins, **yaml.safe_load(options)
        )
    return sum(parameter.numel() for parameter in built.parameters())


def joint(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    """Return what the transducer's loss is computed of: (batch, frames, tokens + 1, vocabulary)."""
    encoded, lengths = model.encode(batch["speech"], batch["speech_lengths"])
    tokens = torch.nn.functional.pad(batch["text"].clamp(min=0), (1, 0))
    model.decoder.set_device(encoded.device)
    output: torch.Tensor = model.joint_network(
        encoded.unsqueeze(2), model.decoder(tokens).unsqueeze(1)
    )
    blanks = len(PLAIN_LOSS["transducer_multi_blank_durations"])
    assert output.shape == (2, int(lengths.max()), 3, len(TOKENS) + blanks)
    return output


def test_files_are_those_of_the_table() -> None:
    assert stale() == []


@pytest.mark.parametrize("corpus", CORPORA)
def test_models_have_the_sizes_that_their_files_say(
    corpus: str, parser: Any, repository: Path
) -> None:
    for choice in choices(corpus):
        found = arguments(parser, choice, repository)
        # As much speech in an update as with the other encoders.
        config = table()["corpora"][corpus]["config"]
        speech = config["batch_bins"] * config["accum_grad"]
        assert found.batch_bins * found.accum_grad == speech, choice
        # Without a decoder, which takes long to build; the taps of InterCTC must exist.
        if choice.loss in ("hybrid", "interctc"):
            options = yaml.safe_dump(found.encoder_conf)
            millions = parameters(found.encoder, found.frontend_conf["n_mels"], options) / 1e6
            said = table()["corpora"][corpus]["encoders"][choice.encoder]["millions"]
            assert millions == pytest.approx(said, abs=0.006), choice


@pytest.mark.parametrize("loss", table()["losses"])
def test_models_learn_and_are_selected_by_what_they_report(
    loss: str, asr: Any, parser: Any, repository: Path
) -> None:
    batch = {
        "speech": torch.randn(2, 16000),
        "speech_lengths": torch.tensor([16000, 12000]),
        "text": torch.tensor([[2, 3], [3, -1]]),
        "text_lengths": torch.tensor([2, 1]),
    }
    for choice in choices("aishell"):
        if choice.loss != loss:
            continue
        found = arguments(parser, choice, repository)
        shrunk = tiny(choice, vars(found))
        found.encoder_conf, found.decoder_conf = shrunk["encoder_conf"], shrunk["decoder_conf"]
        found.normalize = None  # asr.sh gives global_mvn its statistics
        model = asr.ASRTask.build_model(found).train()
        assert (model.decoder is None) == (loss in ("ctc", "interctc"))
        assert model.use_transducer_decoder == (loss == "transducer")
        if loss == "transducer":
            joint(model, batch).mean().backward()
            continue
        value, statistics, _ = model(**batch)
        value.backward()
        assert torch.isfinite(value), choice
        silent = [name for name, item in model.encoder.named_parameters() if item.grad is None]
        assert not silent, choice
        # InterCTC's losses are reported, so they are part of the sum.
        taps = found.encoder_conf.get("interctc_layer_idx", [])
        assert {f"loss_interctc_layer{tap}" for tap in taps} <= set(statistics), choice
        with torch.no_grad():
            reported = model.eval()(**batch)[1]
        ((_, criterion, _),) = found.best_model_criterion
        assert reported[criterion] is not None, choice
        # What asr.sh averages and then decodes.
        assert averaged(choice) == f"valid.{criterion}.ave.pth"
        assert averaged(choice) in (table()["losses"][loss]["options"] or "valid.acc.ave.pth")


@pytest.mark.parametrize("corpus", CORPORA)
def test_decoding_settings_are_options_of_espnet(corpus: str, repository: Path) -> None:
    from espnet2.bin import asr_inference, asr_inference_streaming

    required = ["--output_dir", "x", "--data_path_and_name_and_type", "a,b,c"]
    required += ["--asr_train_config", "c", "--asr_model_file", "m", "--config"]
    for name, config in decode_configs(corpus).items():
        path = repository / "recipes" / corpus / "espnet" / "conf" / f"{name}.yaml"
        program = asr_inference_streaming if "_streaming" in name else asr_inference
        found = program.get_parser().parse_args([*required, str(path)])
        for key, value in config.items():
            assert getattr(found, key) == value, (path, key)
        assert ("_ctc" in name) == (config.get("ctc_weight") == 1.0)

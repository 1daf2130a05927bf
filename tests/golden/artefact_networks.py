"""The networks and models of make_artefacts.py, with what they give for known inputs."""

# ruff: noqa: I001  (the order depends on which of the modules are still there)

from __future__ import annotations

from pathlib import Path
from typing import Any

import soundfile
import torch
import yaml
from golden.artefact_cases import (
    BASELINES,
    BINS,
    ENCODERS,
    ESPNET_MORE,
    LETTERS,
    TOKENS,
    TOOLKITS,
)
from torch import Tensor

ROOT = Path("toolkits")
LENGTHS = [33, 20]
MELS, WIDTH = 12, 8
RATE = 16000


def wave(count: int) -> Tensor:
    """Return numbers between -1 and 1 without a visible period."""
    index = torch.arange(count, dtype=torch.float64)
    return torch.sin(index * index * 0.7 + index * 1.3 + 0.5).float()


def speech() -> Tensor:
    """Return the samples of data/speech.wav (1, N)."""
    samples, rate = soundfile.read("data/speech.wav", dtype="float32")
    assert rate == RATE
    return torch.from_numpy(samples)[None]


def worn(network: Any, x: Tensor, lengths: Tensor) -> None:
    """Give a network other buffers and larger weights than a new one has."""
    torch.manual_seed(1)
    for _ in range(3):
        network.train()(x + 0.1 * torch.randn_like(x), lengths)
    network.load_state_dict(rounded(network.state_dict()))
    network.eval()


def listed(values: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.flatten().tolist()]


def rounded(value: Any) -> Any:
    """Return nested tensors rounded to two binary digits after the first one."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, Tensor) and value.dtype == torch.float32:
        bits = value.contiguous().view(torch.int32)
        return ((bits + (1 << 20)) & -(1 << 21)).view(torch.float32)
    return value


def described(state: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in state.items()}


def encoders() -> dict[str, Any]:
    """Store state_dicts of encoders; return names, outputs, and how they are built."""
    from nas_encoder import Genotype, build_encoder, load_genotype
    from nas_encoder.baselines import DFSMNSAN, DFSMNSANConfig

    x = wave(len(LENGTHS) * max(LENGTHS) * BINS).view(len(LENGTHS), max(LENGTHS), BINS)
    lengths = torch.tensor(LENGTHS)
    found: dict[str, Any] = {}
    (ROOT / "encoders").mkdir()
    for name in [*ENCODERS, *BASELINES]:
        torch.manual_seed(0)
        facts: dict[str, Any] = {"lengths": LENGTHS, "bins": BINS}
        if name in BASELINES:
            facts["options"] = BASELINES[name]
            network: Any = DFSMNSAN(DFSMNSANConfig(input_size=BINS, **BASELINES[name]))
        else:
            source, facts["options"] = ENCODERS[name]
            given = isinstance(source, dict)
            genotype = Genotype.from_dict(source) if given else load_genotype(source)
            facts["genotype"] = genotype.to_dict()
            network = build_encoder(genotype, input_size=BINS, **facts["options"])
        worn(network, x, lengths)
        with torch.no_grad():
            y, y_lengths = network(x, lengths)
        torch.save(network.state_dict(), ROOT / "encoders" / f"{name}.pt")
        found[name] = facts | {
            "state": described(network.state_dict()),
            "output_size": network.output_size,
            "subsampling_factor": network.subsampling_factor,
            "output_lengths": y_lengths.tolist(),
            "output": listed(y),
        }
    return found


def espnet_models() -> dict[str, Any]:
    """Store config.yaml and model.pth as ESPnet writes them; return outputs and texts."""
    import espnet2.tasks.asr as asr
    from espnet2.bin.asr_inference import Speech2Text
    from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump

    found: dict[str, Any] = {}
    for name, (encoder, _, options) in TOOLKITS.items():
        folder = ROOT / "espnet" / name
        folder.mkdir(parents=True)
        args = asr.ASRTask.get_parser().parse_args(["--output_dir", str(folder)])
        args.token_list, args.token_type = TOKENS, "char"
        args.frontend_conf = {"fs": "16k", "n_fft": 512, "hop_length": 160, "n_mels": MELS}
        args.specaug, args.normalize, args.normalize_conf = None, "utterance_mvn", {}
        args.decoder, args.model_conf = None, {"ctc_weight": 1.0}
        args.encoder = encoder
        args.encoder_conf = {**options, "output_size": WIDTH, **ESPNET_MORE.get(name, {})}
        if name in ESPNET_MORE:
            args.model_conf["interctc_weight"] = 0.4
        torch.manual_seed(0)
        model = asr.ASRTask.build_model(args)
        texts = {"text": torch.tensor([[3, 4, 5]]), "text_lengths": torch.tensor([3])}
        x = speech()
        for _ in range(3):
            model.train()(speech=x, speech_lengths=torch.tensor([x.size(1)]), **texts)
        model.load_state_dict(rounded(model.state_dict()))
        with torch.no_grad():  # letters, far from each other, so that the text is certain
            model.ctc.ctc_lo.weight.mul_(8)
            model.ctc.ctc_lo.bias[3:7] += 6
        with (folder / "config.yaml").open("w", encoding="utf-8") as file:
            yaml_no_alias_safe_dump(vars(args), file, indent=4, sort_keys=False)
        torch.save(model.state_dict(), folder / "valid.cer_ctc.ave.pth")
        model.eval()
        with torch.no_grad():
            output, _ = model.encode(x, torch.tensor([x.size(1)]))
            output = output[0] if isinstance(output, tuple) else output
        recognize = Speech2Text(
            asr_train_config=str(folder / "config.yaml"),
            asr_model_file=str(folder / "valid.cer_ctc.ave.pth"),
            ctc_weight=1.0,
            lm_weight=0.0,
            beam_size=4,
        )
        results = recognize(x[0])
        if isinstance(results, tuple):  # with what InterCTC gives beside it
            results = results[0]
        text, _, _, hypothesis = results[0]
        found[name] = {
            "state": described(model.state_dict()),
            "output": listed(output),
            "text": text,
            "score": float(hypothesis.score),
        }
        (folder / "config.yaml").write_text(shorter(folder / "config.yaml"), encoding="utf-8")
    return found


def shorter(path: Path) -> str:
    """Return a config without the paths of the machine that wrote it."""
    document = yaml.safe_load(path.read_text("utf-8"))
    document["output_dir"] = "exp"
    text: str = yaml.safe_dump(document, sort_keys=False)
    return text


def nemo_models() -> dict[str, Any]:
    """Store .nemo files as NeMo writes them; return outputs and transcripts."""
    import nemo.collections.asr.models as models
    from omegaconf import OmegaConf

    modules = "nemo.collections.asr.modules"
    (ROOT / "nemo").mkdir()
    found: dict[str, Any] = {}
    for name, (_, encoder, options) in TOOLKITS.items():
        config = {
            "sample_rate": RATE,
            "labels": LETTERS,
            "preprocessor": {
                "_target_": f"{modules}.AudioToMelSpectrogramPreprocessor",
                "sample_rate": RATE,
                "normalize": "per_feature",
                "window_stride": 0.01,
                "features": MELS,
                "n_fft": 512,
                "dither": 0.0,
                "pad_to": 0,
            },
            "encoder": {
                "_target_": f"nas_encoder.nemo.{encoder}",
                "feat_in": MELS,
                "d_model": WIDTH,
                **options,
            },
            "decoder": {
                "_target_": f"{modules}.ConvASRDecoder",
                "feat_in": None,
                "num_classes": -1,
                "vocabulary": LETTERS,
            },
        }
        torch.manual_seed(0)
        model = models.EncDecCTCModel(cfg=OmegaConf.create(config))
        x = speech()
        batch = {"input_signal": x, "input_signal_length": torch.tensor([x.size(1)])}
        for _ in range(3):
            model.train()(**batch)
        model.load_state_dict(rounded(model.state_dict()))
        model.eval()
        with torch.no_grad():
            log_probs, _, _ = model(**batch)
        model.save_to(str(ROOT / "nemo" / f"{name}.nemo"))
        found[name] = {
            "state": described(model.state_dict()),
            "output": listed(log_probs),
            "target": config["encoder"]["_target_"],  # type: ignore[index]
        }
    return found

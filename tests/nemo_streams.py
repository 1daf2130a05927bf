"""A hybrid model that streams in NeMo, and NeMo's own programs around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from nemo_tones import BINS, RATE
from torch import Tensor


def config(encoder: dict[str, Any], tokenizer: Path) -> Any:
    from omegaconf import OmegaConf

    ctc = {"_target_": "nemo.collections.asr.modules.ConvASRDecoder", "num_classes": -1}
    width = encoder["d_model"]
    return OmegaConf.create(
        {
            "sample_rate": RATE,
            "train_ds": None,
            "validation_ds": None,
            "preprocessor": {
                "_target_": "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor",
                "sample_rate": RATE,
                "normalize": "NA",
                "window_stride": 0.01,
                "features": BINS,
                "n_fft": 512,
                "dither": 0.0,
                "pad_to": 0,
            },
            "encoder": encoder,
            "tokenizer": {"dir": str(tokenizer), "type": "bpe"},
            "model_defaults": {"enc_hidden": width, "pred_hidden": 8, "joint_hidden": 8},
            "decoder": {
                "_target_": "nemo.collections.asr.modules.RNNTDecoder",
                "prednet": {"pred_hidden": 8, "pred_rnn_layers": 1},
            },
            "joint": {
                "_target_": "nemo.collections.asr.modules.RNNTJoint",
                "jointnet": {"joint_hidden": 8, "activation": "relu"},
            },
            "decoding": {"strategy": "greedy_batch", "greedy": {"max_symbols": 2}},
            "loss": {"loss_name": "default"},
            "aux_ctc": {
                "ctc_loss_weight": 0.5,
                "decoder": ctc | {"feat_in": None, "vocabulary": []},
                "decoding": {"strategy": "greedy_batch"},
            },
        }
    )


def stream(model: Any, buffer: Any, padded: bool) -> tuple[list[Tensor], list[str]]:
    """Return the encoder's outputs (D, T') and the texts."""
    encoder, found = model.encoder, []
    texts: list[Any] = []
    caches = encoder.get_initial_cache_state(batch_size=len(buffer.streams_length))
    predictions = hypotheses = None
    step, encoder.cache_aware_stream_step = encoder.cache_aware_stream_step, None

    def noting(**options: Any) -> Any:
        result = step(**options)
        found.append([y[:, :count] for y, count in zip(result[0], result[1].clone(), strict=True)])
        return result

    encoder.cache_aware_stream_step = noting
    try:
        for number, (chunk, lengths) in enumerate(buffer):
            dropped = encoder.streaming_cfg.drop_extra_pre_encoded if number or padded else 0
            predictions, texts, *caches, hypotheses = model.conformer_stream_step(
                processed_signal=chunk,
                processed_signal_length=lengths,
                cache_last_channel=caches[0],
                cache_last_time=caches[1],
                cache_last_channel_len=caches[2],
                keep_all_outputs=buffer.is_buffer_empty(),
                previous_hypotheses=hypotheses,
                previous_pred_out=predictions,
                drop_extra_pre_encoded=dropped,
            )
    finally:
        del encoder.cache_aware_stream_step
    outputs = [torch.cat(pieces, 1) for pieces in zip(*found, strict=True)]
    return outputs, [getattr(text, "text", text) for text in texts]


def ctc_texts(model: Any, whole: Tensor, frames: Tensor) -> list[str]:
    scores = model.ctc_decoder(encoder_output=whole)
    found = model.ctc_decoding.ctc_decoder_predictions_tensor(scores, frames)
    return [hypothesis.text for hypothesis in found]


def pipeline(saved: str, kind: str, **streaming: Any) -> Any:
    """Build NeMo's pipeline as its program does from its configuration."""
    from nemo.collections.asr.inference.factory.pipeline_builder import PipelineBuilder
    from omegaconf import OmegaConf

    greedy = {"max_symbols": 2, "use_cuda_graph_decoder": False}
    method = {"name": "entropy", "entropy_type": "tsallis", "alpha": 0.5, "entropy_norm": "exp"}
    return PipelineBuilder.build_pipeline(
        OmegaConf.create(
            {
                "asr": {
                    "model_name": saved,
                    "device": "cpu",
                    "device_id": 0,
                    "compute_dtype": "float32",
                    "use_amp": False,
                    "decoding": {"strategy": "greedy_batch", "greedy": greedy},
                },
                "pipeline_type": "cache_aware",
                "asr_decoding_type": kind,
                "log_level": 40,
                "matmul_precision": "high",
                "enable_itn": False,
                "enable_nmt": False,
                "return_tail_result": False,
                "asr_output_granularity": "segment",
                "itn": {"batch_size": 1, "n_jobs": 1, "left_padding_size": 4},
                "confidence": {"exclude_blank": True, "aggregation": "mean", "method_cfg": method},
                # Else a letter over a chunk's border comes twice, in NeMo's own models too.
                "endpointing": {"stop_history_eou": 100000, "residue_tokens_at_end": 2},
                "streaming": {
                    "sample_rate": RATE,
                    "batch_size": 3,
                    "num_slots": 4,
                    "att_context_size": None,
                    "use_cache": True,
                    "use_feat_cache": True,
                    "chunk_size_in_secs": None,
                    "request_type": "frame",
                    "word_boundary_tolerance": 4,
                }
                | streaming,
            }
        )
    )

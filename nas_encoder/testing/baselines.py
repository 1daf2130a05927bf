"""The contract of baselines."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nas_encoder.baselines import BASELINES
from nas_encoder.errors import ConfigError
from nas_encoder.tables import encoder_targets
from nas_encoder.testing.convolutions import only_sound_convolutions
from nas_encoder.testing.streaming import streams_or_says_why_not


def padding_changes_nothing(module: Any) -> None:
    """Compare the outputs of a padded batch, with those of taps, to each utterance's alone."""
    lengths = torch.tensor([module.min_length + extra for extra in (25, 9, 0)])
    x = torch.randn(3, int(lengths.max()) + 7, module.input_size, dtype=torch.float64)
    y, out_lengths, taps = module.forward_taps(x, lengths, torch.tanh)
    frames = int(module.output_lengths(torch.tensor([x.size(1)])))
    assert y.shape == (3, frames, module.output_size)
    assert out_lengths.tolist() == module.output_lengths(lengths).tolist()
    assert [number for number, _ in taps] == list(module.config.taps)
    for row, length in enumerate(lengths.tolist()):
        alone = (x[row : row + 1, :length], lengths[row : row + 1], torch.tanh)
        own, _, own_taps = module.forward_taps(*alone)
        assert own.size(1) == out_lengths[row] >= 1
        whole = zip([y, *(h for _, h in taps)], [own, *(h for _, h in own_taps)], strict=True)
        for output, single in whole:
            frames = single.size(1)
            torch.testing.assert_close(output[row, :frames], single[0], rtol=0, atol=1e-9)
            assert (output[row, frames:] == 0).all()


def every_parameter_takes_part(module: Any) -> None:
    """Check that each parameter gets a gradient in training, by sound convolutions."""
    x = torch.randn(2, 40, module.input_size, dtype=torch.float64)
    with only_sound_convolutions():
        y, _ = module.train()(x, torch.tensor([40, 31]))
        (y * torch.randn_like(y)).sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None] == []


class BaselineContract:
    """An encoder and its options; needs the fixtures ``encoder`` (the class) and ``options``.

    The options must give a small network without dropout, with at least one tap.
    """

    @pytest.mark.parametrize("training", [True, False])
    def test_padding_and_batch_mates_change_nothing(
        self, encoder: Any, options: dict[str, Any], training: bool
    ) -> None:
        module = encoder(encoder.Config.from_dict(options)).double().train(training)
        assert module.config.taps
        padding_changes_nothing(module)

    def test_every_parameter_takes_part(self, encoder: Any, options: dict[str, Any]) -> None:
        every_parameter_takes_part(encoder(encoder.Config.from_dict(options)).double())

    def test_it_streams_or_says_why_not(self, encoder: Any, options: dict[str, Any]) -> None:
        module = encoder(encoder.Config.from_dict(options)).double().eval()
        streams_or_says_why_not(module)

    def test_every_wrong_option_is_named(self, encoder: Any) -> None:
        with pytest.raises(ConfigError) as caught:
            encoder.Config.from_dict({"output_size": 0, "input_size": "x", "no_option": 1})
        for name in ("output_size", "input_size", "no_option"):
            assert any(line.startswith(f"{name}:") for line in caught.value.problems), name

    def test_the_toolkits_know_it(self, encoder: Any) -> None:
        (name,) = [name for name, found in BASELINES.items() if found is encoder]
        assert encoder_targets()[name] == f"nas_encoder.nemo.{encoder.__name__}Encoder"

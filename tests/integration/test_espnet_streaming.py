"""ESPnet's streaming inference, unmodified, with ``encoder: nas``.

``test_espnet_newer.py`` decodes with the same models in ESPnet 202611.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from espnet_recipe import Recipe
from espnet_streams import make_model, streams_are_decoded
from forked import Forks

pytestmark = [pytest.mark.slow, pytest.mark.espnet]


def test_streams_in_espnets_programs(
    espnet: Forks, shared_folder: Callable[..., Path], tmp_path: Path
) -> None:
    made = shared_folder("espnet_streams", lambda folder: make_model(folder, espnet, shared_folder))
    folder = Path(shutil.copytree(made, tmp_path / "asr1"))
    streams_are_decoded(espnet, folder)
    recipe = Recipe(folder, espnet)
    program, best = "espnet2.bin.asr_inference_streaming", "valid.cer_ctc.ave.pth"
    ctc = recipe.decode("exp/ctc", best, "conf/decode_ctc_streaming.yaml", tool=program)
    recipe.checked(
        recipe.decode(inference_config="conf/decode_hybrid_streaming.yaml", tool=program), ctc
    )
    for model in ("asr", "ctc"):
        texts = (folder / "exp" / model / "decoded/1best_recog/text").read_text().splitlines()
        assert [line.split()[0] for line in texts] == ["test00", "test01"]

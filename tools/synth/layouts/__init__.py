"""Folder layouts, one module each."""

from __future__ import annotations

from tools.synth.layouts.aishell import Aishell
from tools.synth.layouts.base import Layout
from tools.synth.layouts.librispeech import LibriSpeech
from tools.synth.layouts.timit import Timit

LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (LibriSpeech(), Aishell(), Timit())}
"""All layouts by name."""

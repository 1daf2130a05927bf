"""Samples from bytes as they arrive: with a WAV header, or without one."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas_encoder.common.headers import UNKNOWN
from nas_encoder.errors import DataError
from nas_encoder.export.recordings import format_problems


@dataclass(frozen=True)
class Encoding:
    """How a sample is written, the least significant byte first.

    Attributes:
        width: Bytes.
        dtype: What they are read as.
        scale: What makes them -1 to 1.
    """

    width: int
    dtype: torch.dtype
    scale: float


ENCODINGS = {
    "s16le": Encoding(2, torch.int16, 2.0**-15),
    "s32le": Encoding(4, torch.int32, 2.0**-31),
    "f32le": Encoding(4, torch.float32, 1.0),
}
# Of WAV: format and bits.
_OF_WAV = {(1, 16): "s16le", (1, 32): "s32le", (3, 32): "f32le"}
_EXTENSIBLE = 0xFFFE
# How files begin that are neither WAV nor samples, which would be recognized as noise.
_OTHERS = {
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"ID3": "MP3",
    b"RF64": "RF64",
    b"RIFX": "WAV with the most significant byte first",
    b"riff": "Wave64",
    b"FORM": "AIFF",
    b"caff": "CAF",
    b".snd": "AU",
    b"NIST_1A": "NIST SPHERE",
    b"\x1aE\xdf\xa3": "Matroska or WebM",
}
_LONGEST = 1 << 20  # bytes before the samples


class EncodingReader:
    """Reads samples.

    Args:
        name: For messages.
        rate: Hz that a header must say.
        encoding: Of samples without a header.

    Attributes:
        complete: Whether all that a header promises has come.
    """

    def __init__(self, name: str, rate: int, encoding: Encoding) -> None:
        self.name, self.rate, self.encoding = name, rate, encoding
        self.complete = False
        self._bytes, self._begun = b"", False
        self._left: int | None = None  # bytes of samples, if a header says it

    def feed(self, block: bytes) -> Tensor:
        """Return the samples (N,) that are complete with these bytes.

        Raises:
            DataError: The header is damaged, or of other audio than the model needs.
        """
        self._bytes += block
        if not self._begun and not self._begins():
            return torch.zeros(0)
        return self._samples()

    def end(self) -> Tensor:
        """Return the samples that were kept for a header.

        Raises:
            DataError: The bytes end within a header, a sample, or what the header promises.
        """
        if not self._begun and self._bytes.startswith(b"RIFF"):
            raise DataError(self.name, ["is cut short: ends within the header"])
        self._begun = True
        samples = self._samples()
        if self._left:
            rule = f"is cut short: {self._left} bytes fewer than its header says"
            raise DataError(self.name, [rule])
        if self._bytes and not self.complete:
            raise DataError(self.name, ["is cut short: ends within a sample"])
        return samples

    def _samples(self) -> Tensor:
        size = len(self._bytes) if self._left is None else min(self._left, len(self._bytes))
        size -= size % self.encoding.width
        used, self._bytes = self._bytes[:size], self._bytes[size:]
        if self._left is not None:
            self._left -= size
            self.complete = self._left == 0
        if not used:
            return torch.zeros(0)
        values = torch.frombuffer(bytearray(used), dtype=self.encoding.dtype)
        return values.float() * self.encoding.scale

    def _begins(self) -> bool:
        """Read the header, if there is one; return whether the samples begin."""
        data = self._bytes
        for begin, format_name in _OTHERS.items():
            if data.startswith(begin):
                rule = f"is {format_name}; a pipe must hold WAV, or samples without a header"
                raise DataError(self.name, [f"{rule}, as ffmpeg -f wav and sox -t wav write"])
        if any(begin.startswith(data) for begin in (b"RIFF", *_OTHERS)):
            return False
        if not data.startswith(b"RIFF"):
            self._begun = True
            return True
        place, found = 12, False
        while len(data) >= place + 8:
            kind, size = data[place : place + 4], struct.unpack_from("<I", data, place + 4)[0]
            if kind == b"data":
                if not found:
                    raise DataError(self.name, ["is no WAV file: its samples have no format"])
                # Into pipes sox writes 0x7FFFF000, arecord 0x80000000, ffmpeg 0xFFFFFFFF.
                self._left = size if 0 < size < UNKNOWN else None
                self._bytes, self._begun = data[place + 8 :], True
                return True
            if size > _LONGEST:
                break
            end = place + 8 + size + size % 2
            if kind == b"fmt " and not found and len(data) >= end:
                self._take_format(data[place + 8 : place + 8 + size])
                found = True
            place = end
        if place > _LONGEST or len(data) >= place + 8:
            rule = f"is no WAV file: has no samples in its first {_LONGEST} bytes"
            raise DataError(self.name, [rule])
        return False

    def _take_format(self, content: bytes) -> None:
        if len(content) < 16:
            raise DataError(self.name, ["is no WAV file: its format is cut short"])
        kind, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", content)
        if kind == _EXTENSIBLE and len(content) >= 26:
            kind = struct.unpack_from("<H", content, 24)[0]
        problems = format_problems(Path(self.name), rate, channels, self.rate)
        if (kind, bits) not in _OF_WAV:
            rule = f"must be PCM of 16 or 32 bits or float of 32, has format {kind} of {bits} bits"
            problems.append(rule)
        if problems:
            raise DataError(self.name, problems)
        self.encoding = ENCODINGS[_OF_WAV[kind, bits]]

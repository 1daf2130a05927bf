"""What the headers of audio files promise, and whether the files hold it."""

from __future__ import annotations

import os
import re
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import soundfile

Data = str | IO[bytes]  # a path, or content
# Lengths in bytes from here on stand for "unknown", where an encoder could not seek back.
UNKNOWN = 0x7FFF0000
_HEADER = 64  # bytes; some encoders count the header as audio
# What libsndfile logs where a header promises more than the file holds, by format.
_PROMISES = {
    "WAV": r"data : (\d+) \(should be (\d+)\)",
    "WAVEX": r"data : (\d+) \(should be (\d+)\)",
    "AIFF": r"SSND : (\d+) \(should be (\d+)\)",
    "AU": r"Data Size   : (\d+) \(should be (\d+)\)",
    "W64": r"riff : (\d+) \(should be (\d+)\)",
    "RF64": r"Riff size : (\d+) \(should be (\d+)\)",
}


def shortage(file: soundfile.SoundFile, data: Data) -> str:
    """Return how a file holds less than its header promises, or ''."""
    found = re.search(_PROMISES.get(file.format, "(?!)"), file.extra_info)
    promised, there = map(int, found.groups()) if found else (0, 0)
    unit, allowed = "bytes of audio", _HEADER
    if file.format == "NIST":
        said = re.search(rb"sample_count -i (\d+)", _part(data, 0, 1024))
        promised, there = int(said[1]) if said else 0, file.frames
        unit, allowed = "samples", 0
    elif file.subtype == "MPEG_LAYER_III":
        tag, size = _mp3_tag(data)
        if tag is None and (samples := _mp3_samples(data)) != file.frames:
            return (
                f"the mp3 has no frame count: libsndfile takes its {samples} samples for "
                f"{file.frames}; convert it to wav or flac"
            )
        promised, there = tag or 0, size
        allowed = promised // 100  # tags that were removed count too
    elif file.format == "OGG" and not _ends_with_last_page(_part(data, -(1 << 17))):
        return "the last page of the Ogg stream is missing: it is cut short"
    if there + allowed < promised < UNKNOWN:
        return f"its header promises {promised} {unit}, {there} are there: it is cut short"
    if file.frames >= 1 << 40:
        return "its header does not say how many samples it holds; convert it to wav or flac"
    return "" if file.frames else "the audio file holds no samples"


def _part(data: Data, start: int, size: int = -1) -> bytes:
    """Return some bytes, from the end if ``start`` is negative; libsndfile's place is kept."""
    if isinstance(data, str):
        with open(data, "rb") as file:
            return _part(file, start, size)
    place = data.tell()
    data.seek(start if start >= 0 else max(data.seek(0, os.SEEK_END) + start, 0))
    part = data.read(size)
    data.seek(place)
    return part


def _size(data: Data) -> int:
    if isinstance(data, str):
        return os.path.getsize(data)
    place = data.tell()
    size = data.seek(0, os.SEEK_END)
    data.seek(place)
    return size


def _ends_with_last_page(tail: bytes) -> bool:
    """Whether the last page of an Ogg stream is whole, and marked as the last one."""
    place = tail.rfind(b"OggS")
    page = tail[place:] if place >= 0 else b""
    if len(page) < 27 or not page[5] & 4:
        return False
    segments = page[27 : 27 + page[26]]
    return len(page) >= 27 + page[26] + sum(segments)


def why_unreadable(data: Data, error: Exception) -> str:
    """Return why libsndfile does not read a file, and what to do."""
    head = _part(data, 0, 1024)
    remedy = "convert it to wav or flac"
    if b"shorten" in head and head.startswith(b"NIST"):
        remedy += ", or write 'sph2pipe -f wav -p FILE |' into wav.scp"
    elif head[4:8] == b"ftyp":
        remedy = f"it is MPEG-4 audio: {remedy}"
    reason = str(getattr(error, "error_string", error)).rstrip(".")
    return (
        f"the audio header cannot be read by libsndfile, which ESPnet and NeMo use ({reason}); "
        f"{remedy}"
    )


_BITRATES = {  # kbit/s of layer III
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44100, 48000, 32000)


def _mp3_tag(data: Data) -> tuple[int | None, int]:
    """Return (bytes that an mp3 promises, bytes that it has).

    The first is None without a count of frames (Xing, Info, VBRI), 0 with one but no bytes.
    """
    raw = _part(data, 0, 1 << 14)
    start = _id3_size(raw)
    if start + 1024 > len(raw):  # behind a picture, perhaps
        raw = _part(data, 0)
    size = _size(data) - start
    tag = re.search(rb"(?:Xing|Info)...(.)(....)(....)|VBRI", raw[start : start + 256], re.DOTALL)
    if tag is None or (tag[1] and not tag[1][0] & 1):
        return None, size
    promised = int.from_bytes(tag[3], "big") if tag[1] and tag[1][0] & 2 else 0
    return promised, size


def _id3_size(raw: bytes) -> int:
    bits = sum((byte & 0x7F) << 21 - 7 * place for place, byte in enumerate(raw[6:10]))
    return 10 + bits if raw[:3] == b"ID3" else 0


def _mp3_samples(data: Data) -> int:
    """Count the samples of an mp3 by its frames.

    Without a count, libsndfile divides the size of the file by the bitrate of its first frame,
    and reads no further.
    """
    raw, samples = _part(data, 0), 0
    at = _id3_size(raw)
    while 0 <= at < len(raw) - 3:
        version, layer = raw[at + 1] >> 3 & 3, raw[at + 1] >> 1 & 3
        bitrate, rate = raw[at + 2] >> 4, raw[at + 2] >> 2 & 3
        if raw[at] == 0xFF and raw[at + 1] >= 0xE0 and layer == 1 and 0 < bitrate < 15 and rate < 3:
            kind = 1 if version == 3 else 2
            hertz = _RATES[rate] // {3: 1, 2: 2, 0: 4}.get(version, 1)
            padding = raw[at + 2] >> 1 & 1
            at += 144000 // kind * _BITRATES[kind][bitrate] // hertz + padding
            samples += 1152 // kind
        else:
            at = raw.find(b"\xff", at + 1)
    return samples

"""Pictures without a library: PNG with a palette, also animated, as the PNG specification of the W3C (third edition) has it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np


def write_png(path: str | Path, frames: Sequence[np.ndarray], palette: np.ndarray, frame_s: float = 0.05) -> int:
    """Write arrays (height, width) of palette numbers, u8; several make an animation (APNG), which browsers show.

    `palette` is (colours, 3), u8. Returns the bytes written. ValueError for frames of other sizes, or none.
    """
    if not frames or any(frame.shape != frames[0].shape or frame.dtype != np.uint8 for frame in frames):
        raise ValueError("frames are arrays of u8 of one size, one at least")
    height, width = frames[0].shape
    out = [
        b"\x89PNG\r\n\x1a\n",
        _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        _chunk(b"PLTE", palette.astype(np.uint8).tobytes()),
    ]
    if len(frames) > 1:
        out.append(_chunk(b"acTL", struct.pack(">II", len(frames), 0)))
    sequence = 0
    for number, frame in enumerate(frames):
        if len(frames) > 1:
            said = struct.pack(">IIIIIHHBB", sequence, width, height, 0, 0, round(frame_s * 1000), 1000, 0, 0)
            out.append(_chunk(b"fcTL", said))
            sequence += 1
        # each line begins with the number of its filter; 0 is none, which suits pictures of a palette
        lines = zlib.compress(np.hstack([np.zeros((height, 1), np.uint8), frame]).tobytes(), 9)
        if number == 0:
            out.append(_chunk(b"IDAT", lines))
        else:
            out.append(_chunk(b"fdAT", struct.pack(">I", sequence) + lines))
            sequence += 1
    out.append(_chunk(b"IEND", b""))
    return Path(path).write_bytes(b"".join(out))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

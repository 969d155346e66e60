"""Converts decoded frames to reduced, upright RGB pictures with square pixels and 8 bits a channel."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import Any

import numpy as np

from searchdb.video.messages import MOST_FRAME_PIXELS

MOST_ASPECT = 8
"""Largest ratio of a pixel's sides that is believed: of real videos, anamorphic films have 2."""
HD_LINES = 720
"""Videos of at least this height that do not tell their colours have those of HD (BT.709), smaller ones of SD."""
WHITE = 255

_BT709, _BT601, _UNSPECIFIED = 1, 5, 2
_PQ, _HLG = 16, 18
_BT2020 = 9
"""FFmpeg's numbers of colour spaces, transfer functions and primaries."""

SDR_WHITE_NITS = 203.0
"""Luminance that becomes white: what BT.2408 recommends for SDR white in HDR. Brighter light is compressed."""
HLG_PEAK_NITS = 1000.0
"""Peak of the display for which BT.2100 defines the system gamma of HLG as 1.2."""
_KNEE = 0.8
"""Share of SDR white up to which HDR is kept as it is; the range above is compressed into what is left."""
_TO_BT709 = np.array([[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32)
"""From BT.2020's primaries to BT.709's, linear light (BT.2087)."""


def display_size(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """Return a frame's size with square pixels: stretched, never shrunk."""
    if aspect is None or not Fraction(1, MOST_ASPECT) <= aspect <= MOST_ASPECT:
        return width, height
    return (round(width * aspect), height) if aspect >= 1 else (width, round(height / aspect))


def reduced_size(size: tuple[int, int], *, shorter_side: int, longer_side: int) -> tuple[int, int]:
    """Return the smallest size of the same shape that has both sides, or the size itself if it has not."""
    width, height = size
    scale = min(1.0, max(shorter_side / min(size), longer_side / max(size)))
    if width * height * scale**2 > MOST_FRAME_PIXELS:
        scale = (MOST_FRAME_PIXELS / (width * height)) ** 0.5
    return max(1, int(width * scale)), max(1, int(height * scale))


def to_rgb(frame: Any, size: tuple[int, int]) -> np.ndarray:
    """Return PyAV's frame as RGB of this size, uint8 of shape (height, width, 3), not turned yet.

    Transparent parts are laid over white, HDR (PQ and HLG) is converted to SDR.
    """
    if frame.colorspace == _UNSPECIFIED:
        frame.colorspace = _BT709 if frame.height >= HD_LINES else _BT601
    scaling = {"width": size[0], "height": size[1], "interpolation": "AREA", "threads": 1}
    if frame.color_trc in (_PQ, _HLG):
        deep = frame.reformat(format="rgb48le", **scaling).to_ndarray()
        return hdr_to_sdr(deep, hlg=frame.color_trc == _HLG, wide=frame.color_primaries == _BT2020)
    if any(component.is_alpha for component in frame.format.components):
        rgba = frame.reformat(format="rgba", **scaling).to_ndarray()
        alpha = rgba[..., 3:].astype(np.uint16)
        return ((rgba[..., :3] * alpha + WHITE * (255 - alpha) + 127) // 255).astype(np.uint8)
    return frame.reformat(format="rgb24", **scaling).to_ndarray()


def hdr_to_sdr(pixels: np.ndarray, *, hlg: bool, wide: bool) -> np.ndarray:
    """Return HDR of 16 bits a channel as sRGB of 8: SDR white becomes 243, highlights are compressed above it.

    `wide`: the primaries are BT.2020's. The formulas are those of BT.2100.
    """
    signal = pixels.astype(np.float32) / 65535
    nits = _hlg_nits(signal) if hlg else _pq_nits(signal)
    light = nits / SDR_WHITE_NITS
    if wide:
        light = light @ _TO_BT709.T
    light = np.maximum(light, 0)
    peak = light.max(axis=-1, keepdims=True)
    above = np.maximum(peak - _KNEE, 0)
    compressed = np.minimum(peak, _KNEE) + (1 - _KNEE) * above / (above + (1 - _KNEE))
    light *= compressed / np.maximum(peak, 1e-6)  # all three channels alike, which keeps the hue
    curve = 1.055 * np.maximum(light, 1e-6) ** (1 / 2.4) - 0.055
    srgb = np.array(np.where(light <= 0.0031308, 12.92 * light, curve), np.float32)
    return np.clip(np.rint(srgb * 255), 0, 255).astype(np.uint8)


def _pq_nits(signal: np.ndarray) -> np.ndarray:
    power = signal ** np.float32(1 / 78.84375)
    ratio = np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)
    return 10_000 * ratio ** np.float32(1 / 0.1593017578125)


def _hlg_nits(signal: np.ndarray) -> np.ndarray:
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    return HLG_PEAK_NITS * scene * np.maximum(luminance, 1e-6)[..., None] ** np.float32(0.2)


def display_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """Return the part of a frame's display matrix that turns it (a, b, c, d, as in x' = ax + cy); None without one."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = struct.unpack_from("=5i", bytes(data))
            return a, b, c, d
    return None


def upright(pixels: np.ndarray, matrix: tuple[int, int, int, int] | None) -> np.ndarray:
    """Turn and mirror a picture as the matrix says, by the nearest right angle."""
    if matrix is None or not any(matrix):
        return pixels
    a, b, c, d = matrix
    if swaps_sides(matrix):
        pixels, across, down = pixels.transpose(1, 0, 2), c, b
    else:
        across, down = a, d
    return pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def swaps_sides(matrix: tuple[int, int, int, int] | None) -> bool:
    """Whether the matrix makes the width of the frame the height of the picture."""
    return matrix is not None and abs(matrix[1]) > abs(matrix[0])

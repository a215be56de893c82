"""ICC profiles for colours that PNG defines by chunks (cICP, gAMA, cHRM; ITU-T H.273), for other formats."""

import re
import struct
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

_HDR = {16: "PQ", 18: "HLG"}
_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
_D65 = (0.3127, 0.3290)
# Code of the primaries -> (x, y) of white, red, green and blue.
_PRIMARIES = {
    1: (_D65, (0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    5: (_D65, (0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
    6: (_D65, (0.630, 0.340), (0.310, 0.595), (0.155, 0.070)),
    9: (_D65, (0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    11: ((0.314, 0.351), (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    12: (_D65, (0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
}
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_VIDEO_CURVE = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
# Code of the transfer characteristics -> the exponent alone, or with the linear piece below it.
_CURVES: dict[int, tuple[float, ...]] = {
    1: _VIDEO_CURVE,
    4: (2.2,),
    5: (2.8,),
    6: _VIDEO_CURVE,
    8: (1.0,),
    13: _SRGB_CURVE,
    14: _VIDEO_CURVE,
    15: _VIDEO_CURVE,
}
_Chromaticities = tuple[tuple[float, float], ...]
_NCLX = re.compile(rb"colrnclx\0(.)\0(.)", re.DOTALL)
_CICP_TAG = re.compile(rb"cicp\0{4}(.{4})", re.DOTALL)
# Codes (primaries, transfer) that viewers show as sRGB: BT.709 or not specified.
_LIKE_SRGB = frozenset((p, t) for p in (1, 2) for t in (1, 2, 6, 13))


def chunks_of_nclx(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return the colours of an AVIF or HEIC file (ISO 14496-12, section 12.1.5) as a cICP chunk; () for sRGB.

    Also returns () if the images in the file differ, as with a gain map.
    """
    codes = {(primaries[0], transfer[0]) for primaries, transfer in _NCLX.findall(data)}
    if len(codes) != 1 or codes <= _LIKE_SRGB:
        return ()
    return ((b"cICP", bytes([*codes.pop(), 0, 1])),)


def hdr_curve(chunks: Mapping[bytes, bytes], icc_profile: bytes | None = None) -> str | None:
    """Return "PQ" or "HLG" if cICP, or its tag in the profile (ICC.1:2022, 9.2.17), says so; else None."""
    code = chunks.get(b"cICP", b"")
    if len(code) != 4 and (found := _CICP_TAG.search(icc_profile or b"")):
        code = found[1]
    return _HDR.get(code[1]) if len(code) == 4 else None


def profile_of(chunks: Mapping[bytes, bytes], channels: int) -> bytes | None:
    """Return an ICC profile for the colours of the chunks; None for sRGB, HDR, no chunks and unknown codes.

    If there are several chunks, the first of these decides: cICP, sRGB, gAMA with cHRM.
    """
    primaries: _Chromaticities = _PRIMARIES[1]
    curve: tuple[float, ...] = _SRGB_CURVE
    if len(code := chunks.get(b"cICP", b"")) == 4:
        if code[0] not in _PRIMARIES or code[1] not in _CURVES:
            return None
        primaries, curve = _PRIMARIES[code[0]], _CURVES[code[1]]
    elif b"sRGB" not in chunks:
        if len(data := chunks.get(b"cHRM", b"")) == 32:
            values = [value / 100000 for value in struct.unpack(">8I", data)]
            primaries = tuple(zip(values[::2], values[1::2], strict=True))
        gamma = int.from_bytes(chunks.get(b"gAMA", b""), "big")
        # 0.45455 stands for sRGB (PNG, section 11.3.2.2)
        if gamma > 0 and abs(gamma - 45455) > 50:
            curve = (100000 / gamma,)
    if np.allclose(primaries, _PRIMARIES[1], atol=0.002) and curve == _SRGB_CURVE:
        return None
    return _profile(primaries, curve, channels)


def _profile(primaries: _Chromaticities, curve: tuple[float, ...], channels: int) -> bytes | None:
    """Build a display profile (ICC.1:2022): a matrix and one parametric curve; for grey, the curve alone.

    Returns None if the primaries give no valid matrix.
    """
    try:
        columns = _to_d50(primaries).T
    except np.linalg.LinAlgError:
        return None
    para = struct.pack(">4sIHH", b"para", 0, 3 if len(curve) > 1 else 0, 0) + b"".join(map(_fixed, curve))
    tags = {
        b"desc": _words("PNG colours"),
        b"cprt": _words("No copyright"),
        b"wtpt": _xyz(_D50),
        **({b"kTRC": para} if channels == 1 else {}),
    }
    if channels == 3:
        tags |= {b"rXYZ": _xyz(columns[0]), b"gXYZ": _xyz(columns[1]), b"bXYZ": _xyz(columns[2])}
        tags |= {b"rTRC": para, b"gTRC": para, b"bTRC": para}
    at, table, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    space = b"GRAY" if channels == 1 else b"RGB "
    head = struct.pack(">I4sI4s4s4s", at + len(body), b"\0\0\0\0", 0x04300000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + bytes(28)
    head += b"".join(map(_fixed, _D50)) + bytes(48)
    return head + table + body


def _to_d50(primaries: _Chromaticities) -> NDArray[np.float64]:
    """Return the (3, 3) matrix from linear RGB to XYZ under D50, by Bradford's adaptation."""
    xyz = np.array([(x / y if y else np.inf, 1.0, (1 - x - y) / y if y else np.inf) for x, y in primaries])
    if not np.isfinite(xyz).all():
        raise np.linalg.LinAlgError
    white, matrix = xyz[0], xyz[1:].T
    matrix = matrix * np.linalg.solve(matrix, white)
    cones = (_BRADFORD @ _D50) / (_BRADFORD @ white)
    adapted: NDArray[np.float64] = np.linalg.inv(_BRADFORD) @ np.diag(cones) @ _BRADFORD @ matrix
    return adapted


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: NDArray[np.float64]) -> bytes:
    return struct.pack(">4sI", b"XYZ ", 0) + b"".join(map(_fixed, values))


def _words(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return struct.pack(">4sIII2s2sII", b"mluc", 0, 1, 12, b"en", b"US", len(data), 28) + data

"""CRC-64/GO-ISO, by which tar-split knows the files of a layer.

The polynomial x⁶⁴ + x⁴ + x³ + x + 1 is so thin that Python's long integers compute it fast: modulo
it, x^(64·q) is x^(4q) + x^(3q) + x^q + 1 for any power q of two, so a long message is halved by
four shifts and additions, again and again.
"""

from __future__ import annotations

_ONES = 0xFFFFFFFFFFFFFFFF
_POLYNOMIAL = 0xD800000000000000
_PIECE = 32 << 10  # what stays in the processor's cache


def crc64(data: bytes | memoryview, value: int = 0) -> int:
    """The checksum of `data`, or of what `value` is the checksum of with `data` behind it."""
    view = memoryview(data)
    remainder = value ^ _ONES
    for at in range(0, len(view), _PIECE):
        remainder = _update(remainder, view[at : at + _PIECE])
    return remainder ^ _ONES


def _update(remainder: int, data: memoryview) -> int:
    """Bit n of a number of `width` bits is the coefficient of x^(width-1-n)."""
    message = int.from_bytes(data, "little") ^ remainder
    width = 8 * len(data) + 64  # times x⁶⁴, which is what makes `remainder` line up
    while width > 72:
        power = 1 << ((width - 1) // 64).bit_length() - 1
        high_width = width - 64 * power
        high, low = message & ((1 << high_width) - 1), message >> high_width
        width = max(high_width + 4 * power, 64 * power)
        room = width - high_width
        message = (
            (high << room)
            ^ (high << room - power)
            ^ (high << room - 3 * power)
            ^ (high << room - 4 * power)
            ^ (low << width - 64 * power)
        )
    for _ in range(width - 64):
        message = message >> 1 ^ (_POLYNOMIAL if message & 1 else 0)
    return message

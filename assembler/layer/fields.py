"""The fields of a tar header and of pax records, read strictly (reliability.md T11, T12)."""

from __future__ import annotations

import posixpath
import zlib
from collections.abc import Mapping

from assembler.errors import BadArchive
from assembler.layer.changeset import Kind


def normalise(path: str) -> str:
    """`path` relative to the root, where `..` stops, without `.` and superfluous slashes."""
    plain = (path[2:] if path.startswith("./") else path).rstrip("/")
    if "//" not in plain and "/." not in plain and not plain.startswith(("/", ".")):
        return plain
    return posixpath.normpath("/" + path).lstrip("/")


def device(header: bytes, kind: Kind) -> tuple[int, int]:
    """The device numbers; (0, 0) for what is no device. Raises BadArchive."""
    if kind is not Kind.CHARACTER and kind is not Kind.BLOCK:
        return (0, 0)
    return node(number(header[329:337], "device"), number(header[337:345], "device"))


def node(major: int, minor: int) -> tuple[int, int]:
    """Device numbers that fit Linux. Raises BadArchive."""
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):  # dev_t
        raise BadArchive(f"device {major}:{minor} is out of range")
    return major, minor


def identity(value: int, shown: str) -> int:
    """An owner that fits Linux. Raises BadArchive."""
    if not 0 <= value < 0xFFFFFFFF:
        raise BadArchive(f"{shown!r} has an impossible owner {value}", shown)
    return value


def mtime(header: bytes, pax: Mapping[bytes, bytes], shown: str) -> int:
    """Nanoseconds; pax has decimals, which may be negative."""
    text = pax.get(b"mtime")
    if not text:
        seconds, nanoseconds = number(header[136:148], "mtime"), 0
    else:
        whole, _, fraction = text.partition(b".")
        negative = whole.startswith(b"-")
        digits = whole[1:] if negative else whole
        if not digits.isdigit() or (fraction and not fraction.isdigit()) or len(text) > 40:
            raise BadArchive(f"{shown!r} has an impossible time", shown)
        seconds, nanoseconds = int(digits), int(fraction[:9].ljust(9, b"0"))
        if negative:
            seconds, nanoseconds = -seconds, -nanoseconds
    if not -(1 << 40) < seconds < 1 << 40:
        raise BadArchive(f"{shown!r} has an impossible time", shown)
    return seconds * 1_000_000_000 + nanoseconds


def decimal(pax: Mapping[bytes, bytes], key: bytes, shown: str) -> int | None:
    """A number of a pax record, None where there is none. Raises BadArchive."""
    text = pax.get(key)
    if not text:
        return None
    if not text.isdigit() or len(text) > 19 or int(text) >= 1 << 63:
        raise BadArchive(f"{shown!r} has an impossible {key.decode()}", shown)
    return int(text)


def number(raw: bytes, what: str) -> int:
    """A numeric field: octal text, or base-256 where the first bit is set (GNU, star)."""
    if raw[0] & 0x80:
        value = int.from_bytes(bytes([raw[0] & 0x7F]) + raw[1:], "big")
        if raw[0] & 0x40:
            value -= 1 << (8 * len(raw) - 1)
        if not -(1 << 63) <= value < 1 << 63:
            raise BadArchive(f"a header with an impossible {what}")
        return value
    text = raw.strip(b" \0")
    if not text:
        return 0
    if text.strip(b"01234567"):
        text = text.split(b"\0", 1)[0].rstrip(b" ")
        if not text or text.strip(b"01234567"):
            raise BadArchive(f"a header with an impossible {what}")
    return int(text, 8)


def check_sum(header: bytes) -> None:
    """Raise BadArchive where the checksum of `header` is wrong."""
    stored = number(header[148:156], "checksum")
    blanked = header[:148] + b"        " + header[156:]
    if (zlib.adler32(blanked) & 0xFFFF) - 1 == stored:
        return
    total = sum(blanked)
    signed = total - 256 * sum(byte > 127 for byte in blanked)  # what some old writers summed
    if stored not in (total, signed):
        raise BadArchive("a header with a wrong checksum")

"""How tools print a secret: as it is, a line of it, or in an encoding that is common.

They are patterns for `masking`, so none has an end of line: of a value of several lines each line is
one by itself, be it printed as it is or escaped.
"""

from __future__ import annotations

import json
import re
from binascii import b2a_base64
from collections.abc import Iterable, Iterator

from assembler.masking import LEAST

LEAST_OF_A_LINE = 8
"""Bytes of a line that is hidden by itself: `{`, `user=me` and the like are in other texts too."""
MOST_ENCODED = 64 << 10
"""Bytes of a value that is hidden in encodings too: they take a hundred times its memory."""
_PIECE = 1 << 10  # bytes of a pattern: a longer one is cut, and all of its pieces are hidden
_WRAPPED = (76, 64)  # characters of a line: RFC 2045 (and coreutils), RFC 7468 (and openssl)
_LEAST_ENCODED = 6
_BOUNDARY = re.compile(rb"-----(BEGIN|END) [ -~]+-----")  # RFC 7468, section 2
_URL_SAFE = bytes.maketrans(b"+/", b"-_")  # RFC 4648, section 5


def spellings(value: bytes) -> set[bytes]:
    """The patterns that hide `value`; none for one that is too short to be hidden."""
    lines = _lines(value)
    found = {piece for line in lines for piece in _pieces(line)}
    if len(value) <= MOST_ENCODED:
        found |= {piece for line in lines for one in _escaped(line) for piece in _pieces(one)}
        encoded = set(_base64(value))
        encoded |= {one.translate(_URL_SAFE) for one in encoded}
        found.update(one for one in encoded if len(one) >= _LEAST_ENCODED)
    return {one for one in found if len(one) >= LEAST}


def _lines(value: bytes) -> Iterable[bytes]:
    """The lines of `value` that nobody prints by chance; all of them where there is no such line."""
    lines = {stripped for line in value.split(b"\n") if (stripped := line.strip())}
    telling = [line for line in lines if len(line) >= LEAST_OF_A_LINE and _is_telling(line)]
    return telling if telling and len(lines) > 1 else lines


def _is_telling(line: bytes) -> bool:
    return len(set(line)) > 2 and not _BOUNDARY.fullmatch(line)


def _escaped(line: bytes) -> Iterator[bytes]:
    if line.isalnum():
        return
    for kept in (rb"", rb"/", rb"!'()*"):  # of all, of a path, of ECMAScript's encodeURIComponent
        percent = re.sub(rb"[^A-Za-z0-9_.~%b-]" % kept, _percent, line)
        yield percent
        yield percent.replace(b"%20", b"+")
        yield re.sub(rb"%..", lambda found: found[0].lower(), percent)
    yield line.replace(b"'", rb"'\''")  # shells, in quotes of each kind and without
    yield line.replace(b"'", b"'\"'\"'")
    yield re.sub(rb'[\\"$`]', rb"\\\g<0>", line)
    yield re.sub(rb"[ \t'\"\\|&;()<>!{}*\[?\]^$`,]", rb"\\\g<0>", line)
    ansi = re.sub(rb"[\\']", rb"\\\g<0>", line)  # $'…', bash's where a byte is no printable one
    yield re.sub(rb"[^ -~]", lambda found: b"\\%03o" % found[0][0], ansi)
    xml = line.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b">", b"&gt;")
    yield xml
    yield xml.replace(b'"', b"&quot;")
    yield xml.replace(b'"', b"&quot;").replace(b"'", b"&#39;")
    try:
        text = line.decode()
    except UnicodeDecodeError:  # which JSON has no way to say
        return
    for plain in (True, False):
        quoted = json.dumps(text, ensure_ascii=plain)[1:-1].encode()
        yield quoted
        yield quoted.replace(b"/", rb"\/")
        yield re.sub(rb"[<>&]", lambda found: rb"\u%04x" % found[0][0], quoted)  # as Go has it


def _percent(found: re.Match[bytes]) -> bytes:
    return b"%%%02X" % found[0][0]


def _base64(value: bytes) -> Iterator[bytes]:
    """What `value` adds to base64 of a text that it is in, for each of the three ways in which the
    bytes before it end; what it is by itself; and the lines of that, where it is long."""
    bare = value.strip()
    if len(bare) < LEAST:
        return
    for before in range(3):
        known = -(-before * 8 // 6)  # the first character that depends on `value` alone
        for after in (b"", b"\n"):
            encoded = b2a_base64(bytes(before) + bare + after, newline=False)
            yield from _pieces(encoded[known:])
            yield from _pieces(encoded[known:].rstrip(b"="))
        yield from _pieces(encoded[known : (before + len(bare)) * 8 // 6])
    for text in {value, bare, bare + b"\n"}:
        encoded = b2a_base64(text, newline=False)
        for width in _WRAPPED:
            if len(encoded) > width:
                yield from (encoded[at : at + width] for at in range(0, len(encoded), width))


def _pieces(line: bytes) -> Iterator[bytes]:
    """`line` in pieces that are patterns; the last ends with it."""
    if len(line) <= _PIECE:
        yield line
        return
    yield from (line[at : at + _PIECE] for at in range(0, len(line) - _PIECE, _PIECE))
    yield line[-_PIECE:]

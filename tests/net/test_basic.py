"""Basic credentials."""

from __future__ import annotations

from base64 import b64decode

import pytest

from assembler.net.basic import encoded


@pytest.mark.parametrize("pair", [b"user:password", "jürgen:pässword".encode(), b"user:\xff\x80:"])
def test_credentials_go_as_the_bytes_that_were_given(pair: bytes) -> None:
    assert b64decode(encoded(pair.decode("utf-8", "surrogateescape"))) == pair

"""What no step of a build shows: the values of all of the build's secrets.

Whether a step mounts a secret does not matter: another may have written it to a file, or the context
may have it. Nor does the order of the steps: what one of them shows is the same in every build.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from assembler.errors import AssemblerError

if TYPE_CHECKING:  # a build that runs nothing, or has no secrets, needs none
    from assembler.masking import Masks


class Concealed:
    """The values that were read until now. A file may have another one each time."""

    def __init__(self) -> None:
        self._values: set[bytes] = set()
        self._masks: Masks | None = None
        self._begun = False
        self._lock = threading.Lock()

    def masks(
        self, secrets: Mapping[str, Callable[[], bytes]], values: Iterable[bytes]
    ) -> Masks | None:
        """What hides `secrets`, and `values` from now on; None where there is nothing to hide."""
        with self._lock:
            new = set(values)
            if not self._begun:
                self._begun = True
                for read in secrets.values():
                    with suppress(AssemblerError):  # what is gone no step can get any more
                        new.add(read())
            if not new <= self._values:
                self._values |= new
                self._masks = _masks(self._values)
            return self._masks


def passwords(proxies: Iterable[tuple[str, str]]) -> set[bytes]:
    """Those in the URLs of proxies, as they are there and as they are meant. What stands alone before
    the @ is a token."""
    if not (proxies := tuple(proxies)):
        return set()
    from urllib.parse import unquote_to_bytes

    found = set()
    for _, url in proxies:
        authority = url.rpartition("://")[2].partition("/")[0]
        user, _, password = authority.rpartition("@")[0].partition(":")
        password = password or user
        found |= {password.encode("utf-8", "surrogateescape"), unquote_to_bytes(password)}
    return found - {b""}


def _masks(values: Iterable[bytes]) -> Masks | None:
    from assembler.masking import Masks
    from assembler.spellings import spellings

    found = {pattern for value in values for pattern in spellings(value)}
    return Masks(found) if found else None

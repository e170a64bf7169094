"""Which layer directories a power cut leaves whole, though nobody syncs them (podman#8005).

    settled   the boot that used the store last, and when the youngest directory in it was made;
              then a line for each: when it was made, its change time, its path

To sync the files of a layer, of which there may be 10,000, is too dear, and the kernel writes them by
itself after a while. A directory is settled, and its time 0, when it was here for so long in one
boot. The first command of another boot sets all others aside, before anybody can use them.

Times are seconds of the monotonic clock, which nobody sets and which stands still while the machine
sleeps; the change time only tells a directory from the next one of that name. So what this does not
know, for whatever reason, is made anew: its maker was killed, or the note is lost.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext, suppress

from assembler.linux.claims import held
from assembler.linux.replacing import replacing, unnamed
from assembler.store.disk import is_exhausted
from assembler.store.leases import collecting

_NAME = "settled"
_MARGIN = 120  # seconds for the disk to take what is written, and for the file system's journal


def moment() -> int:
    """A time of the monotonic clock that is not over yet."""
    return int(time.monotonic()) + 1


def identity(store: str, path: str) -> str:
    """What tells the layer directory `path`, in the store, from the next one there. Raises OSError."""
    return f"{os.lstat(os.path.join(store, path)).st_ctime_ns} {path}"


def opened(store: str, check: Callable[[], None]) -> None:
    """Set aside what a power cut may have spoilt, and note what is settled meanwhile, if there is
    any of that. Call it before a layer directory of the store at `store` is looked for. Raises
    OSError, and what `check` raises while another command is at it."""
    noted, youngest = _head(store)
    if noted != boot_id() or (youngest and youngest + _wait() < moment()):
        try:
            settle(store, check)
        except OSError as error:
            if error.errno != errno.EROFS:  # there no step can run
                raise


def settle(store: str, check: Callable[[], None], made: Mapping[str, int] | None = None) -> None:
    """The same, whatever the note says. `made` has the moments at which this process published
    directories, by their `identity`; 0 for those it synced."""
    boot, wait = boot_id(), _wait()
    if not boot:  # then it is taken for the one that it was
        return
    with held(os.path.join(store, "layers"), check):
        same, known = _head(store)[0] == boot, {**dict(_known(store)), **(made or {})}
        found: dict[str, int] = {}
        # only to set something aside must nobody begin to use it: the end of a build stops no other
        with nullcontext(set[str]()) if same else collecting(store, check) as used:
            now = moment()
            for path in _directories(store):
                with suppress(FileNotFoundError):  # a command has just removed it
                    one = identity(store, path)
                    since = known.get(one, now)
                    if since and not same and path not in used:
                        _set_aside(os.path.join(store, path))
                    else:
                        since = since if same or not since else now
                        found[one] = 0 if since + wait < now else since
        try:
            _write(store, boot, found)
        except OSError as error:
            if not is_exhausted(error):  # then the next command does the same again
                raise


def boot_id() -> str:
    """What tells this boot from all others, empty where the kernel does not say."""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return stream.read().strip()
    return ""


def _wait() -> float:
    """The seconds after which the kernel has written what was written to a file."""
    try:
        expire, interval = (_centiseconds(f"dirty_{name}") for name in ("expire", "writeback"))
    except (OSError, ValueError):
        return math.inf
    # 0 for the interval: nothing is written unless somebody asks for it
    return max(30, expire / 100) + max(5, interval / 100) + _MARGIN if interval else math.inf


def _centiseconds(name: str) -> int:
    with open(f"/proc/sys/vm/{name}_centisecs", encoding="ascii") as stream:
        return int(stream.read())


def _set_aside(place: str) -> None:
    """Give `place` the name that work of a dead command has: who opens the store removes it."""
    os.rename(place, os.path.join(os.path.dirname(place), f".{unnamed()}"))


def _directories(store: str) -> Iterator[str]:
    for kind in os.listdir(os.path.join(store, "layers")):
        with suppress(NotADirectoryError):  # none of ours
            for name in os.listdir(os.path.join(store, "layers", kind)):
                if not name.startswith("."):
                    yield f"layers/{kind}/{name}"


def _head(store: str) -> tuple[str, int]:
    """The noted boot, and the youngest directory's time; an empty text where none is noted."""
    with suppress(OSError, ValueError), open(os.path.join(store, _NAME), "rb") as stream:
        boot, youngest = stream.readline(100).decode("ascii").split()
        return boot, int(youngest)
    return "", 0


def _known(store: str) -> Iterator[tuple[str, int]]:
    with suppress(OSError), open(os.path.join(store, _NAME), "rb") as stream:
        for line in stream.read().decode("utf-8", "surrogateescape").splitlines()[1:]:
            with suppress(ValueError):
                since, _, identity = line.partition(" ")
                yield identity, int(since)


def _write(store: str, boot: str, found: Mapping[str, int]) -> None:
    lines = [f"{boot} {max(found.values(), default=0)}"]
    lines += [f"{since} {identity}" for identity, since in sorted(found.items())]
    with replacing(os.path.join(store, _NAME), 0o600) as stream:
        stream.write("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))

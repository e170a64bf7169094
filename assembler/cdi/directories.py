"""Reading the specifications of a host."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence

from assembler.cdi.registry import Registry, registry
from assembler.cdi.specification import BadSpec, Spec, parse

DIRECTORIES = ("/etc/cdi", "/var/run/cdi", "/etc/buildkit/cdi")
"""BuildKit's; a later directory's device counts more than an earlier one's of the same name."""
_LARGEST = 4 << 20  # bytes; one of 64 devices has a tenth of this


def read(directories: Sequence[str] = DIRECTORIES) -> Registry:
    """The devices that files `*.json` and `*.yaml` directly in `directories` describe. A directory
    that is not there has none; what cannot be read is told by the registry's `problems`."""
    return registry(_files(directories), tuple(directories))


def _files(directories: Sequence[str]) -> Iterator[tuple[int, str, Spec | BadSpec]]:
    for priority, directory in enumerate(directories):
        try:
            names = sorted(os.listdir(directory))
        except FileNotFoundError:
            continue
        except OSError as error:
            yield priority, directory, BadSpec(error.strerror or str(error))
            continue
        for name in names:
            path = os.path.join(directory, name)
            if name.endswith((".json", ".yaml")) and not os.path.isdir(path):
                yield priority, path, _read(path)


def _read(path: str) -> Spec | BadSpec:
    try:
        # not to wait for the other end of a pipe
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                return BadSpec("it is no regular file")
            content = stream.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            return BadSpec(f"it is larger than {_LARGEST >> 20} MiB")
        return parse(content, yaml=path.endswith(".yaml"))
    except OSError as error:
        return BadSpec(error.strerror or str(error))
    except BadSpec as problem:
        return problem

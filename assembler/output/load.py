"""docker or podman as output: a docker archive into their `load`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import BinaryIO, cast

from assembler.cancellation import nothing
from assembler.errors import HostError
from assembler.linux.outside import Outside, Over
from assembler.oci.descriptor import Descriptor
from assembler.oci.image import Result
from assembler.output.archive import Archive
from assembler.output.base import Blobs, Check

_INSTEAD = "-o type=docker,dest=FILE writes to a file what would be loaded"
_MOST_WORDS = 500  # characters of what a program says


def loader(path: str, context: str = "") -> tuple[str, ...]:
    """The command that reads a docker archive: docker's, if it is in one of the directories `path`,
    as PATH has them, else podman's. `context` is one of docker's. Raises HostError."""
    import shutil

    if docker := shutil.which("docker", path=path):
        return (docker, *(("--context", context) if context else ()), "load", "--quiet")
    if context:
        raise HostError("there is no docker on PATH, one of whose contexts is asked for", "docker")
    if podman := shutil.which("podman", path=path):
        return (podman, "load", "--quiet")
    raise HostError(
        "there is neither docker nor podman on PATH that could load the image",
        "docker or podman",
        hint=f"{_INSTEAD}; without --load the image is kept in the store",
    )


class Load(Archive):
    """Loads one image under `references` into the docker or podman of `program`, a `loader`."""

    def __init__(
        self,
        program: Outside,
        references: Sequence[str],
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__("-", references, docker=True, annotations=annotations)
        self._program = program
        self._tool = os.path.basename(program.argv[0])
        self.name = f"importing to {self._tool}"

    def write(self, image: Result, blobs: Blobs, check: Check = nothing) -> Descriptor:
        """See `output.base.Output.write`. Raises HostError with the last words of a program that
        failed."""
        with self._program.running() as running:
            with suppress(Over):  # it may know enough before the end
                stream = cast(BinaryIO, running)  # of which `write` is needed
                self._pack(image, blobs, stream, check)
            status, said = running.finish()
        if status:
            raise HostError(f"{self._tool} load {_ended(status, said)}", self._tool, hint=_INSTEAD)
        return image.document.descriptor

    def _tags(self) -> list[str]:
        return list(self._references)  # podman puts familiar names into localhost/


def _ended(status: int, said: str) -> str:
    how = f"ended with status {status}" if status > 0 else f"was ended by signal {-status}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"{how}: {lines[-1][-_MOST_WORDS:]}" if lines else how

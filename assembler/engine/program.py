"""The program that a step executes, as it lies in a tree: found, followed to what starts it, and why
the kernel cannot execute it (execve(2)).

A tree is the image's: names, links and sizes in it may be anything. No more of a file is read than the
kernel would.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.reading import as_file
from assembler.layer.tree import Lookup, resolve
from assembler.linux.beneath import Openings, within
from assembler.linux.elf import HEAD, Elf, loader
from assembler.linux.emulators import Host, remedy
from assembler.oci.config import DEFAULT_PATH
from assembler.plan.steps import Run

_DEPTH = 4  # scripts that a script may be for (BINPRM_MAX_RECURSION)
_PREFIX = 64 << 10  # bytes read of a file that cannot be read at any place
_SYSTEM = ("dev", "proc", "sys")  # whatever a tree has there, a step sees something else
_APPLE = (b"\xcf\xfa\xed\xfe", b"\xce\xfa\xed\xfe", b"\xca\xfe\xba\xbe")


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a program cannot be executed, and what would mend that. `by_shells` says that shells cannot
    either, which read themselves what the kernel refuses; `permitted` that it is not for its mode."""

    reason: str
    remedy: str
    by_shells: bool = True
    permitted: bool = True


@dataclass(frozen=True, slots=True)
class Programs:
    """What may be executed in `tree` by `step` on `host`. Everything that was `seen` on the way is
    noted: the paths that were looked up, whether there is something or not."""

    tree: Lookup
    step: Run
    host: Host
    seen: set[str] = field(default_factory=set)

    def lookup(self, path: str) -> Entry | None:
        """See `layer.tree.Lookup`. What no file system can have as a path is nowhere."""
        self.seen.add(path)
        try:
            return self.tree.lookup(path)
        except ValueError:
            return None

    def paths(self, name: str) -> list[str]:
        """Where a program `name` is looked for, absolute."""
        if "/" in name:
            return [posixpath.join(self.step.cwd, name)]
        places = dict(self.step.env).get("PATH", DEFAULT_PATH).split(":")
        return [posixpath.join(self.step.cwd, place, name) for place in places]

    def file(self, path: str) -> Entry | None:
        """The file at `path`, links followed; None for anything else, and where the step sees what is
        not in the tree. Raises StepError for links without an end, OSError."""
        place = resolve(self, path)
        if (script := self._script(place)) is not None:
            return script
        entry = None if self._hidden(place) else self.lookup(place)
        return entry if entry is not None and entry.kind is Kind.FILE else None

    def _script(self, place: str) -> Entry | None:
        """The here-document of the step that is shown at `place`."""
        for name, text in self.step.scripts:
            if place == f"dev/pipes/{name}":
                source = InlineBytes(text.encode("utf-8", "surrogateescape"))
                return Entry(place, Kind.FILE, mode=0o755, source=source)
        return None

    def foreign(self, path: str) -> str | None:
        """Why the program at `path` is sure to be refused for the architecture it is for; empty where
        it is not, None where there is no such file. Raises StepError, OSError."""
        entry, name = self.file(path), path
        if entry is None:
            return None
        for _ in range(_DEPTH):
            with reading(entry) as at:
                head = at(0, HEAD)
            if self.host.interprets(head, name) or not head.startswith(b"#!"):
                break
            name, _ = _interpreter(head)
            below = self.file(posixpath.join(self.step.cwd, name)) if name else None
            if below is None:
                return ""
            entry = below
        reason = self.host.refusal(head, name, self._has)
        elf = Elf.of(head)
        return f"{name} is a program for {elf.platform}: {reason}" if elf and reason else ""

    def refused(self, path: str) -> Refused | None:
        """Why the program at `path` cannot be executed, None for one that can be, as far as is known,
        or is not there. Raises StepError, OSError."""
        entry = self.file(path)
        return None if entry is None else self._refused(path, entry, _DEPTH)

    def _refused(self, path: str, entry: Entry, depth: int) -> Refused | None:
        if not entry.mode & 0o111:
            reason = f"{path} has no execute permission (mode {entry.mode:04o})"
            return Refused(reason, f"COPY --chmod=755 it, or RUN chmod +x {path}", permitted=False)
        with reading(entry) as at:
            head = at(0, HEAD)
            needs = loader(at) if head.startswith(b"\x7fELF") else ""
        if (elf := Elf.of(head)) is not None:
            return self._refused_elf(path, elf, head, needs)
        if self.host.interprets(head, path):
            return None
        if head.startswith(b"#!"):
            return self._refused_script(path, head, depth)
        return _unknown(path, head)

    def _refused_elf(self, path: str, elf: Elf, head: bytes, needs: str) -> Refused | None:
        reason = self.host.refusal(head, path, self._has)
        if reason:
            for_what = f"{path} is a program for {elf.platform}, this host is {self.host.platform}"
            return Refused(f"{for_what}: {reason}", remedy(elf.architecture))
        own = elf.architecture in (self.host.architecture, "386")
        if own and needs and not self._has(needs):
            return Refused(
                f"{path} is started by {needs}, which the stage does not have{_built_for(needs)}",
                "link it statically (CGO_ENABLED=0, -static), build it in a stage with the same base,"
                " or install that loader",
            )
        return None

    def _refused_script(self, path: str, head: bytes, depth: int) -> Refused | None:
        name, carriage = _interpreter(head)
        if carriage:
            own = path.startswith("/dev/pipes/")
            mended = "the Dockerfile" if own else f"{path} (or RUN sed -i 's/\\r$//' {path})"
            return Refused(
                f"the first line of {path} ends with CR LF, as on Windows, so that the name of its"
                " interpreter ends with a carriage return",
                f"save {mended} with LF; git does by `* text=auto eol=lf` in .gitattributes",
            )
        place = posixpath.join(self.step.cwd, name)
        entry = self.file(place)
        if entry is not None:
            return self._refused(name, entry, depth - 1) if depth else None
        if not name or self._hidden(resolve(self, place)):
            return None
        return Refused(
            f"{path} is for the interpreter {name}, which the stage does not have",
            f"install {name}, or name one that is there after #!",
        )

    def _has(self, path: str) -> bool:
        path = posixpath.join(self.step.cwd, path)
        return self.file(path) is not None or self._hidden(resolve(self, path))

    def _hidden(self, place: str) -> bool:
        """Whether the step sees something else at `place` than the tree has: system files, mounts."""
        if place.partition("/")[0] in _SYSTEM:
            return True
        targets = [mount.target for mount in self.step.mounts if mount.target]
        return any(within(place, resolve(self, target)) for target in targets)


@contextmanager
def reading(entry: Entry) -> Iterator[Callable[[int, int], bytes]]:
    """The bytes of a file: at an offset, as many as asked for, or what there is. Raises OSError,
    StepError."""
    file = as_file(entry.source)
    if file is None:
        content = b""
        if entry.source is not None:
            with entry.source.open() as stream:
                content = stream.read(_PREFIX)
        yield lambda offset, size: content[offset : offset + size]
        return
    with Openings() as near:
        descriptor = file.descriptor(near)
        try:
            yield lambda offset, size: os.pread(descriptor, size, offset)
        finally:
            os.close(descriptor)


def _interpreter(head: bytes) -> tuple[str, bool]:
    """The program that a script names, empty where that cannot be told, and whether its first line
    ends with a carriage return."""
    line, newline, _ = head[2:].partition(b"\n")
    if not newline and len(head) >= HEAD:
        return "", False
    word = line.replace(b"\t", b" ").strip(b" ").split(b" ")[0].split(b"\0")[0]
    return os.fsdecode(word), line.endswith(b"\r")


def _unknown(path: str, head: bytes) -> Refused:
    if not head:
        return Refused(f"{path} is empty", "see what made or copied it", by_shells=False)
    if head.startswith(b"MZ"):
        return Refused(f"{path} is a program for Windows", "build it for linux (GOOS=linux)")
    if head.startswith(_APPLE):
        return Refused(f"{path} is a program for macOS", "build it for linux (GOOS=linux)")
    if b"\0" in head:
        reason = f"{path} is no program that Linux knows"
        return Refused(reason, "see what made or copied it")
    reason = f"{path} is a script whose first line names no interpreter"
    return Refused(reason, "begin it with #!/bin/sh, or name the shell in RUN", by_shells=False)


def _built_for(needs: str) -> str:
    """What a missing loader tells of how a program was built."""
    name = needs.rpartition("/")[2]
    if name.startswith("ld-musl-"):
        return " (it was linked with musl, as on Alpine)"
    return " (it was linked with glibc)" if name.startswith("ld-linux") else ""

"""Every error a user can meet, as one tree. An error says whose fault it is.

    AssemblerError(message, hint)
    ├─ UsageError                      the command line
    ├─ DockerfileError(span)           the Dockerfile's author
    │   ├─ SyntaxProblem  UnknownInstruction  BadFlag  ExpansionFailed
    │   └─ UndefinedStage  StageCycle  Unsupported
    ├─ StepError(span)                 the build itself
    │   └─ ProcessFailed(exit_code)  CopySourceMissing  ContextChanged  NotCached
    ├─ RegistryError(registry, operation, status)
    │   └─ Unauthorized  NotFound  RateLimited  Unreachable  ProtocolViolation
    ├─ StoreError(path)
    │   └─ BlobCorrupt  BlobMissing  NoSpace  StoreUnusable
    ├─ HostError(feature)
    │   └─ NamespacesForbidden  RuntimeMissing
    ├─ LayerError(entry)
    │   └─ BadArchive  OwnershipLost
    └─ Cancelled
        └─ TimedOut

`cli` maps classes to exit statuses; nothing else knows exit statuses.
"""

from __future__ import annotations

from collections.abc import Iterator

from assembler.source import Span


class AssemblerError(Exception):
    """The root: a message in one sentence, and a hint that says what to do (may be empty)."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(AssemblerError):
    """The command line asks for something that cannot be."""


class DockerfileError(AssemblerError):
    """The Dockerfile's author can mend it; `span` says where."""

    def __init__(self, message: str, span: Span | None = None, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.span = span


class SyntaxProblem(DockerfileError):
    """Text that is no instruction, or an instruction with wrong arguments."""


class UnknownInstruction(SyntaxProblem):
    """The first word names no instruction."""


class BadFlag(SyntaxProblem):
    """A flag that the instruction does not have, or a wrong value for one."""


class ExpansionFailed(DockerfileError):
    """A `${…}` that is malformed, or says that its variable must be set."""


class UndefinedStage(DockerfileError):
    """A stage or target that the file does not define."""


class StageCycle(DockerfileError):
    """Stages that need each other."""


class Unsupported(DockerfileError):
    """Legal Dockerfile language that this version refuses rather than gets wrong."""


class StepError(AssemblerError):
    """A step ran and failed; `span` is its place in the Dockerfile."""

    def __init__(self, message: str, span: Span | None = None, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.span = span

    def place_at(self, span: Span) -> None:
        """Give the error its place, unless it has one already."""
        if self.span is None:
            self.span = span


class OverBudget(AssemblerError):
    """An image is larger than it may be."""


class ProcessFailed(StepError):
    """RUN ended with another status than 0 (128 + N for signal N, as shells have it)."""

    def __init__(
        self, message: str, exit_code: int, span: Span | None = None, *, hint: str = ""
    ) -> None:
        super().__init__(message, span, hint=hint)
        self.exit_code = exit_code


class CopySourceMissing(StepError):
    """COPY or ADD names a path that its source does not hold."""


class ContextChanged(StepError):
    """A file of the context changed while it was read."""


class NotCached(StepError):
    """A step would have to be done, and may not."""


class RegistryError(AssemblerError):
    """A registry refused or failed; `status` is the HTTP status, 0 where there was none."""

    def __init__(
        self,
        message: str,
        *,
        registry: str = "",
        operation: str = "",
        status: int = 0,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint)
        self.registry = registry
        self.operation = operation
        self.status = status


class Unauthorized(RegistryError):
    """401 or 403, after asking for a token."""


class NotFound(RegistryError):
    """The registry has no such repository, manifest or blob."""


class RateLimited(RegistryError):
    """429, and the retry budget is spent."""


class Unreachable(RegistryError):
    """No connection, or one that kept breaking until the budget was spent. `cause` is one of
    `net.failure.Cause`, empty where there was an answer; `root` is where it was asked: scheme, host
    and port."""

    cause = ""
    root = ""


class ProtocolViolation(RegistryError):
    """An answer that breaks the distribution spec: a wrong digest, size or document."""


class StoreError(AssemblerError):
    """The store on disk; `path` is what it was about."""

    def __init__(self, message: str, path: str = "", *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.path = path


class BlobCorrupt(StoreError):
    """Bytes that do not have the digest they are stored under; `removed` says that nothing is under
    it any more, so that they are fetched or made anew, `told` that the user knows."""

    removed = False
    told = False


class BlobMissing(StoreError):
    """A blob that a manifest or a cache record names is not there."""


class NoSpace(StoreError):
    """Nothing more can be written: space, inodes, quota, a limit, or a file system that is read-only.
    `file_system` is where it is mounted, empty while that is not known."""

    file_system = ""


class StoreUnusable(StoreError):
    """The store directory cannot be made or written, or belongs to a newer version."""


class HostError(AssemblerError):
    """The host lacks `feature`; the hint is the one line that would provide it."""

    def __init__(self, message: str, feature: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.feature = feature


class NamespacesForbidden(HostError):
    """No user namespace can be made here."""


class RuntimeMissing(HostError):
    """The container runtime asked for is not installed, or does not start."""


class LayerError(AssemblerError):
    """A layer or archive; `entry` is the path in it that is to blame."""

    def __init__(self, message: str, entry: str = "", *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.entry = entry


class BadArchive(LayerError):
    """Truncated, corrupt or hostile."""


class OwnershipLost(LayerError):
    """An owner that the id map here cannot express."""


class Cancelled(AssemblerError):
    """The user asked to stop (Ctrl-C, SIGTERM), or another step failed first. `running` are the
    names of what was running then, where that is known."""

    def __init__(self, message: str = "cancelled", signal: int = 0) -> None:
        super().__init__(message)
        self.signal = signal
        self.running: tuple[str, ...] = ()


class TimedOut(Cancelled):
    """It took longer than it was given."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """`error`, what caused it, what caused that, and so on, each once: chains can be circular."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__

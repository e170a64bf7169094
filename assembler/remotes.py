"""What a build takes from elsewhere: files over http and git repositories, for ADD and as contexts.

Each is fetched once for a build, however many steps want it, and is a vertex of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from assembler.cancellation import Cancellation
from assembler.dockerfile.remote import GitReference, file_name, without_credentials
from assembler.engine.recorder import vertex
from assembler.environment import Environment
from assembler.errors import StepError
from assembler.events import Sink, VertexProgress, Warned
from assembler.layer.changeset import ByteSource, Entry, Kind, PathBytes
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.layer.tree import ChangesetTree, EmptyTree, Tree
from assembler.oci.digest import Digest
from assembler.plan.steps import GitSource, UrlSource
from assembler.store.store import Store

if TYPE_CHECKING:
    from assembler.context.download import Download, Downloads
    from assembler.context.git import Repositories
    from assembler.context.tree import TreeContext
    from assembler.net.client import HttpClient

DOWNLOADS = 4  # at once: a server is asked for no more (reliability R15)
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Remotes:
    """Fetches for one build. Use it with `with`: what it checked out is removed at the end."""

    def __init__(
        self,
        store: Store,
        environment: Environment,
        *,
        known: Callable[[], Downloads],
        secrets: Mapping[str, Callable[[], bytes]],
        sink: Sink,
        cancellation: Cancellation,
        agent: Callable[[], str] = str,
        limits: Limits = DEFAULT_LIMITS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._environment = environment
        self._known = known
        self._secrets = secrets
        self._sink = sink
        self._cancellation = cancellation
        self._agent = agent
        self._limits = limits
        self._clock = clock
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(DOWNLOADS)
        self._locks: dict[tuple[int, Hashable], threading.Lock] = {}
        self._client: HttpClient | None = None
        self._files: dict[tuple[str, str], Download] = {}
        self._commits: dict[GitReference, str] = {}
        self._trees: dict[tuple[GitReference, bool], Tree] = {}
        self._scratch_path = ""

    def __enter__(self) -> Remotes:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def identity(self, source: UrlSource | GitSource) -> Digest:
        """What identifies `source` now: its name and content, or its commit. Fetches a file whose
        checksum is not given; asks a repository for the commit of a branch or tag."""
        if isinstance(source, UrlSource):
            name, content = file_name(source.url), str(self._download(source).digest)
        else:
            wanted = source.repository
            name, content = wanted.subdirectory, self._commit(wanted)
            name += f"\0{wanted.remote if source.keep_git_dir else ''}\0{wanted.submodules}"
        framed = f"remote/1:{len(name)}:{name}:{content}"
        said = framed.encode("utf-8", "surrogateescape")
        return Digest("sha256", hashlib.sha256(said).hexdigest())

    def open(self, source: UrlSource | GitSource) -> tuple[Entry, Tree]:
        """The file or directory that `source` is, and the tree it is in."""
        if isinstance(source, UrlSource):
            download = self._download(source)
            entry = Entry(
                file_name(source.url),
                Kind.FILE,
                mode=0o600,
                mtime=download.mtime,
                size=download.size,
                source=PathBytes(self._store.blobs.path(download.digest)),
            )
            return entry, EmptyTree()
        tree = self._checkout(source.repository, source.keep_git_dir)
        return tree.lookup("") or Entry("", Kind.DIRECTORY, mode=0o755), tree

    def repository(self, wanted: GitReference, name: str, keep: bool) -> TreeContext:
        """A repository as build context, no ignore rules read yet (rule X1)."""
        from assembler.context.tree import TreeContext

        tree = self._checkout(wanted, keep)
        time = self._repositories().commit_time(self._place(wanted, keep))
        return TreeContext(name, tree, None, time)

    def epoch(self, source: UrlSource | GitSource) -> int | None:
        """When `source` was made, in seconds since 1970: the commit's time, the server's
        Last-Modified, or the newest entry of an archive; None where nothing says (rule T1)."""
        if isinstance(source, UrlSource):
            return self._context(source, "").epoch
        return self.repository(source.repository, "", source.keep_git_dir).epoch

    def fetched(self, url: str, name: str) -> TreeContext:
        """What is at `url` as build context, no ignore rules read yet: the files of an archive, or
        the one file, as a Dockerfile or, with a name, as `context` (rules X1, X3)."""
        address, credentials = without_credentials(url)
        return self._context(UrlSource(address, credentials=credentials), name)

    def _context(self, wanted: UrlSource, name: str) -> TreeContext:
        from assembler.context.tree import TreeContext

        download = self._download(wanted)
        source = PathBytes(self._store.blobs.path(download.digest))
        epoch = download.mtime // 1_000_000_000 or None
        found = self.archive(source, name)
        if found is not None:
            return TreeContext(found.name, found.files, None, epoch or found.epoch)
        file = "context" if name else "Dockerfile"
        entry = Entry(file, Kind.FILE, mode=0o600, size=download.size, source=source)
        return TreeContext(name, ChangesetTree((entry,)), None, epoch)

    def archive(self, source: ByteSource, name: str) -> TreeContext | None:
        """An archive as build context, no ignore rules read yet; None when `source` is none (rule
        P2)."""
        from assembler.context.tree import TreeContext, whole
        from assembler.layer.archive import expand, is_archive

        if not is_archive(source):
            return None
        with self._lock:
            spool = self._stack.enter_context(self._store.scratch())
        changeset = expand(source, spool, check=self._cancellation.check, limits=self._limits)
        newest = max((entry.mtime for entry in changeset), default=0)
        return TreeContext(name, whole(changeset), None, newest // 1_000_000_000)

    def spooled(self, stream: BinaryIO) -> PathBytes:
        """The rest of `stream` as a file that lives as long as this."""
        with self._lock:
            spool = self._stack.enter_context(self._store.scratch())
        path = os.path.join(spool, "input")
        with open(path, "xb") as out:
            while chunk := self._next(stream):
                out.write(chunk)
        return PathBytes(path)

    def _next(self, stream: BinaryIO) -> bytes:
        """The next piece of `stream`; whoever is to write it is waited for until cancelled."""
        import io
        import select

        with contextlib.suppress(io.UnsupportedOperation):  # of a stream that is in memory
            select.select([stream.fileno(), self._cancellation.fileno()], [], [])
        self._cancellation.check()
        return (
            stream.read1(1 << 20) if isinstance(stream, io.BufferedReader) else stream.read(1 << 20)
        )

    def _download(self, source: UrlSource) -> Download:
        from assembler.context.download import Fetcher, shown

        item = shown(source.url)
        id = f"fetch {hashlib.sha256(source.url.encode('utf-8', 'replace')).hexdigest()}"

        def progress(current: int, total: int) -> None:
            self._sink(VertexProgress(id, item, current, total, self._clock()))

        def fetch() -> Download:
            fetcher = Fetcher(
                self._store, self._http, self._known(), self._secrets, self._cancellation
            )
            shown_as = f"[internal] fetch {item}"
            with vertex(id, shown_as, self._sink, self._clock) as work:
                found = fetcher.fetch(
                    source.url,
                    source.checksum,
                    progress,
                    source.credentials,
                    tell=work.output,
                    at_once=self._turns,
                )
                work.detail = str(found.digest)
            return found

        return self._once(self._files, (source.url, source.checksum), fetch)

    def _commit(self, wanted: GitReference) -> str:
        def resolve() -> str:
            title = f"[internal] resolve git {wanted.remote} {wanted.ref}".rstrip()
            with vertex(f"git {wanted}", title, self._sink, self._clock) as work:
                work.detail = self._repositories().commit(wanted)
            return work.detail

        return self._once(self._commits, wanted, resolve)

    def _checkout(self, wanted: GitReference, keep: bool) -> Tree:
        commit = self._commit(wanted)

        def load() -> Tree:
            into = self._place(wanted, keep)
            title = f"[internal] load git source {wanted.remote} {commit[:12]}"
            with vertex(into, title, self._sink, self._clock):
                return self._repositories().checkout(wanted, commit, keep, into)

        return self._once(self._trees, (wanted, keep), load)

    def _once(self, known: dict[Key, Value], key: Key, make: Callable[[], Value]) -> Value:
        """What `make` gives for `key`, made once; others wait, other keys do not."""
        with self._lock:
            lock = self._locks.setdefault((id(known), key), threading.Lock())
        with lock:
            if key not in known:
                known[key] = make()
            return known[key]

    def _place(self, wanted: GitReference, keep: bool) -> str:
        """Where a repository is checked out."""
        name = hashlib.sha256(f"{wanted} {keep}".encode()).hexdigest()[:16]
        return os.path.join(self._scratch(), name)

    def _scratch(self) -> str:
        with self._lock:
            if not self._scratch_path:
                self._scratch_path = self._stack.enter_context(self._store.scratch())
            return self._scratch_path

    def _repositories(self) -> Repositories:
        from assembler.context.git import Repositories
        from assembler.context.git_command import GitCommand

        git = GitCommand(
            self._cancellation,
            self._secrets,
            self._environment.variables,
            self._environment.home,
            self._agent(),
        )
        return Repositories(os.path.join(self._store.path, "git"), git)

    def _http(self) -> HttpClient:
        with self._lock:
            if self._client is None:
                from assembler.net.client import HttpClient

                client = HttpClient(
                    cancellation=self._cancellation,
                    variables=self._environment.variables,
                    warn=lambda text: self._sink(Warned(text, self._clock())),
                )
                self._client = self._stack.enter_context(client)
            return self._client


class Unfetched:
    """For a forecast: what is elsewhere is not asked for, so nothing is known of it."""

    def identity(self, source: UrlSource | GitSource) -> Digest | None:
        """Not known."""
        return None

    def open(self, source: UrlSource | GitSource) -> tuple[Entry, Tree]:
        """Refused: a forecast reads nothing. Raises StepError."""
        raise StepError(f"{source} is not fetched to forecast a build")

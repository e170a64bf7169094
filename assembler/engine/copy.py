"""COPY and ADD: a selection and a destination to a changeset (rules C9-C26)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from assembler.cancellation import nothing
from assembler.engine.owners import owner
from assembler.engine.selection import Selected, Selection
from assembler.errors import BadArchive, StepError
from assembler.layer.archive import extract, is_archive
from assembler.layer.changeset import ByteSource, Changeset, Entry, InlineBytes, Kind
from assembler.layer.entry_map import EntryMap
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.layer.overlay import shown
from assembler.layer.tree import Tree, join, resolve
from assembler.plan import modes
from assembler.plan.steps import Copy

_MOST_FOLLOWED = 50_000  # paths that are remembered


def changeset(
    copy: Copy,
    selection: Selection,
    destination: Tree,
    *,
    now: int,
    spool: str,
    check: Callable[[], None] = nothing,
    limits: Limits = DEFAULT_LIMITS,
    archives: dict[ByteSource, bytes] | None = None,
) -> Changeset:
    """What `copy` of `selection` changes in `destination`. The SHA-256 digests of archives that are
    extracted are put into `archives`.

    `now` is the time, in nanoseconds, of directories made on the way. An archive that ADD extracts
    is spooled to a file in the directory `spool`, which must outlive the changeset's use. `check`
    is called for each entry and may raise. Raises StepError at the instruction's span.
    """
    try:
        writer = _Writer(copy, destination, now, check, limits, EntryMap(spool), archives)
        for item in selection.items:
            writer.take(item, selection, spool)
        for inline in selection.inline:
            content = inline.content.encode("utf-8", "surrogateescape")
            entry = Entry(
                inline.name, Kind.FILE, mtime=now, size=len(content), source=InlineBytes(content)
            )
            writer.take(Selected(entry, inline.name, destination), selection, spool)
        return writer.result()
    except StepError as error:
        error.place_at(copy.span)
        raise


@dataclass(slots=True)
class _Writer:
    """Collects entries; lives only inside `changeset`.

    Names of one file are FILE entries that share an `inode` of our own until the result, so that
    what replaces one of them does not change the others.
    """

    copy: Copy
    tree: Tree
    now: int
    check: Callable[[], None]
    limits: Limits
    entries: EntryMap
    archives: dict[ByteSource, bytes] | None = None
    base: str = ""
    owner: tuple[int, int] | None = None
    chmod: modes.Chmod | None = None
    links: int = 0
    extracted: int = 0

    def __post_init__(self) -> None:
        if self.copy.chown:
            self.owner = self._owner()
        if self.copy.chmod:
            self.chmod = modes.parse(self.copy.chmod)

    def _owner(self) -> tuple[int, int]:
        try:
            return owner(self.tree, self.copy.chown)
        except StepError as error:
            span = self.copy.span.blame(self.copy.chown)
            if not self.copy.link:
                raise StepError(error.message, span, hint=error.hint) from error
            raise StepError(
                f"--chown={self.copy.chown} with --link: names are looked up in the new layer alone",
                span,
                hint="use numbers, or leave out --link",
            ) from error

    def take(self, item: Selected, selection: Selection, spool: str) -> None:
        """Add one selected source, or one match. A link in the destination may be another one by
        now, so it is followed for each (rule C10)."""
        self.base = resolve(self, self.copy.destination)
        source = item.entry.source
        if item.entry.kind is Kind.DIRECTORY:
            self.directory(item, selection)
        elif item.unpack and source is not None and is_archive(source):
            self.archive(self._extracted(item.name, source, spool))
        else:
            self.file(item.entry, item.name)

    def file(self, entry: Entry, name: str) -> None:
        """Add something that is no directory (rule C11)."""
        existing = self.lookup(self.base)
        is_directory = existing is not None and existing.kind is Kind.DIRECTORY
        if self.copy.destination.endswith("/") or self.base == "" or is_directory:
            target = join(self.base, name)
        else:
            target = self.base
        self.place(self.marked(entry._replace(path=target, inode=None)))

    def directory(self, item: Selected, selection: Selection) -> None:
        """Add what is taken of a directory; with --parents that is a part of it (C8, C13, C24)."""
        self.make(self.base)
        inodes: dict[tuple[int, int], tuple[int, int]] = {}
        for below in selection.below(item):
            self.check()
            entry = below.entry.at(join(self.base, below.path))
            if entry.inode is not None:
                entry = entry._replace(inode=inodes.setdefault(entry.inode, self._new_inode()))
            if below.implied:
                self.imply(entry)
            else:
                self.place(self.marked(entry))

    def _new_inode(self) -> tuple[int, int]:
        self.links += 1
        return 0, self.links

    def imply(self, entry: Entry) -> None:
        """Have a directory that is only there because something below it is; where there is one
        already it takes no more than the source's mode."""
        existing = self.lookup(entry.path)
        if existing is not None and existing.kind is Kind.DIRECTORY:
            self.make(entry.parent)
            self.entries.put(existing._replace(mode=entry.mode))
        else:
            self.place(self.marked(entry))

    def _extracted(self, name: str, source: ByteSource, spool: str) -> EntryMap:
        archives = self.archives
        seen = None if archives is None else partial(archives.__setitem__, source)
        try:
            return extract(source, spool, check=self.check, limits=self.limits, seen=seen)
        except BadArchive as error:
            raise StepError(
                f"{name} cannot be unpacked: {error.message}",
                self.copy.span.blame(name),
                hint=error.hint or "ADD --unpack=false copies it as it is",
            ) from error

    def archive(self, files: EntryMap) -> None:
        """Add an extracted archive; the destination is a directory (rule C26).

        The destination is the root of everything in it, of absolute links that are there too; what
        is in the way of a member is replaced, but directories are merged.
        """
        self.make(self.base, mode=0o755)
        root = _Inside(self)
        self.extracted += 1
        for entry in files.entries():
            self.check()
            if entry.path == "":
                continue
            target = root.place_of(entry.path)
            entry = shown(entry)
            if entry.inode is not None:
                entry = entry._replace(inode=(self.extracted, entry.inode[1]))
            if self.owner is not None:
                entry = entry._replace(uid=self.owner[0], gid=self.owner[1])
            if entry.kind is not Kind.DIRECTORY:
                self.clear(target)
            if entry.kind is Kind.SYMLINK:
                root.followed.clear()
            self.make(target.rpartition("/")[0], mode=0o755)
            self.entries.put(entry.at(target))
        files.close()

    def clear(self, path: str) -> None:
        """Drop the directory that was placed at `path`, with everything in it."""
        known = self.entries.get(path)
        if known is not None and known.kind is Kind.DIRECTORY:
            self.entries.remove_below(path)

    def marked(self, entry: Entry) -> Entry:
        """`entry` with the owner and mode the flags ask for; links are never chmodded."""
        if self.owner is not None:
            entry = entry._replace(uid=self.owner[0], gid=self.owner[1])
        if self.chmod is not None and entry.kind is not Kind.SYMLINK:
            mode = self.chmod(entry.mode, entry.kind is Kind.DIRECTORY)
            entry = entry._replace(mode=mode)
        return entry

    def place(self, entry: Entry) -> None:
        """Put `entry` at its path, with the directories above it (rules C14, C15)."""
        existing = self.lookup(entry.path)
        if existing is not None:
            was, now = existing.kind is Kind.DIRECTORY, entry.kind is Kind.DIRECTORY
            if was and not now:
                raise StepError(f"cannot replace to directory /{entry.path} with file")
            if now and not was:
                raise StepError(f"cannot copy to non-directory: /{entry.path}")
            if now and existing.xattrs:
                xattrs = {**dict(existing.xattrs), **dict(entry.xattrs)}
                entry = entry._replace(xattrs=tuple(sorted(xattrs.items())))
        self.make(entry.parent)
        self.entries.put(entry)

    def make(self, path: str, mode: int | None = None) -> None:
        """Have a directory at `path`: its own where there is one, else a new one (rule C12)."""
        missing: list[str] = []
        here, found = path, None
        while here and (found := self.entries.get(here)) is None:
            missing.append(here)
            here = here.rpartition("/")[0]
        if found is not None and found.kind is not Kind.DIRECTORY:
            raise StepError(f"cannot copy to non-directory: /{here}")
        for here in reversed(missing):
            existing = self.tree.lookup(here)
            if existing is not None and existing.kind is not Kind.DIRECTORY:
                raise StepError(f"cannot copy to non-directory: /{here}")
            self.entries.put(existing or self.new_directory(here, mode))

    def new_directory(self, path: str, mode: int | None) -> Entry:
        """A directory made on the way: 0755 and 0:0 unless --chown or an octal --chmod, of which
        no more than permissions count."""
        uid, gid = self.owner or (0, 0)
        if mode is None:
            octal = self.chmod is not None and modes.is_octal(self.copy.chmod)
            mode = int(self.copy.chmod, 8) & 0o777 if octal else 0o755
        return Entry(path, Kind.DIRECTORY, mode=mode, uid=uid, gid=gid, mtime=self.now)

    def lookup(self, path: str) -> Entry | None:
        """What is at `path` by now."""
        return self.entries.get(path) or self.tree.lookup(path)

    def result(self) -> Changeset:
        """The changeset, parents first, hard links after the file they name."""
        return self.entries.changeset()


@dataclass(frozen=True, slots=True)
class _Inside:
    """The destination as a root of its own, with what was placed in it so far."""

    writer: _Writer
    followed: dict[str, str] = field(default_factory=dict)

    def lookup(self, path: str) -> Entry | None:
        """See `Tree.lookup`."""
        return self.writer.lookup(join(self.writer.base, path))

    def place_of(self, member: str) -> str:
        """Where a member of an archive goes, links among its parents followed."""
        above, _, name = member.rpartition("/")
        parent = self.followed.get(above)
        if parent is None:
            if len(self.followed) >= _MOST_FOLLOWED:
                self.followed.clear()
            parent = join(self.writer.base, resolve(self, above)).rstrip("/")
            self.followed[above] = parent
        return join(parent, name)

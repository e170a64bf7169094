"""COPY and ADD: a selection and a destination to a changeset (rules C9-C26)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from assembler.engine import modes
from assembler.engine.selection import Selected, Selection
from assembler.errors import StepError
from assembler.layer.archive import expand, is_archive
from assembler.layer.changeset import Changeset, Entry, InlineBytes, Kind
from assembler.layer.owners import owner
from assembler.layer.tree import Tree, join, resolve
from assembler.plan.steps import Copy


def changeset(
    copy: Copy, selection: Selection, destination: Tree, *, now: int, spool: str
) -> Changeset:
    """What `copy` of `selection` changes in `destination`.

    `now` is the time, in nanoseconds, of directories made on the way. An archive that ADD extracts
    is spooled to a file in the directory `spool`, which must outlive the changeset's use. Raises
    StepError at the instruction's span.
    """
    try:
        writer = _Writer(copy, destination, now)
        for item in selection.items:
            writer.take(item, selection, spool)
        for inline in selection.inline:
            content = inline.content.encode("utf-8", "surrogateescape")
            entry = Entry(
                inline.name, Kind.FILE, mtime=now, size=len(content), source=InlineBytes(content)
            )
            writer.file(entry, inline.name)
        return writer.result()
    except StepError as error:
        if error.span is not None:
            raise
        raise StepError(error.message, copy.span, hint=error.hint) from error


@dataclass(slots=True)
class _Writer:
    """Collects entries; lives only inside `changeset`."""

    copy: Copy
    tree: Tree
    now: int
    entries: dict[str, Entry] = field(default_factory=dict)
    base: str = ""
    owner: tuple[int, int] | None = None
    chmod: modes.Chmod | None = None

    def __post_init__(self) -> None:
        self.base = resolve(self.tree, self.copy.destination)
        if self.copy.chown:
            self.owner = owner(self.tree, self.copy.chown)
        if self.copy.chmod:
            self.chmod = modes.parse(self.copy.chmod)

    def take(self, item: Selected, selection: Selection, spool: str) -> None:
        """Add one selected source."""
        source = item.entry.source
        if item.entry.kind is Kind.DIRECTORY:
            self.directory(item, selection)
        elif item.unpack and source is not None and is_archive(source):
            self.archive(expand(source, spool))
        else:
            for path, parent in item.parents:
                self.place(replace(parent, path=join(self.base, path)))
            self.file(item.entry, item.name)

    def file(self, entry: Entry, name: str) -> None:
        """Add something that is no directory (rule C11)."""
        into = self.copy.destination.endswith("/") or self.copy.parents
        existing = self.at(self.base)
        if into or self.base == "" or (existing and existing.kind is Kind.DIRECTORY):
            target = join(self.base, name)
        else:
            target = self.base
        self.place(self.marked(replace(entry, path=target)))

    def directory(self, item: Selected, selection: Selection) -> None:
        """Add what is below a directory, and itself where --parents asks for it (C8, C13)."""
        base = self.base
        for path, parent in item.parents:
            self.place(replace(parent, path=join(self.base, path)))
        if self.copy.parents and item.name:
            base = join(self.base, item.name)
            self.place(self.marked(replace(item.entry, path=base)))
        self.make(base)
        links: dict[tuple[int, int], str] = {}
        for path, entry in selection.below(item):
            target = join(base, path)
            first = links.setdefault(entry.inode, target) if entry.inode else target
            placed = self.marked(replace(entry, path=target))
            if first != target:
                placed = replace(placed, kind=Kind.HARDLINK, link=first, size=0, source=None)
            self.place(placed)

    def archive(self, entries: Changeset) -> None:
        """Add an extracted archive; the destination is a directory (rule C26)."""
        self.make(self.base)
        for entry in entries:
            parent = resolve(self.tree, join(self.base, entry.parent))
            target = join(parent, entry.name)
            if entry.path == "":
                continue
            link = join(self.base, entry.link) if entry.kind is Kind.HARDLINK else entry.link
            placed = replace(entry, path=target, link=link)
            if self.owner is not None:
                placed = replace(placed, uid=self.owner[0], gid=self.owner[1])
            existing = self.at(target)
            if existing and existing.kind is Kind.DIRECTORY and entry.kind is not Kind.DIRECTORY:
                raise StepError(f"cannot replace to directory /{target} with file")
            self.make(parent)
            self.entries[target] = placed

    def marked(self, entry: Entry) -> Entry:
        """`entry` with the owner and mode the flags ask for; links are never chmodded."""
        if self.owner is not None:
            entry = replace(entry, uid=self.owner[0], gid=self.owner[1])
        if self.chmod is not None and entry.kind is not Kind.SYMLINK:
            mode = self.chmod(entry.mode, entry.kind is Kind.DIRECTORY)
            entry = replace(entry, mode=mode)
        return entry

    def place(self, entry: Entry) -> None:
        """Put `entry` at its path, with the directories above it (rules C14, C15)."""
        existing = self.at(entry.path)
        if existing is not None:
            was, now = existing.kind is Kind.DIRECTORY, entry.kind is Kind.DIRECTORY
            if was and not now:
                raise StepError(f"cannot replace to directory /{entry.path} with file")
            if now and not was:
                raise StepError(f"cannot copy to non-directory: /{entry.path}")
        self.make(entry.parent)
        self.entries[entry.path] = entry

    def make(self, path: str) -> None:
        """Have a directory at `path`: its own where there is one, else a new one (rule C12)."""
        if path == "" or path in self.entries:
            return
        existing = self.tree.lookup(path)
        if existing is not None and existing.kind is not Kind.DIRECTORY:
            raise StepError(f"cannot copy to non-directory: /{path}")
        self.make(path.rpartition("/")[0])
        self.entries[path] = existing or self.new_directory(path)

    def new_directory(self, path: str) -> Entry:
        """A directory made on the way: 0755 and 0:0 unless --chown or an octal --chmod."""
        uid, gid = self.owner or (0, 0)
        mode = 0o755
        if self.chmod is not None and modes.is_octal(self.copy.chmod):
            mode = self.chmod(mode, True)
        return Entry(path, Kind.DIRECTORY, mode=mode, uid=uid, gid=gid, mtime=self.now)

    def at(self, path: str) -> Entry | None:
        """What is at `path` by now."""
        return self.entries.get(path) or self.tree.lookup(path)

    def result(self) -> Changeset:
        """The changeset, parents first, hard links after the file they name."""
        ordered = sorted(self.entries.items())
        files = [entry for _, entry in ordered if entry.kind is not Kind.HARDLINK]
        links = [entry for _, entry in ordered if entry.kind is Kind.HARDLINK]
        return (*files, *links)

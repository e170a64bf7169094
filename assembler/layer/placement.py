"""A layer's members placed by name only, as `layer.directory` places them on disk (reliability.md T1
to T9): what is at each path in the end."""

from __future__ import annotations

from assembler.errors import BadArchive
from assembler.layer.changeset import Entry, Kind
from assembler.layer.directory import Lower, nowhere
from assembler.layer.entry_map import EntryMap
from assembler.layer.following import Following
from assembler.layer.tree import join


class Placement(Following):
    """Members placed one after another, as `LayerDirectory` places them; of names only.

    `entries` are what is at each path; the root's attributes are those of `root`. `settled` turns
    false where it matters what is below. `spool` is a directory for what is too much for memory.
    """

    def __init__(self, lower: Lower, spool: str = "") -> None:
        self._lower = lower
        super().__init__()
        self._followed: set[str] = set()
        self._inodes = 0
        self.entries = EntryMap(spool, listing=True)
        self.root: Entry | None = None
        self.settled = True

    def place(self, entry: Entry) -> None:
        """See `LayerDirectory.place`. Raises BadArchive."""
        if not entry.path:
            self._place_root(entry)
        elif entry.kind is Kind.OPAQUE:
            self._make_opaque(self._resolve(entry.path))
        else:
            above, _, name = entry.path.rpartition("/")
            self._place(self._resolve(above), name, entry)

    def _place_root(self, entry: Entry) -> None:
        if entry.kind is Kind.OPAQUE:
            self._make_opaque("")
        elif entry.kind is Kind.DIRECTORY:
            self.root = entry
        else:
            raise BadArchive("an entry would replace the root directory")

    def _place(self, above: str, name: str, entry: Entry) -> None:
        path = join(above, name)
        if path in self._followed:  # and is there no more
            self._known.clear()
        if entry.kind is Kind.DIRECTORY:
            self._make_directory(above, name, entry)
            self._known[entry.path] = path
        elif entry.kind is Kind.WHITEOUT:
            found = self.entries.get(path)
            if found is None:
                self.entries.put(_at(path, entry))
            elif found.kind is Kind.DIRECTORY:
                self._make_opaque(path)
        elif entry.kind is Kind.HARDLINK:
            self._link(above, name, entry)
        else:
            self._clear(path)
            self.entries.put(_at(path, entry))

    def _link(self, above: str, name: str, entry: Entry) -> None:
        target_above, _, target_name = entry.link.rpartition("/")
        target_above = self._resolve(target_above)
        target = join(target_above, target_name)
        path = join(above, name)
        if f"{target}/".startswith(f"{path}/"):
            raise BadArchive(f"{entry.path!r} is a hard link to what it replaces", entry.path)
        found = self.entries.get(target) if target_name else None
        if found is None and target_name:
            found = self._shown_below(target)
            if found is not None and found.kind is not Kind.DIRECTORY:
                self._place(above, name, found._replace(path=entry.path, inode=None))
                return
            if self._lower is nowhere and not self.settled:
                return  # it is placed again when there is something below
        if found is None or found.kind is Kind.WHITEOUT:
            raise BadArchive(
                f"{entry.path!r} is a hard link to {entry.link!r}, which is not there", entry.path
            )
        if found.kind is Kind.DIRECTORY:
            raise BadArchive(f"{entry.path!r} is a hard link to a directory", entry.path)
        if found.kind is Kind.FILE and found.inode is None:
            self._inodes += 1
            found = found._replace(inode=(-id(self.entries), self._inodes))  # which a tree keeps
        self._clear(path)
        self.entries.put(found)
        self.entries.put(_at(path, found))

    def _make_directory(self, above: str, name: str, entry: Entry) -> None:
        path = join(above, name)
        found = self.entries.get(path)
        if found is not None and found.kind is not Kind.DIRECTORY:
            replaced = found.kind is Kind.WHITEOUT
            if not replaced:
                below = self._shown_below(path)
                replaced = below is not None and below.kind is Kind.DIRECTORY
            self._clear(path)
            if replaced:
                self._make_opaque(path)
        self.entries.put(_at(path, entry))

    def _make_opaque(self, path: str) -> None:
        self.opaque.add(path)
        if self._followed:
            self._known.clear()

    def _shown_below(self, path: str) -> Entry | None:
        """What the layers below have at the real path `path`, unless this layer hides it."""
        if self._covered(path):
            return None
        self.settled = False
        return self._lower(path)

    def _clear(self, path: str) -> None:
        """Remove what is in the way of an entry that replaces it."""
        found = self.entries.get(path)
        if found is None:
            return
        self.entries.remove(path)
        if found.kind is not Kind.DIRECTORY:
            if found.kind is Kind.SYMLINK:
                self._known.clear()
            return
        self._known.clear()
        if self.opaque:
            self.opaque.discard(path)
            self.opaque.difference_update(one.path for one in self.entries.below(path))
        self.entries.remove_below(path)

    def _step(self, above: str, name: str, links: int) -> str:
        path = join(above, name)
        found = self.entries.get(path)
        if found is None or found.kind is Kind.WHITEOUT:
            below = None if found is not None else self._shown_below(path)
            if below is not None and below.kind is Kind.SYMLINK:
                self._followed.add(path)
                return self._follow(above, below.link, links + 1)
            if below is None or below.kind is not Kind.DIRECTORY:
                below = Entry(path, Kind.DIRECTORY, 0o755)
            self._make_directory(above, name, below)
        elif found.kind is Kind.SYMLINK:
            return self._follow(above, found.link, links + 1)
        elif found.kind is not Kind.DIRECTORY:
            raise BadArchive(f"{path!r} is no directory, but something is to be below it", path)
        return path


def _at(path: str, entry: Entry) -> Entry:
    return entry if entry.path == path else entry.at(path)

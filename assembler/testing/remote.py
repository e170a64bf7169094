"""Files that ADD and git sources name, in memory."""

from __future__ import annotations

from collections.abc import Mapping

from assembler.dockerfile.remote import file_name
from assembler.errors import NotFound
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.tree import ChangesetTree, EmptyTree, Tree
from assembler.oci.digest import Digest
from assembler.plan.steps import GitSource, UrlSource


class MemoryRemote:
    """Files that are elsewhere, in memory: the engine's `Remote` without a network.

    `files` maps a URL to its bytes, and `URL#path` of a repository to those of a file in it.
    `asked` are the URLs that were opened, in order.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.asked: list[str] = []

    def identity(self, source: UrlSource | GitSource) -> Digest:
        """See `engine.services.Remote.identity`."""
        if isinstance(source, UrlSource):
            return Digest.of(file_name(source.url).encode() + b"\0" + self._found(source.url))
        inside = [(entry.path, entry.source) for entry in self._repository(source)]
        return Digest.of(repr(inside).encode())

    def open(self, source: UrlSource | GitSource) -> tuple[Entry, Tree]:
        """See `engine.services.Remote.open`."""
        if isinstance(source, UrlSource):
            self.asked.append(source.url)
            content = self._found(source.url)
            return _inline(file_name(source.url), content, 0o600), EmptyTree()
        self.asked.append(source.repository.remote)
        tree = ChangesetTree(self._repository(source))
        return Entry("", Kind.DIRECTORY, mode=0o755), tree

    def _found(self, url: str) -> bytes:
        if url not in self.files:
            raise NotFound(f"invalid response status 404 for {url}", status=404)
        return self.files[url]

    def _repository(self, source: GitSource) -> list[Entry]:
        start = f"{source.repository.remote}#"
        entries: dict[str, Entry] = {}
        for name, content in sorted(self.files.items()):
            if not name.startswith(start):
                continue
            path = name.removeprefix(start)
            for depth in range(1, path.count("/") + 1):
                above = "/".join(path.split("/")[:depth])
                entries[above] = Entry(above, Kind.DIRECTORY, mode=0o755)
            entries[path] = _inline(path, content, 0o644)
        return [entries[path] for path in sorted(entries)]


def _inline(path: str, content: bytes, mode: int) -> Entry:
    return Entry(path, Kind.FILE, mode=mode, size=len(content), source=InlineBytes(content))

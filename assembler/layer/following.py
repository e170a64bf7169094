"""Names in a layer's tar, followed to real directories as an extractor inside the root would."""

from __future__ import annotations

from assembler.errors import BadArchive
from assembler.layer.tree import join

_MAX_LINKS = 40
_MOST = 50_000  # paths that are remembered


class Following:
    """Remembers the real paths of directories. Who derives from it takes single steps, and clears
    `_known` when something that a path may have led through is replaced."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}
        self.opaque: set[str] = set()
        """The directories in which nothing of the layers below shows."""

    def _covered(self, path: str) -> bool:
        """Whether nothing of the layers below shows at the real path `path`, as one of the
        directories above it is opaque."""
        above = path
        while self.opaque and above:
            above = above.rpartition("/")[0]
            if above in self.opaque:
                return True
        return False

    def _step(self, above: str, name: str, links: int) -> str:
        """The real path of the directory `name` in the real directory `above`, made if missing."""
        raise NotImplementedError

    def _resolve(self, path: str, links: int = 0) -> str:
        """The real path of the directory at `path`, which is made where it is missing."""
        missing: list[tuple[str, str]] = []
        if len(self._known) > _MOST:
            self._known.clear()
        known = "" if not path else self._known.get(path)
        while known is None:
            above, _, name = path.rpartition("/")
            missing.append((path, name))
            path = above
            known = "" if not path else self._known.get(path)
        for named, name in reversed(missing):
            known = self._known[named] = self._step(known, name, links)
        return known

    def _follow(self, above: str, target: str, links: int) -> str:
        """The real path of the directory that a link in `above` with the text `target` leads to."""
        if links > _MAX_LINKS:
            raise BadArchive(f"too many symbolic links below {above!r}", above)
        current = "" if target.startswith("/") else above
        for part in target.split("/"):
            if part == "..":
                current = current.rpartition("/")[0]
            elif part not in ("", "."):
                current = self._resolve(join(current, part), links)
        return current

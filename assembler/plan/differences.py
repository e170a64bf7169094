"""What differs between the inputs of two steps (`plan.inputs`), in the order in which a step sees
them: what is below it, its variables, user and directory, its command, its mounts, its files.

Documents may be of another version, or of a cache that somebody else wrote: what in one is not what
it should be counts as not there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from typing import Any

from assembler.values import value

FILES = 50
"""As many files of one source are named; the others are counted."""

_LEVELS = 8  # of objects in objects; there are four

Document = Mapping[str, Any]
Listing = Mapping[str, str]
"""What a selection holds: by path what `File.parse` reads."""

LARGEST_LISTING = 150_000
"""Files in one: of a selection of more there is none."""

ADDED, REMOVED, CHANGED = "added", "removed", "changed"
LINKS = "links"

_FIELDS = (
    "args", "env", "user", "cwd", "argv", "scripts", "network", "security", "hostname", "hosts",
    "limits", "shared_memory", "devices", "path", "destination", "inline", "chown", "chmod", "link", "parents", "exclude",
    "unpack",
)  # fmt: skip
"""In this order; what a newer version adds comes after them."""
_KNOWN = frozenset(_FIELDS)
_SELECTING = ("inline", "parents", "exclude", "unpack")
"""By these the same files may be taken otherwise."""


@value
class Difference:
    """One thing that is not as it was.

    `what` it is: `base`, `platform`, `stage` or `step` (what is below), the name of a field (`env`,
    `cwd` …), `sources`, `mount`, `origin`, `file`, or `files` where it is not known which. `name` is
    which one; `change` is `added`, `removed`, `changed`, or which property of it changed, such as
    `mode`; of files also `links`, where only which of them are one did.
    `old` and `new` are texts, empty for nothing. `place` is the instruction or mount it is in.
    """

    what: str
    name: str = ""
    change: str = CHANGED
    old: str = ""
    new: str = ""
    place: str = ""


@value
class Comparison:
    """The first differences, and how many there are in all."""

    found: tuple[Difference, ...] = ()
    count: int = 0


@value
class File:
    """A file as a listing has it: `kind` is a letter of ls(1), `-` for a file. `content` is the
    digest of its bytes, what a link means, or the numbers of a device; `rest` what else there is."""

    kind: str
    mode: str
    owner: str
    content: str = ""
    rest: str = ""

    @classmethod
    def parse(cls, text: str) -> File:
        """The file that `str` gave."""
        kind, mode, owner, rest, content = (text.split(" ", 4) + [""] * 4)[:5]
        return cls(kind, mode, owner, content, rest)

    def __str__(self) -> str:
        return f"{self.kind} {self.mode} {self.owner} {self.rest} {self.content}"


def parse(text: str) -> Document | None:
    """The document that `text` is; None where it is none of this version."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    known = isinstance(document, dict) and document.get("version") == 1
    return document if known and _is_shallow(document, _LEVELS) else None


def _is_shallow(value: object, levels: int) -> bool:
    """Whether `value` is nested no deeper than that."""
    if not isinstance(value, dict | list):
        return True
    inner = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_is_shallow(one, levels - 1) for one in inner)


def compare(
    old: Document, new: Document, files: Callable[[str], Listing | None] = lambda digest: None
) -> Comparison:
    """What differs in what makes a key, from `old` to `new`. `files` gives what the selection with
    a digest holds, None where that is not known."""
    found: list[Difference] = []
    count = 0
    for group, more in _groups(old, new, files):
        found += group
        count += len(group) + more
    return Comparison(tuple(found), count)


def contrasted(old: str, new: str, length: int) -> tuple[str, str]:
    """Two texts, cut to `length` characters each where they begin to differ; `…` is where some are
    left out."""
    if max(len(old), len(new)) <= length:
        return old, new
    pairs = enumerate(zip(old, new, strict=False))
    same = next((number for number, (a, b) in pairs if a != b), min(len(old), len(new)))
    start = max(0, same - length // 5)
    return _window(old, start, length), _window(new, start, length)


def _window(text: str, start: int, length: int) -> str:
    before, after = "…" if start else "", "…" if len(text) > start + length else ""
    return f"{before}{text[start : start + length]}{after}"


def title(name: str) -> str:
    """A step's name without the brackets that progress puts before it."""
    bracket, found, rest = name.partition("] ")
    return rest if found and bracket.startswith("[") else name


def _groups(
    old: Document, new: Document, files: Callable[[str], Listing | None]
) -> Iterator[tuple[list[Difference], int]]:
    """Differences, and how many more there are of the same origin."""
    if _text(old, "kind") != _text(new, "kind"):
        yield [Difference("instruction", old=_named(old), new=_named(new))], 0
        return
    if not _linked(old, new):
        yield _below(_object(old, "parent"), _object(new, "parent")), 0
    before, after = _object(old, "fields"), _object(new, "fields")
    others = sorted((before.keys() | after.keys()) - _KNOWN)
    for field in (*_FIELDS, *others):
        old_value, new_value = before.get(field), after.get(field)
        if not _same(old_value, new_value):
            yield list(_field(field, old_value, new_value)), 0
    yield list(_mounts(_objects(old, "mounts"), _objects(new, "mounts"))), 0
    otherwise = not all(_same(before.get(field), after.get(field)) for field in _SELECTING)
    pairs = zip_longest(_objects(old, "origins"), _objects(new, "origins"))
    for number, (one, other) in enumerate(pairs):
        place = _place(new if other else old, other or one or {}, number)
        yield _origin(one or {}, other or {}, place, otherwise, files)


def _linked(old: Document, new: Document) -> bool:
    """Whether both do not depend on what is below them (rule C25)."""
    return all(_object(one, "fields").get("link") is True for one in (old, new))


def _below(old: Document, new: Document) -> list[Difference]:
    if old.get("key") == new.get("key"):
        return []
    kinds, names = (_text(old, "is"), _text(new, "is")), (_text(old, "name"), _text(new, "name"))
    if kinds[0] != kinds[1]:
        what = "step" if "step" in kinds else "base"
        return [Difference(what, names[1], "replaced", names[0], names[1])]
    if kinds[1] == "step":
        change = CHANGED if title(names[0]) == title(names[1]) else "replaced"
        return [Difference("step", names[1], change, names[0], names[1])]
    if names[0] != names[1]:
        return [Difference("base", names[1], "replaced", names[0], names[1])]
    if kinds[1] == "stage":
        return [Difference("stage", names[1])]
    platforms = _text(old, "platform"), _text(new, "platform")
    if all(platforms) and platforms[0] != platforms[1]:
        return [Difference("platform", old=platforms[0], new=platforms[1])]
    return [Difference("base", names[1], "moved", _text(old, "digest"), _text(new, "digest"))]


def _same(old: Any, new: Any) -> bool:
    """Whether two values surely are the same; those of which the order counts are in the same one."""
    if type(old) is not type(new) or old != new:
        return False
    return type(old) is not dict or list(old) == list(new)


def _field(name: str, old: Any, new: Any) -> Iterator[Difference]:
    if isinstance(old, dict) and isinstance(new, dict):
        yield from _entries(name, old, new)
    elif json.dumps(old) != json.dumps(new):
        yield Difference(name, change=_change(old, new), old=_shown(old), new=_shown(new))


def _entries(field: str, old: Document, new: Document) -> Iterator[Difference]:
    """Of variables and files of here-documents."""
    names = [*old, *(name for name in new if name not in old)]
    same = True
    for name in names:
        if name in old and name in new and old[name] == new[name]:
            continue
        same = False
        change = CHANGED if name in old and name in new else ADDED if name in new else REMOVED
        yield Difference(field, name, change, _shown(old.get(name)), _shown(new.get(name)))
    if same and list(old) != list(new):
        yield Difference(field, change="order", old=" ".join(old), new=" ".join(new))


def _mounts(old: Sequence[Document], new: Sequence[Document]) -> Iterator[Difference]:
    """Mounts are paired by what they are and where, what is left of each type in order."""
    if old == new:
        return
    left = list(old)
    pairs: list[tuple[Document | None, Document | None]] = []
    unpaired = []
    for mount in new:
        same = next((one for one in left if _mounted(one) == _mounted(mount)), None)
        if same is None:
            unpaired.append(mount)
        else:
            left.remove(same)
            pairs.append((same, mount))
    for mount in unpaired:
        alike = next((one for one in left if one.get("type") == mount.get("type")), None)
        if alike is not None:
            left.remove(alike)
        pairs.append((alike, mount))
    pairs += [(one, None) for one in left]
    found = [each for pair in pairs for each in _mount(*pair)]
    yield from found
    if not found and list(map(_definition, old)) != list(map(_definition, new)):
        names = [" ".join(map(mounted, some)) for some in (old, new)]
        yield Difference("mount", change="order", old=names[0], new=names[1])


def _mounted(mount: Document) -> tuple[str, str]:
    return _text(mount, "type"), _text(mount, "target")


def _definition(mount: Document) -> str:
    """What of a mount is in the key; what a bind mount shows is among the origins."""
    return json.dumps({key: one for key, one in mount.items() if key != "of"}, sort_keys=True)


def mounted(mount: Document) -> str:
    """A mount as it could be written."""
    type, target = _mounted(mount)
    return f"--mount=type={type},target={target}" if target else f"--mount=type={type}"


def _mount(old: Document | None, new: Document | None) -> Iterator[Difference]:
    if old is None or new is None:
        one = new if old is None else old
        yield Difference("mount", mounted(one or {}), ADDED if old is None else REMOVED)
        return
    for key in sorted((old.keys() | new.keys()) - {"of", "type"}):
        if json.dumps(old.get(key)) != json.dumps(new.get(key)):
            yield Difference("mount", mounted(old), key, _shown(old.get(key)), _shown(new.get(key)))


def _origin(
    old: Document,
    new: Document,
    place: str,
    otherwise: bool,
    files: Callable[[str], Listing | None],
) -> tuple[list[Difference], int]:
    """What differs in one thing that is read, maybe `otherwise`, and how many more files than those."""
    kinds = _text(old, "from"), _text(new, "from")
    sources = [_shown(one.get("sources", [])) for one in (old, new)]
    names = [f"{_text(one, 'from')} {_text(one, 'name')}".strip() for one in (old, new)]
    if kinds[0] != kinds[1]:
        change = ADDED if not kinds[0] else REMOVED if not kinds[1] else CHANGED
        return [Difference("origin", names[1] or names[0], change, names[0], names[1], place)], 0
    found = []
    if sources[0] != sources[1]:
        found.append(Difference("sources", old=sources[0], new=sources[1], place=place))
    digests = _text(old, "digest"), _text(new, "digest")
    if digests[0] == digests[1]:
        return found, 0
    if names[0] != names[1]:
        found.append(Difference("origin", names[1], CHANGED, names[0], names[1], place))
    before, after = files(digests[0]), files(digests[1])
    if before is not None and after is not None:
        changed, count = changed_files(before, after, place)
        if count:
            return found + changed, count - len(changed)
        if not found and not otherwise:  # which names are one file is in no listing
            found.append(Difference("files", names[1], LINKS, digests[0], digests[1], place))
        return found, 0
    if not found:
        found.append(Difference("files", names[1], CHANGED, digests[0], digests[1], place))
    return found, 0


def changed_files(old: Listing, new: Listing, place: str = "") -> tuple[list[Difference], int]:
    """The first FILES files that differ, in the order of their paths, and how many do. Of what is
    in a directory that came or went, nothing is said."""
    names = [path for path, one in new.items() if old.get(path) != one]
    names += [path for path in old if path not in new]
    names.sort()
    whole: set[str] = set()
    shown = []
    for path in names:
        inside = path.rpartition("/")[0] in whole
        directory = (new if path in new else old)[path].startswith("d ")
        if directory and (inside or (path in new) != (path in old)):
            whole.add(path)
        if not inside:
            shown.append(path)
    found: Iterable[Difference] = (
        _file(path, old.get(path), new.get(path), place) for path in shown
    )
    return list(islice(found, FILES)), len(shown)


def _file(path: str, old: str | None, new: str | None, place: str) -> Difference:
    if old is None or new is None:
        one = File.parse(new or old or "")
        change, digest = (REMOVED, "") if new is None else (ADDED, _digest(one))
        name = f"{path}/" if one.kind == "d" else path
        gone = _digest(one) if new is None else ""
        return Difference("file", name, change, gone, digest, place)
    before, after = File.parse(old), File.parse(new)
    name = f"{path}/" if before.kind == after.kind == "d" else path
    if before.kind != after.kind:
        return Difference("file", name, "kind", before.kind, after.kind, place)
    if before.content != after.content:
        if after.kind == "-":
            return Difference("file", name, CHANGED, _digest(before), _digest(after), place)
        return Difference("file", name, "target", before.content, after.content, place)
    if before.mode != after.mode:
        return Difference("file", name, "mode", before.mode, after.mode, place)
    if before.owner != after.owner:
        return Difference("file", name, "owner", before.owner, after.owner, place)
    return Difference("file", name, "attributes", before.rest, after.rest, place)


def _digest(file: File) -> str:
    return f"sha256:{file.content}" if file.kind == "-" else ""


def _place(document: Document, origin: Document, number: int) -> str:
    """What in a Dockerfile reads `origin`, the `number`th of the document."""
    kind = _text(document, "kind")
    if kind == "RUN":
        binds = [one for one in _objects(document, "mounts") if one.get("type") == "bind"]
        return mounted(binds[number]) if number < len(binds) else kind
    where, name = _text(origin, "from"), _text(origin, "name")
    words = [kind, f"--from={name}" if where in ("stage", "image") or name else ""]
    if where in ("url", "git"):
        words = [kind, name]
    sources = origin.get("sources")
    words += map(str, sources) if isinstance(sources, list) else []
    return " ".join(filter(None, words))


def _named(document: Document) -> str:
    return title(_text(document, "step")) or _text(document, "kind")


def _change(old: Any, new: Any) -> str:
    return ADDED if old in (None, "") else REMOVED if new in (None, "") else CHANGED


def _shown(given: Any) -> str:
    """A value of a document as people write it."""
    if given is None:
        return ""
    if isinstance(given, str):
        return given
    if isinstance(given, list) and all(isinstance(one, str) for one in given):
        return " ".join(given)
    return json.dumps(given)


def _text(document: Document, key: str) -> str:
    found = document.get(key)
    return found if isinstance(found, str) else ""


def _object(document: Document, key: str) -> dict[str, Any]:
    found = document.get(key)
    return found if isinstance(found, dict) else {}


def _objects(document: Document, key: str) -> list[dict[str, Any]]:
    found = document.get(key)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

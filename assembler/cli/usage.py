"""Records of the store as `docker buildx du` and `prune` show and choose them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from assembler.cache.usage import Usage, human
from assembler.cli.durations import seconds_of
from assembler.engine.recorder import timestamp
from assembler.errors import UsageError
from assembler.source import printable

if TYPE_CHECKING:
    from assembler.cache.bounds import Filter

_SPANS = {
    "year": 31536000, "month": 2592000, "week": 604800, "day": 86400, "hour": 3600, "minute": 60,
    "second": 1,
}  # fmt: skip
_TITLES = {
    "ID": "ID", "Parents": "PARENTS", "CreatedAt": "CREATED AT", "Mutable": "MUTABLE",
    "Reclaimable": "RECLAIMABLE", "Shared": "SHARED", "Size": "SIZE",
    "Description": "DESCRIPTION", "UsageCount": "USAGE COUNT", "LastUsedAt": "LAST ACCESSED",
    "Type": "TYPE",
}  # fmt: skip
_LABELS = {
    "ID": "ID", "Parents": "Parents", "Created at": "CreatedAt", "Mutable": "Mutable",
    "Reclaimable": "Reclaimable", "Shared": "Shared", "Size": "Size",
    "Description": "Description", "Usage count": "UsageCount", "Last used": "LastUsedAt",
    "Type": "Type",
}  # fmt: skip
_TABLE = "table {{.ID}}\t{{.Reclaimable}}\t{{.Size}}\t{{.LastUsedAt}}"
_NAME = re.compile(r"\{\{\s*(?:\.(?=\w)|json\s+\.(?!\w))(\w*)\s*\}\}")


def filters_of(words: Sequence[str]) -> tuple[list[Filter], float]:
    """The filters that `--filter` words mean, and for how many seconds a record must not have been
    used (`until`). Raises UsageError."""
    from assembler.cache.pruning import parse_filter

    filters: dict[str, Filter] = {}
    since: dict[str, float] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key in filters or key in since:
            raise UsageError(f"--filter {key}: only one value is expected")
        if key in ("until", "unused-for"):
            since[key] = seconds_of(f"--filter {key}=", value, "24h")
        else:
            filters[key] = parse_filter(key, value if equals else None)
    if len(since) > 1:
        raise UsageError("--filter until and unused-for mean the same", hint="give one of them")
    return list(filters.values()), sum(since.values())


def table(found: Iterable[Usage], now: float) -> Iterable[str]:
    """The lines of the table; `*` marks what is mutable, and the size of what is shared."""
    return templated(_TABLE, found, now)


def templated(template: str, found: Iterable[Usage], now: float) -> Iterable[str]:
    """The lines that `template` makes of records: text with names in it as in `{{.ID}}`, those of
    buildx, or `{{json .}}`; after the word `table` with a line of their titles, in columns. Raises
    UsageError."""
    text, is_table = template.removeprefix("table "), template.startswith("table ")
    text = text.replace("\\t", "\t").replace("\\n", "\n")
    used = set(_NAME.findall(text))
    rest = _NAME.sub("", text)
    if not used <= {"", *_TITLES} or "{{" in rest or not used:
        raise UsageError(
            f"--format {template}: neither table, pretty, json nor a template that is known here",
            hint=f"{{{{.NAME}}}} in it may be {', '.join(_TITLES)}",
        )

    def line(values: Mapping[str, str]) -> str:
        return _NAME.sub(lambda match: printable(values[match[1]]), text)

    rows = [line({"": as_json(one), **_texts(one, now, is_table)}) for one in found]
    titles = line({"": "", **_TITLES})
    return columns([one.split("\t") for one in (titles, *rows)]) if is_table else rows


def columns(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """The lines of a table whose columns are as wide as what is in them."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=False)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False))
        yield "  ".join(cells).rstrip()


def _texts(one: Usage, now: float, is_table: bool) -> dict[str, str]:
    """What buildx shows of a record by its names for it; marks are for tables."""
    return {
        "ID": one.id + ("*" if is_table and one.mutable else ""),
        "Parents": f"[{' '.join(one.parents)}]",
        "CreatedAt": timestamp(one.created),
        "Mutable": str(one.mutable).lower(),
        "Reclaimable": str(not one.in_use).lower(),
        "Shared": str(one.shared).lower(),
        "Size": human(one.size) + ("*" if is_table and one.shared else ""),
        "Description": one.description,
        "UsageCount": str(one.count),
        "LastUsedAt": ago(now - one.last_used),
        "Type": one.type,
    }


def paragraphs(found: Iterable[Usage], now: float) -> Iterable[str]:
    """The lines of the verbose form."""
    for one in found:
        texts = _texts(one, now, False)
        for label, name in _LABELS.items():
            if name == "Parents":
                if one.parents:
                    yield "Parents:"
                    yield from (f" - {parent}" for parent in one.parents)
            elif texts[name]:
                yield f"{label + ':':<13} {printable(texts[name])}"
        yield ""


def summary(found: Sequence[Usage]) -> Iterable[str]:
    """The sums below the records."""
    total = sum(one.size for one in found)
    shared = sum(one.size for one in found if one.shared)
    if shared:
        yield f"Shared:      {human(shared)}"
        yield f"Private:     {human(total - shared)}"
    yield f"Reclaimable: {human(sum(one.size for one in found if not one.in_use))}"
    yield f"Total:       {human(total)}"


def as_json(one: Usage) -> str:
    """The record as buildx's JSON object, on one line."""
    document = {
        "ID": one.id,
        "Parents": list(one.parents),
        "CreatedAt": timestamp(one.created),
        "Mutable": one.mutable,
        "Reclaimable": not one.in_use,
        "Shared": one.shared,
        "Size": one.size,
        "Description": one.description,
        "UsageCount": one.count,
        "LastUsedAt": timestamp(one.last_used),
        "Type": one.type,
    }
    from assembler.cli.serial import dumps

    return dumps(document)


def ago(seconds: float) -> str:
    """How long ago, in the largest unit of which there are two."""
    for unit, length in _SPANS.items():
        count = int(seconds // length)
        if count >= 2 or (count and unit == "second"):
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "less than a second ago"

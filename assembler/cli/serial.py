"""JSON for other programs, which may be strict about Unicode."""

from __future__ import annotations

import json
from typing import Any


def dumps(document: Any, *, indent: int | None = None) -> str:
    """`document` as JSON, on one line unless it is to be indented. What is no UTF-8 in a name is
    U+FFFD there, as Go writes it: a lone surrogate is refused by many readers."""
    text = _dumped(document, indent)
    if "\\ud" not in text:
        return text
    whole = json.dumps(document, ensure_ascii=False)
    valid = "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in whole)
    return _dumped(json.loads(valid), indent)


def _dumped(document: Any, indent: int | None) -> str:
    if indent is None:
        return json.dumps(document, separators=(",", ":"))
    return json.dumps(document, indent=indent)

"""JSON documents from elsewhere: parsed within bounds, or refused with a ValueError."""

from __future__ import annotations

import json
from typing import Any, NoReturn

MAX_VALUES = 250_000
"""A document of few bytes can be many values, and 1.4 million empty lists take 90 MB (rule M7)."""


def load(content: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `content`. Raises ValueError, which says that `what` is none."""
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise ValueError(f"{what} has more than {MAX_VALUES} values")
    try:
        document = json.loads(content, parse_constant=_refuse)
    except RecursionError:
        raise ValueError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{what} is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise ValueError(f"{what} is not an object")
    return document


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")

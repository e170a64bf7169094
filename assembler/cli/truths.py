"""Words that are true or false."""

from __future__ import annotations

from collections.abc import Mapping

from assembler.errors import UsageError

TRUTHS = {
    text: truth
    for truth, texts in ((True, "1 t T TRUE true True"), (False, "0 f F FALSE false False"))
    for text in texts.split()
}
"""As Go's ParseBool reads them, which buildx uses."""


def parse_truth(option: str, fields: Mapping[str, str], key: str, default: bool) -> bool:
    """What `fields` say of `key`, which alone is true; `default` where they do not. Raises
    UsageError."""
    text = fields.get(key)
    if text is None:
        return default
    if text and text not in TRUTHS:
        raise UsageError(f"{option}: {key} is neither true nor false")
    return TRUTHS.get(text, True)

"""`--attest`, `--provenance` and `--sbom`: that none is made can be said, as under buildx, and none
is (ecosystem.md 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from assembler.cli.truths import TRUTHS, parse_truth
from assembler.dockerfile.flags import parse_csv_fields
from assembler.errors import BadFlag, UsageError


def refuse_attestations(attests: Sequence[str], provenance: str, sbom: str) -> None:
    """Raise UsageError for options that ask for an attestation, or mean nothing."""
    for word in attests:
        _refuse(word)
    for kind, text in (("provenance", provenance), ("sbom", sbom)):
        if text and TRUTHS.get(text) is not False:
            raise _not_made(f"--{kind}={text}", kind, f"--{kind}=false")


def _refuse(word: str) -> None:
    option = f"--attest {word}"
    try:
        fields: Mapping[str, str] = {key: text or "" for key, text in parse_csv_fields(word)}
    except BadFlag as error:
        raise UsageError(f"{option}: {error.message}") from error
    kind = fields.get("type", "")
    if not kind:
        raise UsageError(f"{option}: attestation type not specified", hint="--attest type=…")
    if not parse_truth(option, fields, "disabled", False):
        raise _not_made(option, kind, f"--attest type={kind},disabled=true")


def _not_made(option: str, kind: str, instead: str) -> UsageError:
    return UsageError(
        f"{option}: attestations are not made yet, and the image would have no {kind}",
        hint=f"{instead}, or nothing at all, builds without",
    )

"""Attestations can be declined as under buildx; one that is asked for is refused (rule O4)."""

from __future__ import annotations

import pytest

from assembler.cli.attestations import refuse_attestations
from assembler.errors import UsageError


@pytest.mark.parametrize("no", ["false", "0", "F", "f", "False", "FALSE", ""])
def test_O4_no_attestation_is_no_mistake(no: str) -> None:
    refuse_attestations([], no, no)


def test_O4_a_disabled_one_is_none() -> None:
    words = ["type=provenance,disabled=true", "disabled=1,type=sbom", "type=sbom,disabled=t,x=y"]
    refuse_attestations(words, "", "")


@pytest.mark.parametrize("text", ["true", "1", "mode=max", "mode=min,inline-only=true", "yes", "."])
def test_O4_one_that_is_asked_for_is_refused_with_what_to_say_instead(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        refuse_attestations([], text, "")
    assert raised.value.message == (
        f"--provenance={text}: attestations are not made yet, and the image would have no provenance"
    )
    assert raised.value.hint.startswith("--provenance=false")
    with pytest.raises(UsageError, match="the image would have no sbom"):
        refuse_attestations([], "false", text)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("type=sbom", "the image would have no sbom"),
        ("type=provenance,mode=max", "the image would have no provenance"),
        ("type=sbom,disabled=false,generator=x", "the image would have no sbom"),
        ("type=sbom,disabled=maybe", "disabled is neither true nor false"),
        ("disabled=true", "attestation type not specified"),
        ('type=sbom,"x', 'missing closing "'),
    ],
)
def test_O4_attest_has_a_type_and_is_disabled(word: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        refuse_attestations([word], "", "")

"""The options that say how registries are reached, as one value."""

from __future__ import annotations

from typing import Any

import click
import pytest
from click.testing import CliRunner

from assembler.access import Access
from assembler.cli.options import network_options
from assembler.errors import UsageError
from assembler.values import replace


def given(*arguments: str, **env: str) -> Access:
    """What a command with these options is given."""
    found: list[Access] = []

    @click.command("try")
    @network_options
    def command(access: Access) -> None:
        found.append(access)

    done = CliRunner().invoke(command, arguments, env=env, auto_envvar_prefix="ASSEMBLE_TRY")
    if done.exception is not None:
        raise done.exception
    return found[0]


def test_nothing_given_is_nothing_said() -> None:
    assert given() == Access()


def test_all_of_them(tmp_path: Any) -> None:
    words = (
        "--authfile=a.json --creds=me:pass:word --tls-verify=false --retry=7"
        f" --insecure-registry=a.com --insecure-registry=10.0.0.0/8 --cert-dir={tmp_path}"
    )
    assert given(*words.split()) == Access(
        insecure=("a.com", "10.0.0.0/8"),
        tls_verify=False,
        authfile="a.json",
        cert_dir=str(tmp_path),
        creds="me:pass:word",
        retries=7,
    )


@pytest.mark.parametrize(
    ("word", "expected"),
    [("--tls-verify", True), ("--tls-verify=true", True), ("--tls-verify=0", False)],
)
def test_tls_verify_is_podmans(word: str, expected: bool) -> None:
    assert given(word).tls_verify is expected


def test_a_scheme_before_an_insecure_registry_is_dropped() -> None:
    assert given("--insecure-registry", "http://a.com:5000/").insecure == ("a.com:5000",)


def test_a_password_may_come_by_the_environment() -> None:
    assert given(ASSEMBLE_TRY_CREDS="me:canary").creds == "me:canary"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--creds=me", "a password is needed"),
        ("--creds=:canary", "the user name is empty"),
        ("--tls-verify=maybe", "neither true nor false"),
        ("--insecure-registry=a.com/b", "neither HOST"),
    ],
)
def test_what_cannot_be_is_said(words: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        given(*words.split())
    assert said in caught.value.message and "canary" not in caught.value.message


def test_creds_are_for_no_registry_until_one_is_named() -> None:
    access = given("--creds=me:canary")
    assert access.creds_for == frozenset()
    assert access.creds_to("a.com").creds_for == {"a.com"}
    insecure = access.insecure_for("b.com", "c.com")
    assert insecure == replace(access, insecure=(*access.insecure, "b.com", "c.com"))
    assert "canary" not in repr(access)

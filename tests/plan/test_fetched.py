"""What the plan says of sources that are fetched (rules C3, C26-C30, 18.4)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from assembler.dockerfile.parser import parse
from assembler.dockerfile.remote import GitReference
from assembler.errors import DockerfileError
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan.document import from_document, to_document
from assembler.plan.keys import definition_key
from assembler.plan.make import PlanRequest, make
from assembler.plan.plan import Plan
from assembler.plan.steps import Copy, GitSource, UrlSource
from assembler.source import Source

PLATFORM = Platform.parse("linux/amd64")
SHA = f"sha256:{'a' * 64}"


def planned(*lines: str, **arguments: str) -> Plan:
    text = "\n".join(("FROM scratch", *lines, ""))
    request = PlanRequest(
        dockerfile=parse(Source("Dockerfile", text)), build_args=arguments, build_platform=PLATFORM
    )
    return make(request, {})


def copies(*lines: str, **arguments: str) -> list[Copy]:
    steps: Any = planned(*lines, **arguments).stages[-1].steps
    return list(steps)


@pytest.mark.parametrize(
    ("line", "source"),
    [
        ("ADD https://h/x /", UrlSource("https://h/x")),
        (f"ADD --checksum={SHA} http://h/x /", UrlSource("http://h/x", SHA)),
        ("ADD --unpack http://h/x.tgz /", UrlSource("http://h/x.tgz", unpack=True)),
        ("ADD --unpack=false http://h/x.tgz /", UrlSource("http://h/x.tgz")),
        ("ADD https://h/r.git#v1:d /", GitSource(GitReference("https://h/r.git", "v1", "d"))),
        ("ADD git@h:r.git /", GitSource(GitReference("git@h:r.git"))),
        (
            "ADD --checksum=0123456789 https://h/r.git /",
            GitSource(GitReference("https://h/r.git", checksum="0123456789")),
        ),
        ("ADD --keep-git-dir https://h/r.git /", GitSource(GitReference("https://h/r.git"), True)),
        (
            "ADD https://h/r.git?keep-git-dir=1 /",
            GitSource(GitReference("https://h/r.git", keep_git_dir=True), True),
        ),
        (
            "ADD --keep-git-dir=false https://h/r.git?keep-git-dir=0 /",
            GitSource(GitReference("https://h/r.git", keep_git_dir=False)),
        ),
    ],
)
def test_C27_C29_a_source_and_its_flags(line: str, source: UrlSource | GitSource) -> None:
    assert copies(line)[0].sources == (source,)


def test_E1_the_url_and_the_checksum_are_expanded() -> None:
    lines = ("ARG V", "ARG SUM", "ADD --checksum=$SUM https://h/$V.tgz /")
    assert copies(*lines, V="1", SUM=SHA)[0].sources == (UrlSource("https://h/1.tgz", SHA),)


def test_C30_one_instruction_is_one_step() -> None:
    (step,) = copies("ADD f https://h/x https://h/r.git <<EOF /d/", "text", "EOF")
    assert step.paths == ("f",) and len(step.fetched) == 2 and len(step.inline) == 1


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("COPY https://h/x /", "source can't be a URL for COPY"),
        ("COPY https://h/r.git /", "source can't be a git ref for COPY"),
        ("COPY git@h:r /", "source can't be a git ref for COPY"),
        (f"ADD --checksum={SHA} a b /", "checksum can't be specified for multiple sources"),
        (f"ADD --checksum={SHA} a /", "checksum requires HTTP(S) or Git sources"),
        ("ADD --checksum=md5:00 https://h/x /", 'invalid checksum "md5:00" for https://h/x'),
        (f"ADD --checksum={SHA} https://h/r.git /", f'invalid checksum "{SHA}"'),
        (
            "ADD --checksum=0000000 https://h/r.git?commit=1111111 /",
            'checksum mismatch "0000000" != "1111111"',
        ),
        (
            "ADD --keep-git-dir=false https://h/r.git?keep-git-dir=true /",
            "inconsistent keep-git-dir configuration",
        ),
        (
            "ADD --keep-git-dir https://h/r.git?keep-git-dir=false /",
            "inconsistent keep-git-dir configuration",
        ),
        ("ADD https://h/r.git?ref=a#b /", 'ref conflicts: "b" vs "a"'),
        ("ADD https://h/r.git#--upload-pack=x /", 'invalid git ref "--upload-pack=x"'),
        ("ADD https://[::1/x /", "Invalid IPv6 URL"),
        ("ADD https://h:port/x /", "Port could not be cast"),
    ],
)
def test_C28_C29_what_contradicts_itself(line: str, problem: str) -> None:
    with pytest.raises(DockerfileError) as raised:
        planned(line)
    assert problem in raised.value.message
    assert raised.value.span is not None and raised.value.span.start == 2


def test_18_4_credentials_are_in_the_step_and_nowhere_else() -> None:
    plan = planned(
        "ARG TOKEN",
        "ADD https://me:s3cret@h/x?q=1 https://s3cret@h/r.git#main ssh://git:s3cret@h/r /d/",
    )
    stage = plan.stages[0]
    step: Any = stage.steps[0]
    url, git, ssh = step.sources
    assert (url.url, url.credentials) == ("https://h/x?q=1", "me:s3cret")
    assert (git.repository.remote, git.repository.credentials) == ("https://h/r.git", "s3cret:")
    assert ssh.repository.remote == "ssh://git@h/r"
    assert "s3cret" not in repr(plan.stages) + step.name
    assert stage.history[-1].history.created_by == (
        "ADD https://xxxxx:xxxxx@h/x?q=1 https://xxxxx:xxxxx@h/r.git#main"
        " ssh://git:xxxxx@h/r /d/ # buildkit"
    )
    document = to_document(plan)
    again: Any = from_document(document).stages[0].steps[0]
    assert again.sources == step.sources and again.sources[0].credentials == ""
    assert "s3cret" not in json.dumps(document["plan"])


def test_18_4_a_key_does_not_depend_on_credentials() -> None:
    parent, selection = Digest.of(b"parent"), Digest.of(b"selection")
    keys = {
        definition_key(parent, copies(f"ADD https://{user}h/r.git /x")[0], [selection])
        for user in ("", "me:s3cret@", "you:other@")
    }
    assert len(keys) == 1

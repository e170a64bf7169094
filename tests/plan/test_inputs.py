"""The document of what went into a step's key: complete, in the user's terms, and nothing secret."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest

from assembler.dockerfile.parser import parse
from assembler.oci.config import Execution, ImageConfig
from assembler.oci.descriptor import LAYER_GZIP, MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan import keys
from assembler.plan.contexts import Contexts, FilesContext, ImageContext
from assembler.plan.differences import compare
from assembler.plan.inputs import inputs
from assembler.plan.keys import Read
from assembler.plan.make import PlanRequest, make, needs
from assembler.plan.plan import Plan, PlannedStage, ResolvedImage, ScratchBase
from assembler.plan.steps import (
    BindMount,
    CacheMount,
    ContextOrigin,
    Copy,
    Device,
    Limit,
    MakeDirectory,
    Run,
    SecretMount,
    SshMount,
    TmpfsMount,
)
from assembler.source import Source, Span

AMD64 = Platform("linux", "amd64")
PARENT, CONTENT = Digest.of(b"parent"), Digest.of(b"content")
CONTEXTS = Contexts(
    {"assets": FilesContext("assets"), "mine": ImageContext("oci-layout:///home/someone/layout:1")}
)


def image(name: str) -> ResolvedImage:
    digest = Digest.of(name.encode())
    config = ImageConfig(AMD64, Execution(env=("PATH=/bin",)), diff_ids=(digest,))
    return ResolvedImage(
        name, Descriptor(MANIFEST, digest, 7), config, (Descriptor(LAYER_GZIP, digest, 9),)
    )


def document(text: str, *, stage: int = -1, **build_args: str) -> dict[str, Any]:
    """What the last step of a stage of `text` has for its inputs, whatever it reads."""
    request = PlanRequest(
        dockerfile=parse(Source("Dockerfile", text)),
        build_platform=AMD64,
        build_args=build_args,
        contexts=CONTEXTS,
        every_stage=True,
    )
    images = {need.key: image(need.image) for need in needs(request, {})}
    plan = make(request, images)
    planned = plan.stages[stage]
    number = len(planned.steps) - 1
    step = planned.steps[number]
    reads: list[Read] = []
    if isinstance(step, Copy):
        reads += [Read(step.origin, step.paths, CONTENT)] if step.paths else []
        reads += [Read(source, (), CONTENT) for source in step.fetched]
    elif isinstance(step, Run):
        binds = [one for one in step.mounts if isinstance(one, BindMount)]
        reads += [Read(one.origin, (one.source,), CONTENT) for one in binds]
    found = inputs(plan, planned, number, PARENT, reads)
    assert json.loads(json.dumps(found)) == found
    return found


def test_R7_a_run_tells_its_command_and_what_is_from_ENV_and_from_ARG() -> None:
    found = document("FROM base\nARG V=1\nENV E=2\nWORKDIR /w\nUSER u\nRUN make $V", V="3")
    assert found == {
        "version": 1,
        "step": "[3/3] RUN make $V",
        "stage": 0,
        "number": 1,
        "kind": "RUN",
        "parent": {"key": str(PARENT), "is": "step", "name": "[2/3] WORKDIR /w"},
        "fields": {
            "argv": ["/bin/sh", "-c", "make $V"],
            "env": {"PATH": "/bin", "E": "2"},
            "args": {"V": "3"},
            "cwd": "/w",
            "user": "u",
            "network": "default",
            "security": "sandbox",
            "hostname": "",
            "hosts": [],
            "limits": {},
            "shared_memory": 64 << 20,
            "devices": [],
            "scripts": {},
        },
        "origins": [],
        "mounts": [],
    }


def test_A7_what_ENV_sets_after_ARG_is_no_argument() -> None:
    fields = document("FROM base\nARG V=1\nENV V=2\nRUN make")["fields"]
    assert (fields["env"]["V"], fields["args"]) == ("2", {})


def test_R7_a_copy_tells_where_it_reads_and_what_that_holds() -> None:
    found = document("FROM base AS b\nFROM scratch AS out\nCOPY --from=b --chmod=755 /a /b /to/")
    assert (found["kind"], found["stage"]) == ("COPY", "out")
    assert found["parent"] == {
        "key": str(PARENT),
        "is": "scratch",
        "name": "",
        "platform": "linux/amd64",
    }
    assert found["origins"] == [
        {"from": "stage", "name": "b", "sources": ["/a", "/b"], "digest": str(CONTENT)}
    ]
    assert found["fields"] == {
        "destination": "/to/",
        "inline": {},
        "chown": "",
        "chmod": "755",
        "link": False,
        "parents": False,
        "exclude": [],
        "unpack": False,
    }


def test_the_parent_is_a_base_by_name_and_digest_a_stage_or_nothing() -> None:
    base = Digest.of(b"docker.io/library/base:latest")
    assert document("FROM base\nRUN x")["parent"] == {
        "key": str(PARENT),
        "is": "base",
        "name": "docker.io/library/base:latest",
        "digest": str(base),
        "platform": "linux/amd64",
    }
    stage = document("FROM base AS b\nFROM b\nRUN x")["parent"]
    assert (stage["is"], stage["name"]) == ("stage", "b")
    tree = document("FROM assets\nRUN x", stage=0)
    assert tree["parent"]["name"].endswith("FROM assets")


def test_R7_mounts_are_told_as_they_are_in_the_key() -> None:
    mounts = [
        "type=bind,from=assets,source=/a,target=/in,rw",
        "type=cache,id=secretly,target=/c",
        "type=tmpfs,target=/t,size=1k",
        "type=secret,id=token,target=/s",
        "type=ssh,id=agent,target=/a",
    ]
    found = document("FROM base\nRUN " + " ".join(f"--mount={one}" for one in mounts) + " x")
    owned = {"uid": 0, "gid": 0, "required": False}
    assert found["mounts"] == [
        {
            "type": "bind",
            "target": "/in",
            "source": "/a",
            "readonly": False,
            "of": {"from": "context", "name": "assets"},
        },
        {"type": "cache", "target": "/c", "readonly": False, "uid": 0, "gid": 0, "mode": "0755"},
        {"type": "tmpfs", "target": "/t", "size": 1024},
        {"type": "secret", "target": "/s", **owned, "mode": "0400", "id": "token", "env": ""},
        {"type": "ssh", "target": "/a", **owned, "mode": "0600"},
    ]
    assert found["origins"] == [
        {"from": "context", "name": "assets", "sources": ["/a"], "digest": str(CONTENT)}
    ]


def test_A11_nothing_secret_and_no_path_of_the_host_is_told() -> None:
    proxied = document("FROM base\nRUN x", HTTP_PROXY="http://user:pw@proxy.corp")
    assert "proxy" not in json.dumps(proxied)
    added = document("FROM scratch\nADD https://user:pw@example.com/a /a")
    assert added["kind"] == "ADD" and "pw" not in json.dumps(added["origins"])
    assert added["origins"][0]["name"] == "https://example.com/a"
    for text in ("FROM mine\nRUN x", "FROM scratch\nCOPY --from=mine /a /b"):
        assert "someone" not in json.dumps(document(text))


def test_C29_a_repository_is_told_by_its_name_and_what_was_asked_for() -> None:
    found = document("FROM scratch\nADD https://example.com/r.git#v1:docs /docs")
    assert found["origins"] == [
        {
            "from": "git",
            "name": "https://example.com/r.git#v1:docs",
            "sources": [],
            "digest": str(CONTENT),
        }
    ]
    plain = document("FROM scratch\nADD https://example.com/r.git /docs")
    assert plain["origins"][0]["name"] == "https://example.com/r.git"


STEP: dict[str, Any] = {"name": "", "span": Span(Source("Dockerfile", ""), 1, 1)}
RUN = Run(argv=("x",), env=(("A", "1"),), cwd="/", user="", **STEP)
COPY = Copy(origin=ContextOrigin(), sources=("a",), destination="/", **STEP)
BIND = BindMount("/in", "/in", ContextOrigin())
OWNED = (("uid", 1), ("gid", 1), ("mode", 0o111))
OTHERS: tuple[tuple[Any, tuple[tuple[str, Any], ...]], ...] = (
    (
        RUN,
        (
            ("argv", ("y",)),
            ("env", (("A", "2"),)),
            ("cwd", "/x"),
            ("user", "u"),
            ("network", "none"),
            ("security", "insecure"),
            ("hostname", "h"),
            ("hosts", ("h",)),
            ("limits", (Limit("nofile", 1, 2),)),
            ("shared_memory", 1),
            ("devices", (Device("d"),)),
            ("scripts", (("EOF", "x"),)),
            ("mounts", (BIND,)),
        ),
    ),
    (
        COPY,
        (
            ("destination", "/x"),
            ("chown", "1"),
            ("chmod", "1"),
            ("link", True),
        ),
    ),
    (MakeDirectory(path="/a", user="", **STEP), (("path", "/b"), ("user", "u"))),
    (replace(RUN, mounts=(BIND,)), (("target", "/x"), ("read_only", False))),
    (
        replace(RUN, mounts=(CacheMount("/c", "c"),)),
        (("target", "/x"), ("read_only", True), *OWNED),
    ),
    (replace(RUN, mounts=(TmpfsMount("/t"),)), (("target", "/x"), ("size", 1))),
    (
        replace(RUN, mounts=(SecretMount("s", "/s"),)),
        (("id", "t"), ("target", "/x"), ("env", "E"), ("required", True), *OWNED),
    ),
    (
        replace(RUN, mounts=(SshMount("s", "/s"),)),
        (("target", "/x"), ("required", True), *OWNED),
    ),
)


@pytest.mark.parametrize(
    ("step", "field", "other"),
    [(step, field, other) for step, changes in OTHERS for field, other in changes],
    ids=[
        f"{type((getattr(step, 'mounts', ()) and step.mounts[0]) or step).__name__}-{field}"
        for step, changes in OTHERS
        for field, _ in changes
    ],
)
def test_R7_C21_M7_what_is_in_the_key_is_in_the_document(step: Any, field: str, other: Any) -> None:
    """So what differs can be said, whatever it is."""
    mounts = getattr(step, "mounts", ())
    if mounts:
        changed = replace(step, mounts=(replace(mounts[0], **{field: other}),))
    else:
        changed = replace(step, **{field: other})
    old, new = ((keys.content_key(PARENT, one, [CONTENT]), told(one)) for one in (step, changed))
    assert old[0] != new[0]
    assert compare(old[1], new[1]).found


def test_R7_no_field_of_a_key_is_forgotten_here() -> None:
    for step, changes in OTHERS:
        mounts = getattr(step, "mounts", ())
        kind = type(mounts[0] if mounts else step)
        names = {one.name for one in fields(kind)} - keys._LEFT_OUT.get(kind, frozenset())
        assert names - keys._SELECTING == {field for field, _ in changes}, kind


def told(step: Any) -> dict[str, Any]:
    stage = PlannedStage(
        index=0,
        name="",
        base=ScratchBase(),
        steps=(step,),
        config=ImageConfig(AMD64),
        history=(),
        platform=AMD64,
        span=STEP["span"],
    )
    plan = Plan((stage,), 0, {}, AMD64)
    return inputs(plan, stage, 0, PARENT, ())

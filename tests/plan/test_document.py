"""A plan as JSON and back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assembler.dockerfile.parser import parse_prefix
from assembler.errors import DockerfileError
from assembler.oci.config import Execution, ImageConfig
from assembler.oci.descriptor import LAYER_GZIP, MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan.contexts import Contexts, FilesContext, ImageContext
from assembler.plan.document import from_document, to_document
from assembler.plan.make import PlanRequest, make, needs
from assembler.plan.plan import Plan, ResolvedImage
from assembler.plan.resolution import Need
from assembler.plan.steps import Run
from assembler.source import Source

AMD64 = Platform("linux", "amd64")
ROOT = Path(__file__).parent.parent.parent
FILES = sorted(path for path in ROOT.glob("fixtures/**/Dockerfile"))
ENTITLED = frozenset({"network.host", "security.insecure", "device"})


def image(need: Need) -> ResolvedImage:
    digest = Digest.of(need.key.encode())
    config = ImageConfig(
        need.platform,
        Execution(env=("PATH=/base", "kind=Span"), labels={"kind": "Run"}),
        diff_ids=(digest,),
    )
    return ResolvedImage(
        need.image, Descriptor(MANIFEST, digest, 7), config, (Descriptor(LAYER_GZIP, digest, 9),)
    )


def planned(text: str, *, missing: bool = False) -> Plan | None:
    """The plan of `text`; None for a text without one."""
    dockerfile, error = parse_prefix(Source("Dockerfile", text))
    if error is not None:
        return None
    contexts = Contexts({"files": FilesContext("files"), "other": ImageContext("docker.io/x/y:1")})
    request = PlanRequest(
        dockerfile=dockerfile,
        build_platform=AMD64,
        build_args={"HTTP_PROXY": "http://user:secret@proxy"},
        labels={"kind": "ImageBase"},
        contexts=contexts,
        allow=ENTITLED,
        every_stage=True,
    )
    resolved: dict[str, ResolvedImage] = {}
    try:
        while not missing and (wanted := needs(request, resolved)):
            resolved |= {need.key: image(need) for need in wanted}
        return make(request, resolved)
    except DockerfileError:
        return None


def round_trip(plan: Plan) -> Plan:
    return from_document(json.loads(json.dumps(to_document(plan))))


EVERYTHING = r"""
ARG GLOBAL=1
FROM base:1 AS base
SHELL ["/bin/sh", "-c"]
RUN --mount=type=cache,target=/c,id=k,uid=1,gid=2,mode=0700,sharing=locked,from=files,source=/s \
    --mount=type=tmpfs,target=/t,size=64m --mount=type=secret,id=s,env=S,required=true \
    --mount=type=ssh,id=a --mount=type=bind,from=files,target=/f,rw --network=host \
    --security=insecure --device=vendor.com/class=dev,required x "q\"uote" $X
FROM scratch AS from-scratch
COPY --from=base --chown=1:2 --chmod=u=rwX --link --parents --exclude=*.o /a b /dest/
ADD --checksum=sha256:0000000000000000000000000000000000000000000000000000000000000000 https://h/f /
ADD --unpack=true https://h/t.tgz https://h/r.git#v1:sub /all/
ADD --keep-git-dir=true https://h/r.git#v1:sub /git
COPY <<kind <<"b" /inline/
Span
kind
$literal
b
FROM files
WORKDIR "/with blank"
ENV kind=Span at=1
LABEL kind=Platform text=linux/amd64
HEALTHCHECK --interval=5m CMD x
VOLUME /v
EXPOSE 80
STOPSIGNAL 9
USER 1:2
FROM other
RUN <<SCRIPT
#!/bin/python
print("x")
SCRIPT
COPY --from=from-scratch / /
COPY --from=2 / /
COPY --from=busybox / /
ENTRYPOINT ["x"]
CMD y
MAINTAINER z
ONBUILD RUN later
"""


def test_everything_a_plan_can_hold_comes_back() -> None:
    plan = planned(EVERYTHING)
    assert plan is not None
    again = round_trip(plan)
    assert again == plan
    assert [stage.span for stage in again.stages] == [stage.span for stage in plan.stages]
    for before, after in zip(plan.stages, again.stages, strict=True):
        assert [(s.span, s.name) for s in before.steps] == [(s.span, s.name) for s in after.steps]
        assert before.config.serialise() == after.config.serialise()
    unresolved = planned(EVERYTHING, missing=True)
    assert unresolved is not None and unresolved.missing
    assert round_trip(unresolved) == unresolved


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.parent.name)
def test_every_fixture_comes_back(path: Path) -> None:
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    for missing in (False, True):
        plan = planned(text, missing=missing)
        if plan is not None:
            assert round_trip(plan) == plan
            assert to_document(round_trip(plan)) == to_document(plan)


def test_most_fixtures_have_a_plan() -> None:
    texts = [path.read_bytes().decode("utf-8", "surrogateescape") for path in FILES]
    assert sum(planned(text) is not None for text in texts) > len(FILES) // 3


words = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\r") | st.sampled_from("$\\\"'{}<>[],=kind"),
    min_size=1,
    max_size=12,
)
lines = st.one_of(
    st.builds("RUN {} {}".format, words, words),
    st.builds("COPY {} {}/".format, words, words),
    st.builds("ADD {} /x".format, words),
    st.builds("ENV k={}".format, words),
    st.builds("ENV kind={} at={}".format, words, words),
    st.builds("LABEL kind={}".format, words),
    st.builds("WORKDIR {}".format, words),
    st.builds("CMD {}".format, words),
    st.builds("COPY <<E /f\n{}\nE".format, words),
    st.builds("RUN --mount=type=cache,target=/{} x".format, words),
    st.builds("FROM s AS s{}".format, st.integers(0, 9)),
    st.builds("FROM img:{}".format, st.integers(0, 9)),
    st.builds("COPY --from=s {} /y".format, words),
)


@settings(max_examples=300)
@given(st.lists(lines, max_size=8), st.booleans())
def test_any_plan_comes_back(body: list[str], missing: bool) -> None:
    plan = planned("\n".join(["FROM scratch AS s", *body, "FROM s"]), missing=missing)
    if plan is not None:
        assert round_trip(plan) == plan


def test_text_that_is_no_utf8_comes_back() -> None:
    plan = planned("FROM scratch\nLABEL k=\udcff\nENV e=\udcfe\nRUN \udcfd\nCMD \udcfc\n")
    assert plan is not None and round_trip(plan) == plan


def test_a_source_is_kept_once() -> None:
    plan = planned("FROM scratch\n" + "RUN x\n" * 500 + f"# {'long ' * 10_000}\n")
    assert plan is not None
    document = to_document(plan)
    assert len(document["sources"]) == 1
    assert len(json.dumps(document)) < 1_000_000


def test_proxies_of_this_machine_are_not_in_it() -> None:
    plan = planned("FROM scratch\nRUN x\n")
    assert plan is not None
    step = plan.stages[0].steps[0]
    assert isinstance(step, Run) and dict(step.proxies)["HTTP_PROXY"]
    assert "secret" not in json.dumps(to_document(plan))
    [again] = round_trip(plan).stages[0].steps
    assert again == replace(step, proxies=()) == step


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"plan": {"kind": "Need"}},
        {"plan": {"kind": "Exception"}},
        {"plan": {"kind": "Span", "at": [9, 1, 1], "word": ""}},
        {"plan": {"kind": "Platform", "text": 1}},
        {"plan": {"kind": "ImageConfig", "config": []}},
        {"plan": {"kind": []}},
        {"plan": [1]},
        {"sources": [{"name": "x"}]},
        {"sources": 3},
    ],
)
def test_anything_else_is_refused(change: dict[str, object]) -> None:
    plan = planned("FROM scratch\n")
    assert plan is not None
    with pytest.raises(ValueError, match="plan"):
        from_document({**to_document(plan), **change})

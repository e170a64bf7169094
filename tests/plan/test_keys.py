"""Cache keys: what changes them, what does not, and that no two inputs are framed alike (rules R7,
C21, M7, 18.3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assembler.dockerfile.remote import GitReference
from assembler.oci.config import ImageConfig
from assembler.oci.descriptor import MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan import keys
from assembler.plan.plan import ResolvedImage
from assembler.plan.steps import (
    BindMount,
    CacheMount,
    ContextOrigin,
    Copy,
    Device,
    GitSource,
    ImageOrigin,
    InlineFile,
    Limit,
    MakeDirectory,
    Run,
    SecretMount,
    SshMount,
    StageOrigin,
    TmpfsMount,
    UrlSource,
)
from assembler.source import Source, Span

calmly = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Whatever else the machine does meanwhile."""
words = st.text("ab/=,", max_size=3)
numbers = st.integers(0, 3)
digests = words.map(lambda word: Digest.of(word.encode()))
spans = st.builds(Span, st.just(Source("Dockerfile", "RUN x")), numbers, numbers)
pairs = st.lists(st.tuples(words, words), max_size=2).map(tuple)
lists = st.lists(words, max_size=3).map(tuple)
elsewhere = st.builds(ImageOrigin, words) | st.builds(StageOrigin, numbers)
origins = elsewhere | st.builds(ContextOrigin, words)
urls = st.builds(UrlSource, words, st.just(""), st.booleans())
repositories = st.builds(GitSource, st.builds(GitReference, words), st.booleans())


@dataclass(frozen=True)
class Kind:
    """A class, how each of its fields may be, and which of them are in no key."""

    type: Any
    each: Mapping[str, st.SearchStrategy[Any]]
    left_out: frozenset[str] = frozenset()

    @property
    def values(self) -> st.SearchStrategy[Any]:
        return st.builds(self.type, **self.each)


owned = {"uid": numbers, "gid": numbers, "mode": numbers}
BIND = Kind(
    BindMount,
    {"target": words, "source": words, "origin": origins, "read_only": st.booleans()},
    frozenset({"origin", "source"}),
)
CACHE = Kind(
    CacheMount,
    {
        "target": words,
        "id": words,
        "sharing": words,
        "read_only": st.booleans(),
        "origin": st.none() | origins,
        "source": words,
        **owned,
    },
    frozenset({"id", "sharing", "origin", "source"}),
)
TMPFS = Kind(TmpfsMount, {"target": words, "size": numbers})
SECRET = Kind(
    SecretMount, {"id": words, "target": words, "env": words, "required": st.booleans(), **owned}
)
SSH = Kind(
    SshMount,
    {"id": words, "target": words, "required": st.booleans(), **owned},
    frozenset({"id"}),
)
MOUNTS = (BIND, CACHE, TMPFS, SECRET, SSH)
RUN = Kind(
    Run,
    {
        "argv": lists,
        "env": pairs,
        "cwd": words,
        "user": words,
        "mounts": st.lists(st.one_of(kind.values for kind in MOUNTS), max_size=2).map(tuple),
        "network": words,
        "security": words,
        "hostname": words,
        "devices": st.lists(st.builds(Device, words, st.booleans()), max_size=2).map(tuple),
        "scripts": pairs,
        "proxies": pairs,
        "arguments": lists,
        "hosts": lists,
        "limits": st.lists(st.builds(Limit, words, numbers, numbers), max_size=2).map(tuple),
        "shared_memory": numbers,
        "span": spans,
        "name": words,
    },
    frozenset({"proxies", "arguments", "span", "name"}),
)
COPY = Kind(
    Copy,
    {
        "origin": origins,
        "sources": st.lists(words | urls | repositories, max_size=2).map(tuple),
        "destination": words,
        "inline": st.lists(st.builds(InlineFile, words, words), max_size=2).map(tuple),
        "chown": words,
        "chmod": words,
        "link": st.booleans(),
        "parents": st.booleans(),
        "exclude": lists,
        "unpack": st.booleans(),
        "written": lists,
        "span": spans,
        "name": words,
    },
    frozenset({"origin", "sources", "written", "span", "name"}),
)
DIRECTORY = Kind(
    MakeDirectory,
    {"path": words, "user": words, "span": spans, "name": words},
    frozenset({"span", "name"}),
)
PARENT, IDENTITY = Digest.of(b"parent"), Digest.of(b"identity")


SELECTING = frozenset({"inline", "parents", "exclude", "unpack"})
"""What says which files a COPY takes, and how."""


def key(step: Any) -> Digest:
    """The key of `step`, whatever it reads being the same."""
    return keys.definition_key(PARENT, step, [IDENTITY])


def content(step: Any) -> Digest:
    """The content key of `step`, whatever it selects being the same."""
    return keys.content_key(PARENT, step, [IDENTITY])


@pytest.mark.parametrize(
    "kind", [RUN, COPY, DIRECTORY, *MOUNTS], ids=lambda kind: kind.type.__name__
)
def test_R7_no_field_is_forgotten(kind: Kind) -> None:
    assert kind.each.keys() == {field.name for field in fields(kind.type)}


@pytest.mark.parametrize("kind", [RUN, COPY, DIRECTORY], ids=lambda kind: kind.type.__name__)
@calmly
@given(data=st.data())
def test_R7_C21_a_field_of_a_step_is_in_its_content_key_or_left_out(
    kind: Kind, data: st.DataObject
) -> None:
    step = data.draw(kind.values)
    name = data.draw(st.sampled_from(sorted(kind.each)))
    other = replace(step, **{name: data.draw(kind.each[name])})
    same = (
        name in kind.left_out
        or (kind is COPY and name in SELECTING)
        or getattr(step, name) == getattr(other, name)
        or (name == "mounts" and _shown(step) == _shown(other))
    )
    assert (content(step) == content(other)) == same


@calmly
@given(data=st.data())
def test_C21_a_field_of_a_copy_out_of_a_stage_is_in_its_definition(data: st.DataObject) -> None:
    step = replace(data.draw(COPY.values), origin=data.draw(elsewhere))
    name = data.draw(st.sampled_from(sorted(COPY.each.keys() - {"origin", "sources"})))
    other = replace(step, **{name: data.draw(COPY.each[name])})
    same = name in COPY.left_out or getattr(step, name) == getattr(other, name)
    assert (key(step) == key(other)) == same


@calmly
@given(RUN.values, st.lists(digests, min_size=2, max_size=2), elsewhere, words, words)
def test_R7_a_mount_out_of_a_stage_is_in_the_definition_and_its_files_in_the_content(
    run: Run, read: list[Digest], origin: StageOrigin | ImageOrigin, one: str, other: str
) -> None:
    first, second = (
        replace(run, mounts=(BindMount("/m", source, origin),)) for source in (one, other)
    )
    assert (key(first) == key(second)) == (one == other)
    assert content(first) == content(second)
    keyed = [keys.content_key(PARENT, first, [digest]) for digest in read]
    assert (keyed[0] == keyed[1]) == (read[0] == read[1])


@calmly
@given(st.one_of(RUN.values, DIRECTORY.values))
def test_R7_what_reads_nothing_but_contexts_has_one_key(step: Any) -> None:
    binds = getattr(step, "binds", ())
    told = all(isinstance(bind.origin, ContextOrigin) for bind in binds)
    assert keys.told_by_content(step) == told
    assert (key(step) == content(step)) == told


def _shown(run: Run) -> list[Any]:
    """What of the mounts of `run` is in its key."""
    by_type = {kind.type: kind for kind in MOUNTS}
    return [
        (type(mount), [getattr(mount, name) for name in kind.each if name not in kind.left_out])
        for mount in run.mounts
        for kind in [by_type[type(mount)]]
    ]


@pytest.mark.parametrize("kind", MOUNTS, ids=lambda kind: kind.type.__name__)
@calmly
@given(data=st.data())
def test_R7_M7_a_field_of_a_mount_is_in_the_key_or_left_out(
    kind: Kind, data: st.DataObject
) -> None:
    run = data.draw(RUN.values)
    mount = data.draw(kind.values)
    name = data.draw(st.sampled_from(sorted(kind.each)))
    other = replace(mount, **{name: data.draw(kind.each[name])})
    same = name in kind.left_out or mount == other
    one, two = (content(replace(run, mounts=(each,))) for each in (mount, other))
    assert (one == two) == same


@calmly
@given(COPY.values, elsewhere, words, words)
def test_18_3_what_is_copied_out_of_a_stage_or_an_image_is_in_the_key(
    copy: Copy, origin: StageOrigin | ImageOrigin, one: str, other: str
) -> None:
    first = replace(copy, origin=origin, sources=(one,))
    second = replace(copy, origin=origin, sources=(other,))
    assert (key(first) == key(second)) == (one == other)


@calmly
@given(COPY.values, lists, lists)
def test_C21_the_context_is_in_it_by_what_is_selected(
    copy: Copy, ones: tuple[str, ...], others: tuple[str, ...]
) -> None:
    first = replace(copy, origin=ContextOrigin("a"), sources=ones)
    second = replace(copy, origin=ContextOrigin("b"), sources=others)
    assert key(first) == key(second) == content(first)
    assert key(first) != keys.definition_key(PARENT, first, [PARENT])


@calmly
@given(COPY.values, urls, urls)
def test_C27_a_fetched_file_is_in_it_by_its_identity_and_whether_it_is_unpacked(
    copy: Copy, one: UrlSource, other: UrlSource
) -> None:
    first, second = replace(copy, sources=(one,)), replace(copy, sources=(other,))
    assert (key(first) == key(second)) == (one.unpack == other.unpack)
    assert content(first) == content(second)


@calmly
@given(RUN.values, digests, digests, st.lists(digests, max_size=3), st.lists(digests, max_size=3))
def test_18_3_parents_and_identities_are_in_the_key(
    step: Run, parent: Digest, other: Digest, read: list[Digest], others: list[Digest]
) -> None:
    def of(parent: Digest, read: list[Digest]) -> Digest:
        return keys.definition_key(parent, step, read)

    assert (of(parent, read) == of(other, read)) == (parent == other)
    assert (of(parent, read) == of(parent, others)) == (read == others)


@calmly
@given(COPY.values, digests, digests, digests, digests)
def test_C21_C25_the_content_key(
    copy: Copy, parent: Digest, above: Digest, selection: Digest, other: Digest
) -> None:
    found = keys.content_key(parent, copy, [selection])
    assert (found == keys.content_key(parent, copy, [other])) == (selection == other)
    same = parent == above or copy.link
    assert (found == keys.content_key(above, copy, [selection])) == same
    assert (keys.mark_key(parent, copy) == keys.mark_key(above, copy)) == same
    assert (key(copy) == keys.definition_key(above, copy, [IDENTITY])) == (
        copy.link or above == PARENT
    )
    moved = replace(copy, origin=StageOrigin(9), sources=("other",))
    assert found == keys.content_key(parent, moved, [selection])


@calmly
@given(data=st.data())
def test_C21_no_content_key_is_recorded_without_its_mark(data: st.DataObject) -> None:
    copy, other = data.draw(COPY.values), data.draw(COPY.values)
    if content(copy) == content(other):
        assert keys.mark_key(PARENT, copy) == keys.mark_key(PARENT, other)
    name = data.draw(st.sampled_from(sorted(COPY.each)))
    similar = replace(copy, **{name: data.draw(COPY.each[name])})
    marks = keys.mark_key(PARENT, copy) == keys.mark_key(PARENT, similar)
    assert (content(copy) == content(similar)) == marks


def image(name: str, platform: str, layers: tuple[bytes, ...]) -> ResolvedImage:
    config = ImageConfig(Platform.parse(platform), diff_ids=tuple(map(Digest.of, layers)))
    return ResolvedImage(name, Descriptor(MANIFEST, Digest.of(name.encode()), 1), config, ())


def test_18_3_a_stage_starts_with_what_the_image_holds_not_with_its_name() -> None:
    start = keys.base_key(image("a:1", "linux/amd64", (b"1", b"2")))
    assert start == keys.base_key(image("b:2", "linux/amd64", (b"1", b"2")))
    assert start != keys.base_key(image("a:1", "linux/arm64", (b"1", b"2")))
    assert start != keys.base_key(image("a:1", "linux/amd64", (b"2", b"1")))
    assert keys.scratch_key(Platform("linux", "amd64")) not in (
        start,
        keys.scratch_key(Platform("linux", "arm64")),
    )


def test_S12_a_fresh_result_is_its_own() -> None:
    assert len({keys.fresh_key(one, two) for one in (PARENT, IDENTITY) for two in "ab"}) == 4
    assert keys.fresh_key(PARENT, "a") != PARENT


def test_keys_are_the_same_on_every_machine() -> None:
    step = MakeDirectory(path="/a", user="u", span=Span(Source("x", ""), 1, 1), name="n")
    assert str(keys.definition_key(PARENT, step, [])) == (
        "sha256:6863ed43fdfa25abb1f2bfc90d42a8f7f6b120ac9fd469abb1cc5c1723b418ac"
    )


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.builds(Device, words),
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=8,
)


@calmly
@given(values, values)
def test_no_two_values_are_framed_alike(one: object, other: object) -> None:
    assert (keys.framed(one) == keys.framed(other)) == (_exact(one) == _exact(other))
    assert keys.framed((one, other)) != keys.framed(((one, other),))


@calmly
@given(st.lists(values, max_size=3), st.lists(values, max_size=3))
def test_no_frame_is_the_beginning_of_another(ones: list[object], others: list[object]) -> None:
    joined, also = (b"".join(map(keys.framed, values)) for values in (ones, others))
    assert (joined == also) == (_exact(tuple(ones)) == _exact(tuple(others)))


def _exact(value: object) -> object:
    """`value` with types, since True is 1."""
    if isinstance(value, tuple):
        return ("tuple", *map(_exact, value))
    return (type(value), value)


def test_what_has_no_frame_is_refused() -> None:
    with pytest.raises(TypeError, match="float has no place in a key"):
        keys.framed(("a", 1.5))

"""What differs between the inputs of two steps, in the order in which a step sees them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assembler.plan.differences import (
    FILES,
    Difference,
    File,
    changed_files,
    compare,
    contrasted,
    parse,
    title,
)

calmly = settings(deadline=None)

RUN: dict[str, Any] = {
    "version": 1,
    "step": "[build 3/4] RUN make",
    "stage": "build",
    "number": 1,
    "kind": "RUN",
    "parent": {"key": "sha256:aa", "is": "step", "name": "[build 2/4] COPY src /src"},
    "fields": {
        "argv": ["/bin/sh", "-c", "make"],
        "env": {"PATH": "/bin", "LANG": "C"},
        "args": {"VERSION": "1"},
        "cwd": "/src",
        "user": "",
        "network": "default",
        "hosts": [],
        "scripts": {},
    },
    "origins": [
        {"from": "context", "name": "", "sources": ["/in"], "digest": "sha256:bb"},
    ],
    "mounts": [
        {"type": "bind", "target": "/in", "source": "/in", "readonly": True, "of": {}},
        {"type": "cache", "target": "/c", "readonly": False},
    ],
}
COPY: dict[str, Any] = {
    "version": 1,
    "step": "[build 2/4] COPY src /src",
    "stage": "build",
    "number": 0,
    "kind": "COPY",
    "parent": {"key": "sha256:00", "is": "base", "name": "docker.io/x", "digest": "sha256:d1"},
    "fields": {"destination": "/src", "chmod": "", "link": False, "inline": {}},
    "origins": [{"from": "context", "name": "", "sources": ["src"], "digest": "sha256:cc"}],
    "mounts": [],
}


def changed(document: dict[str, Any], *path: Any, to: Any) -> dict[str, Any]:
    """`document` with something else at `path`."""
    made = copy.deepcopy(document)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return made


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[Difference]:
    return list(compare(old, new).found)


EXAMPLES = {
    "the step below": (
        changed(RUN, "parent", "key", to="sha256:ab"),
        Difference(
            "step", "[build 2/4] COPY src /src", "changed", *["[build 2/4] COPY src /src"] * 2
        ),
    ),
    "an ARG": (
        changed(RUN, "fields", "args", to={"VERSION": "2"}),
        Difference("args", "VERSION", "changed", "1", "2"),
    ),
    "an ENV that came": (
        changed(RUN, "fields", "env", to={"PATH": "/bin", "LANG": "C", "A": "b"}),
        Difference("env", "A", "added", "", "b"),
    ),
    "an ENV that went": (
        changed(RUN, "fields", "env", to={"PATH": "/bin"}),
        Difference("env", "LANG", "removed", "C", ""),
    ),
    "the order of ENVs": (
        changed(RUN, "fields", "env", to={"LANG": "C", "PATH": "/bin"}),
        Difference("env", change="order", old="PATH LANG", new="LANG PATH"),
    ),
    "USER": (
        changed(RUN, "fields", "user", to="app"),
        Difference("user", change="added", new="app"),
    ),
    "WORKDIR": (
        changed(RUN, "fields", "cwd", to="/"),
        Difference("cwd", old="/src", new="/"),
    ),
    "the command": (
        changed(RUN, "fields", "argv", to=["/bin/sh", "-c", "make all"]),
        Difference("argv", old="/bin/sh -c make", new="/bin/sh -c make all"),
    ),
    "a field of a newer version": (
        changed(RUN, "fields", "zeal", to="much"),
        Difference("zeal", change="added", new="much"),
    ),
    "a mount's target": (
        changed(RUN, "mounts", 1, "target", to="/cache"),
        Difference("mount", "--mount=type=cache,target=/c", "target", "/c", "/cache"),
    ),
    "a mount that came": (
        changed(RUN, "mounts", to=[*RUN["mounts"], {"type": "ssh", "target": "/agent"}]),
        Difference("mount", "--mount=type=ssh,target=/agent", "added"),
    ),
    "a mount that went": (
        changed(RUN, "mounts", to=RUN["mounts"][:1]),
        Difference("mount", "--mount=type=cache,target=/c", "removed"),
    ),
    "what a mount shows": (
        changed(RUN, "origins", 0, "digest", to="sha256:be"),
        Difference(
            "files", "context", "changed", "sha256:bb", "sha256:be", "--mount=type=bind,target=/in"
        ),
    ),
}


@pytest.mark.parametrize("what", EXAMPLES)
def test_R7_what_is_not_as_it_was(what: str) -> None:
    new, expected = EXAMPLES[what]

    assert differences(RUN, new) == [expected]


def test_a_base_that_moved() -> None:
    new = changed(COPY, "parent", to={**COPY["parent"], "key": "sha256:01", "digest": "sha256:d2"})

    assert differences(COPY, new) == [
        Difference("base", "docker.io/x", "moved", "sha256:d1", "sha256:d2")
    ]


def test_a_base_for_another_platform() -> None:
    one, two = (
        changed(COPY, "parent", to={"key": name, "is": "scratch", "name": "", "platform": name})
        for name in ("linux/amd64", "linux/arm64")
    )
    assert differences(one, two) == [Difference("platform", old="linux/amd64", new="linux/arm64")]


def test_files_of_which_only_the_links_differ() -> None:
    new = changed(COPY, "origins", 0, "digest", to="sha256:dd")
    files = {"src/a": "- 644 0:0  11", "src/b": "- 644 0:0  11"}
    links = Difference("files", "context", "links", "sha256:cc", "sha256:dd", "COPY src")
    assert compare(COPY, new, lambda digest: files).found == (links,)
    with_parents = changed(new, "fields", "parents", to=True)
    (found,) = compare(COPY, with_parents, lambda digest: files).found
    assert found.what == "parents", "the same files are taken otherwise"


def test_another_base() -> None:
    new = changed(COPY, "parent", to={**COPY["parent"], "key": "sha256:01", "name": "docker.io/y"})

    assert differences(COPY, new) == [
        Difference("base", "docker.io/y", "replaced", "docker.io/x", "docker.io/y")
    ]


def test_a_stage_below_that_changed() -> None:
    old = changed(COPY, "parent", to={"key": "sha256:00", "is": "stage", "name": "deps"})
    new = changed(old, "parent", "key", to="sha256:01")

    assert differences(old, new) == [Difference("stage", "deps")]


def test_what_is_below_comes_first_and_files_come_last() -> None:
    new = changed(RUN, "origins", 0, "digest", to="sha256:be")
    new = changed(new, "mounts", 1, "readonly", to=True)
    new = changed(new, "fields", to={**RUN["fields"], "user": "app", "args": {"VERSION": "2"}})
    new = changed(new, "parent", "key", to="sha256:ab")

    assert [one.what for one in differences(RUN, new)] == ["step", "args", "user", "mount", "files"]


def test_C25_what_is_below_a_linked_copy_does_not_count() -> None:
    old = changed(COPY, "fields", "link", to=True)
    new = changed(old, "parent", "key", to="sha256:01")

    assert differences(old, new) == []


def test_names_and_places_do_not_count() -> None:
    new = {**RUN, "step": "[other 9/9] RUN make", "stage": "other", "number": 8}

    assert differences(RUN, new) == []


def test_other_sources_of_a_copy() -> None:
    new = changed(COPY, "origins", 0, to={**COPY["origins"][0], "sources": ["lib"]})

    assert differences(COPY, new) == [Difference("sources", old="src", new="lib", place="COPY lib")]


def test_files_come_from_a_stage_now() -> None:
    new = changed(COPY, "origins", 0, to={**COPY["origins"][0], "from": "stage", "name": "b"})

    assert differences(COPY, new) == [
        Difference("origin", "stage b", "changed", "context", "stage b", "COPY --from=b src")
    ]


FILE = str(File("-", "644", "0:0", "11"))
LISTING = {"src": str(File("d", "755", "0:0")), "src/a": FILE, "src/b": FILE}


def listed(**more: str) -> list[Difference]:
    new = {**LISTING, **{f"src/{name}": text for name, text in more.items() if text}}
    new = {path: one for path, one in new.items() if more.get(path.removeprefix("src/"), "x")}
    return changed_files(LISTING, new)[0]


def test_C21_files_that_changed_are_named() -> None:
    assert listed(a=str(File("-", "644", "0:0", "22"))) == [
        Difference("file", "src/a", "changed", "sha256:11", "sha256:22")
    ]
    assert listed(a=str(File("-", "755", "0:0", "11"))) == [
        Difference("file", "src/a", "mode", "644", "755")
    ]
    assert listed(a=str(File("-", "644", "1:0", "11"))) == [
        Difference("file", "src/a", "owner", "0:0", "1:0")
    ]
    assert listed(a=str(File("l", "777", "0:0", "b"))) == [
        Difference("file", "src/a", "kind", "-", "l")
    ]
    assert listed(a=str(File("-", "644", "0:0", "11", "xattr"))) == [
        Difference("file", "src/a", "attributes", "", "xattr")
    ]
    assert listed(c=FILE) == [Difference("file", "src/c", "added", "", "sha256:11")]
    assert listed(b="") == [Difference("file", "src/b", "removed", "sha256:11", "")]


def test_of_a_directory_that_came_only_it_is_named() -> None:
    new = {**LISTING, "src/d": str(File("d", "755", "0:0")), "src/d/e": LISTING["src"]}
    new |= {"src/d/e/f": FILE, "src/d-x": FILE, "src/d/x": FILE}

    assert changed_files(LISTING, new) == (
        [
            Difference("file", "src/d/", "added"),
            Difference("file", "src/d-x", "added", "", "sha256:11"),
        ],
        2,
    )


def test_many_files_are_counted_and_only_some_are_named() -> None:
    new = {f"{number:04}": FILE for number in range(1000)}

    found, count = changed_files({}, new)

    assert (len(found), count) == (FILES, 1000)
    comparison = compare(
        COPY,
        changed(COPY, "origins", 0, "digest", to="sha256:ce"),
        {"sha256:cc": {}, "sha256:ce": new}.get,
    )
    assert (len(comparison.found), comparison.count) == (FILES, 1000)
    assert comparison.found[0].place == "COPY src"


def test_a_link_that_leads_elsewhere() -> None:
    old, new = (str(File("l", "777", "0:0", target)) for target in ("a b", "c"))

    assert changed_files({"l": old}, {"l": new})[0] == [
        Difference("file", "l", "target", "a b", "c")
    ]


texts = st.text("ab →\0/", max_size=4)
documents = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["RUN", "COPY"]),
        "parent": st.fixed_dictionaries(
            {"key": texts, "is": st.sampled_from(["base", "stage", "step"]), "name": texts}
        ),
        "fields": st.fixed_dictionaries(
            {},
            optional={
                "argv": st.lists(texts, max_size=2),
                "env": st.dictionaries(texts, texts, max_size=3),
                "user": texts,
                "link": st.just(False),
                "size": st.integers(0, 2),
                "new": st.none() | texts,
            },
        ),
        "origins": st.lists(
            st.fixed_dictionaries(
                {
                    "from": st.sampled_from(["context", "stage"]),
                    "name": st.just(""),
                    "sources": st.lists(texts, max_size=2),
                    "digest": texts,
                }
            ),
            max_size=2,
        ),
        "mounts": st.lists(
            st.fixed_dictionaries({"type": st.sampled_from("ab"), "target": texts}), max_size=3
        ),
    }
)


def keyed(document: dict[str, Any]) -> tuple[object, ...]:
    """What of a document is in the key: of its fields the order of variables is, too."""
    fields = {name: json.dumps(one) for name, one in document["fields"].items() if one is not None}
    return (
        document["kind"],
        document["parent"]["key"],
        fields,
        document["origins"],
        document["mounts"],
    )


@calmly
@given(documents, documents)
def test_equal_documents_have_no_difference_and_others_have_one(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    assert compare(old, json.loads(json.dumps(old))).count == 0
    found = compare(old, new)
    assert (found.count > 0) == (keyed(old) != keyed(new))
    assert found.count >= len(found.found) and bool(found.found) == bool(found.count)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
garbled = st.dictionaries(
    st.sampled_from(["kind", "parent", "fields", "origins", "mounts", "step"]), anything
)


@calmly
@given(garbled, garbled | documents)
def test_what_somebody_else_wrote_raises_nothing(old: dict[str, Any], new: dict[str, Any]) -> None:
    compare(old, new, lambda digest: {"a": "garbled", "b": ""})
    compare(new, old)


@calmly
@given(st.dictionaries(texts, texts), st.dictionaries(texts, texts))
def test_listings_differ_exactly_where_a_file_does(
    old: dict[str, str], new: dict[str, str]
) -> None:
    found, count = changed_files(old, new)

    assert (count > 0) == (old != new) and len(found) == min(count, FILES)
    assert changed_files(old, dict(reversed(old.items()))) == ([], 0)


def test_documents_of_another_version_are_none() -> None:
    assert parse(json.dumps(RUN)) == RUN
    assert parse('{"version": 2}') is parse("[]") is parse("{") is parse("[" * 100_000) is None
    deep = "[" * 500 + "]" * 500
    assert parse(f'{{"version": 1, "fields": {deep}}}') is None


def test_long_texts_are_cut_to_where_they_begin_to_differ() -> None:
    old, new = "a" * 100 + "1" + "b" * 100, "a" * 100 + "2" + "b" * 100

    assert contrasted(old, new, 20) == (
        "…" + "a" * 4 + "1" + "b" * 15 + "…",
        "…" + "a" * 4 + "2" + "b" * 15 + "…",
    )
    assert contrasted("1", "2", 20) == ("1", "2")
    assert contrasted("a" * 30, "a" * 20, 20) == ("…" + "a" * 14, "…" + "a" * 4)


def test_S18_a_title_without_its_brackets() -> None:
    assert title("[build 3/7] COPY [a] b") == "COPY [a] b"
    assert title("RUN [ -e x ] y") == "RUN [ -e x ] y"

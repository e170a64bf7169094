"""How records are shown and chosen: buildx's forms and words."""

from __future__ import annotations

import json

import pytest

from assembler.cache.usage import CACHE_MOUNT, REGULAR, Usage
from assembler.cli.limits import space_of
from assembler.cli.usage import ago, as_json, filters_of, paragraphs, summary, table, templated
from assembler.errors import UsageError

NOW = 1_700_000_000.0
LAYER = Usage(
    path="layers/full/aa", id="aa", type=REGULAR, size=1_704_000_000, created=NOW - 9000,
    last_used=NOW - 7300, count=3, description="[2/3] RUN make", parents=("bb",),
)  # fmt: skip
MOUNT = Usage(
    path="mounts/full/cc.0", id="cc.0", type=CACHE_MOUNT, size=8192, created=NOW - 90,
    last_used=NOW - 1, mutable=True,
)  # fmt: skip
IMAGE = Usage(
    path="blobs/sha256/dd", id="dd", type=REGULAR, size=4096, created=NOW, last_used=NOW,
    shared=True, in_use=True, description="manifest of a\x1b[31m:1",
)  # fmt: skip


def test_the_table_has_the_columns_of_buildx() -> None:
    assert list(table([LAYER, MOUNT, IMAGE], NOW)) == [
        "ID     RECLAIMABLE  SIZE      LAST ACCESSED",
        "aa     true         1.704GB   2 hours ago",
        "cc.0*  true         8.192kB   1 second ago",
        "dd     false        4.096kB*  less than a second ago",
    ]


def test_the_verbose_form_says_everything_and_nothing_that_a_terminal_obeys() -> None:
    lines = list(paragraphs([LAYER, IMAGE], NOW))
    assert lines[:13] == [
        "ID:           aa",
        "Parents:",
        " - bb",
        "Created at:   2023-11-14T19:43:20Z",
        "Mutable:      false",
        "Reclaimable:  true",
        "Shared:       false",
        "Size:         1.704GB",
        "Description:  [2/3] RUN make",
        "Usage count:  3",
        "Last used:    2 hours ago",
        "Type:         regular",
        "",
    ]
    assert "\x1b" not in "".join(lines)


def test_the_sums() -> None:
    assert list(summary([LAYER, MOUNT, IMAGE])) == [
        "Shared:      4.096kB",
        "Private:     1.704GB",
        "Reclaimable: 1.704GB",
        "Total:       1.704GB",
    ]
    assert list(summary([MOUNT])) == ["Reclaimable: 8.192kB", "Total:       8.192kB"]


def test_a_record_is_a_line_of_json() -> None:
    assert json.loads(as_json(MOUNT)) == {
        "ID": "cc.0", "Parents": [], "CreatedAt": "2023-11-14T22:11:50Z", "Mutable": True,
        "Reclaimable": True, "Shared": False, "Size": 8192, "Description": "", "UsageCount": 0,
        "LastUsedAt": "2023-11-14T22:13:19Z", "Type": "exec.cachemount",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{.ID}}: {{ .Size }}", ["aa: 1.704GB", "cc.0: 8.192kB"]),
        (r"{{.Type}}\t{{.Mutable}}", ["regular\tfalse", "exec.cachemount\ttrue"]),
        (
            r"table {{.ID}}\t{{.Description}}",
            ["ID     DESCRIPTION", "aa     [2/3] RUN make", "cc.0*"],
        ),
        ("{{.Parents}} {{.UsageCount}} {{.Shared}}", ["[bb] 3 false", "[] 0 false"]),
        (
            "{{.CreatedAt}} {{.Reclaimable}}",
            ["2023-11-14T19:43:20Z true", "2023-11-14T22:11:50Z true"],
        ),
    ],
)
def test_a_template_has_the_names_of_buildx(template: str, expected: list[str]) -> None:
    assert list(templated(template, [LAYER, MOUNT], NOW)) == expected


@pytest.mark.parametrize(
    "template",
    ["yaml", "{{.Id}}", "{{.}}", "{{json .ID}}", "{{range .Parents}}{{.}}{{end}}", "table "],
)
def test_another_template_is_refused(template: str) -> None:
    with pytest.raises(UsageError, match="nor a template that is known here") as caught:
        templated(template, [], NOW)
    assert "LastUsedAt" in caught.value.hint


def test_a_template_may_be_json() -> None:
    for template in ("{{json .}}", "{{ json . }}"):
        assert list(templated(template, [LAYER, MOUNT], NOW)) == [as_json(LAYER), as_json(MOUNT)]


def test_what_a_template_shows_is_nothing_that_a_terminal_obeys() -> None:
    assert "\x1b" not in "".join(templated("{{.Description}}", [IMAGE], NOW))


def test_filters_are_and_ed_and_until_is_a_duration() -> None:
    filters, unused = filters_of(["type=regular", "private", "until=1h30m"])
    assert unused == 5400
    assert [one.id for one in (LAYER, MOUNT, IMAGE) if all(f(one) for f in filters)] == ["aa"]
    assert filters_of([]) == ([], 0)


@pytest.mark.parametrize(
    "words",
    [
        ["until=soon"],
        ["until"],
        ["until=-1h"],
        ["type=a", "type=b"],
        ["kind=x"],
        ["inuse=2"],
        ["until=1h", "until=2h"],
        ["until=1h", "unused-for=1h"],
    ],
)
def test_what_no_filter_can_mean_is_said(words: list[str]) -> None:
    with pytest.raises(UsageError):
        filters_of(words)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "less than a second ago"),
        (119, "119 seconds ago"),
        (120, "2 minutes ago"),
        (86400, "24 hours ago"),
        (14 * 86400, "2 weeks ago"),
        (800 * 86400, "2 years ago"),
    ],
)
def test_how_long_ago(seconds: float, text: str) -> None:
    assert ago(seconds) == text


def test_spaces_are_sizes() -> None:
    assert space_of("--max-used-space", "2gb") == 2 << 30
    assert space_of("--max-used-space", "") == 0
    with pytest.raises(UsageError, match="--max-used-space lots: not a size"):
        space_of("--max-used-space", "lots")

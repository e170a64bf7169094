"""Plans to look at: text, Graphviz' language, Mermaid."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assembler.dockerfile.parser import parse
from assembler.oci.config import Execution, ImageConfig
from assembler.oci.descriptor import LAYER_GZIP, MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan import picture
from assembler.plan.contexts import Contexts, FilesContext
from assembler.plan.forecast import Fate, Forecast
from assembler.plan.make import PlanRequest, make, needs
from assembler.plan.plan import Plan, ResolvedImage
from assembler.plan.steps import Run
from assembler.source import Source
from tests.bounds import cpu_seconds

ROOT = Path(__file__).parent.parent.parent
TWO_BRANCHES = (ROOT / "fixtures/seed/two-branches/Dockerfile").read_text()


def planned(
    text: str,
    *,
    triggers: tuple[str, ...] = (),
    contexts: Mapping[str, FilesContext] | None = None,
    missing: bool = False,
) -> Plan:
    """The plan of `text`; every image has one layer of 61.7 MB and `triggers`."""
    request = PlanRequest(
        dockerfile=parse(Source("Dockerfile", text)),
        build_platform=Platform("linux", "amd64"),
        contexts=Contexts(contexts or {}),
    )
    resolved: dict[str, ResolvedImage] = {}
    while not missing and (wanted := needs(request, resolved)):
        for need in wanted:
            digest = Digest.of(need.key.encode())
            resolved[need.key] = ResolvedImage(
                need.image,
                Descriptor(MANIFEST, digest, 1),
                ImageConfig(need.platform, Execution(on_build=triggers), diff_ids=(digest,)),
                (Descriptor(LAYER_GZIP, digest, 61_700_000),),
            )
    return make(request, resolved)


def everything_to_do(plan: Plan) -> Forecast:
    """Nothing is known, every layer is to be pulled."""
    fates = {(s.index, n): Fate.RUN for s in plan.stages for n in range(len(s.steps))}
    return Forecast(fates, {key: image.layers for key, image in plan.images.items()})


def edges(plan: Plan) -> list[tuple[str, str, str]]:
    """What reads what, by what the boxes say; `copies` where only some files are taken."""
    forecast = everything_to_do(plan)
    boxes = {node.name: node.text for node in picture.outside(plan, forecast)}
    for stage in plan.stages:
        boxes |= {
            node.name: f"{stage.title}: {node.text}" for node in picture.steps(stage, forecast)
        }
    return [
        (boxes[edge.start], boxes[edge.end], "copies" if edge.copies else "is below")
        for edge in picture.edges(plan)
    ]


def test_the_edges_of_the_seed() -> None:
    arg = 'build-essential: run if [ -n "$APT_MIRROR" ]; then echo "deb $APT_MIRROR bookworm main" > /etc/apt/sources.list; fi'  # fmt: skip
    update = "build-essential: run apt-get update"
    install = "build-essential: run apt-get install -y --no-install-recommends make gcc libc6-dev"
    workdir = "build-essential: workdir /src"
    foo, bar = "stage-3: copy --from=foo src/foo /bin/foo", "stage-3: copy --from=bar src/bar /bin/bar"  # fmt: skip
    assert edges(planned(TWO_BRANCHES)) == [
        ("debian:latest", arg, "is below"),
        (arg, update, "is below"),
        (update, install, "is below"),
        (install, workdir, "is below"),
        (workdir, "foo: copy src1 .", "is below"),
        ("build context", "foo: copy src1 .", "copies"),
        ("foo: copy src1 .", "foo: run make", "is below"),
        (workdir, "bar: copy src2 .", "is below"),
        ("build context", "bar: copy src2 .", "copies"),
        ("bar: copy src2 .", "bar: run make", "is below"),
        ("busybox:latest", foo, "is below"),
        ("foo: run make", foo, "copies"),
        (foo, bar, "is below"),
        ("bar: run make", bar, "copies"),
    ]


MOUNTS = """
FROM scratch AS files
COPY <<E /f
x
E
FROM a AS tools
RUN --mount=type=bind,from=files,target=/f --mount=type=bind,target=/c \
    --mount=type=cache,from=b,target=/k x
FROM tools
COPY --from=c /x /
ADD https://h/f https://h/r.git /all/
COPY --from=extra . /
"""


def test_edges_of_mounts_images_contexts_and_what_is_fetched() -> None:
    run = "tools: RUN --mount=type=bind,from=files,target=/f --mount=type=bind,target=/c     --mount=type=cache,from=b,target=/k x"  # fmt: skip
    add = "stage-2: ADD https://h/f https://h/r.git /all/"
    made = planned(MOUNTS, contexts={"extra": FilesContext("extra")})
    assert edges(made) == [
        ("a:latest", run, "is below"),
        ("files: COPY <<E /f", run, "copies"),
        ("build context", run, "copies"),
        ("b:latest", run, "copies"),
        (run, "stage-2: COPY --from=c /x /", "is below"),
        ("c:latest", "stage-2: COPY --from=c /x /", "copies"),
        ("stage-2: COPY --from=c /x /", add, "is below"),
        ("https://h/f", add, "copies"),
        ("https://h/r.git", add, "copies"),
        (add, "stage-2: COPY --from=extra . /", "is below"),
        ("extra", "stage-2: COPY --from=extra . /", "copies"),
    ]


def test_a_trigger_adds_an_edge() -> None:
    made = planned(
        "FROM scratch AS src\nCOPY a /\nFROM base AS out\n", triggers=("COPY --from=src /a /b",)
    )
    assert edges(made) == [
        ("build context", "src: COPY a /", "copies"),
        ("base:latest", "out: ONBUILD COPY --from=src /a /b", "is below"),
        ("src: COPY a /", "out: ONBUILD COPY --from=src /a /b", "copies"),
    ]


def test_a_stage_without_steps_has_a_box() -> None:
    assert edges(planned("FROM a AS x\nENV k=v\nFROM x\nLABEL l=m\n")) == [
        ("a:latest", "x: no steps", "is below"),
        ("x: no steps", "stage-1: no steps", "is below"),
    ]


def test_a_stage_of_a_tree_of_files_reads_it() -> None:
    made = planned("FROM tree\nCOPY a /\n", contexts={"tree": FilesContext("tree")})
    assert [(start, kind) for start, _, kind in edges(made)] == [
        ("tree", "copies"),
        ("stage-0: FROM tree", "is below"),
        ("build context", "copies"),
    ]


def test_the_seed_as_text() -> None:
    plan = planned(TWO_BRANCHES)
    busybox, debian = plan.images
    fates = {(0, 0): Fate.CACHED, (0, 1): Fate.CACHED, (0, 2): Fate.CACHED, (0, 3): Fate.CACHED}
    fates |= {(1, 0): Fate.UNNEEDED, (1, 1): Fate.UNNEEDED, (2, 0): Fate.RUN, (2, 1): Fate.RUN}
    fates |= {(3, 0): Fate.RUN}
    forecast = Forecast(fates, {debian: plan.images[debian].layers})
    assert picture.text(plan, forecast) == (
        "target stage-3, linux/amd64\n"
        "\n"
        "images\n"
        f"  docker.io/library/busybox:latest  {plan.images[busybox].manifest.digest}\n"
        "    1 layer, 61.7 MB, nothing to pull\n"
        f"  docker.io/library/debian:latest  {plan.images[debian].manifest.digest}\n"
        "    1 layer, 61.7 MB, 61.7 MB of it to pull\n"
        "\n"
        "stage build-essential  FROM docker.io/library/debian:latest\n"
        '  cached    run if [ -n "$APT_MIRROR" ]; then echo "deb $APT_MIRROR bookworm main" >'
        " /etc/apt/sources.list; fi\n"
        "  cached    run apt-get update\n"
        "  cached    run apt-get install -y --no-install-recommends make gcc libc6-dev\n"
        "  cached    workdir /src\n"
        "\n"
        "stage foo  FROM build-essential\n"
        "  unneeded  copy src1 .\n"
        "  unneeded  run make\n"
        "\n"
        "stage bar  FROM build-essential\n"
        "  run       copy src2 .\n"
        "  run       run make\n"
        "\n"
        "stage stage-3  FROM docker.io/library/busybox:latest\n"
        "  run       copy --from=foo src/foo /bin/foo\n"
        "  pending   copy --from=bar src/bar /bin/bar\n"
        "\n"
        "4 stages, 10 steps: 6 known, 4 to execute; 61.7 MB to pull\n"
    )


def test_what_is_missing_is_said() -> None:
    plan = planned(TWO_BRANCHES, missing=True)
    shown = picture.text(plan, Forecast())
    assert "  docker.io/library/debian:latest  missing (linux/amd64, Dockerfile:1)\n" in shown
    assert shown.endswith("nothing to pull; 2 images are missing\n")
    assert "docker.io/library/busybox:latest" in shown


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_500, "99.5 kB"),
        (99_949, "99.9 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (61_700_000, "61.7 MB"),
        (2_500_000_000, "2.5 GB"),
        (7_000_000_000_000, "7.0 TB"),
    ],
)
def test_sizes(count: int, shown: str) -> None:
    assert picture.size(count) == shown


def test_layers_that_images_share_are_pulled_once() -> None:
    plan = planned("FROM a AS x\nFROM b\nCOPY --from=x / /\n")
    [layer] = next(iter(plan.images.values())).layers
    assert Forecast({}, dict.fromkeys(plan.images, (layer,))).bytes == 61_700_000


# Graphviz and Mermaid


def canonical(dot: str) -> dict[str, object]:
    """The graph as Graphviz understands it, without laying it out."""
    if shutil.which("dot") is None:
        pytest.skip("not installed: dot")
    done = subprocess.run(
        ["dot", "-Tdot_json", "-Gnslimit=1", "-Gmaxiter=1"],
        input=dot.encode(),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0 and done.stderr == b"", done.stderr.decode()
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_graphviz_reads_the_seed() -> None:
    plan = planned(TWO_BRANCHES)
    graph = canonical(picture.dot(plan, everything_to_do(plan)))
    objects, found = graph["objects"], graph["edges"]
    assert isinstance(objects, list) and isinstance(found, list)
    names = [item["name"] for item in objects]
    assert names[:4] == [f"cluster_{number}" for number in range(4)]
    got = {(names[edge["tail"]], names[edge["head"]], edge.get("style", "")) for edge in found}
    assert got == {
        (edge.start, edge.end, "dashed" if edge.copies else "") for edge in picture.edges(plan)
    }
    tips = {item["name"]: item["tooltip"] for item in objects if "tooltip" in item}
    assert tips["s1_0"] == "copy src1 ." and tips["context_0"] == "build context"


NASTY = [
    'RUN echo "quoted" \'single\' $(x) `y`',
    "RUN printf 'a\\nb\\\\' > /x # \\N \\G \\\"",
    "RUN a <b> && c & d; e | f } ] ) > [x] {y}",
    "RUN " + "x" * 20_000,
    "RUN " + "word " * 5_000,
    "RUN \x1b[31m\x07\udcff\u202e",
    "RUN 漢字 \N{ROCKET} é",
    "RUN %% comment --> x:::y; classDef a; end",
    "RUN #quot; &quot; &amp; #35; <br> <b>",
    "RUN <<E\nmany\nlines\nE",
    "RUN x \\\n  y",
    'COPY ["a b", "<c>]", "/x]"]',
]  # fmt: skip


@pytest.mark.parametrize("line", NASTY, ids=range(len(NASTY)))
def test_whatever_a_step_says_the_pictures_are_whole(line: str) -> None:
    plan = planned(f"FROM scratch AS x\n{line}\nRUN --mount=type=bind,target=/x after\n")
    forecast = everything_to_do(plan)
    dot = picture.dot(plan, forecast)
    canonical(dot)
    drawing = picture.mermaid(plan, forecast)
    assert len(dot) < 8_000 and len(drawing) < 3_000
    whole_mermaid(drawing)
    assert all(char.isprintable() or char == "\n" for char in dot + drawing)


NODE = re.compile(r'  (?:  )?(\w+)\[\(?"([^"\\<`]|<br>)*"\)?\](?::::\w+)?')
LINES = [
    re.compile(r"flowchart TD"),
    NODE,
    re.compile(r'  subgraph (\w+)\["[^"\\<`]*"\]'),
    re.compile(r"  end"),
    re.compile(r"  \w+ (?:-->|-\.->) \w+"),
    re.compile(r"  classDef \w+ [-\w:#,]+"),
    re.compile(r"  style stage_\d+ [-\w:#,]+"),
]


def whole_mermaid(drawing: str) -> None:
    """Every line is one of the kinds we write, subgraphs end, and edges join what there is."""
    lines = drawing.splitlines()
    assert lines[0] == "flowchart TD"
    for line in lines:
        assert any(kind.fullmatch(line) for kind in LINES), line
    assert sum("subgraph" in line for line in lines) == lines.count("  end")
    names = {match[1] for line in lines if (match := NODE.fullmatch(line))}
    for line in lines:
        if "->" in line and not NODE.fullmatch(line):
            start, _, end = line.split()
            assert {start, end} <= names


def test_mermaid_of_the_seed() -> None:
    plan = planned(TWO_BRANCHES)
    drawing = picture.mermaid(plan, everything_to_do(plan))
    whole_mermaid(drawing)
    assert '  image_1[("debian:latest<br>61.7 MB to pull")]:::outside\n' in drawing
    assert (
        '  subgraph stage_1["foo"]\n'
        '    s1_0["copy src1 .<br>will run"]:::run\n'
        '    s1_1["run make<br>will run"]:::run\n'
        "  end\n"
    ) in drawing
    assert '  subgraph stage_3["stage-3 (target)"]\n' in drawing
    assert "  s0_3 --> s1_0\n" in drawing and "  s1_1 -.-> s3_0\n" in drawing


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ('a"b', "a#34;b"),
        ("<b>", "#60;b#62;"),
        ("#35;", "#35;35;"),
        ("&lt;", "#38;lt;"),
        ("`x`", "#96;x#96;"),
        ("a\\nb", "a#92;nb"),
        ("](x)", "](x)"),
    ],
)
def test_mermaid_strings(text: str, escaped: str) -> None:
    plan = planned("FROM scratch\nRUN x\n")
    [step] = plan.stages[0].steps
    assert isinstance(step, Run)
    context = planned("FROM scratch\nCOPY --from=c / /\n", contexts={"c": FilesContext(text)})
    assert f'  context_0[("{escaped}")]:::outside' in picture.mermaid(context, Forecast())


@settings(max_examples=60)
@given(st.text(st.characters(exclude_characters="\n\r"), max_size=60))
def test_pictures_of_any_text_are_whole(text: str) -> None:
    plan = planned("FROM scratch\nCOPY --from=c / /\n", contexts={"c": FilesContext(text)})
    forecast = everything_to_do(plan)
    whole_mermaid(picture.mermaid(plan, forecast))
    canonical(picture.dot(plan, forecast))


def many_stages() -> Plan:
    """A thousand stages on each other's shoulders, and one that takes a file of each."""
    lines = ["FROM base AS s0", "RUN 0"]
    for number in range(1, 1000):
        lines += [f"FROM s{(number - 1) // 3} AS s{number}", f"COPY --from=s{number // 2} /x /"]
    lines += ["FROM scratch", *(f"COPY --from=s{number} / /" for number in range(1000))]
    return planned("\n".join(lines))


@pytest.mark.parametrize("write", [picture.dot, picture.mermaid, picture.text])
def test_a_thousand_stages_are_drawn_in_two_seconds(
    write: Callable[[Plan, Forecast], str],
) -> None:
    plan = many_stages()
    with cpu_seconds(2):
        drawn = write(plan, everything_to_do(plan))
    assert drawn.count("s999") >= 1


def test_graphviz_reads_a_thousand_stages() -> None:
    plan = many_stages()
    dot = picture.dot(plan, everything_to_do(plan))
    if shutil.which("nop") is None:
        pytest.skip("not installed: graphviz")
    done = subprocess.run(["nop", "-p"], input=dot.encode(), capture_output=True, timeout=60)
    assert done.returncode == 0 and done.stderr == b""
    whole_mermaid(picture.mermaid(plan, everything_to_do(plan)))

"""Where steps read from (rules C6, C22, M6, S7)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from assembler.context.tree import TreeContext
from assembler.dockerfile.ignore import IgnoreRules
from assembler.dockerfile.parser import parse
from assembler.engine.selection import Selection, select
from assembler.engine.sources import Sources, mount_copy
from assembler.errors import CopySourceMissing, StepError
from assembler.layer.tree import Tree
from assembler.oci.config import ImageConfig
from assembler.oci.descriptor import MANIFEST, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan.contexts import Contexts, FilesContext
from assembler.plan.make import PlanRequest, make, needs
from assembler.plan.plan import Plan, ResolvedImage
from assembler.plan.steps import BindMount, ContextOrigin, Copy, Run
from assembler.source import Source

LINUX = Platform("linux", "amd64")


def planned(text: str) -> Plan:
    """The plan of `text`, with a named context `tools`, every image being empty."""
    request = PlanRequest(
        dockerfile=parse(Source("Dockerfile", text)),
        build_args={},
        platform=LINUX,
        build_platform=LINUX,
        labels={},
        contexts=Contexts({"tools": FilesContext("tools")}),
    )
    resolved: dict[str, ResolvedImage] = {}
    while missing := needs(request, resolved):
        for need in missing:
            manifest = Descriptor(MANIFEST, Digest.of(need.key.encode()), 1)
            resolved[need.key] = ResolvedImage(need.image, manifest, ImageConfig(need.platform), ())
    return make(request, resolved)


def selected(bench: Any, text: str, tree: Tree, contexts: dict[str, Any]) -> Selection:
    """What the last step of `text` selects from `tree`."""
    plan = planned(text)
    step = plan.stage(plan.target).steps[-1]
    if isinstance(step, Run):
        (mount,) = step.mounts
        assert isinstance(mount, BindMount)
        step = mount_copy(mount.origin, mount.source, step)
    assert isinstance(step, Copy)
    services: Any = SimpleNamespace(remote=bench.remote, contexts=contexts)
    return Sources(plan, services).select(step, tree)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("FROM scratch\nCOPY /out/ap /x", ""),
        ("FROM scratch\nCOPY --from=tools /out/ap /x", " in the build context tools"),
        ("FROM scratch AS one\nFROM scratch\nCOPY --from=one /out/ap /x", " in the stage one"),
        ("FROM scratch\nFROM scratch\nCOPY --from=0 /out/ap /x", " in the stage stage-0"),
        (
            "FROM scratch\nCOPY --from=busybox /out/ap /x",
            " in the image docker.io/library/busybox:latest",
        ),
        (
            "FROM scratch\nRUN --mount=from=tools,source=/out/ap,target=/m x",
            " in the build context tools",
        ),
    ],
)
def test_C6_the_place_that_lacks_a_source_is_named(bench: Any, text: str, place: str) -> None:
    tree = bench.tree_of([bench.file("out/app")])
    contexts = {name: TreeContext(name, tree) for name in ("", "tools")}
    with pytest.raises(CopySourceMissing) as caught:
        selected(bench, text, tree, contexts)
    assert caught.value.message.endswith(f'of ref: "/out/ap": not found{place}')
    assert caught.value.hint == "did you mean /out/app?"
    assert caught.value.span is not None and caught.value.span.word.lstrip("/") == "out/ap"


def test_C6_the_rule_of_a_named_context(bench: Any) -> None:
    rules = IgnoreRules.parse(Source(".dockerignore", "out\n"))
    context = TreeContext("tools", bench.tree_of([bench.file("out/app")]), rules)
    text = "FROM scratch\nCOPY --from=tools /out/app /x"
    with pytest.raises(CopySourceMissing) as caught:
        selected(bench, text, context.tree(), {"tools": context})
    assert caught.value.hint == "the ignore rule .dockerignore:1 out hides it"


def test_X4_without_a_context_there_is_nothing_to_copy(bench: Any) -> None:
    with pytest.raises(StepError, match="there is no build context") as caught:
        selected(bench, "FROM scratch\nCOPY f /x", bench.tree_of([]), {})
    assert caught.value.span is not None


def test_M6_the_source_of_a_bind_mount_is_a_path_and_no_pattern(bench: Any) -> None:
    tree = bench.tree_of([bench.file("a[1]*"), bench.file("a1"), bench.file("b\\c")])
    run = planned("FROM scratch\nRUN x").stages[0].steps[0]
    assert isinstance(run, Run)
    for name in ("a[1]*", "b\\c"):
        step = mount_copy(ContextOrigin(), f"/{name}", run)
        (item,) = select(step, tree).items
        assert item.name == name

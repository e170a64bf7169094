"""Which steps run after a change: random graphs and changes against a small model, in both directions;
and one example for each kind of change (rules R7, C21, C25, A6, A11, M7, S12, 18.3)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from assembler.engine.services import Sandbox
from assembler.events import VertexDone
from assembler.linux.cgroups import unlimited
from tests.engine.graphs import (
    Bind,
    ComputingRuntime,
    Copy,
    Directories,
    Graph,
    Line,
    Model,
    Run,
    Set,
    Stage,
)
from tests.engine.test_execution import Workshop

calmly = settings(
    deadline=None, suppress_health_check=list(HealthCheck), max_examples=40, phases=[Phase.generate]
)
"""Each example is some builds: to find a smaller one takes minutes."""


class Builds(Workshop):
    """Builds graphs in one store."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.runtime: Any = ComputingRuntime()
        self.builds = 0

    @contextmanager
    def sandbox(self) -> Iterator[Sandbox]:
        directories = Directories(self.directory / "layers")
        yield Sandbox(directories, self.runtime, unlimited(), (), "full")

    def steps(self, graph: Graph) -> set[tuple[int, int]]:
        """The steps that run, as numbers of stages and of steps in them."""
        self.builds += 1
        self.context = self.directory / f"context{self.builds}"
        graph.write(self.context)
        numbers = [stage.number for stage in graph.stages]
        fresh = frozenset(map(graph.name, graph.fresh))
        self.build(graph.text(), build_args=graph.args, no_cache=fresh)
        ran = set()
        for event in self.events:
            if isinstance(event, VertexDone) and not event.cached:
                stage, _, step = event.vertex.partition("/")
                if step.isdecimal():
                    ran.add((numbers[int(stage)], int(step)))
        return ran


names = st.sampled_from(["a1", "a2", "b1"])
words = st.sampled_from(["1", "2", "a1", "b1"])
directories = st.sampled_from(["d0", "d1"])
texts = st.tuples(st.sampled_from("xyz"), st.sampled_from([0o644, 0o755, 0o600]))
contexts = st.fixed_dictionaries(
    {"d0/a1": texts, "d0/keep": st.just(("", 0o644)), "d1/keep": st.just(("", 0o644))},
    optional={"d0/b1": texts, "d1/a1": texts, "d1/a2": texts},
)
arguments = st.dictionaries(st.sampled_from(["A", "B", "UNUSED"]), st.sampled_from("12"))
settings_of_stages = st.builds(
    Set, st.sampled_from(["ENV", "ARG"]), st.sampled_from("AB"), st.sampled_from("12")
) | st.builds(Set, st.just("WORKDIR"), st.just(""), st.sampled_from(["/w", "/w/v"]))


def lines(number: int, others: list[int]) -> st.SearchStrategy[Line]:
    """A line of the stage `number`, which may read the stages `others`. Only one stage
    links, else a copy could be known by another stage's that is made meanwhile."""
    stages = st.sampled_from([None, *others])
    binds = st.none() | st.builds(Bind, directories, stages, st.booleans())
    verbs = st.sampled_from(["put", "pick", "sum"])
    patterns = st.sampled_from(["", "a*", "*"])
    copies = st.builds(Copy, directories, stages, patterns, st.sampled_from(["", "700"]))
    linked = st.builds(Copy, directories, stages, patterns, st.just(""), st.just(number == 1))
    runs = st.builds(Run, verbs, names, words, binds)
    return settings_of_stages | runs | copies | linked


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to four stages of up to five lines."""
    stages: list[Stage] = []
    for number in range(draw(st.integers(1, 4))):
        others = [stage.number for stage in stages]
        base = draw(st.sampled_from([None, *others]))
        stages.append(Stage(number, base, tuple(draw(st.lists(lines(number, others), max_size=5)))))
    last = stages[-1]
    taken = (*last.lines, *(Copy("", stage.number, "*") for stage in stages[:-1]))
    stages[-1] = replace(last, lines=taken[:8])
    return Graph(tuple(stages), draw(contexts), draw(arguments))


@st.composite
def changed(draw: st.DrawFn, graph: Graph) -> Graph:
    """`graph` with one change."""
    kind = draw(st.sampled_from(["style", "context", "arguments", "line", "fresh", "order"]))
    stages = list(graph.stages)
    graph = replace(graph, fresh=frozenset())
    if kind == "style":
        return replace(graph, style=graph.style + draw(st.integers(1, 7)))
    if kind == "context":
        return replace(graph, files=draw(contexts))
    if kind == "arguments":
        return replace(graph, args=draw(arguments))
    place = draw(st.integers(0, len(stages) - 1))
    if kind == "fresh":
        return replace(graph, fresh=frozenset({stages[place].number}))
    if kind == "order":
        following = stages[place : place + 2]
        if place + 2 < len(stages) and following[0].number not in following[1].needs:
            stages[place : place + 2] = following[::-1]
        return replace(graph, stages=tuple(stages))
    others = [stage.number for stage in stages[:place]]
    body = list(stages[place].lines)
    at = draw(st.integers(0, len(body)))
    body[at : at + draw(st.integers(0, 1))] = draw(
        st.lists(lines(stages[place].number, others), max_size=1)
    )
    stages[place] = replace(stages[place], lines=tuple(body))
    return replace(graph, stages=tuple(stages))


@pytest.mark.usefixtures("without_owners")
@calmly
@given(data=st.data())
def test_R7_C21_exactly_the_steps_that_see_a_change_run(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as directory:
        builds, model = Builds(Path(directory)), Model()
        graph = data.draw(graphs())
        seen = [graph]
        assert builds.steps(graph) == model.build(graph)
        assert builds.steps(graph) == model.build(graph) == set()
        for _ in range(data.draw(st.integers(1, 3))):
            graph = data.draw(changed(graph) | st.sampled_from(seen))
            seen.append(replace(graph, fresh=frozenset()))
            assert builds.steps(graph) == model.build(graph), graph.text()

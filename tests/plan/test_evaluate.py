"""The table of meanings is whole."""

from __future__ import annotations

from typing import get_args

import pytest

from assembler.dockerfile.instructions import Instruction
from assembler.dockerfile.parser import parse
from assembler.errors import SyntaxProblem
from assembler.oci.config import Execution
from assembler.oci.platform import Platform
from assembler.plan.evaluate import MEANINGS
from assembler.plan.make import PlanRequest, make
from assembler.plan.mapping import PersistentMap
from assembler.plan.state import StageState
from assembler.source import Source


def test_every_instruction_has_a_meaning() -> None:
    assert MEANINGS.keys() == set(get_args(Instruction))


def test_a_state_is_not_changed_by_what_follows_it() -> None:
    state = StageState(Execution(env=("A=0",)), PersistentMap({"A": "0"}))
    after = state.told("x")
    assert (len(state.history), len(after.history)) == (0, 1)
    assert state.configured() == Execution(env=("A=0",))


ALL = """\
FROM scratch AS one
ARG a=1
ENV b=2
LABEL c=3
EXPOSE 4
VOLUME /v
ONBUILD RUN t
WORKDIR /w
USER u
SHELL ["/s", "-c"]
COPY f /f
RUN r
CMD c
ENTRYPOINT e
STOPSIGNAL 9
HEALTHCHECK CMD h
MAINTAINER m
"""


def test_two_stages_of_one_do_not_see_each_other() -> None:
    """They share what came before, and each adds to it."""
    text = f"{ALL}FROM one AS x\nENV b=x\nARG a=x\nLABEL c=x\nRUN x\nFROM one AS y\nRUN y\n"
    dockerfile = parse(Source("Dockerfile", text))
    request = PlanRequest(
        dockerfile=dockerfile, build_platform=Platform("linux", "amd64"), every_stage=True
    )
    one, x, y = make(request, {}).stages
    alone = parse(Source("Dockerfile", f"{ALL}FROM one AS y\nRUN y\n"))
    only = make(PlanRequest(dockerfile=alone, build_platform=Platform("linux", "amd64")), {})
    assert [step.env for step in y.steps] == [step.env for step in only.stages[1].steps]  # type: ignore[union-attr]
    assert (one.config, y.config) == (only.stages[0].config, only.stages[1].config)
    assert x.config.execution.labels == {"c": "x"} and "b=x" in x.config.execution.env
    assert dict(x.steps[-1].env)["a"] == "x"  # type: ignore[union-attr]


def test_from_is_no_step_of_a_stage() -> None:
    dockerfile = parse(Source("Dockerfile", "FROM scratch\n"))
    line = dockerfile.stages[0].base
    state = StageState(Execution(), PersistentMap())
    with pytest.raises(SyntaxProblem, match="FROM inside a stage"):
        MEANINGS[type(line)](state, line, None)  # type: ignore[arg-type]

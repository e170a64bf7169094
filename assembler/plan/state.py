"""What a stage's fold carries along: the state after some of its instructions, and their scope."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from assembler.dockerfile.instructions import Instruction, Stage
from assembler.oci.config import Execution, History
from assembler.plan.chain import Chain
from assembler.plan.mapping import PersistentMap
from assembler.plan.plan import HistoryLine
from assembler.plan.resolution import Use
from assembler.plan.scope import Scope, expanded
from assembler.plan.steps import SHARED_MEMORY, Limit, Origin, Step
from assembler.source import Span
from assembler.values import field, replace, value

_SHELLS = {"windows": ("cmd", "/S", "/C")}
_DEFAULT_SHELL = ("/bin/sh", "-c")


@value
class Additions:
    """What ENV, LABEL, EXPOSE, VOLUME and ONBUILD of a stage add to what it began with."""

    variables: PersistentMap[str] = field(default_factory=PersistentMap)
    labels: PersistentMap[str] = field(default_factory=PersistentMap)
    ports: PersistentMap[None] = field(default_factory=PersistentMap)
    volumes: PersistentMap[None] = field(default_factory=PersistentMap)
    triggers: Chain[str] = field(default_factory=Chain)


@value
class StageState:
    """What the instructions so far amount to.

    `environment` is the build's: ENV and ARG, the later one winning (rule A7). `arguments` are the
    ARGs in scope with their values, in the order of first declaration. `execution` is without what
    is `added`; see `configured`.
    """

    execution: Execution
    environment: PersistentMap[str]
    arguments: PersistentMap[str | None] = field(default_factory=PersistentMap)
    added: Additions = field(default_factory=Additions)
    steps: Chain[Step] = field(default_factory=Chain)
    history: Chain[HistoryLine] = field(default_factory=Chain)
    author: str = ""
    own_cmd: bool = False

    @property
    def cwd(self) -> str:
        """The working directory, absolute."""
        return self.execution.working_dir or "/"

    def told(self, text: str) -> StageState:
        """With a history entry that has no layer."""
        line = HistoryLine(History(text, empty_layer=True))
        return replace(self, history=self.history.append(line))

    def stepped(self, step: Step, text: str) -> StageState:
        """With another step, and a history entry for its layer."""
        line = HistoryLine(History(text), step=len(self.steps))
        return replace(self, steps=self.steps.append(step), history=self.history.append(line))

    def configured(self) -> Execution:
        """The execution parameters now."""
        before, added = self.execution, self.added
        return replace(
            before,
            env=_merged(before.env, added.variables),
            labels={**before.labels, **added.labels},
            exposed_ports=tuple(sorted({*before.exposed_ports, *added.ports})),
            volumes=tuple(sorted({*before.volumes, *added.volumes})),
            on_build=(*before.on_build, *added.triggers),
        )


def _merged(env: tuple[str, ...], variables: Mapping[str, str]) -> tuple[str, ...]:
    """`env` with the values of `variables` in place, new ones at the end (rule A15)."""
    new = dict(variables)
    merged = []
    for item in env:
        key = item.partition("=")[0]
        merged.append(f"{key}={new.pop(key)}" if key in new else item)
    return (*merged, *(f"{key}={value}" for key, value in new.items()))


@value
class StageScope:
    """What does not change within a stage."""

    stage: Stage
    escape: str
    outer: Scope
    build_args: Mapping[str, str]
    network: str
    origin: Callable[[Use], Origin]
    title: Callable[[Instruction, int], str]
    """Names a step for progress, given how many steps precede it."""
    system: str = "linux"
    """The operating system of the base; it has a say in the default shell (rule R1)."""
    allow: frozenset[str] = frozenset()
    """Entitlements: `network.host`, `security.insecure` (rules N1, N2)."""
    hosts: tuple[str, ...] = ()
    """Names that `--add-host` gives every RUN (rule R5)."""
    limits: tuple[Limit, ...] = ()
    """What `--ulimit` asks for every RUN, and `--shm-size` (rule R5)."""
    shared_memory: int = SHARED_MEMORY
    proxies: tuple[tuple[str, str], ...] = ()
    """What every RUN is given and no key, history or configuration has (rule A11)."""

    def expand(self, state: StageState, span: Span) -> Callable[[str], str]:
        """Expands words as `state` has it (rule E1); what fails is blamed on `span`."""
        scope = Scope(state.environment)
        return lambda word: expanded(word, scope, self.escape, span)

    def shell(self, state: StageState) -> tuple[str, ...]:
        """The words that stand before a command in shell form (rules R1, K3)."""
        return state.execution.shell or _SHELLS.get(self.system, _DEFAULT_SHELL)

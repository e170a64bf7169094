"""What progress calls the steps of a stage: `[build 2/5] RUN make` (rule S18)."""

from __future__ import annotations

from assembler.dockerfile.instructions import Copy, From, Instruction, Run, Workdir
from assembler.plan.graph import StageNode
from assembler.plan.plan import ContextBase, ImageBase
from assembler.source import redacted
from assembler.values import value


@value
class Titles:
    """Names the steps of one stage."""

    stage: str
    first: int
    total: int
    line: int
    """Of FROM, where triggers are placed too (rule K14)."""

    @classmethod
    def of(cls, node: StageNode, *, alone: bool) -> Titles:
        """FROM counts where it is an image; a tree of files is copied by a step of its own."""
        stage = node.stage
        steps = sum(map(_counts, node.instructions)) + isinstance(node.base, ContextBase)
        first = int(isinstance(node.base, ImageBase))
        name = "" if alone else f"{stage.name or f'stage-{stage.index}'} "
        return cls(name, first, first + steps, stage.base.span.start)

    def title(self, instruction: Instruction, before: int) -> str:
        """The title of a step that `before` others precede."""
        number = before + 1 + self.first
        triggered = instruction.span.start == self.line and not isinstance(instruction, From)
        trigger = "ONBUILD " if triggered else ""
        return (
            f"[{self.stage}{number:>{len(str(self.total))}}/{self.total}]"
            f" {trigger}{redacted(instruction.text)}"
        )


def _counts(instruction: Instruction) -> bool:
    """Whether progress numbers it (rule S18); `WORKDIR /` makes nothing."""
    if isinstance(instruction, Workdir):
        return instruction.path.strip() != "/"
    return isinstance(instruction, Run | Copy | Workdir)

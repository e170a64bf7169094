"""What a stage begins with: the configuration and variables of its base (rules Y2, S5, S6, A5, A16)."""

from __future__ import annotations

from collections.abc import Mapping

from assembler.oci.config import DEFAULT_PATH, ImageConfig
from assembler.plan.graph import StageNode
from assembler.plan.mapping import PersistentMap
from assembler.plan.plan import ImageBase, PlannedStage, ResolvedImage, StageBase
from assembler.plan.state import StageState
from assembler.values import replace


def base_config(
    node: StageNode, planned: Mapping[int, PlannedStage], resolved: Mapping[str, ResolvedImage]
) -> ImageConfig:
    """The configuration of the base, without `created` and triggers (rule Y2)."""
    if isinstance(node.base, StageBase):
        config = planned[node.base.index].config
    elif isinstance(node.base, ImageBase) and node.base.image in resolved:
        config = resolved[node.base.image].config
    else:
        config = ImageConfig(node.platform)
        config = config.with_execution(replace(config.execution, working_dir="/"))
    execution = replace(config.execution, on_build=())
    names = [item.partition("=")[0] for item in execution.env]
    if "PATH" not in names and node.platform.os != "windows":
        execution = replace(execution, env=(*execution.env, f"PATH={DEFAULT_PATH}"))
    return replace(config, execution=execution, created="")


def start(node: StageNode, config: ImageConfig, ends: Mapping[int, StageState]) -> StageState:
    """The state before the first instruction, given `config` of the base and how stages ended."""
    if isinstance(node.base, StageBase):  # ARGs are inherited with the stage (rule A5)
        below = ends[node.base.index]
        return StageState(config.execution, below.environment, below.arguments, author=below.author)
    variables = dict(item.partition("=")[::2] for item in config.execution.env)
    return StageState(config.execution, PersistentMap(variables), author=config.author)

"""A plan to look at: text, Graphviz DOT, Mermaid. Stages, steps, edges, and what each will cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from assembler.oci.descriptor import Descriptor
from assembler.plan.forecast import Fate, Forecast
from assembler.plan.plan import (
    ContextBase,
    ImageBase,
    Plan,
    PlannedStage,
    ScratchBase,
    StageBase,
)
from assembler.plan.steps import (
    ContextOrigin,
    Copy,
    GitSource,
    ImageOrigin,
    Run,
    StageOrigin,
    Step,
    UrlSource,
    origins_of,
)
from assembler.source import printable

_COLOURS = {
    Fate.CACHED: "#d7ead3",
    Fate.RUN: "#fbe0c0",
    Fate.PENDING: "#fdf3d6",
    Fate.UNNEEDED: "#eeeeee",
}
_LONGEST = 60


@dataclass(frozen=True, slots=True)
class Edge:
    """Something that is read: from a node to a node, by their names in the picture."""

    start: str
    end: str
    copies: bool = False
    """Only some files are taken; else it is the whole file system."""


@dataclass(frozen=True, slots=True)
class Node:
    """A box of the picture: a step, an image, a context."""

    name: str
    text: str
    fate: Fate | None = None


def text(plan: Plan, forecast: Forecast) -> str:
    """The plan as lines: images with what will be pulled, stages with the fate of each step."""
    target = plan.stage(plan.target)
    lines = [f"target {target.title}, {plan.platform}"]
    if plan.images or plan.missing:
        lines += ["", "images"]
    for key, image in plan.images.items():
        lines.append(f"  {image.name}  {image.manifest.digest}")
        total = sum(layer.size for layer in image.layers)
        pulls = forecast.pulls.get(key, ())
        pulled = f"{size(_bytes(pulls))} of it to pull" if pulls else "nothing to pull"
        layers = "1 layer" if len(image.layers) == 1 else f"{len(image.layers)} layers"
        lines.append(f"    {layers}, {size(total)}, {pulled}")
    for need in plan.missing:
        lines.append(f"  {need.image}  missing ({need.platform}, {need.span})")
    for stage in plan.stages:
        lines += ["", f"stage {stage.title}  FROM {base_text(plan, stage)}"]
        for number, step in enumerate(stage.steps):
            fate = forecast.fate(stage.index, number)
            lines.append(f"  {fate.value:<8}  {_shortened(step_text(step), 100)}")
    lines += ["", summary(plan, forecast)]
    return "\n".join(lines) + "\n"


def summary(plan: Plan, forecast: Forecast) -> str:
    """One line of figures."""
    steps = sum(len(stage.steps) for stage in plan.stages)
    known = forecast.count(plan, Fate.CACHED, Fate.UNNEEDED)
    stages = "1 stage" if len(plan.stages) == 1 else f"{len(plan.stages)} stages"
    counted = "1 step" if steps == 1 else f"{steps} steps"
    pulled = f"{size(forecast.bytes)} to pull" if forecast.bytes else "nothing to pull"
    lacking = "1 image is" if len(plan.missing) == 1 else f"{len(plan.missing)} images are"
    missing = f"; {lacking} missing" if plan.missing else ""
    return f"{stages}, {counted}: {known} known, {steps - known} to execute; {pulled}{missing}"


def dot(plan: Plan, forecast: Forecast) -> str:
    """The plan in Graphviz' language."""
    lines = [
        "digraph plan {",
        "  rankdir=TB; compound=true; bgcolor=white;",
        '  node [shape=box, style="filled,rounded", fillcolor=white, fontname="sans-serif",'
        " fontsize=10];",
        '  edge [color="#666666", arrowsize=0.7];',
    ]
    for node in outside(plan, forecast):
        lines.append(f"  {node.name} [label={_quoted(node.text)}, shape=cylinder];")
    for stage in plan.stages:
        width = 2 if stage.index == plan.target else 1
        lines.append(f"  subgraph cluster_{stage.index} {{")
        lines.append(f'    label={_quoted(stage.title)}; fontname="sans-serif"; fontsize=12;')
        lines.append(f'    style=rounded; color="#999999"; penwidth={width};')
        for node in steps(stage, forecast):
            colour = _COLOURS[node.fate] if node.fate else "#ffffff"
            lines.append(
                f"    {node.name} [label={_quoted(node.text)}, fillcolor={_quoted(colour)}];"
            )
        lines.append("  }")
    for edge in edges(plan):
        style = " [style=dashed]" if edge.copies else ""
        lines.append(f"  {edge.start} -> {edge.end}{style};")
    return "\n".join((*lines, "}")) + "\n"


def mermaid(plan: Plan, forecast: Forecast) -> str:
    """The plan as a Mermaid flowchart."""
    lines = ["flowchart TD"]
    for node in outside(plan, forecast):
        lines.append(f"  {node.name}[({_escaped(node.text)})]")
    for stage in plan.stages:
        lines.append(f"  subgraph stage_{stage.index}[{_escaped(stage.title)}]")
        for node in steps(stage, forecast):
            kind = f":::{node.fate.value}" if node.fate else ""
            lines.append(f"    {node.name}[{_escaped(node.text)}]{kind}")
        lines.append("  end")
    for edge in edges(plan):
        lines.append(f"  {edge.start} {'-.->' if edge.copies else '-->'} {edge.end}")
    for fate, colour in _COLOURS.items():
        lines.append(f"  classDef {fate.value} fill:{colour},stroke:#999999")
    return "\n".join(lines) + "\n"


def outside(plan: Plan, forecast: Forecast) -> Iterator[Node]:
    """What the plan takes from elsewhere: images, contexts, URLs, repositories."""
    for number, (key, image) in enumerate(plan.images.items()):
        pulls = forecast.pulls.get(key, ())
        pulled = f"pull {size(_bytes(pulls))}" if pulls else "in the store"
        yield Node(f"image_{number}", f"{_short_name(image.name)}\n{pulled}")
    for number, need in enumerate(plan.missing):
        yield Node(f"missing_{number}", f"{_short_name(need.image)}\nmissing")
    for number, name in enumerate(_contexts(plan)):
        yield Node(f"context_{number}", name or "build context")
    for number, source in enumerate(_fetched(plan)):
        yield Node(f"remote_{number}", _shortened(_remote_text(source), _LONGEST))


def steps(stage: PlannedStage, forecast: Forecast) -> Iterator[Node]:
    """The boxes of a stage; one for its base where there is no step."""
    if not stage.steps:
        yield Node(f"s{stage.index}_base", "no steps")
    for number, step in enumerate(stage.steps):
        fate = forecast.fate(stage.index, number)
        shown = _shortened(step_text(step), _LONGEST)
        yield Node(f"s{stage.index}_{number}", f"{shown}\n{fate.value}", fate)


def edges(plan: Plan) -> Iterator[Edge]:
    """What reads what: bases, steps on steps, files taken out of stages, images and contexts."""
    images = {key: f"image_{number}" for number, key in enumerate(plan.images)}
    images |= {need.key: f"missing_{number}" for number, need in enumerate(plan.missing)}
    contexts = {name: f"context_{number}" for number, name in enumerate(_contexts(plan))}
    remotes = {source: f"remote_{number}" for number, source in enumerate(_fetched(plan))}
    for stage in plan.stages:
        first = _first(stage)
        if isinstance(stage.base, ImageBase):
            yield Edge(images[stage.base.image], first)
        elif isinstance(stage.base, StageBase):
            yield Edge(_last(plan.stage(stage.base.index)), first)
        for number, step in enumerate(stage.steps):
            here = f"s{stage.index}_{number}"
            if number:
                yield Edge(f"s{stage.index}_{number - 1}", here)
            for origin in dict.fromkeys(origins_of(step)):
                if isinstance(origin, StageOrigin):
                    yield Edge(_last(plan.stage(origin.index)), here, copies=True)
                elif isinstance(origin, ImageOrigin):
                    yield Edge(images[origin.image], here, copies=True)
                elif isinstance(origin, ContextOrigin) and _reads_context(step):
                    yield Edge(contexts[origin.name], here, copies=True)
            for source in step.fetched if isinstance(step, Copy) else ():
                yield Edge(remotes[source], here, copies=True)


def base_text(plan: Plan, stage: PlannedStage) -> str:
    """What a stage is built from, in words."""
    match stage.base:
        case ScratchBase():
            return "scratch"
        case StageBase():
            return plan.stage(stage.base.index).title
        case ContextBase():
            return f"context {stage.base.context}"
        case ImageBase():
            return stage.base.image.partition(" ")[0]


def step_text(step: Step) -> str:
    """A step's instruction, as progress shows it without its number."""
    return printable(step.name.partition("] ")[2] or step.name)


def size(count: int) -> str:
    """A number of bytes for people, in powers of ten as registries show them."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.5 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _bytes(layers: tuple[Descriptor, ...]) -> int:
    return sum(layer.size for layer in layers)


def _contexts(plan: Plan) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for stage in plan.stages:
        for step in stage.steps:
            for origin in origins_of(step):
                if isinstance(origin, ContextOrigin) and _reads_context(step):
                    found[origin.name] = None
    return tuple(found)


def _reads_context(step: Step) -> bool:
    return isinstance(step, Run) or (isinstance(step, Copy) and bool(step.paths))


def _fetched(plan: Plan) -> tuple[UrlSource | GitSource, ...]:
    found: dict[UrlSource | GitSource, None] = {}
    for stage in plan.stages:
        for step in stage.steps:
            if isinstance(step, Copy):
                found |= dict.fromkeys(step.fetched)
    return tuple(found)


def _remote_text(source: UrlSource | GitSource) -> str:
    return source.url if isinstance(source, UrlSource) else source.repository.remote


def _first(stage: PlannedStage) -> str:
    return f"s{stage.index}_0" if stage.steps else f"s{stage.index}_base"


def _last(stage: PlannedStage) -> str:
    return f"s{stage.index}_{len(stage.steps) - 1}" if stage.steps else f"s{stage.index}_base"


def _short_name(name: str) -> str:
    return name.removeprefix("docker.io/library/").removeprefix("docker.io/")


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _escaped(text: str) -> str:
    """A Mermaid string: entities for what would end it or be markup."""
    for char in '#&"<>`':
        text = text.replace(char, f"\0{ord(char)};")
    return '"' + text.replace("\0", "#").replace("\n", "<br>") + '"'

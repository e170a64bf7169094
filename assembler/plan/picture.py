"""A plan to look at: text, Graphviz DOT, Mermaid. Stages, steps, edges, and what each will cost."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from types import MappingProxyType

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
from assembler.values import value


@value
class _Look:
    """How a step of some fate is drawn: what is said below it, and in which colours."""

    words: str
    fill: str
    line: str
    text: str


_LOOKS: Mapping[Fate | None, _Look] = MappingProxyType(
    {
        Fate.CACHED: _Look("cached", "#e4f3e2", "#6aa86f", "#3b7a41"),
        Fate.RUN: _Look("will run", "#fdebd3", "#dd9a45", "#a4610b"),
        Fate.PENDING: _Look("known when it is reached", "#fffbe6", "#cdb44c", "#85711c"),
        Fate.UNNEEDED: _Look("not needed", "#f1f1f1", "#b5b5b5", "#777777"),
        None: _Look("", "#ffffff", "#b5b5b5", "#777777"),
    }
)
_OUTSIDE = _Look("", "#e8f1fa", "#7fa3c7", "#1f4e79")
_MISSING = _Look("missing", "#fbe4e1", "#cf7a70", "#a5291b")
_LINE = 46
_LONGEST = 60


@value
class Edge:
    """Something that is read: from a node to a node, by their names in the picture."""

    start: str
    end: str
    copies: bool = False
    """Only some files are taken; else it is the whole file system."""


@value
class Node:
    """A box of the picture: a step, or an image, a context, something fetched. `text` is what it
    is, `remark` what becomes of it; `shape` is Graphviz' word."""

    name: str
    text: str
    remark: str = ""
    shape: str = "box"
    fate: Fate | None = None


def text(plan: Plan, forecast: Forecast) -> str:
    """The plan as lines: images with what will be pulled, stages with the fate of each step."""
    lines = [f"target {plan.stage(one.index).title}, {one.platform}" for one in plan.targets]
    if plan.images or plan.missing:
        lines += ["", "images"]
    for key, image in plan.images.items():
        lines.append(f"  {image.name}  {image.manifest.digest}")
        total = sum(layer.size for layer in image.layers)
        pulls = forecast.pulls.get(key, ())
        pulled = f"{size(_bytes(pulls))} of it to pull" if pulls else "nothing to pull"
        lines.append(f"    {_counted(len(image.layers), 'layer')}, {size(total)}, {pulled}")
    for need in plan.missing:
        lines.append(f"  {need.image}  missing ({need.platform}, {need.span})")
    if forecast.fetches:
        layers = _counted(len(forecast.fetches), "layer")
        lines += ["", f"shared caches\n  {layers}, {size(_bytes(forecast.fetches))} to pull"]
    for stage in plan.stages:
        required = " (required)" if stage.index in plan.required else ""
        lines += ["", f"stage {stage.title}{required}  FROM {base_text(plan, stage)}"]
        for number, step in enumerate(stage.steps):
            fate = forecast.fate(stage.index, number)
            hit = forecast.hits.get((stage.index, number))
            told = f"  ({printable(str(hit))})" if hit else ""
            lines.append(f"  {fate.value:<8}  {_shortened(step_text(step), 100)}{told}")
            if reason := forecast.reasons.get((stage.index, number)):
                lines.append(f"            {printable(reason)}")
    lines += ["", summary(plan, forecast)]
    return "\n".join(lines) + "\n"


def summary(plan: Plan, forecast: Forecast) -> str:
    """One line of figures."""
    steps = sum(len(stage.steps) for stage in plan.stages)
    known = forecast.count(plan, Fate.CACHED, Fate.UNNEEDED)
    stages, counted = _counted(len(plan.stages), "stage"), _counted(steps, "step")
    pulled = f"{size(forecast.bytes)} to pull" if forecast.bytes else "nothing to pull"
    lacking = "1 image is" if len(plan.missing) == 1 else f"{len(plan.missing)} images are"
    missing = f"; {lacking} missing" if plan.missing else ""
    return f"{stages}, {counted}: {known} known, {steps - known} to execute; {pulled}{missing}"


def dot(plan: Plan, forecast: Forecast) -> str:
    """The plan in Graphviz' language."""
    lines = [
        "digraph plan {",
        '  graph [rankdir=TB, bgcolor=white, fontname="Helvetica,Arial,sans-serif", fontsize=11,',
        "         nodesep=0.3, ranksep=0.4, pad=0.3, labelloc=t];",
        f"  label={_heading(plan, forecast)};",
        '  node [shape=box, style="filled,rounded", fontname="Helvetica,Arial,sans-serif",'
        ' fontsize=10, margin="0.14,0.08", height=0.3];',
        '  edge [color="#7a7a7a", arrowsize=0.6];',
    ]
    for node in outside(plan, forecast):
        look = _MISSING if node.remark == _MISSING.words else _OUTSIDE
        lines.append(
            f"  {node.name} [label={_label(node, look.text)}, tooltip={_quoted(node.text)},"
            f' shape={node.shape}, style=filled, fillcolor="{look.fill}", color="{look.line}"];'
        )
    for stage in plan.stages:
        lines += _cluster(plan, stage, forecast)
    for edge in edges(plan):
        style = ' [style=dashed, color="#4a7fb5"]' if edge.copies else ""
        lines.append(f"  {edge.start} -> {edge.end}{style};")
    return "\n".join((*lines, "}")) + "\n"


def _cluster(plan: Plan, stage: PlannedStage, forecast: Forecast) -> Iterator[str]:
    target = _is_target(plan, stage)
    title = f"<b>{_html(stage.title)}</b>{_role(plan, stage)}"
    colour, width = ("#1f4e79", 2) if target else ("#c4c4c4", 1)
    yield f"  subgraph cluster_{stage.index} {{"
    yield f"    label=<{title}>; labeljust=l; fontsize=12; margin=12;"
    yield f'    style="filled,rounded"; fillcolor="#fafafa"; color="{colour}"; penwidth={width};'
    for node in steps(stage, forecast):
        look = _LOOKS[node.fate]
        yield (
            f"    {node.name} [label={_label(node, look.text)}, tooltip={_quoted(node.text)},"
            f' fillcolor="{look.fill}", color="{look.line}"];'
        )
    yield "  }"


def _role(plan: Plan, stage: PlannedStage) -> str:
    """What the title of a stage says of it."""
    if _is_target(plan, stage):
        return " (target)"
    return " (required)" if stage.index in plan.required else ""


def _heading(plan: Plan, forecast: Forecast) -> str:
    """The title, the figures, and what the colours mean, as far as they occur."""
    title = "; ".join(f"{plan.stage(one.index).title}, {one.platform}" for one in plan.targets)
    used = [fate for fate in Fate if forecast.count(plan, fate)]
    cells = "".join(
        f'<td border="1" color="{look.line}" bgcolor="{look.fill}">'
        f'<font point-size="9" color="{look.text}">{look.words}</font></td>'
        for look in (_LOOKS[fate] for fate in used)
    )
    legend = f'<tr><td><table border="0" cellspacing="6"><tr>{cells}</tr></table></td></tr>'
    return (
        f'<<table border="0" cellspacing="2"><tr><td><font point-size="15"><b>{_html(title)}</b>'
        f"</font></td></tr><tr><td>{_html(summary(plan, forecast))}</td></tr>"
        f"{legend if used else ''}</table>>"
    )


def _label(node: Node, colour: str) -> str:
    """The text in lines, its first word bold where it is an instruction, and the remark."""
    lines = textwrap.wrap(node.text, _LINE, max_lines=2, placeholder="…") or [" "]
    shown = [_html(line) for line in lines]
    if node.fate is not None:
        word, blank, rest = lines[0].partition(" ")
        shown[0] = f"<b>{_html(word)}</b>{blank}{_html(rest)}"
    text = "<br/>".join(shown)
    if node.remark:
        text += f'<br/><font point-size="8" color="{colour}">{_html(node.remark)}</font>'
    return f"<{text}>"


def mermaid(plan: Plan, forecast: Forecast) -> str:
    """The plan as a Mermaid flowchart."""
    lines = ["flowchart TD"]
    for node in outside(plan, forecast):
        lines.append(f"  {node.name}[({_escaped(_two_lines(node))})]:::outside")
    for stage in plan.stages:
        title = f"{stage.title}{_role(plan, stage)}"
        lines.append(f"  subgraph stage_{stage.index}[{_escaped(title)}]")
        for node in steps(stage, forecast):
            kind = f":::{node.fate.value}" if node.fate else ""
            lines.append(f"    {node.name}[{_escaped(_two_lines(node))}]{kind}")
        lines.append("  end")
    for edge in edges(plan):
        lines.append(f"  {edge.start} {'-.->' if edge.copies else '-->'} {edge.end}")
    looks = {"outside": _OUTSIDE} | {fate.value: _LOOKS[fate] for fate in Fate}
    for kind, look in looks.items():
        lines.append(f"  classDef {kind} fill:{look.fill},stroke:{look.line},color:#222222")
    for index in dict.fromkeys(target.index for target in plan.targets):
        lines.append(f"  style stage_{index} stroke:#1f4e79,stroke-width:3px")
    return "\n".join(lines) + "\n"


def _is_target(plan: Plan, stage: PlannedStage) -> bool:
    return any(stage.index == target.index for target in plan.targets)


def _two_lines(node: Node) -> str:
    shown = _shortened(node.text, _LONGEST)
    return f"{shown}\n{node.remark}" if node.remark else shown


def outside(plan: Plan, forecast: Forecast) -> Iterator[Node]:
    """What the plan takes from elsewhere: images, contexts, URLs, repositories."""
    for number, (key, image) in enumerate(plan.images.items()):
        pulls = forecast.pulls.get(key, ())
        pulled = f"{size(_bytes(pulls))} to pull" if pulls else "nothing to pull"
        yield Node(f"image_{number}", printable(_short_name(image.name)), pulled, "cylinder")
    for number, need in enumerate(plan.missing):
        yield Node(
            f"missing_{number}", printable(_short_name(need.image)), _MISSING.words, "cylinder"
        )
    for number, name in enumerate(_contexts(plan)):
        yield Node(f"context_{number}", printable(name) or "build context", shape="folder")
    for number, source in enumerate(_fetched(plan)):
        yield Node(f"remote_{number}", printable(_remote_text(source)), shape="note")


def steps(stage: PlannedStage, forecast: Forecast) -> Iterator[Node]:
    """The boxes of a stage; one for its base where there is no step."""
    if not stage.steps:
        yield Node(f"s{stage.index}_base", "no steps")
    for number, step in enumerate(stage.steps):
        fate = forecast.fate(stage.index, number)
        hit = forecast.hits.get((stage.index, number))
        remark = f"{_LOOKS[fate].words} ({printable(str(hit))})" if hit else _LOOKS[fate].words
        yield Node(f"s{stage.index}_{number}", step_text(step), remark, fate=fate)


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
            return f"{value:.0f} {unit}" if unit == "B" or value >= 99.95 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _counted(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


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
    """A string of Graphviz' language; a tooltip need not hold a whole script."""
    escaped = _shortened(text, 1000).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _html(text: str) -> str:
    """Text inside a label of Graphviz' HTML."""
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        text = text.replace(char, entity)
    return text


def _escaped(text: str) -> str:
    """A Mermaid string: entities for what would end it, be markup or an escape."""
    for char in '#&"<>`\\':
        text = text.replace(char, f"\0{ord(char)};")
    return '"' + text.replace("\0", "#").replace("\n", "<br>") + '"'

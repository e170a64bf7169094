"""`assemble plan`: what a build would do, to read, to draw or for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from assembler.cli.main import cancellable
from assembler.cli.options import network_options, sink_for, store_option
from assembler.cli.request import (
    builder_for,
    place_of,
    read_inputs,
    request_of,
    request_options,
)
from assembler.environment import Environment
from assembler.errors import BlobMissing, RuntimeMissing
from assembler.source import printable
from assembler.values import replace

if TYPE_CHECKING:
    from assembler.cancellation import Cancellation
    from assembler.plan.forecast import Forecast
    from assembler.plan.plan import Plan

_LARGEST = 256 << 20  # bytes of a picture


@click.command("plan")
@request_options
@click.option(
    "--format",
    "style",
    type=click.Choice(["text", "json", "dot", "mermaid", "svg"]),
    default="text",
    help="svg is drawn by graphviz.",
)
@click.option("--offline", is_flag=True, help="Ask no registry; say what is missing.")
@network_options
@store_option
@click.argument("context", metavar="[CONTEXT]", default=".")
def command(**options: Any) -> None:
    """Show stages, steps and edges of a build: what is cached, what will run and be pulled.

    With --offline the exit status is 1 when the build would need a registry.
    """
    environment = Environment.read()
    with cancellable() as cancellation:
        sink = sink_for("plain", environment)
        with builder_for(options, environment, cancellation, sink) as builder:
            builder.store.look_only()
            inputs = read_inputs(builder, options, environment)
            request = request_of(inputs, options, environment)
            if options["offline"]:
                request = replace(request, cache_from=())
            plan = builder.checked(builder.plan(request, offline=options["offline"]))
            place = place_of(inputs, options["context"])
            forecast = builder.forecast(request, plan, place)
        shown = _shown(plan, forecast, options["style"], environment, cancellation)
    click.echo(shown, nl=False)
    if options["offline"] and (plan.missing or forecast.pulls):
        raise BlobMissing(_lacking(plan, forecast), hint="assemble pull brings it, or go online")


def _shown(
    plan: Plan,
    forecast: Forecast,
    style: str,
    environment: Environment,
    cancellation: Cancellation,
) -> str:
    from assembler.plan import picture

    match style:
        case "json":
            return json.dumps(_document(plan, forecast), indent=2) + "\n"
        case "dot":
            return picture.dot(plan, forecast)
        case "mermaid":
            return picture.mermaid(plan, forecast)
        case "svg":
            return _drawn(picture.dot(plan, forecast), environment, cancellation)
        case _:
            return picture.text(plan, forecast)


def _document(plan: Plan, forecast: Forecast) -> dict[str, Any]:
    from assembler.plan.document import to_document

    fates = [
        {"stage": at[0], "step": at[1], "fate": fate.value, **_why(forecast, at)}
        for at, fate in forecast.fates.items()
    ]
    pulls = {
        image: [layer.to_document() for layer in layers] for image, layers in forecast.pulls.items()
    }
    fetches = [layer.to_document() for layer in forecast.fetches]
    found = {"steps": fates, "pulls": pulls, "fetches": fetches}
    return to_document(plan) | {"forecast": found}


def _why(forecast: Forecast, at: tuple[int, int]) -> dict[str, Any]:
    """Where a result that is known is from and how old it is in seconds, or why it is not known."""
    hit = forecast.hits.get(at)
    if hit is not None:
        return {"source": hit.source, "age": None if hit.age is None else round(hit.age, 3)}
    return {"reason": forecast.reasons[at]} if at in forecast.reasons else {}


def _drawn(dot: str, environment: Environment, cancellation: Cancellation) -> str:
    from assembler.linux import programs

    text = dot.encode("utf-8", "replace")
    try:
        done = programs.run(
            ["dot", "-Tsvg"],
            env=environment.variables,
            content=text,
            cancellation=cancellation,
            most=_LARGEST,
        )
    except FileNotFoundError as error:
        raise RuntimeMissing(
            "a picture needs graphviz, which is not installed",
            "graphviz",
            hint="apt-get install graphviz, or take --format dot or mermaid",
        ) from error
    except OverflowError as error:
        raise RuntimeMissing(
            "dot -Tsvg failed: its picture is too large", "graphviz", hint="take --format dot"
        ) from error
    if done.status != 0:
        said = printable(done.said.decode("utf-8", "replace").strip())
        raise RuntimeMissing(f"dot -Tsvg failed: {said}", "graphviz", hint="take --format dot")
    return done.output.decode()


def _lacking(plan: Plan, forecast: Forecast) -> str:
    from assembler.plan.picture import size

    names = [need.image for need in plan.missing]
    names += [f"{plan.images[key].name} (layers, {size(_total(layers))})"
              for key, layers in forecast.pulls.items()]  # fmt: skip
    return f"the store lacks {', '.join(names)}"


def _total(layers: tuple[Any, ...]) -> int:
    return sum(layer.size for layer in layers)

"""`assemble doctor`: how builds would run here, what is missing, what that costs."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from assembler.cli.main import cancellable
from assembler.cli.options import cdi_option, store_option
from assembler.environment import Environment
from assembler.source import printable

if TYPE_CHECKING:
    from assembler.cdi.registry import Registry
    from assembler.linux.emulators import Foreign, Host
    from assembler.linux.probes import Answer, Report


@click.command("doctor")
@click.option("--format", "style", type=click.Choice(["text", "json"]), default="text")
@cdi_option
@store_option
def command(style: str, cdi_spec_dirs: tuple[str, ...], store: str) -> None:
    """Ask the kernel what builds can do on this host. The exit status is 1 when RUN cannot be
    executed at all."""
    from assembler.cdi.directories import DIRECTORIES, read
    from assembler.linux.emulators import Host
    from assembler.linux.probes import report

    with cancellable() as cancellation:
        found = report(store or Environment.read().store)
        cancellation.check()
    devices, host = read(cdi_spec_dirs or DIRECTORIES), Host.here()
    shown = as_json(found, devices, host) if style == "json" else text(found, devices, host)
    click.echo(shown, nl=False)
    if not usable(found):
        raise click.exceptions.Exit(1)


def usable(found: Report) -> bool:
    """Whether RUN can be executed."""
    needed = ("system call filters",)
    return bool(found.mode) and all(
        answer.works for answer in found.answers if answer.feature in needed
    )


def as_json(found: Report, devices: Registry, host: Host) -> str:
    """The report as an object of its fields, with the devices that RUN can ask for and the platforms
    whose programs it can execute."""
    document: dict[str, Any] = {"usable": usable(found), **asdict(found)}
    document["platforms"] = [
        {"platform": host.platform, "emulator": "", "in_image": False},
        *(
            {
                "platform": f"linux/{one.architecture}",
                "emulator": one.emulator.interpreter if one.emulator else "",
                "in_image": bool(one.emulator and not one.emulator.fixed),
            }
            for one in host.foreign()
        ),
    ]
    document["devices"] = [
        {"name": name, "path": one.path, "auto_allowed": one.auto_allowed}
        for name, one in devices.devices.items()
    ]
    document["device_problems"] = list(devices.problems)
    return json.dumps(document, indent=2) + "\n"


def text(found: Report, devices: Registry, host: Host) -> str:
    """The report for people: the mode, what it executes, then every answer, and what would mend the
    missing ones; devices, where there are any."""
    lines = []
    if found.mode:
        lines.append(f"ids      {found.mode}: {found.reason}")
    else:
        lines.append(f"refused  {found.reason}")
    if found.remedy:
        lines.append(f"         {found.remedy}")
    others = f"; also here: {', '.join(found.runtimes)}" if found.runtimes else ""
    runtime = "chroot" if found.mode == "host" else "native"
    lines += [f"runtime  {runtime}{others}", printable(_programs(host)), ""]
    width = max((len(answer.feature) for answer in found.answers), default=0)
    for answer in found.answers:
        lines += _shown(answer, width)
    if devices.devices or devices.problems:
        lines += ["", "devices for RUN --device:"]
    for name, one in devices.devices.items():
        flag = "" if one.auto_allowed else f"  with --allow device={name}"
        lines.append(printable(f"ok  {name}{flag}  ({one.path})"))
    lines += [printable(f"no  {problem}") for problem in devices.problems]
    return "".join(f"{line}".rstrip() + "\n" for line in lines)


def _programs(host: Host) -> str:
    """The platforms whose programs RUN can execute, in one line."""
    from assembler.linux.emulators import remedy

    foreign = host.foreign()
    named = ", ".join((host.platform, *map(_platform, foreign)))
    if any(one.emulator for one in foreign):
        return f"executes {named}"
    return f"executes {named}; for others: {remedy()}"


def _platform(one: Foreign) -> str:
    if one.emulator is None:
        return f"linux/{one.architecture}"
    where = "" if one.emulator.fixed else f", if the image has {one.emulator.interpreter}"
    return f"linux/{one.architecture} ({one.emulator.name}{where})"


def _shown(answer: Answer, width: int) -> list[str]:
    mark = "ok" if answer.works else "no"
    head = f"{mark}  {answer.feature:<{width}}  {answer.seconds * 1000:5.1f} ms  {answer.detail}"
    if answer.works:
        return [head]
    return [head, f"    without: {answer.cost}", f"    mend:    {answer.remedy}"]

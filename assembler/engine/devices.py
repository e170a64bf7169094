"""`RUN --device`: which devices a step may have, and what they change about it (rule M12).

Devices are looked up by whoever executes the plan, on its own host. Only their names as written are
in a step's key, as under BuildKit: the driver's files are no input of the build.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from assembler.cdi import specification as cdi
from assembler.cdi.registry import Registered, Registry, merged
from assembler.engine.services import Services
from assembler.errors import DockerfileError, StepError
from assembler.events import Warned
from assembler.linux.nodes import host_node, open_by_group
from assembler.linux.userns import group_is_mapped
from assembler.plan.plan import Plan
from assembler.plan.steps import Device, Run
from assembler.runtime.base import BindSource, DeviceNode, Hook, RunMount, TemporaryFiles

_SHOWN_PROBLEMS = 3
_ATTRIBUTES = ("nosuid", "nodev", "noexec")
_WITHOUT_EFFECT = frozenset(
    # A bind is of the whole tree, in a mount namespace that nothing propagates to or from; and
    # access times of the host's files are the host's affair.
    "bind rbind suid dev exec async private rprivate slave rslave unbindable runbindable atime "
    "noatime diratime nodiratime relatime norelatime strictatime nostrictatime".split()
)
_SIZE = re.compile(r"size=([0-9]{1,15})([kmg]?)", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, slots=True)
class Provided:
    """What a step's devices add to its process."""

    env: tuple[tuple[str, str], ...]
    mounts: tuple[RunMount, ...]
    groups: tuple[int, ...]
    hooks: tuple[Hook, ...]
    host_groups: str = ""
    """The node for which the process must keep the caller's groups."""


def check(plan: Plan, services: Services) -> None:
    """Refuse a plan with a step that asks for devices it may not have, before anything runs.

    Raises DockerfileError for one that is not allowed, StepError for a required one that is not
    there. Where every device is allowed no specification is read: a step that is cached needs none.
    """
    if services.devices_allowed.every:
        return
    for stage in plan.stages:
        for step in stage.steps:
            if isinstance(step, Run) and step.devices:
                _granted(step, services)


def provide(step: Run, services: Services) -> Provided:
    """What the devices of `step` add to it. An optional one that is not there adds nothing, and a
    warning says so. Raises DockerfileError, StepError."""

    def warn(message: str) -> None:
        services.sink(Warned(message, services.clock(), span=step.span))

    devices, missing = _granted(step, services)
    why = "".join(f" ({problem})" for problem in _problems(services.devices()))
    for device in missing:
        warn(f'optional device "{device.name}" is not registered: RUN goes without it{why}')
    edits, label = merged(devices), ", ".join(device.name for device in devices)
    try:
        return _provided(edits, label, devices, warn)
    except StepError as error:
        error.place_at(step.span)
        raise


def _granted(step: Run, services: Services) -> tuple[tuple[Registered, ...], tuple[Device, ...]]:
    """The devices that `step` asks for and may have, and what it asks for in vain."""
    allowed, registry = services.devices_allowed, services.devices()
    found: dict[str, Registered] = {}
    granted: set[str] = set()
    missing: list[Device] = []
    for device in step.devices:
        alias = allowed.aliases.get(device.name)
        devices = registry.find(alias or device.name)
        if not devices and device.required:
            raise StepError(
                f'required device "{device.name}" is not registered',
                step.span.blame(device.name),
                hint=_why(registry),
            )
        if not devices:
            missing.append(device)
        found |= {one.name: one for one in devices}
        granted |= {one.name for one in devices if alias}
    granted |= {one.name for name in allowed.names for one in registry.find(name)}
    forbidden = [
        name
        for name, one in found.items()
        if not (allowed.every or name in granted or one.auto_allowed)
    ]
    if forbidden:
        asked = "device {} is" if len(forbidden) == 1 else "devices {} are"
        flags = " ".join(f"--allow device={name}" for name in forbidden)
        raise DockerfileError(
            f"{asked.format(', '.join(forbidden))} requested by the build but not allowed",
            step.span.blame("--device"),
            hint=f"allow it with {flags}",
        )
    return tuple(found.values()), tuple(missing)


def _why(registry: Registry) -> str:
    """Where was looked, and what could not be read there."""
    where = f"CDI specifications are read from {', '.join(registry.directories)}"
    told = (*_problems(registry), where, "--cdi-spec-dir DIR reads another directory")
    return "; ".join(told)


def _problems(registry: Registry) -> tuple[str, ...]:
    """What could not be read, shortened."""
    more = len(registry.problems) - _SHOWN_PROBLEMS
    return registry.problems[:_SHOWN_PROBLEMS] + ((f"{more} more problems",) if more > 0 else ())


def _provided(
    edits: cdi.Edits, label: str, devices: Iterable[Registered], warn: Callable[[str], None]
) -> Provided:
    if edits.interfaces:
        raise StepError(
            f"device {label} moves the network interface {edits.interfaces[0]} into the step, and"
            " no rootless runtime can"
        )
    if edits.intel_rdt:
        warn(f"device {label}: intelRdt is not applied, only root of the host could")
    groups = [group for group in edits.groups if group_is_mapped(group)]
    for group in edits.groups:
        if group not in groups:
            warn(f"device {label}: group {group} is not mapped here, so RUN is not in it")
    nodes = tuple(_node(node, label) for node in edits.nodes)
    host_groups = next((node.source for node in nodes if _open_by_group(node)), "")
    if host_groups:
        warn(
            f"device {label}: {host_groups} can be used by a group of this user only: RUN keeps this"
            " user's groups, and has none of the image's"
        )
    mounts = tuple(_mount(mount, label) for mount in edits.mounts)
    hooks = tuple(_hooks(devices))
    return Provided(edits.env, (*nodes, *mounts), tuple(groups), hooks, host_groups)


def _open_by_group(node: DeviceNode) -> bool:
    return host_node(node.source) is not None and open_by_group(node.source)


def _hooks(devices: Iterable[Registered]) -> Iterable[Hook]:
    """The hooks in the order of `merged`, each with the name of the device that brings it."""
    specs: list[cdi.Spec] = []
    for device in devices:
        shared: tuple[cdi.Hook, ...] = ()
        if not any(device.spec is spec for spec in specs):
            specs.append(device.spec)
            shared = device.spec.edits.hooks
        for hook in (*shared, *device.device.edits.hooks):
            yield Hook(hook.stage, hook.path, hook.args, hook.env, hook.timeout, device.name)


def _node(node: cdi.DeviceNode, label: str) -> DeviceNode:
    """The node as CDI's own library completes it: what the specification leaves out is the host
    node's."""
    source = node.host_path or node.path
    there = host_node(source)
    kind = "c" if node.kind == "u" else node.kind
    if kind and (node.major or kind == "p"):
        numbers = (node.major, node.minor)
    elif there is None:
        raise StepError(f"device {label}: {source} is no device node of this host")
    elif kind and kind != there.kind:
        raise StepError(f"device {label}: {source} is of type {there.kind}, not {kind}")
    else:
        kind, numbers = there.kind, there.numbers
    mode = node.mode if node.mode is not None else there.mode if there else 0o600
    target = _target(node.path, label)
    return DeviceNode(target, source, kind, numbers, mode, node.uid or 0, node.gid or 0)


def _mount(mount: cdi.Mount, label: str) -> BindSource | TemporaryFiles:
    target = _target(mount.target, label)
    options = [option for option in mount.options if option not in _WITHOUT_EFFECT]
    if mount.kind == "tmpfs":
        return TemporaryFiles(target, _size(options, target, label))
    if mount.kind not in ("", "none", "bind") and not {"bind", "rbind"} & {*mount.options}:
        raise StepError(f"device {label}: a mount of type {mount.kind} at {target} is not provided")
    read_only = False
    for option in options:
        if option in ("ro", "rw", "rro"):
            read_only = option != "rw"
        elif option not in _ATTRIBUTES:
            raise _not_provided(option, target, label)
    if not os.path.isabs(mount.source) or not os.path.exists(mount.source):
        raise StepError(f"device {label}: {mount.source} is not there to be mounted at {target}")
    attributes = tuple(option for option in _ATTRIBUTES if option in options)
    return BindSource(target, mount.source, read_only, options=attributes)


def _size(options: Iterable[str], target: str, label: str) -> int:
    """The bytes that the options of a tmpfs give it, 0 for the kernel's default."""
    size = 0
    for option in options:
        match = _SIZE.fullmatch(option)
        if match:
            size = int(match[1]) * _UNITS[match[2].lower()]
        elif option not in ("rw", "mode=1777", *_ATTRIBUTES):
            raise _not_provided(option, target, label)
    return size


def _not_provided(option: str, target: str, label: str) -> StepError:
    return StepError(
        f"device {label}: the option {option} of the mount at {target} is not provided"
    )


def _target(path: str, label: str) -> str:
    target = posixpath.normpath(f"/{path.lstrip('/')}")
    if target == "/":
        raise StepError(f"device {label}: nothing can be mounted at {path}")
    return target

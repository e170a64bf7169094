"""The devices of a host: specifications of several directories, merged; looked up by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from assembler.cdi.specification import BadSpec, Device, Edits, Spec

CLASS = "org.mobyproject.buildkit.device.class"
AUTO_ALLOW = "org.mobyproject.buildkit.device.autoallow"
_LONGEST = 300  # characters of a problem: it may quote what it is about
_TRUE = frozenset("1 t T TRUE true True".split())


@dataclass(frozen=True, slots=True)
class Registered:
    """A device of the specification that the file `path` is."""

    device: Device
    spec: Spec
    path: str

    @property
    def name(self) -> str:
        """The qualified name, `vendor/class=device`."""
        return f"{self.spec.kind}={self.device.name}"

    @property
    def annotations(self) -> Mapping[str, str]:
        """Those of the specification, and the device's own."""
        return {**self.spec.annotations, **self.device.annotations}

    @property
    def auto_allowed(self) -> bool:
        """Whether steps may have it without an entitlement."""
        return self.annotations.get(AUTO_ALLOW, "") in _TRUE


@dataclass(frozen=True, slots=True)
class Registry:
    """Devices in the order of their qualified names; files that could not be read or that contend
    for a device are `problems`, one sentence each, with the file's name."""

    devices: Mapping[str, Registered] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()

    def find(self, name: str) -> tuple[Registered, ...]:
        """The devices that a name means (rule M12): `vendor/class=device` that one, `=*` all of the
        kind, `vendor/class` the first; else those whose class annotation is `name`."""
        kind, _, device = name.partition("=")
        vendor, slash, rest = kind.partition("/")
        found: list[Registered] = []
        if vendor and slash and rest:
            of_kind = [one for one in self.devices.values() if one.spec.kind == kind]
            if device == "*":
                found = of_kind
            elif device:
                found = [one for one in of_kind if one.device.name == device]
            else:
                found = of_kind[:1]
        every = self.devices.values()
        return tuple(found or (one for one in every if one.annotations.get(CLASS) == name))


def registry(
    found: Iterable[tuple[int, str, Spec | BadSpec]], directories: tuple[str, ...] = ()
) -> Registry:
    """The registry of `found`, (priority, path, what the file holds). Where two files have one
    device, that of the higher priority has it; files of one priority both lose it (CDI)."""
    devices: dict[str, tuple[int, list[Registered]]] = {}
    problems: list[str] = []
    for priority, path, spec in sorted(found, key=lambda one: one[:2]):
        if isinstance(spec, BadSpec):
            problems.append(f"{path}: {str(spec)[:_LONGEST]}")
            continue
        for device in spec.devices:
            one = Registered(device, spec, path)
            before, known = devices.get(one.name, (priority, []))
            devices[one.name] = (priority, [*known, one] if before == priority else [one])
    for name, (_, known) in sorted(devices.items()):
        if len(known) > 1:
            paths = " and ".join(one.path for one in known)
            problems.append(f"{paths}: both have the device {name}, so neither counts")
    single = {name: known[0] for name, (_, known) in sorted(devices.items()) if len(known) == 1}
    return Registry(single, tuple(problems), directories)


def merged(devices: Iterable[Registered]) -> Edits:
    """What `devices` need together: of each specification what all its devices need, once, before
    what its first one needs. An assignment, a node or a mount replaces an earlier one of its name.
    """
    specs: list[Spec] = []
    every: list[Edits] = []
    for one in devices:
        if not any(one.spec is spec for spec in specs):
            specs.append(one.spec)
            every.append(one.spec.edits)
        every.append(one.device.edits)
    return Edits(
        env=tuple({name: text for one in every for name, text in one.env}.items()),
        nodes=tuple({node.path: node for one in every for node in one.nodes}.values()),
        mounts=tuple({mount.target: mount for one in every for mount in one.mounts}.values()),
        hooks=tuple(hook for one in every for hook in one.hooks),
        groups=tuple(dict.fromkeys(group for one in every for group in one.groups)),
        intel_rdt=max((one.intel_rdt for one in every), default=""),
        interfaces=tuple(name for one in every for name in one.interfaces),
    )

"""A CDI specification: bytes to values, checked as strictly as the reference parser does.

Unknown fields, fields that are newer than `cdiVersion`, and names that are none refuse the whole
file: half a device is worse than a message (CDI SPEC.md, "Released versions").
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

HOOKS = (
    "prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop",
)  # fmt: skip
_VERSIONS = ("0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0")
_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_DEVICE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:-]*[A-Za-z0-9])?")
_KINDS = ("", "b", "c", "u", "p")
_LARGEST = (1 << 32) - 1
_Item = TypeVar("_Item")


class BadSpec(ValueError):
    """A file that is no CDI specification; the text says what in it is wrong."""


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device node at `path`. `kind` is b, c, u or p, empty when the host's node tells; so are
    the numbers when both are 0. `mode`, `uid`, `gid` are None where they are not given."""

    path: str
    host_path: str = ""
    kind: str = ""
    major: int = 0
    minor: int = 0
    mode: int | None = None
    permissions: str = ""
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class Mount:
    """The host's `source` at `target`, with options of an OCI runtime; `kind` may be empty."""

    source: str
    target: str
    options: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Hook:
    """A host program for the point `stage` in a container's life, one of HOOKS. `timeout` is
    seconds, 0 for none."""

    stage: str
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int = 0


@dataclass(frozen=True, slots=True)
class Edits:
    """What is to be changed about a container. `intel_rdt` is the version that has what is asked of
    the cache scheduler, empty when nothing is; `interfaces` are the host's network interfaces that
    the container would be given."""

    env: tuple[tuple[str, str], ...] = ()
    nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[Mount, ...] = ()
    hooks: tuple[Hook, ...] = ()
    groups: tuple[int, ...] = ()
    intel_rdt: str = ""
    interfaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Device:
    """A device of a specification."""

    name: str
    edits: Edits
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Spec:
    """A specification: devices of one kind, `vendor/class`, and what all of them need."""

    version: str
    kind: str
    devices: tuple[Device, ...]
    edits: Edits = field(default_factory=Edits)
    annotations: Mapping[str, str] = field(default_factory=dict)


def parse(content: bytes, *, yaml: bool) -> Spec:
    """The specification that `content` is, in JSON or YAML. Raises BadSpec."""
    try:
        return _spec(_yaml(content) if yaml else _json(content))
    except BadSpec:
        raise
    except RecursionError:
        raise BadSpec("it is nested too deeply") from None
    except ValueError as error:  # a number of too many digits
        raise BadSpec(str(error)) from None


def _json(content: bytes) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=_unique)
    except UnicodeDecodeError:
        raise BadSpec("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise BadSpec(f"line {error.lineno}: {error.msg}") from None


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise BadSpec(f'"{key}" is there twice')
        found[key] = value
    return found


def _yaml(content: bytes) -> Any:
    import yaml  # costs 20 ms, and specifications in JSON do without

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(content)
    try:
        node = loader.get_single_node()
        _refuse_twins(node)
        return None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise BadSpec(f"{where}{error.problem}") from None
    except yaml.YAMLError as error:
        raise BadSpec(str(error).partition("\n")[0]) from None
    except (LookupError, AttributeError, TypeError, ArithmeticError) as error:
        raise BadSpec(f"a value does not fit its tag: {error}") from error  # PyYAML checks few
    finally:
        loader.dispose()


def _refuse_twins(top: Any) -> None:
    """YAML's loaders take the last of two equal keys, and merge keys into ever longer mappings."""
    import yaml

    pending, seen = [top], set[int]()
    while pending:
        node = pending.pop()
        if node is None or id(node) in seen:
            continue  # an alias: its anchor was looked at
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            pending += node.value
        elif isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if "<<" in keys:
                raise BadSpec(f"line {node.start_mark.line + 1}: merge keys (<<) are not read")
            _unique([(key, None) for key in keys])
            pending += [one for pair in node.value for one in pair]


@dataclass(frozen=True, slots=True)
class _Object:
    """An object's members by their names in lower case (Go's decoder does not mind the case);
    what is null is left out. `where` is its place, for errors."""

    where: str
    members: Mapping[str, Any]

    @classmethod
    def read(cls, value: Any, where: str, known: str) -> _Object:
        """`value`, which may have the members in `known`. Raises BadSpec."""
        if not isinstance(value, dict):
            raise BadSpec(f"{where} must be an object")
        names = {name.lower() for name in known.split()}
        members: dict[str, Any] = {}
        for key, one in value.items():
            name = str(key).lower()
            if name not in names:
                raise BadSpec(f'{where}: unknown field "{key}"')
            if name in members:
                raise BadSpec(f'{where}: "{key}" is there twice')
            if one is not None:
                members[name] = one
        return cls(where, members)

    def place(self, name: str) -> str:
        return f"{self.where}.{name}" if self.where != _TOP else name

    def text(self, name: str) -> str:
        return _text(self.members.get(name.lower(), ""), self.place(name))

    def texts(self, name: str) -> tuple[str, ...]:
        return self.every(name, _text)

    def number(self, name: str, largest: int = _LARGEST) -> int | None:
        value = self.members.get(name.lower())
        return None if value is None else _number(value, self.place(name), largest)

    def every(self, name: str, read: Callable[[Any, str], _Item]) -> tuple[_Item, ...]:
        value = self.members.get(name.lower(), [])
        place = self.place(name)
        if not isinstance(value, list):
            raise BadSpec(f"{place} must be a list")
        return tuple(read(one, f"{place}[{number}]") for number, one in enumerate(value))

    def annotations(self) -> Mapping[str, str]:
        value = self.members.get("annotations", {})
        place = self.place("annotations")
        if not isinstance(value, dict):
            raise BadSpec(f"{place} must be an object")
        return MappingProxyType({str(key): _text(one, place) for key, one in value.items()})

    def edits(self) -> Edits:
        value = self.members.get("containeredits")
        return Edits() if value is None else _edits(value, self.place("containerEdits"))


_TOP = "the specification"


def _text(value: Any, where: str) -> str:
    """A string; YAML's unquoted `true` and `0` are meant as text where text is expected."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str | int | float):
        raise BadSpec(f"{where} must be a string")
    text = str(value)
    if "\0" in text:
        raise BadSpec(f"{where} holds a NUL")
    return text


def _number(value: Any, where: str, largest: int = _LARGEST) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= largest:
        raise BadSpec(f"{where} must be a number from 0 to {largest}")
    return value


def _spec(value: Any) -> Spec:
    top = _Object.read(value, _TOP, "cdiVersion kind annotations devices containerEdits")
    version, kind = top.text("cdiVersion").removeprefix("v"), top.text("kind")
    if version not in _VERSIONS:
        raise BadSpec(f'cdiVersion "{version}" is not known; the newest is {_VERSIONS[-1]}')
    vendor, _, name = kind.partition("/")
    for part, what in ((vendor, "vendor"), (name, "class")):
        if not _NAME.fullmatch(part):
            raise BadSpec(f'kind "{kind}": invalid {what} "{part}"')
    devices = top.every("devices", _device)
    if not devices:
        raise BadSpec("no devices")
    _unique([(device.name, None) for device in devices])
    spec = Spec(version, kind, devices, top.edits(), top.annotations())
    least = _least_version(spec)
    if _VERSIONS.index(version) < _VERSIONS.index(least):
        raise BadSpec(f"cdiVersion {version}: what it uses needs {least} at least")
    return spec


def _device(value: Any, where: str) -> Device:
    found = _Object.read(value, where, "name annotations containerEdits")
    name = found.text("name")
    if not _DEVICE.fullmatch(name):
        raise BadSpec(f'{where}: invalid device name "{name}"')
    edits = found.edits()
    if edits == Edits():
        raise BadSpec(f'device "{name}" has no containerEdits')
    return Device(name, edits, found.annotations())


def _edits(value: Any, where: str) -> Edits:
    found = _Object.read(
        value, where, "env deviceNodes netDevices hooks mounts intelRdt additionalGids"
    )
    rdt = found.members.get("intelrdt")
    intel_rdt = ""
    if rdt is not None:
        known = "closID l3CacheSchema memBwSchema schemata enableMonitoring enableCMT enableMBM"
        asked = _Object.read(rdt, found.place("intelRdt"), known).members
        intel_rdt = "1.1.0" if asked.keys() & {"schemata", "enablemonitoring"} else "0.7.0"
    return Edits(
        env=found.every("env", _variable),
        nodes=found.every("deviceNodes", _node),
        mounts=found.every("mounts", _mount),
        hooks=found.every("hooks", _hook),
        groups=tuple(group for group in found.every("additionalGids", _number) if group),
        intel_rdt=intel_rdt,
        interfaces=found.every("netDevices", _interface),
    )


def _variable(value: Any, where: str) -> tuple[str, str]:
    name, equals, text = _text(value, where).partition("=")
    if not name or not equals:
        raise BadSpec(f'{where}: invalid environment variable "{value}"')
    return name, text


def _node(value: Any, where: str) -> DeviceNode:
    known = "path hostPath type major minor fileMode permissions uid gid"
    found = _Object.read(value, where, known)
    node = DeviceNode(
        path=_absolute(found, "path"),
        host_path=_absolute(found, "hostPath") if found.text("hostPath") else "",
        kind=found.text("type"),
        major=found.number("major") or 0,
        minor=found.number("minor") or 0,
        mode=found.number("fileMode", 0o7777),
        permissions=found.text("permissions"),
        uid=found.number("uid"),
        gid=found.number("gid"),
    )
    if node.kind not in _KINDS:
        raise BadSpec(f'{where}: invalid type "{node.kind}"')
    if node.permissions != "none" and node.permissions.strip("rwm"):
        raise BadSpec(f'{where}: invalid permissions "{node.permissions}"')
    return node


def _mount(value: Any, where: str) -> Mount:
    found = _Object.read(value, where, "hostPath containerPath options type")
    source, kind = found.text("hostPath"), found.text("type")
    if not source:
        raise BadSpec(f"{where}: hostPath is missing")
    return Mount(source, _absolute(found, "containerPath"), found.texts("options"), kind)


def _hook(value: Any, where: str) -> Hook:
    found = _Object.read(value, where, "hookName path args env timeout")
    stage = found.text("hookName")
    if stage not in HOOKS:
        raise BadSpec(f'{where}: invalid hook name "{stage}"')
    env = tuple(f"{name}={text}" for name, text in found.every("env", _variable))
    timeout = found.number("timeout") or 0
    return Hook(stage, _absolute(found, "path"), found.texts("args"), env, timeout)


def _interface(value: Any, where: str) -> str:
    found = _Object.read(value, where, "hostInterfaceName name")
    name = found.text("hostInterfaceName")
    if not name or not found.text("name"):
        raise BadSpec(f"{where}: hostInterfaceName and name are needed")
    return name


def _absolute(found: _Object, name: str) -> str:
    path = found.text(name)
    if not path.startswith("/"):
        raise BadSpec(f'{found.place(name)} must be an absolute path, not "{path}"')
    return path


def _least_version(spec: Spec) -> str:
    """The version that has everything `spec` uses (SPEC.md, "Released versions")."""
    edits = [spec.edits, *(device.edits for device in spec.devices)]
    if any(one.interfaces or one.intel_rdt == "1.1.0" for one in edits):
        return "1.1.0"
    if any(one.intel_rdt or one.groups for one in edits):
        return "0.7.0"
    annotated = spec.annotations or any(device.annotations for device in spec.devices)
    if annotated or "." in spec.kind.partition("/")[2]:
        return "0.6.0"
    digits = any(device.name[0].isdigit() for device in spec.devices)
    if digits or any(node.host_path for one in edits for node in one.nodes):
        return "0.5.0"
    return "0.4.0" if any(mount.kind for one in edits for mount in one.mounts) else "0.3.0"

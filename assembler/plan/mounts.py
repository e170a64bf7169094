"""`RUN --mount=…` to mounts (rules M1-M10)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping

from assembler.dockerfile.flags import csv_fields, parse_csv_fields
from assembler.dockerfile.suggest import did_you_mean
from assembler.errors import BadFlag
from assembler.expressions import expression
from assembler.plan.steps import (
    BindMount,
    CacheMount,
    ContextOrigin,
    Device,
    Mount,
    Origin,
    SecretMount,
    SshMount,
    TmpfsMount,
)
from assembler.plan.workdir import absolute
from assembler.source import Span
from assembler.values import field, value

_TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARING = ("shared", "private", "locked")
_NAMES = {
    "dst": "target",
    "destination": "target",
    "src": "source",
    "readonly": "ro",
    "readwrite": "rw",
}
_KEYS = (
    "type", "from", "source", "target", "readonly", "id", "sharing", "required", "size", "mode",
    "uid", "gid", "src", "dst", "destination", "ro", "rw", "readwrite", "env",
)  # fmt: skip
_BARE = frozenset({"ro", "readonly", "rw", "readwrite", "required"})
_OWNED = ("cache", "secret", "ssh")
_FROM_IS_FIXED = "'from' doesn't support variable expansion, define alias stage instead"
_TRUE = frozenset("1 t T TRUE true True".split())
_FALSE = frozenset("0 f F FALSE false False".split())
_SIZE = expression(
    r"([0-9]{1,18}\.?[0-9]{0,18}|\.[0-9]{1,18}) ?(?:([kmgtp])i?b?|b)?", re.IGNORECASE
)
_UNITS = {unit: 1 << 10 * power for power, unit in enumerate("kmgtp", start=1)}
_LARGEST = (1 << 32) - 1


@value
class MountScope:
    """What a mount's text is read against: the working directory, expansion, and sources."""

    cwd: str
    expand: Callable[[str], str]
    origin: Callable[[str, str], Origin]
    """What a mount is from, given the name and the target as written."""
    cache_namespace: str = ""


@value
class _Fields:
    """A mount's keys, under one name each, with their values."""

    type: str
    values: Mapping[str, str] = field(default_factory=dict)

    def get(self, key: str) -> str:
        return self.values.get(key, "")


def mount_source(text: str) -> tuple[str, str]:
    """The `from` and the target of a mount's text as written, empty where it has none.

    Raises BadFlag without a span, also for a `from` with a variable in it (rule E4).
    """
    fields = {_NAMES.get(key, key): value or "" for key, value in parse_csv_fields(text)}
    name = fields.get("from", "")
    if "$" in name:
        raise BadFlag(_FROM_IS_FIXED)
    return name, fields.get("target", "")


def parse_mount(text: str, scope: MountScope, span: Span, number: int) -> Mount:
    """The mount that `text` spells; `number` counts the ssh mounts before it. Raises BadFlag."""
    try:
        fields = _read(text, scope)
        _refuse_foreign(fields)
        return _mount(fields, scope, number)
    except BadFlag as error:
        raise BadFlag(error.message, span.blame(text), hint=error.hint) from error


def _read(text: str, scope: MountScope) -> _Fields:
    """Later values replace earlier ones; `required` and `size` must follow their type (rule M2)."""
    kind, values = "bind", dict[str, str]()
    for written in csv_fields(text):
        key, equals, value = written.partition("=")
        key = key.lower()
        if not equals:
            if key not in _BARE:
                raise BadFlag(f"invalid field '{written}' must be a key=value pair")
            value = "true"
        elif key in _KEYS:
            value = scope.expand(value) if key != "from" else value
        else:
            raise BadFlag(f"unexpected key '{key}' in '{written}'{did_you_mean(key, _KEYS)}")
        if key == "type":
            kind = value.lower()
            if kind not in _TYPES:
                raise BadFlag(f'unsupported mount type "{value}"{did_you_mean(value, _TYPES)}')
        elif key == "sharing":
            values[key] = _sharing(value)
        elif (key == "required" and kind not in ("secret", "ssh")) or (
            key == "size" and kind != "tmpfs"
        ):
            hint = f"type= must come first, and be one that takes {key}"
            raise BadFlag(f"unexpected key '{key}' for mount type '{kind}'", hint=hint)
        elif key in ("rw", "readwrite"):
            values["ro"] = "false" if _truth(key, value) else "true"
        elif key in ("ro", "readonly", "required"):
            values[_NAMES.get(key, key)] = "true" if _truth(key, value) else "false"
        else:
            values[_NAMES.get(key, key)] = value
    return _Fields(kind, values)


def _sharing(value: str) -> str:
    if value.lower() not in _SHARING:
        raise BadFlag(f'unsupported sharing value "{value}"{did_you_mean(value, _SHARING)}')
    return value.lower()


def _refuse_foreign(fields: _Fields) -> None:
    """Rule M4: keys that other types have."""
    for key in ("mode", "uid", "gid"):
        if key in fields.values and fields.type not in _OWNED:
            raise BadFlag(f'{key} not allowed for "{fields.type}" type mounts')
    if "sharing" in fields.values and fields.type == "secret":
        raise BadFlag("secret mount should not define sharing")
    if "sharing" in fields.values and fields.type != "cache":
        raise BadFlag(f"invalid cache sharing set for {fields.type} mount")


def _mount(fields: _Fields, scope: MountScope, number: int) -> Mount:
    if fields.type == "cache":
        return _cache(fields, scope)
    if fields.type == "tmpfs":
        return TmpfsMount(_target(fields, scope), _size(fields))
    if fields.type == "secret":
        return _secret(fields, scope)
    if fields.type == "ssh":
        return _ssh(fields, scope, number)
    return _bind(fields, scope)


def _bind(fields: _Fields, scope: MountScope) -> BindMount:
    name = fields.get("from")
    return BindMount(
        target=_target(fields, scope),
        source=absolute(fields.get("source"), "/"),
        origin=scope.origin(name, fields.get("target")) if name else ContextOrigin(),
        read_only=fields.get("ro") != "false",
    )


def _cache(fields: _Fields, scope: MountScope) -> CacheMount:
    name = fields.get("from")
    # BuildKit's default is the target as written, not joined to the working directory (rule M7)
    id = fields.get("id") or _cleaned(fields.get("target"))
    return CacheMount(
        target=_target(fields, scope),
        id=f"{scope.cache_namespace}/{id}" if scope.cache_namespace else id,
        sharing=fields.get("sharing") or "shared",
        read_only=fields.get("ro") == "true",
        origin=scope.origin(name, fields.get("target")) if name else None,
        source=absolute(fields.get("source"), "/") if name else "",
        uid=_number(fields, "uid", 0),
        gid=_number(fields, "gid", 0),
        mode=_number(fields, "mode", 0o755, 8),
    )


def _secret(fields: _Fields, scope: MountScope) -> SecretMount:
    id, source, target = fields.get("id"), fields.get("source"), fields.get("target")
    if fields.get("from"):
        raise BadFlag("secret mount should not have a from")
    if not (id or source or target):
        raise BadFlag("invalid secret mount. one of source, target required")
    if id and source:
        raise BadFlag("both source and id can't be set")
    id = id or source or posixpath.basename(_cleaned(target)) or "/"
    if not target and "env" not in fields.values:
        target = f"/run/secrets/{posixpath.basename(_cleaned(id))}"
    return SecretMount(
        id=id,
        target=absolute(target, scope.cwd) if target else "",
        env=(fields.get("env") or id) if "env" in fields.values else "",
        required=fields.get("required") == "true",
        uid=_number(fields, "uid", 0),
        gid=_number(fields, "gid", 0),
        mode=_number(fields, "mode", 0o400, 8),
    )


def _ssh(fields: _Fields, scope: MountScope, number: int) -> SshMount:
    if fields.get("source"):
        raise BadFlag("ssh does not support source")
    target = fields.get("target") or f"/run/buildkit/ssh_agent.{number}"
    return SshMount(
        id=fields.get("id") or "default",
        target=absolute(target, scope.cwd),
        required=fields.get("required") == "true",
        uid=_number(fields, "uid", 0),
        gid=_number(fields, "gid", 0),
        mode=_number(fields, "mode", 0o600, 8),
    )


def parse_device(text: str, span: Span) -> Device:
    """The device that `--device=NAME[,required]` names (rule M12). Raises BadFlag."""
    try:
        device = _device(text)
    except BadFlag as error:
        raise BadFlag(error.message, span.blame(text), hint=error.hint) from error
    if not device.name:
        raise BadFlag("device name is empty", span.blame(text))
    return device


def _device(text: str) -> Device:
    name, required = "", False
    for written in csv_fields(text):
        key, equals, value = written.partition("=")
        key = key.lower()
        if key == "required":
            required = not equals or _truth(key, value)
        elif key == "name" and equals:
            if name:
                raise BadFlag(f"device name already set to {name}")
            name = value
        elif not name:
            name = written
        elif not equals:
            raise BadFlag(f"invalid field '{written}' must be a key=value pair")
        else:
            suggestion = did_you_mean(key, ("name", "required"))
            raise BadFlag(f"unexpected key '{key}' in '{written}'{suggestion}")
    return Device(name, required)


def _target(fields: _Fields, scope: MountScope) -> str:
    target = absolute(fields.get("target"), scope.cwd)
    if target == "/":
        raise BadFlag('invalid mount target "/"')
    return target


def _cleaned(path: str) -> str:
    """`path` without `.`, `..` and doubled slashes, still relative if it was."""
    return absolute(path, "/") if path.startswith("/") else posixpath.normpath(path)


def _truth(key: str, value: str) -> bool:
    if value in _TRUE | _FALSE:
        return value in _TRUE
    raise BadFlag(f"invalid value for {key}: {value}")


def _number(fields: _Fields, key: str, default: int, base: int = 10) -> int:
    if key not in fields.values:
        return default
    value = fields.get(key)
    digits = r"[0-7]{1,32}" if base == 8 else r"[0-9]{1,32}"
    if not re.fullmatch(digits, value) or int(value, base) > _LARGEST:
        raise BadFlag(f"invalid value {value} for {key}")
    return int(value, base)


def _size(fields: _Fields) -> int:
    text = fields.get("size")
    if "size" not in fields.values:
        return 0
    match = _SIZE.fullmatch(text)
    size = int(float(match[1]) * _UNITS.get((match[2] or "").lower(), 1)) if match else -1
    if not 0 <= size < 1 << 63:
        raise BadFlag(f"invalid value for size: {text}", hint="a number of bytes, or 64m, 1g")
    return size

"""`RUN --mount=…` to mounts (rules M1-M10)."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from assembler.dockerfile.flags import parse_csv_fields
from assembler.dockerfile.suggest import did_you_mean
from assembler.errors import BadFlag
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
from assembler.source import Span

_TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
_SHARING = ("shared", "private", "locked")
_NAMES = {"dst": "target", "destination": "target", "src": "source", "readonly": "ro"}
_KEYS = (
    "type", "target", "dst", "destination", "source", "src", "from", "ro", "readonly", "rw",
    "readwrite", "mode", "uid", "gid", "sharing", "size", "required", "id", "env",
)  # fmt: skip
_ONLY = {
    "mode": ("cache", "secret", "ssh"),
    "uid": ("cache", "secret", "ssh"),
    "gid": ("cache", "secret", "ssh"),
    "size": ("tmpfs",),
    "required": ("secret", "ssh"),
    "env": ("secret",),
}
_TRUE = frozenset("1 t T TRUE true True".split())
_FALSE = frozenset("0 f F FALSE false False".split())
_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True)
class MountScope:
    """What a mount's text is read against: the working directory, expansion, and sources."""

    cwd: str
    expand: Callable[[str], str]
    origin: Callable[[str, str], Origin]
    """What a mount is from, given the name and the target as written."""
    cache_namespace: str = ""


@dataclass(frozen=True, slots=True)
class _Fields:
    type: str
    values: Mapping[str, str] = field(default_factory=dict)

    def get(self, key: str) -> str:
        return self.values.get(key, "")


def mount_source(text: str) -> tuple[str, str]:
    """The `from` and the target of a mount's text as written, empty where it has none.

    Raises BadFlag without a span.
    """
    fields = {_NAMES.get(key, key): value or "" for key, value in parse_csv_fields(text)}
    return fields.get("from", ""), fields.get("target", "")


def parse_mount(text: str, scope: MountScope, span: Span, number: int) -> Mount:
    """The mount that `text` spells; `number` counts the ssh mounts before it. Raises BadFlag."""
    try:
        return _mount(_read(text, scope), scope, number)
    except BadFlag as error:
        raise BadFlag(error.message, span.blame(text), hint=error.hint) from error


def _read(text: str, scope: MountScope) -> _Fields:
    kind, values = "bind", {}
    for key, value in parse_csv_fields(text):
        if value is None:
            if key not in ("ro", "readonly", "rw", "readwrite", "required"):
                raise BadFlag(f"invalid field '{key}' must be a key=value pair")
            value = "true"
        if key not in _KEYS:
            raise BadFlag(f"unexpected key '{key}' in '{key}={value}'{did_you_mean(key, _KEYS)}")
        if key == "from":
            if "$" in value:
                raise BadFlag(
                    "'from' doesn't support variable expansion, define alias stage instead"
                )
        else:
            value = scope.expand(value)
        if key == "type":
            kind = value.lower()
            if kind not in _TYPES:
                raise BadFlag(f'unsupported mount type "{value}"{did_you_mean(value, _TYPES)}')
            continue
        _check_key(key, kind)
        values[_NAMES.get(key, key)] = value
    return _Fields(kind, values)


def _check_key(key: str, kind: str) -> None:
    if key == "sharing" and kind != "cache":
        raise BadFlag(f"invalid cache sharing set for {kind} mount")
    if kind not in _ONLY.get(key, _TYPES):
        if key in ("mode", "uid", "gid"):
            raise BadFlag(f'{key} not allowed for "{kind}" type mounts')
        raise BadFlag(f"unexpected key '{key}' for mount type '{kind}'")


def _mount(fields: _Fields, scope: MountScope, number: int) -> Mount:
    makers: dict[str, Callable[[], Mount]] = {
        "bind": lambda: _bind(fields, scope),
        "cache": lambda: _cache(fields, scope),
        "tmpfs": lambda: TmpfsMount(_target(fields, scope), _size(fields.get("size"))),
        "secret": lambda: _secret(fields, scope),
        "ssh": lambda: _ssh(fields, scope, number),
    }
    return makers[fields.type]()


def _bind(fields: _Fields, scope: MountScope) -> BindMount:
    name = fields.get("from")
    origin = scope.origin(name, fields.get("target")) if name else ContextOrigin()
    source = posixpath.normpath("/" + fields.get("source"))
    return BindMount(_target(fields, scope), source, origin, _read_only(fields, True))


def _cache(fields: _Fields, scope: MountScope) -> CacheMount:
    sharing = fields.get("sharing") or "shared"
    if sharing not in _SHARING:
        raise BadFlag(f'unsupported sharing value "{sharing}"{did_you_mean(sharing, _SHARING)}')
    name = fields.get("from")
    target = _target(fields, scope)
    id = fields.get("id") or target
    return CacheMount(
        target=target,
        id=f"{scope.cache_namespace}/{id}" if scope.cache_namespace else id,
        sharing=sharing,
        read_only=_read_only(fields, False),
        origin=scope.origin(name, fields.get("target")) if name else None,
        source=fields.get("source"),
        uid=_number(fields, "uid", 0),
        gid=_number(fields, "gid", 0),
        mode=_number(fields, "mode", 0o755, 8),
    )


def _secret(fields: _Fields, scope: MountScope) -> SecretMount:
    if "from" in fields.values:
        raise BadFlag("secret mount should not have a from")
    if fields.get("id") and fields.get("source"):
        raise BadFlag("both source and id can't be set")
    target = fields.get("target")
    id = fields.get("id") or fields.get("source") or posixpath.basename(target)
    if not id:
        raise BadFlag("invalid secret mount. one of source, target required")
    if not target and not fields.get("env"):
        target = f"/run/secrets/{posixpath.basename(id)}"
    return SecretMount(
        id=id,
        target=_absolute(target, scope.cwd) if target else "",
        env=fields.get("env"),
        required=_boolean(fields, "required"),
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
        target=_absolute(target, scope.cwd),
        required=_boolean(fields, "required"),
        uid=_number(fields, "uid", 0),
        gid=_number(fields, "gid", 0),
        mode=_number(fields, "mode", 0o600, 8),
    )


def parse_device(text: str, span: Span) -> Device:
    """The device that `--device=NAME[,required]` names (rule M12). Raises BadFlag."""
    name, required = "", False
    try:
        for key, value in parse_csv_fields(text):
            if key == "required":
                required = value is None or _truth("required", value)
            elif key == "name" and value and not name:
                name = value
            elif not name and key != "name":
                name = key if value is None else f"{key}={value}"
            elif value is None:
                raise BadFlag(f"invalid field '{key}' must be a key=value pair")
            else:
                suggestion = did_you_mean(key, ("name", "required"))
                raise BadFlag(f"unexpected key '{key}' in '{key}={value}'{suggestion}")
    except BadFlag as error:
        raise BadFlag(error.message, span.blame(text)) from error
    if not name:
        raise BadFlag("device name is empty", span.blame(text))
    return Device(name, required)


def _target(fields: _Fields, scope: MountScope) -> str:
    target = _absolute(fields.get("target"), scope.cwd)
    if target == "/":
        raise BadFlag('invalid mount target "/"')
    return target


def _absolute(path: str, cwd: str) -> str:
    return posixpath.normpath("/" + posixpath.join(cwd, path).lstrip("/"))


def _read_only(fields: _Fields, default: bool) -> bool:
    if "ro" in fields.values:
        return _boolean(fields, "ro")
    for key in ("rw", "readwrite"):
        if key in fields.values:
            return not _boolean(fields, key)
    return default


def _boolean(fields: _Fields, key: str) -> bool:
    value = fields.get(key)
    return bool(value) and _truth(key, value)


def _truth(key: str, value: str) -> bool:
    if value in _TRUE | _FALSE:
        return value in _TRUE
    raise BadFlag(f"invalid value for {key}: {value}")


def _number(fields: _Fields, key: str, default: int, base: int = 10) -> int:
    value = fields.get(key)
    try:
        return int(value, base) if value else default
    except ValueError as error:
        raise BadFlag(f"invalid value {value} for {key}") from error


def _size(text: str) -> int:
    if not text:
        return 0
    digits = text.rstrip("bkmgtBKMGT")
    unit = text[len(digits) :].lower().removesuffix("b") if len(text) > len(digits) else ""
    try:
        return int(float(digits) * _UNITS[unit])
    except (ValueError, KeyError) as error:
        raise BadFlag(f"invalid size: '{text}'") from error

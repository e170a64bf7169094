"""Image configuration: config, rootfs, history (image-spec config.md, with Docker's extensions)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from assembler.expressions import expression
from assembler.oci.digest import Digest
from assembler.oci.document import load
from assembler.oci.platform import Platform
from assembler.values import field, replace, value

_SURROGATES = expression("[\ud800-\udfff]")
MAX_CONFIG = 8 << 20  # bytes
INLINE_CACHE = "assembler.cache.v1"
"""The field of a configuration in which an image carries the cache that leads to it."""
CACHE_FIELDS = frozenset((INLINE_CACHE, "moby.buildkit.cache.v0"))
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@value
class History:
    """One line of `docker history`. `created` is RFC 3339 text, empty when not known."""

    created_by: str
    created: str = ""
    comment: str = ""
    author: str = ""
    empty_layer: bool = False

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> History:
        """The history entry a parsed JSON object spells."""
        return cls(
            created_by=str(document.get("created_by", "")),
            created=str(document.get("created", "")),
            comment=str(document.get("comment", "")),
            author=str(document.get("author", "")),
            empty_layer=bool(document.get("empty_layer", False)),
        )

    def to_document(self) -> dict[str, Any]:
        """The JSON object, keys in the specification's order, empty ones left out."""
        document: dict[str, Any] = {}
        for key in ("created", "author", "created_by", "comment"):
            if value := getattr(self, key):
                document[key] = value
        if self.empty_layer:
            document["empty_layer"] = True
        return document


@value
class Healthcheck:
    """Docker's health check. Durations are nanoseconds, 0 means inherited."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


_HEALTH_KEYS = (
    ("Interval", "interval"),
    ("Timeout", "timeout"),
    ("StartPeriod", "start_period"),
    ("StartInterval", "start_interval"),
    ("Retries", "retries"),
)


@value
class Execution:
    """The `config` object: how a container of the image starts.

    None and empty differ where Docker lets them differ: `entrypoint=()` was set to nothing.
    """

    user: str = ""
    exposed_ports: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: tuple[str, ...] = ()
    working_dir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    shell: tuple[str, ...] = ()
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] = ()
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Execution:
        """The execution parameters a parsed `config` object spells; unknown keys are kept."""
        known = {
            "User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir",
            "Labels", "StopSignal", "Shell", "Healthcheck", "OnBuild",
        }  # fmt: skip
        return cls(
            user=_text(document, "User"),
            exposed_ports=tuple(sorted(_object(document, "ExposedPorts"))),
            env=_strings(document, "Env") or (),
            entrypoint=_words(document, "Entrypoint"),
            cmd=_words(document, "Cmd"),
            volumes=tuple(sorted(_object(document, "Volumes"))),
            working_dir=_text(document, "WorkingDir"),
            labels=_texts(document, "Labels"),
            stop_signal=_text(document, "StopSignal"),
            shell=_words(document, "Shell") or (),
            healthcheck=_healthcheck(document.get("Healthcheck")),
            on_build=_strings(document, "OnBuild") or (),
            unknown={key: value for key, value in document.items() if key not in known},
        )

    def to_document(self) -> dict[str, Any]:
        """The `config` JSON object; empty members are left out."""
        document: dict[str, Any] = dict(self.unknown)
        if self.user:
            document["User"] = self.user
        if self.exposed_ports:
            document["ExposedPorts"] = {port: {} for port in sorted(self.exposed_ports)}
        if self.env:
            document["Env"] = list(self.env)
        if self.entrypoint:
            document["Entrypoint"] = list(self.entrypoint)
        if self.cmd:
            document["Cmd"] = list(self.cmd)
        if self.healthcheck is not None:
            health = self.healthcheck
            document["Healthcheck"] = {"Test": list(health.test)} | {
                key: getattr(health, name) for key, name in _HEALTH_KEYS if getattr(health, name)
            }
        if self.volumes:
            document["Volumes"] = {path: {} for path in sorted(self.volumes)}
        if self.working_dir:
            document["WorkingDir"] = self.working_dir
        if self.on_build:
            document["OnBuild"] = list(self.on_build)
        if self.labels:
            document["Labels"] = dict(sorted(self.labels.items()))
        if self.stop_signal:
            document["StopSignal"] = self.stop_signal
        if self.shell:
            document["Shell"] = list(self.shell)
        return document


@value
class ImageConfig:
    """The whole configuration document."""

    platform: Platform
    execution: Execution = field(default_factory=Execution)
    diff_ids: tuple[Digest, ...] = ()
    history: tuple[History, ...] = ()
    created: str = ""
    author: str = ""
    unknown: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, content: bytes) -> ImageConfig:
        """The configuration in `content`. Raises ValueError, also for wrong types."""
        if len(content) > MAX_CONFIG:
            raise ValueError(f"image config: more than {MAX_CONFIG} bytes")
        document = load(content, "the image config")
        rootfs = _object(document, "rootfs")
        history = document.get("history") or []
        if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
            raise ValueError("image config: history is not a list of objects")
        known = {
            "os", "architecture", "variant", "config", "rootfs", "history", "created", "author",
        }  # fmt: skip
        return cls(
            platform=_platform(document),
            execution=Execution.from_document(_object(document, "config")),
            diff_ids=tuple(map(Digest.parse, _strings(rootfs, "diff_ids") or ())),
            history=tuple(map(History.from_document, history)),
            created=_text(document, "created"),
            author=_text(document, "author"),
            unknown={key: value for key, value in document.items() if key not in known},
        )

    def serialise(self) -> bytes:
        """The document's bytes; the same value always gives the same bytes. What was no UTF-8 in
        the Dockerfile becomes the replacement character, as in Go's JSON."""
        text = json.dumps(self.to_document(), separators=(",", ":"), ensure_ascii=False)
        return (text if text.isascii() else _SURROGATES.sub("\ufffd", text)).encode()

    def to_document(self) -> dict[str, Any]:
        """The JSON object."""
        document: dict[str, Any] = {}
        if self.created:
            document["created"] = self.created
        if self.author:
            document["author"] = self.author
        document["architecture"] = self.platform.architecture
        if self.platform.variant:
            document["variant"] = self.platform.variant
        document["os"] = self.platform.os
        document.update(sorted(self.unknown.items()))
        document["config"] = self.execution.to_document()
        document["rootfs"] = {"type": "layers", "diff_ids": [str(d) for d in self.diff_ids]}
        document["history"] = [entry.to_document() for entry in self.history]
        return document

    def with_execution(self, execution: Execution) -> ImageConfig:
        """The same configuration with other execution parameters."""
        return replace(self, execution=execution)


def _platform(document: Mapping[str, Any]) -> Platform:
    parts = [_text(document, "os") or "linux", _text(document, "architecture") or "amd64"]
    if variant := _text(document, "variant"):
        parts.append(variant)
    return Platform.parse("/".join(parts))


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"image config: {key[:100]!r} is not a string")
    return value


def _object(document: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"image config: {key[:100]!r} is not an object")
    return value


def _strings(document: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"image config: {key[:100]!r} is not a list of strings")
    return tuple(value)


def _words(document: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    """A command; one word may be a string, as moby reads it."""
    value = document.get(key)
    return (value,) if isinstance(value, str) else _strings(document, key)


def _texts(document: Mapping[str, Any], key: str) -> dict[str, str]:
    found = _object(document, key)
    return {name: _text(found, name) for name in found}


def _number(document: Mapping[str, Any], key: str) -> int:
    value = document.get(key) or 0
    if not isinstance(value, int):
        raise ValueError(f"image config: {key[:100]!r} is not a whole number")
    return value


def _healthcheck(document: object) -> Healthcheck | None:
    if not isinstance(document, dict):
        return None
    numbers = {name: _number(document, key) for key, name in _HEALTH_KEYS}
    return Healthcheck(_strings(document, "Test") or (), **numbers)

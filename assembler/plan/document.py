"""A plan as JSON and back: what a worker elsewhere is given (design.md, decision 14).

Every value is an object with its class in `kind`; lists are tuples. Sources are kept once, spans
point at them. Proxies and the credentials of URLs are left out: each worker has its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from types import MappingProxyType
from typing import Any

from assembler.dockerfile.remote import GitReference
from assembler.oci.config import History, ImageConfig
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan import plan as nouns
from assembler.plan import steps
from assembler.plan.plan import Plan
from assembler.plan.resolution import Need
from assembler.source import Source, Span

VERSION = 1
_LEFT_OUT = frozenset({"proxies", "credentials"})
_EMPTIED = ("entrypoint", "cmd")
"""What an image's configuration leaves out both when it is not set and when it is set to nothing."""

_CLASSES: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        kind.__name__: kind
        for kind in (
            Plan, nouns.PlannedStage, nouns.PlanWarning, nouns.ResolvedImage, nouns.HistoryLine, nouns.Target,
            nouns.ScratchBase, nouns.StageBase, nouns.ImageBase, nouns.ContextBase, Need, History,
            steps.Run, steps.Copy, steps.MakeDirectory, steps.ContextOrigin, steps.StageOrigin,
            steps.ImageOrigin, steps.ScratchOrigin, steps.InlineFile, steps.UrlSource, steps.GitSource, GitReference,
            steps.Device, steps.Limit, steps.BindMount, steps.CacheMount, steps.TmpfsMount, steps.SecretMount, steps.SshMount,
        )
    }
)  # fmt: skip


def to_document(plan: Plan) -> dict[str, Any]:
    """The JSON object that `from_document` reads."""
    sources: list[Source] = []
    encoded = _encode(plan, sources)
    return {
        "version": VERSION,
        "sources": [{"name": source.name, "text": source.text} for source in sources],
        "plan": encoded,
    }


def from_document(document: Mapping[str, Any]) -> Plan:
    """The plan that `to_document` wrote. Raises ValueError for anything else."""
    if document.get("version") != VERSION:
        raise ValueError(f"a plan of version {document.get('version')}, not {VERSION}")
    try:
        sources = [Source(str(one["name"]), str(one["text"])) for one in document["sources"]]
        plan = _decode(document["plan"], sources)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not a plan: {error!r}") from error
    if not isinstance(plan, Plan):
        raise ValueError("not a plan")
    return plan


def _encode(value: object, sources: list[Source]) -> Any:
    match value:
        case None | str() | bool() | int():
            return value
        case tuple() | list():
            return [_encode(one, sources) for one in value]
        case Mapping():
            return {str(key): _encode(one, sources) for key, one in value.items()}
        case Span():
            if value.source not in sources:
                sources.append(value.source)
            number = sources.index(value.source)
            return {"kind": "Span", "at": [number, value.start, value.end], "word": value.word}
        case Platform() | Digest():
            return {"kind": type(value).__name__, "text": str(value)}
        case Descriptor():
            return {"kind": "Descriptor", "descriptor": value.to_document()}
        case ImageConfig():
            emptied = [name for name in _EMPTIED if getattr(value.execution, name) == ()]
            return {"kind": "ImageConfig", "config": value.to_document(), "emptied": emptied}
        case _:
            return _object(value, sources)


def _object(value: object, sources: list[Source]) -> dict[str, Any]:
    name = type(value).__name__
    if name not in _CLASSES or not is_dataclass(value):
        raise TypeError(f"{name} has no place in a plan")
    document: dict[str, Any] = {"kind": name}
    for field in fields(value):
        if field.name not in _LEFT_OUT:
            document[field.name] = _encode(getattr(value, field.name), sources)
    return document


def _decode(value: Any, sources: list[Source]) -> Any:
    if isinstance(value, list):
        return tuple(_decode(one, sources) for one in value)
    if not isinstance(value, dict):
        return value
    match value.get("kind"):
        case None:
            return {key: _decode(one, sources) for key, one in value.items()}
        case "Span":
            number, start, end = value["at"]
            return Span(sources[number], start, end, value["word"])
        case "Platform":
            return Platform.parse(value["text"])
        case "Digest":
            return Digest.parse(value["text"])
        case "Descriptor":
            return Descriptor.from_document(value["descriptor"])
        case "ImageConfig":
            config = ImageConfig.parse(json.dumps(value["config"]).encode())
            execution = config.execution
            if "entrypoint" in value["emptied"]:
                execution = replace(execution, entrypoint=())
            if "cmd" in value["emptied"]:
                execution = replace(execution, cmd=())
            return config.with_execution(execution)
        case kind:
            members = {key: one for key, one in value.items() if key != "kind"}
            return _CLASSES[kind](**{key: _decode(one, sources) for key, one in members.items()})

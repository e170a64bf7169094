"""What went into a step's key, as a document for people: `assemble explain` compares two of them, and
shared caches carry them along.

    {"version": 1, "step": "[build 3/5] RUN make", "stage": "build", "number": 1, "kind": "RUN",
     "parent": {"key": "sha256:…", "is": "step", "name": "[build 2/5] COPY src /src"},
     "fields": {"argv": [...], "env": {...}, "args": {...}, ...},
     "origins": [{"from": "stage", "name": "deps", "sources": ["/out"], "digest": "sha256:…"}],
     "mounts": [{"type": "bind", "target": "/in", "readonly": true, ...}]}

As in the key, there are no secret values, proxies, credentials, host paths or host names in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from assembler.dockerfile.remote import GitReference
from assembler.oci.digest import Digest
from assembler.oci.reference import LAYOUT
from assembler.plan.keys import Read
from assembler.plan.plan import ContextBase, ImageBase, Plan, PlannedStage, StageBase
from assembler.plan.steps import (
    BindMount,
    CacheMount,
    ContextOrigin,
    Copy,
    GitSource,
    ImageOrigin,
    MakeDirectory,
    Mount,
    Origin,
    Run,
    SecretMount,
    SshMount,
    StageOrigin,
    Step,
    TmpfsMount,
    UrlSource,
)
from assembler.source import redacted

VERSION = 1
_TYPES: Mapping[type, str] = MappingProxyType(
    {
        BindMount: "bind",
        CacheMount: "cache",
        TmpfsMount: "tmpfs",
        SecretMount: "secret",
        SshMount: "ssh",
    }
)


def inputs(
    plan: Plan, stage: PlannedStage, number: int, parent: Digest, reads: Sequence[Read]
) -> dict[str, Any]:
    """The document of step `number` of `stage` above `parent`, which reads `reads`, in order. It
    is ready for `json.dumps`."""
    step = stage.steps[number]
    return {
        "version": VERSION,
        "step": step.name,
        "stage": _stage(stage),
        "number": number,
        "kind": kind(step),
        "parent": _parent(plan, stage, number, parent),
        "fields": _fields(step),
        "origins": [_origin(plan, read) for read in reads],
        "mounts": [_mount(plan, one) for one in step.mounts] if isinstance(step, Run) else [],
    }


def kind(step: Step) -> str:
    """The instruction that `step` is of: RUN, COPY, ADD or WORKDIR."""
    if isinstance(step, Run):
        return "RUN"
    if isinstance(step, MakeDirectory):
        return "WORKDIR"
    return "ADD" if step.unpack or step.fetched else "COPY"


def _stage(stage: PlannedStage) -> str | int:
    return stage.title if stage.label else stage.name or stage.index


def _parent(plan: Plan, stage: PlannedStage, number: int, key: Digest) -> dict[str, Any]:
    parent: dict[str, Any] = {"key": str(key)}
    base = stage.base
    if number:
        return {**parent, "is": "step", "name": stage.steps[number - 1].name}
    if isinstance(base, StageBase):
        return {**parent, "is": "stage", "name": plan.stage(base.index).title}
    if isinstance(base, ImageBase):
        image = plan.images[base.image]
        named = {"name": _image(image.name), "digest": str(image.manifest.digest)}
        platform = str(image.config.platform)
        return {**parent, "is": "base", **named, "platform": platform}
    name = base.context if isinstance(base, ContextBase) else ""
    return {**parent, "is": "scratch", "name": name, "platform": str(stage.platform)}


def _fields(step: Step) -> dict[str, Any]:
    if isinstance(step, MakeDirectory):
        return {"path": step.path, "user": step.user}
    if isinstance(step, Copy):
        return {
            "destination": step.destination,
            "inline": {one.name: one.content for one in step.inline},
            "chown": step.chown,
            "chmod": step.chmod,
            "link": step.link,
            "parents": step.parents,
            "exclude": list(step.exclude),
            "unpack": step.unpack,
        }
    return {
        "argv": list(step.argv),
        "env": _named(step.env, lambda name: name not in step.arguments),
        "args": _named(step.env, lambda name: name in step.arguments),
        "cwd": step.cwd,
        "user": step.user,
        "network": step.network,
        "security": step.security,
        "hostname": step.hostname,
        "hosts": list(step.hosts),
        "limits": {one.name: f"{one.soft}:{one.hard}" for one in step.limits},
        "shared_memory": step.shared_memory,
        "devices": [{"name": one.name, "required": one.required} for one in step.devices],
        "scripts": dict(step.scripts),
    }


def _named(pairs: Iterable[tuple[str, str]], wanted: Any) -> dict[str, str]:
    return {name: value for name, value in pairs if wanted(name)}


def _origin(plan: Plan, read: Read) -> dict[str, Any]:
    return {
        **_place(plan, read.origin),
        "sources": list(read.sources),
        "digest": str(read.identity),
    }


def _place(plan: Plan, origin: Origin | UrlSource | GitSource) -> dict[str, Any]:
    """Where `origin` is, and what it is called there."""
    if isinstance(origin, ContextOrigin):
        return {"from": "context", "name": origin.name}
    if isinstance(origin, StageOrigin):
        return {"from": "stage", "name": plan.stage(origin.index).title}
    if isinstance(origin, ImageOrigin):
        image = plan.images.get(origin.image)
        return {"from": "image", "name": _image(image.name if image else origin.image)}
    if isinstance(origin, UrlSource):
        return {"from": "url", "name": redacted(origin.url), "checksum": origin.checksum}
    if isinstance(origin, GitSource):
        return {"from": "git", "name": _repository(origin.repository)}
    return {"from": "scratch", "name": ""}


def _image(name: str) -> str:
    """What an image is called; one of a layout on disk would be by a path of the host."""
    return "oci-layout" if name.startswith(LAYOUT) else name


def _repository(reference: GitReference) -> str:
    asked = f"{reference.ref}:{reference.subdirectory}".removesuffix(":")
    return redacted(reference.remote) + (f"#{asked}" if asked else "")


def _mount(plan: Plan, mount: Mount) -> dict[str, Any]:
    document: dict[str, Any] = {"type": _TYPES[type(mount)], "target": mount.target}
    if isinstance(mount, BindMount):
        place = _place(plan, mount.origin)
        return {**document, "source": mount.source, "readonly": mount.read_only, "of": place}
    if isinstance(mount, TmpfsMount):
        return {**document, "size": mount.size}
    owned = {"uid": mount.uid, "gid": mount.gid, "mode": f"{mount.mode:04o}"}
    if isinstance(mount, CacheMount):
        return {**document, "readonly": mount.read_only, **owned}
    document |= {**owned, "required": mount.required}
    return (
        {**document, "id": mount.id, "env": mount.env}
        if isinstance(mount, SecretMount)
        else document
    )

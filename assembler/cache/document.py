"""What one builder's cache tells another: results of steps by their keys, and the blobs they are in.

It is the configuration of an OCI image whose layers are these blobs, or of an index of them, and a
field of an image's own configuration (inline). Pure. Whoever reads it believes no more of it than
that it has its shape: blobs are checked when they come, diff_ids when they are unpacked.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any

from assembler.cache.base import Record
from assembler.expressions import expression
from assembler.oci.config import MAX_CONFIG
from assembler.oci.descriptor import (
    CACHE_LISTINGS,
    Descriptor,
    compression_of,
    in_oci,
    toc_annotations,
)
from assembler.oci.digest import Digest
from assembler.oci.document import load
from assembler.oci.image import Layer
from assembler.values import field, replace, value

VERSION = 1
MAX_LISTINGS = 4 << 20  # bytes of the blob of listings
MANY_LISTINGS = 1000
_LONGEST = 4096  # characters of a name or a variant
_LONGEST_INPUTS = 64 << 10  # characters; what is longer is explained to nobody
_NAME = expression(r"[0-9a-f]{64}")
_TIME = expression(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z")
_WHAT = "the cache"


class NewerVersion(ValueError):
    """A document of a version that is not known here."""


@value
class CachedLayer:
    """The packed form of a step's result. `variant` is what besides its identity decided its bytes
    (`engine.realisation.Realisation.variant`)."""

    layer: Layer
    variant: str


@value
class CachedMount:
    """A cache mount. `name` is the 64 hexadecimal digits that `engine.mounts` names its directory by,
    `id` the text of the Dockerfile."""

    name: str
    id: str
    layer: Layer


@value
class CachedListings:
    """What COPYs selected: by the digests of their selections how many bytes of `blob` each has,
    one after the other (`cache.listings`)."""

    blob: Descriptor
    sizes: Mapping[Digest, int]


@value
class CacheDocument:
    """`records` by key, `results` by identity: a step may be known whose layer is nowhere."""

    records: Mapping[Digest, Record] = field(default_factory=dict)
    results: Mapping[Digest, CachedLayer] = field(default_factory=dict)
    mounts: tuple[CachedMount, ...] = ()
    listings: CachedListings | None = None

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Every blob that it names, once, in an order that depends on nothing else."""
        layers = [self.results[identity].layer for identity in sorted(self.results)]
        layers += [mount.layer for mount in self.mounts]
        found = [layer.descriptor for layer in layers]
        found += [] if self.listings is None else [self.listings.blob]
        return tuple({blob.digest: blob for blob in found}.values())

    def with_all_of(self, other: CacheDocument) -> CacheDocument:
        """What either says; where they differ, it is this one that is believed."""
        return CacheDocument(
            {**other.records, **self.records},
            {**other.results, **self.results},
            (*self.mounts, *other.mounts),
            self.listings or other.listings,
        )

    def without(self, blobs: Container[Digest]) -> CacheDocument:
        """The same, but for what is in `blobs`."""
        results = {
            identity: found
            for identity, found in self.results.items()
            if found.layer.descriptor.digest not in blobs
        }
        mounts = (one for one in self.mounts if one.layer.descriptor.digest not in blobs)
        listings = self.listings
        if listings is not None and listings.blob.digest in blobs:
            listings = None
        return CacheDocument(self.records, results, tuple(mounts), listings)

    def serialise(self, *, inputs: bool = True) -> bytes:
        """The JSON of it, the same for the same content; without `inputs` it does not tell what went
        into keys. Raises ValueError where nobody would read it for its size."""
        layers: list[CachedLayer] = []
        places: dict[tuple[Digest, Digest, str], int] = {}
        numbers: dict[Digest, int] = {}
        for identity in sorted(self.results):
            found = self.results[identity]
            place = (found.layer.descriptor.digest, found.layer.diff_id, found.variant)
            numbers[identity] = places.setdefault(place, len(layers))
            if numbers[identity] == len(layers):
                layers.append(found)
        steps: dict[Record, list[str]] = {}
        for key in sorted(self.records):
            record = self.records[key]
            told = record if inputs else replace(record, inputs="{}")
            steps.setdefault(replace(told, source=""), []).append(str(key))
        document: dict[str, Any] = {
            "version": VERSION,
            "steps": [
                _step(record, keys, numbers.get(record.identity)) for record, keys in steps.items()
            ],
            "layers": [{**_layer(one.layer), "variant": one.variant} for one in layers],
        }
        if self.mounts:
            document["mounts"] = [
                {"name": one.name, "id": one.id, **_layer(one.layer)} for one in self.mounts
            ]
        if self.listings is not None:
            sizes = [[str(one), size] for one, size in self.listings.sizes.items()]
            document["listings"] = {"blob": self.listings.blob.to_document(), "sizes": sizes}
        content = json.dumps(document, separators=(",", ":")).encode()
        if len(content) > MAX_CONFIG:
            raise ValueError(f"{_WHAT} has {len(content)} bytes, more than {MAX_CONFIG}")
        load(content, _WHAT)
        return content

    @classmethod
    def parse(cls, content: bytes, source: str = "") -> CacheDocument:
        """The document in `content`; its records are from `source`. Raises ValueError, NewerVersion
        for a version to come."""
        if len(content) > MAX_CONFIG:
            raise ValueError(f"{_WHAT} has {len(content)} bytes, more than {MAX_CONFIG}")
        return cls.of(load(content, _WHAT), source)

    @classmethod
    def of(cls, document: object, source: str = "") -> CacheDocument:
        """See `parse`; of JSON that is parsed."""
        if not isinstance(document, dict):
            raise ValueError(f"{_WHAT} is not an object")
        version = document.get("version")
        if type(version) is not int or version < 1:
            raise ValueError(f"{_WHAT} has no version")
        if version > VERSION:
            raise NewerVersion(f"it has version {version}, this assemble knows {VERSION}")
        layers = [_cached_layer(one) for one in _objects(document, "layers")]
        records: dict[Digest, Record] = {}
        results: dict[Digest, CachedLayer] = {}
        for step in _objects(document, "steps"):
            record = _record(step, source)
            records |= {_digest(key): record for key in _list(step, "keys")}
            if (number := step.get("layer")) is not None:
                if type(number) is not int or not 0 <= number < len(layers):
                    raise ValueError(f"{_WHAT}: a step's layer is not one of {len(layers)}")
                results[record.identity] = layers[number]
        mounts = tuple(map(_mount, _objects(document, "mounts", optional=True)))
        return cls(records, results, mounts, _listings(document.get("listings")))


def _step(record: Record, keys: list[str], layer: int | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "keys": keys,
        "identity": str(record.identity),
        "created": record.created,
        "ran": record.ran,
    }
    if record.inputs != "{}":
        document["inputs"] = record.inputs
    if layer is not None:
        document["layer"] = layer
    return document


def _layer(layer: Layer) -> dict[str, Any]:
    return {"blob": layer.descriptor.to_document(), "diff_id": str(layer.diff_id)}


def _record(step: Mapping[str, Any], source: str) -> Record:
    ran = step.get("ran", 0)
    if isinstance(ran, bool) or not isinstance(ran, int | float) or not 0 <= ran < 1 << 40:
        raise ValueError(f"{_WHAT}: a step ran at no time")
    inputs = step.get("inputs", "{}")
    if not isinstance(inputs, str) or not _is_unicode(inputs):
        raise ValueError(f"{_WHAT}: inputs of a step are no text")
    if len(inputs) > _LONGEST_INPUTS:
        inputs = "{}"
    load(inputs.encode(), f"{_WHAT}: inputs of a step")
    identity = _digest(step.get("identity"))
    return Record(identity, _time(step, "created"), inputs, float(ran), source)


def _cached_layer(document: Mapping[str, Any]) -> CachedLayer:
    return CachedLayer(_layer_of(document), _text(document, "variant"))


def _layer_of(document: Mapping[str, Any]) -> Layer:
    """The layer, of which no more is taken than what images say of theirs."""
    said = Descriptor.from_document(document.get("blob"))
    if not compression_of(said):
        raise ValueError(f"{_WHAT}: {said.media_type[:100]!r} is no layer")
    annotations = toc_annotations(said.annotations)
    blob = Descriptor(in_oci(said.media_type), said.digest, said.size, annotations)
    return Layer(blob, _digest(document.get("diff_id")))


def _mount(document: Mapping[str, Any]) -> CachedMount:
    name = _text(document, "name")
    if not _NAME.fullmatch(name):
        raise ValueError(f"{_WHAT}: {name[:100]!r} names no cache mount")
    return CachedMount(name, _text(document, "id"), _layer_of(document))


def _listings(document: object) -> CachedListings | None:
    """What is said of listings. What has another shape is no reason to do without the rest: a newer
    version may have another, and nothing but words is lost."""
    if not isinstance(document, dict):
        return None
    try:
        said = Descriptor.from_document(document.get("blob"))
        pairs = [(Digest.parse(one), size) for one, size in _list(document, "sizes")]
    except (TypeError, ValueError):
        return None
    sizes = dict(pairs)
    if not all(type(size) is int and size > 0 for size in sizes.values()):
        return None
    if len(pairs) != len(sizes) or sum(sizes.values()) != said.size:
        return None
    if said.media_type != CACHE_LISTINGS or said.size > MAX_LISTINGS or len(pairs) > MANY_LISTINGS:
        return None
    return CachedListings(Descriptor(CACHE_LISTINGS, said.digest, said.size), sizes)


def _digest(text: object) -> Digest:
    if not isinstance(text, str):
        raise ValueError(f"{_WHAT}: a digest is no text")
    return Digest.parse(text)


def _time(document: Mapping[str, Any], key: str) -> str:
    """A time, or nothing: it goes into the history of images, which nobody reads with another text."""
    from datetime import datetime

    text = _text(document, key)
    if text:
        if not _TIME.fullmatch(text):
            raise ValueError(f"{_WHAT}: {key} is no time, but {text[:100]!r}")
        datetime.fromisoformat(text)
    return text


def _text(document: Mapping[str, Any], key: str) -> str:
    text = document.get(key)
    if not isinstance(text, str) or len(text) > _LONGEST or not _is_unicode(text):
        raise ValueError(f"{_WHAT}: {key} is no text of at most {_LONGEST} characters")
    return text


def _is_unicode(text: str) -> bool:
    """Whether `text` can be stored: JSON has halves of characters too."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _list(document: Mapping[str, Any], key: str, optional: bool = False) -> list[Any]:
    found = document.get(key, [] if optional else None)
    if not isinstance(found, list):
        raise ValueError(f"{_WHAT}: {key} is not a list")
    return found


def _objects(document: Mapping[str, Any], key: str, optional: bool = False) -> list[dict[str, Any]]:
    found = _list(document, key, optional)
    if not all(isinstance(one, dict) for one in found):
        raise ValueError(f"{_WHAT}: {key} are not objects")
    return found

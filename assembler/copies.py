"""Images and indexes from where they are to registries and layouts, byte for byte.

From a registry to another nothing is kept: a file in the store's scratch directory is the buffer of
each blob while it passes. A layout is read in place; an archive goes through the store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import BinaryIO

from assembler.engine.recorder import vertex
from assembler.errors import BadArchive, NotFound, UsageError
from assembler.events import Sink, VertexProgress
from assembler.image_names import LayoutName, parse_layout, parse_reference
from assembler.images import Images
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.oci.descriptor import REF_NAME, Descriptor, is_blob
from assembler.oci.digest import Digest
from assembler.oci.manifest import Document, Index, build_index, parse
from assembler.oci.platform import Platform
from assembler.oci.reference import LAYOUT, Reference
from assembler.output.layout import write_layout
from assembler.registry.arrivals import Arrivals
from assembler.registry.documents import described, named
from assembler.registry.parallel import all_at_once
from assembler.registry.pull import Closure, closure, selection
from assembler.registry.push import push
from assembler.store.importing import LayoutFiles, import_top
from assembler.store.refs import REMOTE
from assembler.store.store import Store

STORE = "store:"
_ATTESTED = "vnd.docker.reference.digest"
_NOWHERE = Reference("", "")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an image or index is: what it leads to, its blobs, and the names in whose repositories
    these are already. `name` is for errors; `hold` keeps a blob from being collected."""

    name: Reference
    top: Document
    document: Callable[[Descriptor], Document]
    open: Callable[[Descriptor], BinaryIO]
    sources: Callable[[Descriptor], Sequence[Reference]] = lambda blob: ()
    hold: Callable[[Descriptor], object] = lambda blob: None


@dataclass(frozen=True, slots=True)
class Copies:
    """Copies for one command. Use it with `with`, around what gave it `stack`."""

    store: Store
    images: Images
    sink: Sink
    clock: Callable[[], float]
    stack: ExitStack
    limits: Limits = DEFAULT_LIMITS

    def origin(self, subject: str | Descriptor, destinations: int) -> Origin:
        """What `subject` means: `store:NAME` in the store, a path or `oci-layout://PATH` a layout or
        archive, else a name in its registry; a descriptor one of the store without a name. Raises
        NotFound, RegistryError, BadArchive."""
        if isinstance(subject, Descriptor):
            return self._kept(_NOWHERE, subject)
        if subject.startswith(STORE):
            return self._stored(parse_reference(subject.removeprefix(STORE)))
        if not registries(subject, ()):
            return self._file(subject)
        return self._remote(parse_reference(subject), destinations)

    def _remote(self, reference: Reference, destinations: int) -> Origin:
        client = self.images.client
        directory = self.stack.enter_context(self.store.scratch())
        arrivals = Arrivals(
            client, reference, directory, client.cancellation, keep=destinations > 1
        )
        return Origin(
            reference,
            named(client, reference),
            lambda entry: described(client, reference, entry),
            self.stack.enter_context(arrivals).open,
            lambda blob: (reference,),
        )

    def _stored(self, reference: Reference) -> Origin:
        descriptor = self.store.refs.get(str(reference))
        if descriptor is None or not self.store.blobs.has(descriptor.digest):
            raise NotFound(
                f"the store holds no image named {reference.familiar}",
                hint="`assemble images` lists what it holds",
            )
        self.images.stored(reference, None)  # so that its layers are found where they are
        kept = self._kept(reference, descriptor)
        if REMOTE not in descriptor.annotations:
            return replace(kept, sources=self.images.sources)

        def document(entry: Descriptor) -> Document:
            if self.store.blobs.has(entry.digest):
                return kept.document(entry)
            return described(self.images.client, reference, entry)

        def open(blob: Descriptor) -> BinaryIO:
            self.images.bring(reference, [blob])
            return self.store.blobs.open(blob.digest)

        return Origin(reference, kept.top, document, open, lambda blob: (reference,), kept.hold)

    def _kept(self, name: Reference, descriptor: Descriptor) -> Origin:
        def document(entry: Descriptor) -> Document:
            try:
                return parse(self.store.blobs.read(entry), entry.media_type)
            except ValueError as error:
                raise BadArchive(f"{entry.digest} in the store: {error}") from error

        def hold(blob: Descriptor) -> bool:
            return self.store.blobs.has(blob.digest)

        return Origin(name, document(descriptor), document, self.images.open, hold=hold)

    def _file(self, subject: str) -> Origin:
        place = parse_layout(subject)
        if os.path.exists(subject.removeprefix(LAYOUT)):
            place = LayoutName(subject.removeprefix(LAYOUT))
        if not os.path.exists(place.path):
            raise NotFound(f"{place.path}: no such file or directory")
        choice = place.digest or place.tag
        if os.path.isdir(place.path):
            layout = LayoutFiles(place.path)
            top = layout.document(layout.entry(choice))
            return Origin(_NOWHERE, top, layout.document, layout.open)
        return self._kept(_NOWHERE, import_top(self.store, place.path, choice, None, self.limits))

    def copy(self, origin: Origin, platforms: Sequence[Platform], targets: Sequence[str]) -> Digest:
        """Have it, or what of it is for `platforms`, at every one of `targets`; its digest. Raises
        RegistryError, StoreError."""
        places = {target: parse_layout(target) for target in targets if is_place(target)}
        for target, place in places.items():
            if place.digest:
                raise UsageError(f"{target}: a digest cannot be chosen for what is written")
        references = [parse_reference(target) for target in targets if target not in places]
        found = chosen(origin, platforms)
        for blob in found.blobs:
            origin.hold(blob)
        if references:
            self._push(origin, found, references)
        for target, place in places.items():
            with vertex(target, f"copying to {target}", self.sink, self.clock) as work:
                entry = found.top.descriptor
                if place.tag:
                    entry = replace(entry, annotations={REF_NAME: place.tag})
                documents = {digest: one.content for digest, one in found.documents.items()}
                check = self.images.client.cancellation.check
                write_layout(
                    place.path, entry, found.blobs, origin.open, documents, check, all_at_once
                )
                work.detail = str(entry.digest)
        return found.digest

    def _push(self, origin: Origin, found: Closure, references: Sequence[Reference]) -> None:
        id = f"copying to {', '.join(map(str, references))}"

        def progress(blob: Descriptor, current: int, total: int) -> None:
            self.sink(VertexProgress(id, str(blob.digest), current, total, self.clock()))

        client = self.images.client
        with vertex(id, id, self.sink, self.clock) as work:
            pushed = push(
                client,
                references,
                found.top,
                origin.open,
                documents=lambda entry: found.documents[entry.digest],
                mount_from=origin.sources,
                progress=progress,
                cancellation=client.cancellation,
                uploads=self.store.uploads,
            )
            work.detail = str(pushed.digest)


def registries(source: str, targets: Sequence[str]) -> tuple[str, ...]:
    """The registries that a copy is between. Raises UsageError."""
    near = source.startswith(STORE) or is_place(source) or os.path.isfile(source)
    names = ([] if near else [source]) + [one for one in targets if not is_place(one)]
    return tuple(dict.fromkeys(parse_reference(name).registry for name in names))


def is_place(text: str) -> bool:
    """Whether `text` means a layout: it is spelled as a path, or there is one."""
    path = text.removeprefix(LAYOUT)
    return text.startswith((LAYOUT, "/", "./", "../")) or os.path.isfile(
        os.path.join(path, "oci-layout")
    )


def chosen(origin: Origin, platforms: Sequence[Platform]) -> Closure:
    """All of an image or index; with `platforms` the image for one, or a new index of those for
    several, with the attestations of these. A cache is for all. Raises NotFound, RegistryError."""
    top = origin.top
    if not platforms or not isinstance(top, Index) or all(map(is_blob, top.manifests)):
        return closure(origin.name, top, origin.document)
    wanted = selection(origin.name, top, platforms)
    entries = [entry for entry in top.manifests if wanted is None or wanted(entry)]
    if len(platforms) == 1 and len(entries) == 1:
        below = replace(origin, top=origin.document(entries[0]))
        nameless = replace(below, name=replace(origin.name, digest=entries[0].digest))
        return chosen(nameless, platforms)
    digests = {str(entry.digest) for entry in entries}
    kept = [
        entry
        for entry in top.manifests
        if str(entry.digest) in digests or entry.annotations.get(_ATTESTED) in digests
    ]
    made = build_index(kept, top.annotations)
    return closure(replace(origin.name, digest=None), made, origin.document)

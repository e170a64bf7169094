"""What a command is about: an image named by a store name, a layout directory, or an archive."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from assembler.errors import NotFound

if TYPE_CHECKING:
    from assembler.builder import Builder
    from assembler.image_names import LayoutName
    from assembler.oci.descriptor import Descriptor
    from assembler.oci.image import Image
    from assembler.oci.platform import Platform


def is_path(subject: str) -> bool:
    """Whether `subject` means a file or directory: it says so, or is a layout or archive."""
    if subject.startswith(("/", "./", "../")):
        return True
    return os.path.isfile(os.path.join(subject, "oci-layout")) or os.path.isfile(subject)


def _written(subject: str) -> str:
    """`subject`, that of `oci-layout://PATH` as the path that it is."""
    from assembler.oci.reference import LAYOUT

    path = subject.removeprefix(LAYOUT)
    return path if path == subject or path.startswith("/") else f"./{path}"


def _place(path: str) -> LayoutName:
    """PATH[:TAG][@DIGEST], a path with a colon if there is one. Raises UsageError."""
    from assembler.image_names import LayoutName, parse_layout

    return LayoutName(path) if os.path.exists(path) else parse_layout(path)


def whole(builder: Builder, subject: str) -> Image | Descriptor | str:
    """What `subject` means: an image, as `find` does, or an index with all that it leads to, as
    `Builder.copy` takes it. Raises NotFound, UsageError, StoreError, BadArchive."""
    from assembler.images import host_platform
    from assembler.oci.descriptor import INDEXES
    from assembler.store.importing import image_of, import_top

    subject = _written(subject)
    if index := _index_of(builder, subject):
        return index
    place = _place(subject)
    if not (is_path(subject) and os.path.isfile(place.path)):
        return find(builder, subject)
    name, limits = place.digest or place.tag, builder.archive_limits
    entry = import_top(builder.store, place.path, name, host_platform(), limits)
    if entry.media_type in INDEXES:
        return entry
    return image_of(builder.store, place.path, entry, host_platform())


def index_of(builder: Builder, subject: str) -> Descriptor | None:
    """The index that is in the store by the name `subject`, None where that means no index there."""
    from assembler.image_names import parse_reference
    from assembler.oci.descriptor import INDEXES

    if is_path(_written(subject)):
        return None
    found = builder.store.refs.get(str(parse_reference(subject)))
    return found if found is not None and found.media_type in INDEXES else None


def _index_of(builder: Builder, subject: str) -> str:
    """What `assemble copy` calls the index that `subject` means, in the store or a layout directory;
    empty when it means no index there."""
    from assembler.oci.descriptor import INDEXES
    from assembler.oci.reference import LAYOUT
    from assembler.store.importing import LayoutFiles

    if not is_path(subject):
        return f"store:{subject}" if index_of(builder, subject) else ""
    place = _place(subject)
    if not os.path.isdir(place.path):
        return ""
    try:
        entry = LayoutFiles(place.path).entry(place.digest or place.tag)
    except NotFound:  # of several, one may be for this platform
        return ""
    return f"{LAYOUT}{subject}" if entry.media_type in INDEXES else ""


def find(builder: Builder, subject: str, platform: Platform | None = None) -> Image:
    """The image `subject` means, in the store (a layout or archive is read into it); of an index that
    for `platform`, without one that for this host if it has one.

    Raises NotFound, UsageError.
    """
    from assembler.image_names import parse_reference
    from assembler.images import host_platform

    subject = _written(subject)
    if is_path(subject):
        from assembler.store.importing import import_image

        place, limits = _place(subject), builder.archive_limits
        if not os.path.exists(place.path):
            raise NotFound(f"{subject}: no such file or directory")
        choice = place.digest or place.tag
        return import_image(builder.store, place.path, choice, platform or host_platform(), limits)
    reference, images = parse_reference(subject), builder.images
    image = images.stored(reference, platform or host_platform())
    if image is None and platform is None:
        image = images.stored(reference, None)
    if image is None:
        of = f" for {platform}" if platform else ""
        raise NotFound(
            f"the store holds no image named {reference.familiar}{of}",
            hint="`assemble images` lists what it holds",
        )
    return image

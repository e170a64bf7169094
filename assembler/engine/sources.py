"""Where steps read from: contexts, finished stages, images; and the digests of what they select."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeVar

from assembler.context.base import NOTHING, Context, Digests, Summarised
from assembler.engine import content
from assembler.engine.change import Snapshot, base_snapshot
from assembler.engine.selection import Open, Selected, Selection, literally, select
from assembler.engine.services import Services
from assembler.errors import AssemblerError, Cancelled, StepError
from assembler.layer.changeset import Kind
from assembler.layer.tree import EmptyTree, MergedTree, Tree
from assembler.oci.digest import Digest
from assembler.plan import keys
from assembler.plan.keys import Read
from assembler.plan.plan import Plan
from assembler.plan.steps import (
    BindMount,
    ContextOrigin,
    Copy,
    GitSource,
    ImageOrigin,
    Origin,
    Run,
    ScratchOrigin,
    StageOrigin,
    Step,
    UrlSource,
)
from assembler.values import replace, value

if TYPE_CHECKING:
    from assembler.engine.files import Files
    from assembler.engine.realisation import Realisation
    from assembler.plan.differences import Listing

Result = TypeVar("Result")

_MOUNTED = "file"
"""What a file is called in the directory that a mount shows it from."""

StageIdentity = Callable[[int], Digest | None]
"""The identity of a finished stage, None while it is not known."""


@value
class Bound:
    """What a bind mount shows: the COPY that would take it, its files, and their digest. `files` are
    those that were looked at for it."""

    copy: Copy
    selection: Selection
    digest: Digest
    files: Files


class Sources:
    """Opens origins. Selections of the context are hashed once, however often they are asked for."""

    def __init__(self, plan: Plan, services: Services) -> None:
        self._plan = plan
        self._services = services
        self._lock = threading.Lock()
        self._digests: dict[tuple[object, ...], Digest] = {}
        self._listed: dict[tuple[object, ...], Selection] = {}

    def context(self, origin: ContextOrigin, step: Step) -> Context:
        """The context named by `origin`. Raises StepError when the build has none."""
        context = self._services.contexts.get(origin.name)
        if context is None:
            raise StepError(
                f"there is no build context to take files from for {step.name}",
                step.span,
                hint="give a directory as the last argument of `assemble build`",
            )
        return context

    def reads(self, step: Step, stage_identity: StageIdentity) -> tuple[Read, ...] | None:
        """What `step` reads, in order: context files by the digest of those that it selects, stages
        and images as a whole. None while the identity of some of it is not known."""
        found: list[Read] = []
        for origin, copy, named in reads_from(step):
            identity = self._identity(origin, copy, stage_identity, isinstance(step, Run))
            if identity is None:
                return None
            found.append(Read(origin, named, identity))
        for source in step.fetched if isinstance(step, Copy) else ():
            identity = self._fetched(step, source)
            if identity is None:
                return None
            found.append(Read(source, (), identity))
        return tuple(found)

    def _identity(
        self, origin: Origin, copy: Copy, stage_identity: StageIdentity, mounted: bool
    ) -> Digest | None:
        if isinstance(origin, StageOrigin):
            return stage_identity(origin.index)
        if isinstance(origin, ImageOrigin):
            image = self._plan.images.get(origin.image)
            return None if image is None else keys.base_key(image)
        if isinstance(origin, ScratchOrigin):
            return keys.nothing_key()
        return self._context_digest(origin, copy, mounted)

    def _fetched(self, step: Step, source: UrlSource | GitSource) -> Digest | None:
        return at_source(step, source, lambda: self._services.remote.identity(source))

    def select(self, step: Copy, tree: Tree) -> Selection:
        """What `step` selects from `tree`, with the bytes of its files at hand. Raises
        CopySourceMissing."""
        place, fetch = self._place(step.origin), self._opener(step)
        if isinstance(step.origin, ContextOrigin) and step.paths:
            ignored = self.context(step.origin, step).ignored
            return select(step, tree, place=place, ignored=ignored, fetch=fetch)
        selection = select(step, tree, place=place, fetch=fetch)
        if isinstance(tree, MergedTree) and tree.packed:
            from assembler.layer.members import gather

            gather(selection.entries())
        return selection

    def unread(self, step: Copy) -> Selection | None:
        """What `step` selects of a context, where files must be read to learn what identifies it. All
        of it is listed then. Raises CopySourceMissing, and what `digest` raises."""
        if not isinstance(step.origin, ContextOrigin) or step.fetched or not step.paths:
            return None
        key = (step.origin, step.sources, step.exclude, step.parents, step.inline, step.unpack)
        with self._lock:
            selection = self._listed.get(key)
        if selection is None:
            selection = self.select(step, self.context(step.origin, step).tree())
        check = self._services.cancellation.check
        try:
            items = [_listed(one, selection) for one in selection.items]
            unread = [_unread(one, check) for one in items]
        except StepError as error:
            error.place_at(step.span)
            raise
        selection = replace(selection, items=tuple(items))
        with self._lock:
            self._listed[key] = selection
        return selection if any(unread) else None

    def bound(self, bind: BindMount, run: Run, tree: Tree, known: Digest | None = None) -> Bound:
        """What `bind` shows of `tree`; `known` is its digest where somebody has made it. Raises
        what `select` and `digest` raise."""
        from assembler.engine.files import Files

        copy = mount_copy(bind.origin, bind.source, run)
        selection, files = _unnamed(self.select(copy, tree)), Files()
        return Bound(copy, selection, known or self.digest(copy, selection, seen=files.see), files)

    def listed(self, bound: Iterable[Bound]) -> dict[str, Listing]:
        """What mounts show, file by file, by its digests. Raises what `digest` raises."""
        found: dict[str, Listing] = {}
        for one in bound:
            if not one.files.seen:  # whose digest was known without looking at each
                self.digest(one.copy, one.selection, seen=one.files.see)
            found |= one.files.of(one.digest)
        return found

    def listings(self, step: Step) -> dict[str, Listing]:
        """What `step` selects of contexts, file by file, by its digests. Raises what `digest` raises."""
        from assembler.engine.files import Files

        found: dict[str, Listing] = {}
        for origin, copy, _ in reads_from(step):
            if isinstance(origin, ContextOrigin):
                files, copy = Files(), replace(copy, sources=copy.paths)
                selection = self._context_selection(origin, copy, isinstance(step, Run))
                found |= files.of(self.digest(copy, selection, seen=files.see))
        return found

    def digest(
        self,
        step: Copy,
        selection: Selection,
        known: Digests = NOTHING,
        seen: content.Seen | None = None,
    ) -> Digest:
        """What identifies `selection`, of whose files some are `known`, and all are `seen`. Raises
        StepError at `step` for a file that cannot be read, ContextChanged for one that is changing."""
        try:
            return content.digest(selection, self._services.cancellation.check, known, seen)
        except StepError as error:
            error.place_at(step.span)
            raise

    def _place(self, origin: Origin) -> str:
        """What errors call the tree of `origin`; empty for the context, which goes without saying."""
        if isinstance(origin, StageOrigin):
            return f"the stage {self._plan.stage(origin.index).title}"
        if isinstance(origin, ImageOrigin):
            return f"the image {self._plan.images[origin.image].name}"
        name = origin.name if isinstance(origin, ContextOrigin) else ""
        return f"the build context {name}" if name else ""

    def _opener(self, step: Copy) -> Open:
        remote = self._services.remote
        return lambda source: at_source(step, source, lambda: remote.open(source))

    def _context_digest(self, origin: ContextOrigin, step: Copy, mounted: bool) -> Digest:
        # what is fetched has an identity of its own in the key, and is not read here
        step = replace(step, sources=step.paths)
        key = (origin, step.sources, step.exclude, step.parents, step.inline, step.unpack, mounted)
        with self._lock:
            known = self._digests.get(key)
        if known is None:
            known = self.digest(step, self._context_selection(origin, step, mounted))
            with self._lock:
                self._digests[key] = known
        return known

    def _context_selection(self, origin: ContextOrigin, step: Copy, mounted: bool) -> Selection:
        tree = EmptyTree() if not step.sources else self.context(origin, step).tree()
        selection = self.select(step, tree)
        return _unnamed(selection) if mounted else selection


def _unnamed(selection: Selection) -> Selection:
    """`selection` as a mount shows it, at its target whatever it is called elsewhere."""
    items = [
        one if one.entry.kind is Kind.DIRECTORY else replace(one, name=_MOUNTED)
        for one in selection.items
    ]
    return replace(selection, items=tuple(items))


def _listed(item: Selected, selection: Selection) -> Selected:
    """`item` as it is now. A directory of which all is known by one summary is listed by its tree."""
    whole = item.only is None and selection.exclude is None
    return item if whole and isinstance(item.tree, Summarised) else selection.listed(item)


def _unread(item: Selected, check: Callable[[], None]) -> bool:
    """Whether files of `item` may have to be read to learn what they hold."""
    if item.listed is not None:
        return any(below.entry.kind is Kind.FILE for below in item.listed)
    if item.entry.kind is not Kind.DIRECTORY:
        return item.entry.kind is Kind.FILE
    return isinstance(item.tree, Summarised) and item.tree.unread(item.entry.path, check)


def at_source(step: Step, source: UrlSource | GitSource, work: Callable[[], Result]) -> Result:
    """What `work` gives; its failure is blamed on the place of `source` in the Dockerfile."""
    try:
        return work()
    except (Cancelled, StepError):
        raise
    except AssemblerError as error:
        word = source.url if isinstance(source, UrlSource) else source.repository.remote
        raise StepError(error.message, step.span.blame(word), hint=error.hint) from error


def origin_snapshot(origin: ImageOrigin, plan: Plan) -> Snapshot:
    """The layers of an image that files are taken from."""
    return base_snapshot(plan.images[origin.image])


def origin_tree(
    origin: Origin,
    step: Step,
    *,
    plan: Plan,
    sources: Sources,
    realisation: Realisation,
    stage_snapshot: Callable[[int], Snapshot],
) -> Tree:
    """The files of `origin`; waits for a stage that is still being built."""
    if isinstance(origin, StageOrigin):
        return realisation.tree(stage_snapshot(origin.index), keep=True)
    if isinstance(origin, ImageOrigin):
        return realisation.tree(origin_snapshot(origin, plan), keep=True)
    if isinstance(origin, ScratchOrigin) or (isinstance(step, Copy) and not step.paths):
        return EmptyTree()
    return sources.context(origin, step).tree()


def mount_copy(origin: Origin, source: str, run: Run) -> Copy:
    """The COPY that selects what a mount shows: one path, in which no wildcard means anything."""
    return Copy(
        origin=origin,
        sources=(literally(source) or "/",),
        destination="/",
        written=(source.lstrip("/"),),
        span=run.span,
        name=run.name,
    )


def reads_from(step: Step) -> list[tuple[Origin, Copy, tuple[str, ...]]]:
    """Where `step` reads from, the COPY that would select the same, and what is named there."""
    if isinstance(step, Copy):
        return [(step.origin, step, step.paths)]
    if not isinstance(step, Run):
        return []
    binds = step.binds
    return [(one.origin, mount_copy(one.origin, one.source, step), (one.source,)) for one in binds]

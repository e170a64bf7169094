"""What becomes of each step of a build, and why: noted while it runs, for the progress and for the
record of the build (`store.builds`)."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from assembler.engine.recorder import place_of
from assembler.events import Event, VertexDone, VertexFailed, VertexStarted
from assembler.oci.digest import Digest
from assembler.plan.plan import Plan, PlannedStage
from assembler.source import Span
from assembler.store.builds import CACHED, CANCELED, FAILED, RUN, UNNEEDED, StepRecord

if TYPE_CHECKING:
    from assembler.cache.base import Record
    from assembler.engine.nearest import Past
    from assembler.plan.differences import Comparison, Listing
    from assembler.store.builds import BuildRecord, Builds
    from assembler.store.listings import Listings

_EARLIER = 20  # builds that are compared with

Inputs = Callable[[Digest], str]
"""The text of the document recorded under a key, as `cache.base.Record.inputs` is."""
Elsewhere = Callable[[], "Iterable[tuple[str, Mapping[Digest, Record]]]"]
"""Where other caches are, and what they tell of keys."""


class _Note:
    """What is known of a step so far."""

    __slots__ = (
        "because", "differences", "key", "parent", "ran", "seconds", "source", "started", "verdict",
    )  # fmt: skip

    def __init__(self) -> None:
        self.verdict, self.key, self.parent, self.source = UNNEEDED, "", "", ""
        self.started = self.ran = self.seconds = 0.0
        self.because: tuple[Mapping[str, str], ...] = ()
        self.differences = 0


class Ledger:
    """The steps of one build. Its methods may be called from several threads.

    `builds` and `listings` are the store's; without them no step is compared with earlier ones, of
    builds that are `mine` or like this one. `recorded` gives what the cache has of a key, `elsewhere`
    what caches from elsewhere tell, and where they are. `image` is the digest of what was built.
    """

    def __init__(
        self,
        builds: Builds | None = None,
        listings: Listings | None = None,
        recorded: Inputs = lambda key: "{}",
        mine: Callable[[BuildRecord], bool] = lambda build: False,
        warn: Callable[[str], None] = lambda text: None,
        elsewhere: Elsewhere = lambda: (),
    ) -> None:
        self.builds = builds
        self.image = ""
        self._listings = listings
        self._recorded = recorded
        self._mine = mine
        self._warn = warn
        self._elsewhere = elsewhere
        self._plan: Plan | None = None
        self._notes: dict[str, _Note] = {}
        self._inputs: dict[str, str] = {}
        self._past: Past | None = None
        self._guard = threading.Lock()
        self._looking = threading.Lock()

    def begin(self, plan: Plan) -> None:
        """`plan` is what is built now. What ran in an attempt before it stays noted."""
        self._plan = plan

    def __call__(self, event: Event) -> None:
        """Take note of an event of a step."""
        if isinstance(event, VertexStarted):
            with self._guard:
                self._note(event.vertex).started = event.time
        elif isinstance(event, VertexDone | VertexFailed):
            with self._guard:
                self._end(event)

    def _end(self, event: VertexDone | VertexFailed) -> None:
        note = self._note(event.vertex)
        if isinstance(event, VertexFailed):
            note.verdict = CANCELED if event.cancelled else FAILED
        elif event.cached:
            return
        else:
            note.verdict = RUN
        note.seconds = max(0.0, event.time - note.started)

    def _note(self, id: str) -> _Note:
        return self._notes.setdefault(id, _Note())

    def known(self, stage: PlannedStage, number: int, key: Digest, ran: float, source: str) -> None:
        """The result of a step is known by `key`."""
        with self._guard:
            note = self._note(f"{stage.index}/{number}")
            if note.verdict != RUN:  # in an attempt before this one
                note.verdict, note.key = CACHED, str(key)
                note.ran, note.source = ran, place_of(source)
                note.because, note.differences = (), 0

    def missed(
        self,
        stage: PlannedStage,
        number: int,
        key: Digest,
        document: Mapping[str, Any],
        reason: str = "",
        files: Mapping[str, Listing] | None = None,
    ) -> str:
        """A step with the inputs `document` is executed, for `reason` if there is one beside what
        differs; the short text that says why, empty where there is nothing to compare with. `files`
        are those of its selections by their digests."""
        parent = document["parent"]["key"]
        text = json.dumps(document, separators=(",", ":"))
        with self._guard:
            note = self._note(f"{stage.index}/{number}")
            note.key, note.parent = str(key), str(parent)
            note.ran, note.source = 0.0, ""
            self._inputs[str(key)] = text
        own = files or {}
        self._keep(own)
        if self.builds is None:
            return ""
        from assembler.engine.nearest import as_documents
        from assembler.plan.wording import more, words

        comparison = self._why(stage, number, str(key), document, reason, own)
        with self._guard:
            note.because = as_documents(comparison)
            note.differences = comparison.count
        first = comparison.found[0]
        if first.what == "first":
            return ""
        return words(first) + more(comparison.count - 1)

    def _why(
        self,
        stage: PlannedStage,
        number: int,
        key: str,
        document: Mapping[str, Any],
        reason: str,
        own: Mapping[str, Listing],
    ) -> Comparison:
        from assembler.engine.nearest import Place
        from assembler.plan.differences import Comparison, Difference

        if reason:
            return Comparison((Difference(reason),), 1)
        with self._looking:
            if self._past is None:
                self._past = self._read_past()
            place = Place(stage.title, [step.name for step in stage.steps], number)
            found = self._past.nearest(place, key, document, own)
        if found.comparison.count:
            return found.comparison
        return Comparison((Difference(_without_difference(found.step, key)),), 1)

    def _read_past(self) -> Past:
        from assembler.engine.nearest import Past, as_build

        assert self.builds is not None
        documents = Documents(self.builds, self._recorded)
        builds = list(self.builds.telling(_EARLIER))
        shared = {
            f"{number} {place}": {str(key): record.inputs for key, record in records.items()}
            for number, (place, records) in enumerate(self._elsewhere())
        }
        documents.known |= shared
        builds += [as_build(id, inputs) for id, inputs in shared.items()]
        listings, mine = self._listings, self._mine
        files = (lambda digest: None) if listings is None else listings.load
        return Past(builds, documents, files, lambda build: build.id in shared or mine(build))

    def _keep(self, files: Mapping[str, Listing]) -> None:
        listings = self._listings  # another thread may give them up meanwhile
        if listings is None:
            return
        try:
            for digest, listing in files.items():
                listings.save(digest, listing)
        except OSError as error:
            self._listings = None  # it is said once
            self._warn(f"what a COPY selected cannot be remembered: {error.strerror}")

    def ended(self, span: Span | None) -> None:
        """The build failed at `span`: the step there failed, if none did that had begun."""
        if self._plan is None or span is None:
            return
        with self._guard:
            if any(note.verdict == FAILED for note in self._notes.values()):
                return
            for stage in self._plan.stages:
                for number, step in enumerate(stage.steps):
                    note = self._note(f"{stage.index}/{number}")
                    there = step.span.source, step.span.start
                    if note.verdict == UNNEEDED and there == (span.source, span.start):
                        note.verdict = FAILED
                        return

    def steps(self) -> tuple[StepRecord, ...]:
        """What became of the steps, in the order of the plan."""
        if self._plan is None:
            return ()
        from assembler.plan.inputs import kind

        found = []
        for stage in self._plan.stages:
            for number, step in enumerate(stage.steps):
                note = self._notes.get(f"{stage.index}/{number}") or _Note()
                found.append(
                    StepRecord(
                        stage=stage.title,
                        number=number,
                        name=step.name,
                        line=step.span.start,
                        kind=kind(step),
                        verdict=note.verdict,
                        key=note.key,
                        parent=note.parent,
                        source=note.source,
                        ran=note.ran,
                        seconds=round(note.seconds, 3),
                        because=note.because,
                        differences=note.differences,
                    )
                )
        return tuple(found)

    @property
    def platform(self) -> str:
        """What is built for, empty while that is not settled."""
        return "" if self._plan is None else str(self._plan.platform)

    def inputs(self) -> dict[str, str]:
        """The inputs of steps that were executed, by their keys."""
        return dict(self._inputs)


class Documents:
    """The inputs of steps of earlier builds: of those that they executed by their records, of others by
    the records of the builds that did, or by the cache."""

    def __init__(self, builds: Builds, recorded: Inputs) -> None:
        self._builds = builds
        self._recorded = recorded
        self.known: dict[str, dict[str, str]] = {}
        """Of builds, by their ids, what is known of the inputs of steps by their keys."""

    def __call__(self, build: BuildRecord, step: StepRecord) -> str | None:
        """The text of the document, None where it is not known any more."""
        if step.verdict != CACHED:
            if build.id not in self.known:
                self.known[build.id] = self._builds.inputs(build.id)
            if step.key in self.known[build.id]:
                return self.known[build.id][step.key]
        try:
            text = self._recorded(Digest.parse(step.key))
        except ValueError:
            return None
        return None if text in ("", "{}") else text


def _without_difference(step: StepRecord | None, key: str) -> str:
    """Why a step ran whose inputs are those of the earlier `step`."""
    if step is None:
        return "unknown"
    if step.verdict in (FAILED, CANCELED):
        return step.verdict
    # a COPY may have been found by another way to the same files
    return "pruned" if step.key == key or step.kind in ("COPY", "ADD") else "unrecorded"

"""What becomes of each step of a build, and why: noted while it runs, for the progress and for the
record of the build (`store.builds`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from assembler.engine.recorder import place_of
from assembler.events import Event, VertexDone, VertexFailed, VertexStarted
from assembler.oci.digest import Digest
from assembler.source import Span
from assembler.store.builds import CACHED, CANCELED, FAILED, RUN, UNNEEDED, StepRecord

if TYPE_CHECKING:
    from assembler.engine.earlier import Earlier, Files
    from assembler.plan.differences import Comparison, Listing
    from assembler.plan.plan import Plan, PlannedStage
    from assembler.store.listings import Listings


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

    `earlier` gives what steps are compared with, without which none is; what they select is kept in
    `listings`. `image` is the digest of what was built.
    """

    def __init__(
        self,
        earlier: Callable[[], Earlier] | None = None,
        listings: Listings | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.image = ""
        self._find = earlier
        self._listings = listings
        self._warn = warn
        self._plan: Plan | None = None
        self._notes: dict[str, _Note] = {}
        self._inputs: dict[str, str] = {}
        self._earlier: Earlier | None = None
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
        text: str,
        reason: str = "",
        files: Mapping[str, Listing] | None = None,
    ) -> str:
        """A step with the inputs `document`, in JSON `text`, is executed, for `reason` if there is one
        beside what differs; the short text that says why, empty where there is nothing to compare
        with. `files` are those of its selections by their digests."""
        own = files or {}
        with self._guard:
            note = self._note(f"{stage.index}/{number}")
            note.key, note.parent = str(key), str(document["parent"]["key"])
            note.ran, note.source = 0.0, ""
            self._inputs[str(key)] = text
        self._keep(own)
        if self._find is None:
            return ""
        from assembler.engine.nearest import as_documents
        from assembler.plan.differences import Comparison, Difference
        from assembler.plan.wording import more, words

        if reason:
            comparison = Comparison((Difference(reason),), 1)
        else:
            comparison = self.compared(stage, number, key, document, own.get)
            with self._looking:
                if self._earlier is not None:
                    self._earlier.keep()
        with self._guard:
            note.because = as_documents(comparison)
            note.differences = comparison.count
        first = comparison.found[0]
        if first.what == "first":
            return ""
        return words(first) + more(comparison.count - 1)

    def compared(
        self,
        stage: PlannedStage,
        number: int,
        key: Digest,
        document: Mapping[str, Any],
        files: Files,
    ) -> Comparison:
        """See `Earlier.compared`. Nothing of it is noted."""
        if self._find is None:
            from assembler.plan.differences import Comparison, Difference

            return Comparison((Difference("first"),), 1)
        with self._looking:
            if self._earlier is None:
                self._earlier = self._find()
            return self._earlier.compared(stage, number, key, document, files)

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
        targets = () if self._plan is None else self._plan.targets
        return ",".join(str(target.platform) for target in targets)

    def inputs(self) -> dict[str, str]:
        """The inputs of steps that were executed, by their keys."""
        return dict(self._inputs)

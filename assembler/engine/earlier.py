"""What a step is compared with: earlier builds on the store, and what caches from elsewhere tell. They
are read when the first step is compared; nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from assembler.engine.nearest import Past, Place, as_build
from assembler.oci.digest import Digest
from assembler.plan.differences import Comparison, Difference, Listing
from assembler.plan.plan import PlannedStage
from assembler.store.builds import CACHED, CANCELED, FAILED, BuildRecord, Builds, StepRecord
from assembler.values import value

if TYPE_CHECKING:
    from assembler.cache.base import Record

_BUILDS = 20

Inputs = Callable[[Digest], str]
"""The text of the document recorded under a key, as `cache.base.Record.inputs` is."""
Files = Callable[[str], Listing | None]
"""What the selection with a digest holds, None where that is not known."""


@value
class Elsewhere:
    """What other caches tell: where they are and of which keys, and what a selection holds; `keep` has
    the store keep the latter."""

    records: Callable[[], Iterable[tuple[str, Mapping[Digest, Record]]]] = lambda: ()
    files: Callable[[Digest], Listing | None] = lambda selection: None
    keep: Callable[[Digest], object] = lambda selection: None


class Earlier:
    """`builds` and `files` are the store's, `recorded` gives what the cache has of a key. Builds that
    are `mine` count even if they are little like this one. Not for several threads at once."""

    def __init__(
        self,
        builds: Builds,
        files: Files = lambda digest: None,
        recorded: Inputs = lambda key: "{}",
        elsewhere: Elsewhere | None = None,
        mine: Callable[[BuildRecord], bool] = lambda build: False,
    ) -> None:
        self._builds = builds
        self._files = files
        self._recorded = recorded
        self._elsewhere = elsewhere or Elsewhere()
        self._mine = mine
        self._past: Past | None = None
        self._told: set[Digest] = set()

    def compared(
        self,
        stage: PlannedStage,
        number: int,
        key: Digest,
        document: Mapping[str, Any],
        files: Files,
    ) -> Comparison:
        """What differs from the nearest earlier step to step `number` of `stage`, which has the inputs
        `document` and will be known by `key`; why it is not known where nothing does, or where there
        is no such step. Never empty. `files` gives what it selects."""
        if self._past is None:
            self._past = self._read()
        place = Place(stage.title, [step.name for step in stage.steps], number)
        found = self._past.nearest(place, str(key), document, files)
        if found.comparison.count:
            return found.comparison
        return Comparison((Difference(_without_difference(found.step, str(key))),), 1)

    def keep(self) -> None:
        """Have the store keep what others told of selections meanwhile."""
        for selection in self._told:
            self._elsewhere.keep(selection)
        self._told = set()

    def _held(self, digest: str) -> Listing | None:
        """What a selection of an earlier step held."""
        found = self._files(digest)
        if found is not None:
            return found
        try:
            selection = Digest.parse(digest)
        except ValueError:  # in the document of a cache
            return None
        found = self._elsewhere.files(selection)
        if found is not None:
            self._told.add(selection)
        return found

    def _read(self) -> Past:
        documents = Documents(self._builds, self._recorded)
        builds = list(self._builds.telling(_BUILDS))
        shared = {
            f"{number} {place}": {str(key): record.inputs for key, record in records.items()}
            for number, (place, records) in enumerate(self._elsewhere.records())
        }
        documents.known |= shared
        builds += [as_build(id, inputs) for id, inputs in shared.items()]
        mine = self._mine
        return Past(builds, documents, self._held, lambda build: build.id in shared or mine(build))


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
    """Why a step is not known whose inputs are those of the earlier `step`."""
    if step is None:
        return "unknown"
    if step.verdict in (FAILED, CANCELED):
        return step.verdict
    # a COPY may have been found by another way to the same files
    return "pruned" if step.key == key or step.kind in ("COPY", "ADD") else "unrecorded"

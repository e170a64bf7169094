"""The earlier step that one is most like: what `assemble explain` compares a step with.

Candidates are the steps of earlier builds at the same place: in the stage of the same name, where the
texts of both stages are aligned, so that an instruction that came, went or moved does not shift the
others. Of several, as of branches that build on one store, the one with the fewest differences is the
nearest, and the newest of those. Builds of something else, which share few instructions, do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from assembler.plan.differences import (
    ADDED,
    CHANGED,
    REMOVED,
    Comparison,
    Difference,
    Document,
    Listing,
    compare,
    contrasted,
    parse,
    title,
)
from assembler.source import redacted
from assembler.store.builds import BuildRecord, StepRecord
from assembler.values import value

_CLOSEST = 8  # candidates of which files are compared
_KEPT = 20  # differences of a step that its record has
_LONGEST = 1000  # characters of a value in a record
_FIELDS = ("what", "name", "change", "old", "new", "place")


@value
class Found:
    """The nearest earlier step, and what differs from it; None where there is no such step. `earlier`
    says that the store knows earlier builds of the stage."""

    step: StepRecord | None
    comparison: Comparison
    earlier: bool


@dataclass(frozen=True, slots=True)
class Place:
    """Where a step is: in a stage with steps of these names."""

    stage: str
    names: Sequence[str]
    number: int


@dataclass(frozen=True, slots=True)
class _Candidate:
    step: StepRecord
    document: Document
    alignment: _Alignment
    partner: int


@dataclass(slots=True)
class Past:
    """Earlier builds, the last one first. `document` gives the inputs of a step of a build, None where
    they are not known any more; `files` what a selection holds; `mine` says of a build that it surely
    is of the same thing. Not for several threads at once."""

    builds: Sequence[BuildRecord]
    document: Callable[[BuildRecord, StepRecord], str | None]
    files: Callable[[str], Listing | None]
    mine: Callable[[BuildRecord], bool] = lambda build: False
    _alignments: dict[tuple[str, str], _Alignment] = field(default_factory=dict)

    def nearest(self, place: Place, document: Document, own: Mapping[str, Listing]) -> Found:
        """The step nearest to the one at `place` with the inputs `document`; `own` are the files of
        its selections."""

        def files(digest: str) -> Listing | None:
            return own[digest] if digest in own else self.files(digest)

        candidates, earlier, lost = self._candidates(place, document)
        rough = [(compare(one.document, document).count, one) for one in candidates]
        if not rough:
            reason = "unknown" if lost else "new" if earlier else "first"
            return Found(None, Comparison((Difference(reason),), 1), earlier)
        least = min(count for count, _ in rough)
        closest = [one for count, one in rough if count == least][:_CLOSEST]
        compared = [(compare(one.document, document, files), one) for one in closest]
        comparison, best = min(compared, key=lambda pair: pair[0].count)
        return Found(best.step, _refined(comparison, best, place), True)

    def _candidates(
        self, place: Place, document: Document
    ) -> tuple[list[_Candidate], bool, StepRecord | None]:
        """Candidates with different keys; whether there are earlier builds of the stage; and one
        whose inputs are lost."""
        found: dict[str, _Candidate] = {}
        earlier, lost = False, None
        for build in self.builds:
            alignment = self._alignment(build, place)
            if not alignment.steps:
                continue
            earlier = True
            partner = alignment.partner(place.number)
            step = None if partner is None else alignment.steps[partner]
            if step is None or partner is None or not step.key or step.kind != document.get("kind"):
                continue
            if step.key in found:
                continue
            text = self.document(build, step)
            parsed = None if text is None else parse(text)
            if parsed is None:
                lost = lost or step
                continue
            found[step.key] = _Candidate(step, parsed, alignment, partner)
        return list(found.values()), earlier, lost

    def _alignment(self, build: BuildRecord, place: Place) -> _Alignment:
        key = build.id, place.stage
        if key not in self._alignments:
            self._alignments[key] = _Alignment.of(build, place, self.mine(build))
        return self._alignments[key]


@dataclass(frozen=True, slots=True)
class _Alignment:
    """An earlier stage's steps, and which of them stands where a step stands now."""

    steps: Sequence[StepRecord]
    partners: Mapping[int, int]

    @classmethod
    def of(cls, build: BuildRecord, place: Place, mine: bool) -> _Alignment:
        """The stage of `build` that is called as `place` is, else the one that has most of its
        instructions, if there is one with any; without `mine` it must have half of them."""
        stages: dict[str, list[StepRecord]] = {}
        for step in build.steps:
            stages.setdefault(step.stage, []).append(step)
        steps = stages.get(place.stage)
        now = list(map(title, place.names))
        if steps is None:
            same = {name: _common(one, now) for name, one in stages.items()}
            best = max(same, key=lambda name: same[name], default="")
            steps = stages[best] if same.get(best) else []
        if not mine and 2 * _common(steps, now) < len(set(now)):
            steps = []
        return cls(steps, _aligned([title(one.name) for one in steps], now))

    def partner(self, number: int) -> int | None:
        """The number of the earlier step in the place of `number`, None where there was none."""
        return self.partners.get(number)


def _common(steps: Iterable[StepRecord], names: Sequence[str]) -> int:
    return len({title(step.name) for step in steps} & set(names))


def _aligned(old: Sequence[str], new: Sequence[str]) -> dict[int, int]:
    """Of each line of `new` the one of `old` that it is, or that it takes the place of: among lines
    that were replaced, the nth of an instruction that of the nth of the same."""
    if old == new:
        return dict(zip(range(len(new)), range(len(old)), strict=True))
    from difflib import SequenceMatcher

    found: dict[int, int] = {}
    for tag, start, end, first, last in SequenceMatcher(None, old, new, False).get_opcodes():
        if tag == "equal":
            found |= zip(range(first, last), range(start, end), strict=True)
        elif tag == "replace":
            left = list(range(start, end))
            for number in range(first, last):
                kind = new[number].partition(" ")[0]
                alike = next((one for one in left if old[one].partition(" ")[0] == kind), None)
                if alike is not None:
                    found[number] = alike
                    left = [one for one in left if one > alike]
    return found


def _refined(comparison: Comparison, best: _Candidate, place: Place) -> Comparison:
    """With the step below said to be new, or to be gone, where that is what happened to it."""
    if not comparison.found or comparison.found[0].what != "step" or not place.number:
        return comparison
    first = comparison.found[0]
    below = best.alignment.partner(place.number - 1)
    if below is None:
        first = replace(first, change=ADDED)
    elif below < best.partner - 1:
        first = replace(first, change=REMOVED, old=best.alignment.steps[best.partner - 1].name)
    else:
        first = replace(first, change=CHANGED)
    return Comparison((first, *comparison.found[1:]), comparison.count)


def as_documents(comparison: Comparison) -> tuple[dict[str, str], ...]:
    """The first differences as records have them, without the passwords of URLs."""
    return tuple(_document(one) for one in comparison.found[:_KEPT])


def _document(one: Difference) -> dict[str, str]:
    old, new = contrasted(redacted(one.old), redacted(one.new), _LONGEST)
    texts = {name: redacted(getattr(one, name)) for name in _FIELDS} | {"old": old, "new": new}
    return {name: text for name, text in texts.items() if text}


def from_document(document: Mapping[str, str]) -> Difference:
    """The difference that a record has."""
    return Difference(**{name: document.get(name, "") for name in _FIELDS})

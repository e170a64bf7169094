"""The earlier step that one is most like: what `assemble explain` compares a step with.

Candidates are the steps of earlier builds at the same place: in the stage of the same name, where the
texts of both stages are aligned, so that an instruction that came, went or moved does not shift the
others. Of several, as of branches that build on one store, the one with the fewest differences is the
nearest, and the newest of those; one of whose files nobody knows how many differ comes last. Builds of
something else, which share few instructions, do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from assembler.plan.alignment import aligned
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
from assembler.store.builds import COMPLETED, RUN, BuildRecord, StepRecord
from assembler.values import value

_CLOSEST = 8  # candidates that differ in one thing, or the files of one, are enough
_KEPT = 20  # differences of a step that its record has
_LONGEST = 300  # characters of a value in a record
_LACKS = ("first", "new", "unreached", "unknown")
"""Why there is nothing to compare with; of several builds the last of these that is so of one."""
_FIELDS = ("what", "name", "change", "old", "new", "place")


@value
class Found:
    """The nearest earlier step, and what differs from it; None where there is no such step, and the
    difference is the reason for that."""

    step: StepRecord | None
    comparison: Comparison


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
    _same: dict[str, StepRecord] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for build in self.builds:
            for step in build.steps:
                if step.key:
                    self._same.setdefault(step.key, step)

    def nearest(
        self,
        place: Place,
        key: str,
        document: Document,
        own: Callable[[str], Listing | None] = lambda digest: None,
    ) -> Found:
        """The step nearest to the one at `place` with the inputs `document`, whose key is `key`;
        `own` gives the files of its selections."""
        if key in self._same:
            return Found(self._same[key], Comparison())

        def files(digest: str) -> Listing | None:
            found = own(digest)
            return self.files(digest) if found is None else found

        rough, lack = self._candidates(place, document)
        if not rough:
            return Found(None, Comparison((Difference(lack),), 1))
        least = min(comparison.count for comparison, _ in rough)
        closest = [pair for pair in rough if pair[0].count == least][:_CLOSEST]
        if any(one.what == "files" for comparison, _ in closest for one in comparison.found):
            closest = [(compare(one.document, document, files), one) for _, one in closest]
        comparison, best = min(closest, key=lambda pair: (_is_vague(pair[0]), pair[0].count))
        return Found(best.step, _refined(comparison, best, place))

    def _candidates(
        self, place: Place, document: Document
    ) -> tuple[list[tuple[Comparison, _Candidate]], str]:
        """Candidates with different keys, and what differs from them, but for files; and why there
        are none in other builds."""
        found: list[tuple[Comparison, _Candidate]] = []
        keys: set[str] = set()
        lack = close = 0
        for build in self.builds:
            alignment = self._alignment(build, place)
            partner = alignment.partner(place.number)
            step = None if partner is None else alignment.steps[partner]
            if step is None or partner is None or step.kind != document.get("kind"):
                lack = max(lack, _LACKS.index("new") if alignment.steps else 0)
            elif not step.key:
                lack = max(lack, _LACKS.index("unreached"))
            elif step.key not in keys:
                text = self.document(build, step)
                parsed = None if text is None else parse(text)
                if parsed is None:
                    lack = _LACKS.index("unknown")
                    continue
                keys.add(step.key)
                comparison = compare(parsed, document)
                found.append((comparison, _Candidate(step, parsed, alignment, partner)))
                close += comparison.count <= 1
                if close == _CLOSEST:
                    break
        return found, _LACKS[lack]

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
        """The stage of `build` that is called as `place` is; where that is no name of a Dockerfile's,
        or there is none, the one that has most of its instructions, if there is one with any. Without
        `mine` it must have half of them."""
        stages: dict[str, list[StepRecord]] = {}
        for step in build.steps:
            stages.setdefault(step.stage, []).append(step)
        now = list(map(title, place.names))
        same: dict[str, int] = {}
        called, best = place.stage in stages, place.stage
        if not called or best.rpartition(" ")[2].startswith("stage-"):
            same = {name: _common(steps, now) for name, steps in stages.items()}
            best = max(same, key=lambda name: (same[name], name == place.stage), default="")
        steps = stages[best] if called or same.get(best) else []
        if not mine and 2 * _common(steps, now) < len(set(now)):
            steps = []
        return cls(steps, aligned([title(one.name) for one in steps], now))

    def partner(self, number: int) -> int | None:
        """The number of the earlier step in the place of `number`, None where there was none."""
        return self.partners.get(number)


def _is_vague(comparison: Comparison) -> bool:
    """Whether files differ, and it is not known which."""
    return any(
        one.what == "files" and not one.name.startswith(("url ", "git "))
        for one in comparison.found
    )


def _common(steps: Iterable[StepRecord], names: Sequence[str]) -> int:
    return len({title(step.name) for step in steps} & set(names))


def _refined(comparison: Comparison, best: _Candidate, place: Place) -> Comparison:
    """With the step below said to be new, or to be gone, where that is what happened to it."""
    if not comparison.found or comparison.found[0].what != "step":
        return comparison
    first = comparison.found[0]
    below = best.alignment.partner(place.number - 1)
    if not place.number:  # it is the first of its stage now
        first = replace(first, change=REMOVED)
    elif below is None:
        first = replace(first, change=ADDED)
    elif below < best.partner - 1:
        first = replace(first, change=REMOVED, old=best.alignment.steps[best.partner - 1].name)
    else:
        first = replace(first, change=CHANGED)
    return Comparison((first, *comparison.found[1:]), comparison.count)


def as_build(id: str, inputs: Mapping[str, str]) -> BuildRecord:
    """What a shared cache tells of steps, by their keys, as if one build had made all of it."""
    steps: dict[tuple[str, int], StepRecord] = {}
    for key, text in sorted(inputs.items()):
        match parse(text):
            case {
                "stage": str() | int() as told,
                "number": int() as number,
                "step": str() as name,
                "kind": str() as kind,
            }:
                stage = told if isinstance(told, str) else f"stage-{told}"
                step = StepRecord(
                    stage=stage, number=number, name=name, line=0, kind=kind, verdict=RUN, key=key
                )
                steps.setdefault((stage, number), step)
    made = tuple(steps[place] for place in sorted(steps))
    return BuildRecord(id=id, started=0.0, seconds=0.0, status=COMPLETED, steps=made)


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

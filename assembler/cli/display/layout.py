"""A board as the lines of a terminal, be it short or narrow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from assembler.cli.display.board import CACHED, DONE, ERROR, RUNNING, Board, Work
from assembler.cli.display.cells import cut, row
from assembler.cli.display.lines import LINES, OUTPUT, Line, below, details, elapsed, head, header
from assembler.source import printable
from assembler.values import field, mutable

_BLOBS = 8  # lines of blobs below each that are on their way


@mutable
class _Block:
    """What is shown of one vertex or of several that are over."""

    head: Line
    over: bool
    stage: str
    details: list[Line]
    moving: list[Line] = field(default_factory=list)
    members: list[Work] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return 1 + len(self.details) + len(self.moving)

    @property
    def lines(self) -> Iterator[Line]:
        yield self.head
        yield from self.details
        yield from self.moving


def present(
    board: Board, columns: int, rows: int, now: float, title: str, output: int = LINES
) -> list[Line]:
    """At most `rows` lines of `columns`, with up to `output` lines of each step that runs. Where
    there is no room, first steps of a stage that are done become one line, then there is less
    output, then only some of what runs is shown."""
    room = max(0, rows - 1)
    running = sum(not work.over for work in board.works.values())
    output = min(output, max(0, room - running))
    blocks = [_block(work, columns, now, output) for work in board.works.values()]
    _fit(blocks, room, columns)
    lines = [line for block in blocks for line in block.lines]
    if len(lines) > room:
        lines = _first(blocks, room, columns)
    return [header(board, columns, now, title), *lines]


def _block(work: Work, columns: int, now: float, output: int) -> _Block:
    if work.over:
        if work.lines is None or work.lines[0] != columns:
            work.lines = columns, [head(work, columns, now), *details(work, columns)]
        return _Block(work.lines[1][0], True, work.stage, work.lines[1][1:], members=[work])
    moving = [work.waiting] if work.waiting else []
    blobs = [printable(transfer.live()) for transfer in work.moving.values()]
    if len(blobs) > _BLOBS:  # what comes first goes first where there is less room
        blobs = [f"… {len(blobs) - _BLOBS + 1} others", *blobs[: _BLOBS - 1]]
    moving += blobs
    lines = [below(text, columns, RUNNING) for text in moving]
    if work.tail is not None and output:
        lines += [below(f"# {text}", columns, OUTPUT) for text in work.tail.lines(output)]
    return _Block(head(work, columns, now), False, work.stage, details(work, columns), lines)


def _fit(blocks: list[_Block], room: int, columns: int) -> None:
    """Make `blocks` smaller until they have `room`, or all is done that leaves a line of each that
    runs."""
    excess = sum(block.rows for block in blocks) - room
    for over in (True, False):
        for block in blocks:
            if excess > 0 and block.over == over and block.head[1] != ERROR:
                excess -= len(block.details)
                block.details = []
    groups: dict[str, list[_Block]] = {}
    for block in filter(_folds, blocks):
        groups.setdefault(block.stage, []).append(block)
    folded = []
    for group in groups.values():
        if excess > 0 and len(group) > 1:
            folded.append(group)
            excess -= len(group) - 1
    _fold(blocks, folded, columns)
    if excess > 0:
        excess -= _trim([block for block in blocks if not block.over], excess)
    if excess > 0:
        _fold(blocks, [list(filter(_folds, blocks))], columns)


def _folds(block: _Block) -> bool:
    """Whether it may be shown with others: what ended well."""
    return block.head[1] in (DONE, CACHED)


def _fold(blocks: list[_Block], groups: Iterable[list[_Block]], columns: int) -> None:
    """Show each of `groups` of `blocks` as one, in the place of its first."""
    found = [group for group in groups if len(group) > 1]
    ones = {id(group[0]): _together(group, columns) for group in found}
    gone = {id(block) for group in found for block in group[1:]}
    blocks[:] = [ones.get(id(block), block) for block in blocks if id(block) not in gone]


def _together(group: Sequence[_Block], columns: int) -> _Block:
    members = [work for block in group for work in block.members]
    cached = sum(work.state == CACHED for work in members)
    stages = {block.stage for block in group}
    stage = "".join(stages) if len(stages) == 1 else ""
    said = f" => [{stage}] " if stage else " => "
    said += f"{len(members)} steps done{f', {cached} cached' if cached else ''}"
    taken = max(work.ended for work in members) - min(work.started for work in members)
    line = row(said, elapsed(taken), columns)
    return _Block((line, DONE), True, stage, [], members=members)


def _trim(blocks: Sequence[_Block], excess: int) -> int:
    """Leave the last lines below each that runs, as many of each, so that there are `excess` fewer
    if there are so many; how many lines that spares."""
    counts = [len(block.moving) for block in blocks]
    most = max(counts, default=0)
    while most and sum(max(0, count - most) for count in counts) < excess:
        most -= 1
    spare = sum(max(0, count - most) for count in counts) - excess
    spared = 0
    for block in reversed(blocks):
        kept = most + 1 if spare > 0 and len(block.moving) > most else most
        spare -= kept > most
        gone = max(0, len(block.moving) - kept)
        del block.moving[:gone]
        spared += gone
    return spared


def _first(blocks: Iterable[_Block], room: int, columns: int) -> list[Line]:
    """The most important lines where there is not even one for each that runs."""
    heads = [block.head for block in blocks if not _folds(block)]
    if len(heads) > room > 1:
        more = cut(f" => … and {len(heads) - room + 1} more", columns), RUNNING
        return [*heads[: room - 1], more]
    return heads[:room]

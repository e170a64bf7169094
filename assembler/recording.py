"""The record of a build: what became of its steps, and what went into them, kept in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from assembler.engine.ledger import Ledger
from assembler.errors import Cancelled, NotCached, StepError
from assembler.oci.reference import Reference
from assembler.request import BuildRequest
from assembler.store import builds
from assembler.store.store import Store

if TYPE_CHECKING:
    from assembler.engine.earlier import Earlier, Elsewhere, Inputs


def earlier(
    store: Store, names: Sequence[Reference], place: str, inputs: Inputs, elsewhere: Elsewhere
) -> Earlier:
    """What steps of a build under `names` are compared with. Builds of the same `place`, if it is
    known, are of the same Dockerfile and context. See `Earlier` for the others."""
    from assembler.engine.earlier import Earlier

    tags = _tags(names)
    load = store.listings.load
    return Earlier(store.builds, load, inputs, elsewhere, lambda build: build.is_of(place, tags))


@contextmanager
def recording(
    request: BuildRequest,
    names: Sequence[Reference],
    place: str,
    *,
    id: str,
    store: Store,
    compared_with: Callable[[], Earlier],
    warn: Callable[[str], None],
    clock: Callable[[], float],
) -> Iterator[Ledger]:
    """The ledger of the build `id` of `request` under `names` in `place`, its steps `compared_with`
    earlier ones. A record is kept when the block ends, however that is; but none of a build that was not to
    do anything, and did not."""
    started, status = clock(), builds.ERROR
    ledger = Ledger(compared_with, store.listings, warn)
    try:
        yield ledger
        status = builds.COMPLETED
    except (Cancelled, KeyboardInterrupt):
        status = builds.CANCELED
        raise
    except NotCached:
        status = ""
        raise
    except StepError as error:
        ledger.ended(error.span)
        raise
    finally:
        if status:
            record = builds.BuildRecord(
                id=id,
                started=started,
                seconds=round(max(0.0, clock() - started), 3),
                status=status,
                dockerfile=request.dockerfile.source.name,
                target=request.target,
                platform=ledger.platform,
                tags=_tags(names),
                image=ledger.image if status == builds.COMPLETED else "",
                place=place,
                steps=ledger.steps(),
            )
            try:
                store.builds.write(record, ledger.inputs())
            except OSError as error:
                warn(f"no record of this build can be kept: {error.strerror}")


def _tags(names: Sequence[Reference]) -> tuple[str, ...]:
    return tuple(name.familiar for name in names)

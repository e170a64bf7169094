"""The record of a build: what became of its steps, and what went into them, kept in the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from assembler.engine.ledger import Elsewhere, Inputs, Ledger
from assembler.errors import Cancelled, StepError
from assembler.oci.reference import Reference
from assembler.request import BuildRequest
from assembler.store import builds
from assembler.store.store import Store


@contextmanager
def recording(
    request: BuildRequest,
    names: Sequence[Reference],
    place: str,
    *,
    store: Store,
    inputs: Inputs,
    elsewhere: Elsewhere,
    warn: Callable[[str], None],
    clock: Callable[[], float],
) -> Iterator[Ledger]:
    """The ledger of a build of `request` under `names`, of which a record is kept when the block ends,
    however that is. Builds of the same `place`, if it is known, are of the same Dockerfile and context.
    For `inputs` and `elsewhere` see `Ledger`."""
    started, status = clock(), builds.ERROR
    id, tags = builds.new_id(), tuple(name.familiar for name in names)
    ledger = Ledger(
        store.builds,
        store.listings,
        inputs,
        lambda build: build.is_of(place, tags),
        warn,
        elsewhere,
    )
    try:
        yield ledger
        status = builds.COMPLETED
    except (Cancelled, KeyboardInterrupt):
        status = builds.CANCELED
        raise
    except StepError as error:
        ledger.ended(error.span)
        raise
    finally:
        record = builds.BuildRecord(
            id=id,
            started=started,
            seconds=round(max(0.0, clock() - started), 3),
            status=status,
            dockerfile=request.dockerfile.source.name,
            target=request.target,
            platform=ledger.platform,
            tags=tags,
            image=ledger.image if status == builds.COMPLETED else "",
            place=place,
            steps=ledger.steps(),
        )
        try:
            store.builds.write(record, ledger.inputs())
        except OSError as error:
            warn(f"no record of this build can be kept: {error.strerror}")

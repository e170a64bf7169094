"""One image to several outputs at once; what can go there before it is finished does."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from assembler.cancellation import NOTICING, Cancellation
from assembler.engine.recorder import Vertex, vertex
from assembler.errors import AssemblerError, BlobCorrupt, Cancelled
from assembler.events import Sink
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Result

if TYPE_CHECKING:
    from concurrent.futures import Future

    from assembler.layer.tree import Tree
    from assembler.oci.platform import Platform
    from assembler.output.base import Blobs, FilesOutput, Output, Refused
    from assembler.store.growing import Growing


class Delivery:
    """Brings an image to `outputs`. Use it with `with`, around the build of the image.

    It is the engine's `Destination`. When no output is left that could be written, `cancellation` is
    used to end the build, and the block ends with what the outputs said. When the block ends, no
    thread is left.
    """

    def __init__(
        self,
        outputs: Sequence[Output],
        blobs: Blobs,
        *,
        sink: Sink,
        clock: Callable[[], float],
        cancellation: Cancellation,
    ) -> None:
        self._opener = blobs
        self._cancellation = cancellation
        self._guard = threading.Lock()
        self._opening: dict[Digest, threading.Lock] = defaultdict(threading.Lock)
        self._refusals: dict[str, Exception] = {}
        self._hopeless = self._over = False
        self._routes = [
            _Route(output, self._open, partial(self._refused, output.name), sink, clock)
            for output in outputs
        ]

    def announce(self) -> None:
        """See `engine.services.Destination.announce`."""
        for route in self._routes:
            route.announce()

    def layer(self, layer: Descriptor) -> None:
        """See `engine.services.Destination.layer`."""
        for route in self._routes:
            route.layer(layer)

    def growing(self, blob: Growing) -> None:
        """See `engine.services.Destination.growing`."""
        for route in self._routes:
            route.growing(blob)

    def write(self, image: Result) -> None:
        """Write `image` to every output. When one fails the others are completed. Raises the
        failure, with those of others named in it, by what outputs raise."""
        if len(self._routes) < 2:
            failures = [route.write(image, self._cancellation) for route in self._routes]
        else:
            failures = self._at_once(image)
        self._over = True
        _raise_one(list(filter(None, failures)))

    def _at_once(self, image: Result) -> list[Exception | None]:
        from concurrent.futures import ThreadPoolExecutor, wait

        with ThreadPoolExecutor(len(self._routes), "output") as pool:
            futures: list[Future[Exception | None]] = [
                pool.submit(route.write, image, self._cancellation) for route in self._routes
            ]
            while wait(futures, NOTICING).not_done:
                pass
        return [future.result() for future in futures]

    def _open(self, layer: Descriptor) -> BinaryIO:
        """A blob, fetched by one thread if it is not here."""
        with self._guard:
            lock = self._opening[layer.digest]
        with lock:
            return self._opener(layer)

    def _refused(self, output: str, error: Exception) -> None:
        with self._guard:
            self._refusals.setdefault(output, error)
            if len(self._refusals) < len(self._routes) or self._cancellation.cancelled:
                return
            self._hopeless = True
        self._cancellation.cancel()

    def __enter__(self) -> Delivery:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        again = error is None or isinstance(error, BlobCorrupt)  # then it is built again
        if not (again or self._over) and any(route.begun for route in self._routes):
            self._cancellation.cancel()  # what is on its way waits for registries no more
        for route in self._routes:
            route.close(error)
        if error is not None and self._hopeless and not self._cancellation.asked:
            _raise_one(list(self._refusals.values()))


class FilesDelivery:
    """Brings the files of a build's target to `outputs`, one after another, to each once, however often
    it is built again. When one fails the others are completed, and an image too; `end` is called last,
    and raises the failure."""

    def __init__(
        self,
        outputs: Sequence[FilesOutput],
        *,
        sink: Sink,
        clock: Callable[[], float],
        cancellation: Cancellation,
    ) -> None:
        self._left = list(outputs)
        self._sink = sink
        self._clock = clock
        self._cancellation = cancellation
        self._failures: list[Exception] = []

    def write(self, trees: Mapping[Platform, Tree]) -> None:
        """Write `trees`, those of the targets for these platforms, to every output. Raises Cancelled,
        BlobCorrupt and BrokenPipeError."""
        while self._left:
            output = self._left[0]
            try:
                with vertex(output.name, output.name, self._sink, self._clock):
                    output.write(_arranged(trees, output.split), self._cancellation.check)
            except (Cancelled, BlobCorrupt, BrokenPipeError):
                raise
            except Exception as error:  # is raised when the others are done
                self._failures.append(error)
            del self._left[0]

    def end(self) -> None:
        """Raises the failure, with those of others named in it, by what outputs raise."""
        _raise_one(self._failures)


def _arranged(trees: Mapping[Platform, Tree], split: bool) -> Tree:
    """`trees` as one: each in a directory with the name of its platform where that is asked for."""
    from assembler.layer.beside import Beside, Together

    if split:
        return Beside({str(one).replace("/", "_"): tree for one, tree in trees.items()})
    if len(trees) == 1:
        return next(iter(trees.values()))
    return Together({str(one): tree for one, tree in trees.items()})


class _Route:
    """One output, and what progress shows of it from its first layer on."""

    def __init__(
        self,
        output: Output,
        blobs: Blobs,
        refused: Refused,
        sink: Sink,
        clock: Callable[[], float],
    ) -> None:
        self._output = output
        self._blobs = blobs
        self._sink = sink
        self._clock = clock
        self._guard = threading.Lock()
        self._shown = ExitStack()
        self._work: Vertex | None = None
        self._transfer = output.begin(blobs, refused)
        self._ending = ExitStack()
        if self._transfer is not None:
            self._ending.enter_context(self._transfer)

    @property
    def begun(self) -> bool:
        """Whether there is something on its way."""
        return self._work is not None

    def announce(self) -> None:
        if self._transfer is not None:
            self._transfer.announce()

    def layer(self, layer: Descriptor) -> None:
        if self._transfer is not None:
            self._show()
            self._transfer.layer(layer)

    def growing(self, blob: Growing) -> None:
        if self._transfer is not None:
            self._show()
            self._transfer.growing(blob)

    def _show(self) -> Vertex:
        with self._guard:
            if self._work is None:
                name = self._output.name
                self._work = self._shown.enter_context(vertex(name, name, self._sink, self._clock))
            return self._work

    def write(self, image: Result, cancellation: Cancellation) -> Exception | None:
        """What kept the image from being written. Raises Cancelled."""
        work = self._show()
        try:
            if self._transfer is not None:
                written = self._transfer.write(image)
            else:
                written = self._output.write(image, self._blobs, cancellation.check)
            work.detail = str(written.digest)
        except Cancelled:
            raise
        except Exception as error:  # is raised when the others are done
            self._hide(error)
            return error
        self._hide(None)
        return None

    def close(self, error: BaseException | None) -> None:
        """Stop what goes on, and wait for it."""
        self._ending.close()
        self._hide(error)

    def _hide(self, error: BaseException | None) -> None:
        self._shown.__exit__(
            None if error is None else type(error),
            error,
            None if error is None else error.__traceback__,
        )


def _raise_one(failures: Sequence[Exception]) -> None:
    """Raise the first of `failures`, if there is one; it says of the others what they are."""
    if not failures:
        return
    first, others = failures[0], failures[1:]
    if others and isinstance(first, AssemblerError):
        first.message = "; ".join(map(str, failures))
    raise first

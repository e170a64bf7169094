"""Layers on their way to registries before the image that has them is finished (decision 9)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

from assembler.cancellation import NOTICING
from assembler.errors import Cancelled, NotFound, Unauthorized
from assembler.oci.descriptor import Descriptor
from assembler.oci.digest import Digest
from assembler.oci.reference import Reference
from assembler.output.base import Blobs, Refused
from assembler.registry.client import RegistryClient
from assembler.registry.destination import Destination
from assembler.registry.parallel import JOBS
from assembler.registry.push import Sources, destinations, neighbours
from assembler.registry.source import Stored
from assembler.registry.upload import upload
from assembler.store.growing import Growing
from assembler.store.uploads import Uploads

Progress = Callable[[str, int, int], None]
"""Told the name of a blob, its bytes that went, and how many it has, 0 while nobody knows."""


class Sending:
    """Sends layers to the repository of `reference` by at most `JOBS` threads.

    A layer whose digest is known is looked for, mounted or sent; one that grows is sent as it does.
    What fails in passing is left to whoever sends the image; an error that will not pass is told to
    `refused`.
    """

    def __init__(
        self,
        client: RegistryClient,
        reference: Reference,
        *,
        blobs: Blobs,
        mount_from: Sources,
        uploads: Uploads | None,
        progress: Progress,
        refused: Refused,
    ) -> None:
        self._client = client
        self._reference = reference
        self._blobs = blobs
        self._mount_from = mount_from
        self._uploads = uploads
        self._progress = progress
        self._refused = refused
        self.repository = reference.repository
        self._guard = threading.Lock()
        self._stopped = threading.Event()
        self._pool: ThreadPoolExecutor | None = None
        self._layers: dict[Digest, Future[None]] = {}
        self._streams: list[tuple[Growing, Future[None]]] = []

    def layer(self, layer: Descriptor) -> None:
        """See `output.base.Transfer.layer`. A layer that was sent as it grew is not sent again."""
        with self._guard:
            if layer.digest in self._layers:
                return
            for blob, sent in self._streams:
                if blob.blob is not None and blob.blob.digest == layer.digest:
                    self._layers[layer.digest] = sent
                    return
            self._layers[layer.digest] = self._start(partial(self._send, layer))

    def growing(self, blob: Growing) -> None:
        """See `output.base.Transfer.growing`."""
        with self._guard:
            name = f"layer {len(self._streams) + 1}"
            self._streams.append((blob, self._start(partial(self._stream, blob, name))))

    def sent(self, layer: Descriptor) -> bool:
        """Whether `layer` went there, once that has ended; False for one that nobody told of."""
        with self._guard:
            future = self._layers.get(layer.digest)
        return future is not None and future.exception() is None

    def stop(self) -> None:
        """Give up what has not ended."""
        self._stopped.set()
        for future in self._futures:
            future.cancel()

    def close(self) -> None:
        """Wait until no thread is left, with a look at signals meanwhile."""
        waiting = set(self._futures)
        while waiting:
            waiting = wait(waiting, NOTICING).not_done
        if self._pool is not None:
            self._pool.shutdown()

    @property
    def _futures(self) -> list[Future[None]]:
        with self._guard:
            return [*self._layers.values(), *(future for _, future in self._streams)]

    def _start(self, work: Callable[[Destination], None]) -> Future[None]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(JOBS, "push")
        return self._pool.submit(self._watched, work)

    def _watched(self, work: Callable[[Destination], None]) -> None:
        try:
            for destination in destinations(self._client, [self._reference], self._uploads):
                self._check()
                work(destination)
        except (NotFound, Unauthorized) as error:
            self._stopped.set()
            self._refused(error)
            raise

    def _check(self) -> None:
        self._client.cancellation.check()
        if self._stopped.is_set():
            raise Cancelled("a layer is not needed any more")

    def _told(self, name: str, current: int, total: int) -> None:
        self._check()
        self._progress(name, current, total)

    def _send(self, layer: Descriptor, destination: Destination) -> None:
        with self._guard:  # whoever is asked may have to learn first
            names = tuple(dict.fromkeys(neighbours(destination, self._mount_from(layer))))
        progress = partial(self._told, str(layer.digest))
        upload(destination, Stored(layer, self._blobs), mount_from=names, progress=progress)

    def _stream(self, blob: Growing, name: str, destination: Destination) -> None:
        upload(destination, blob, progress=partial(self._told, name))

"""Clients of registries for one command, made when one is asked for the first time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from assembler.access import Access
from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.events import Requested, Sink, Warned
from assembler.net.limits import Limits
from assembler.net.retry import RetryPolicy
from assembler.registry.client import RegistryClient
from assembler.registry.configuration import RegistryConfiguration

if TYPE_CHECKING:
    from assembler.net.trace import Exchanged


class RegistryClients:
    """The clients of one command, their configuration read from the environment's files. Threads share
    them. Use it with `with`."""

    def __init__(
        self,
        environment: Environment,
        access: Access,
        sink: Sink,
        cancellation: Cancellation,
        clock: Callable[[], float],
    ) -> None:
        self._environment = environment
        self._access = access
        self._sink = sink
        self._cancellation = cancellation
        self._clock = clock
        self._stack = ExitStack()
        self._connecting = threading.Lock()
        self._usual: RegistryClient | None = None
        self._impatient: RegistryClient | None = None
        self._discreet: RegistryClient | None = None

    def __enter__(self) -> RegistryClients:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def usual(self) -> RegistryClient:
        """The client for what the command needs."""
        with self._connecting:
            if self._usual is None:
                client = self._made(None, lambda text: self._sink(Warned(text, self._clock())))
                self._usual = self._stack.enter_context(client)
            return self._usual

    @property
    def impatient(self) -> RegistryClient:
        """A client for what the build can do without: it tries again once, does not wait long, and
        says nothing of it."""
        with self._connecting:
            if self._impatient is None:
                asked = self._access.retries is not None
                policy = None if asked else RetryPolicy(tries=2, budget=10.0)
                limits = Limits(connect=5.0, handshake=5.0, head=15.0, window=15.0)
                client = self._made(policy, lambda text: None, limits)
                self._impatient = self._stack.enter_context(client)
            return self._impatient

    @property
    def discreet(self) -> RegistryClient:
        """A client for what is left behind when a build is done: it tries as often as the usual one,
        but begins no try after a minute, and says nothing of it."""
        with self._connecting:
            if self._discreet is None:
                asked = self._access.retries is not None
                policy = None if asked else RetryPolicy(budget=60.0)
                client = self._made(policy, lambda text: None)
                self._discreet = self._stack.enter_context(client)
            return self._discreet

    @contextmanager
    def hasty(self, limit: Cancellation) -> Iterator[RegistryClient]:
        """A client for what nobody would miss: it asks once, until `limit` is cancelled."""
        # A mirror that is down leaves time for the registry.
        limits = Limits(connect=2.0, handshake=2.0)
        with self._made(RetryPolicy(tries=1), lambda text: None, limits, limit) as client:
            yield client

    def _made(
        self,
        policy: RetryPolicy | None,
        warn: Callable[[str], None],
        limits: Limits | None = None,
        cancellation: Cancellation | None = None,
    ) -> RegistryClient:
        configuration = RegistryConfiguration.read(
            self._environment, frozenset(self._access.insecure), self._access.tls_verify
        )
        return RegistryClient(
            self._environment,
            configuration,
            access=self._access,
            cancellation=cancellation or self._cancellation,
            policy=policy,
            limits=limits,
            warn=warn,
            trace=self._told if self._access.debug else None,
        )

    def _told(self, request: Exchanged) -> None:
        self._sink(Requested(str(request), self._clock()))

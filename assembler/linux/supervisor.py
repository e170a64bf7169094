"""Owners and device nodes for the processes of a sandbox, where the kernel cannot make them.

In a user namespace of one id chown(2) to anybody else fails, and nobody else can be. The processes
run under a seccomp filter that passes such calls to the sandbox's first process, which carries them
out in records (`ownership`) and answers (seccomp_unotify(2), rootless-runtime.md 5 a2):

- chown and its family record the owner, stat tells it where it is not 0:0 (`owner_calls`);
- what a process creates belongs to its file-system ids, and to the group of a set-group-id
  directory; mknod of a device makes an empty file with a record (`create_calls`);
- set*id and get*id change and tell `Credentials`, which children inherit and programs keep; a
  program with set-id bits gives its owner's ids (`caller_credentials`).

With a full id map only device nodes need this.

Nothing else is emulated: whoever calls himself app can still read and change what belongs to root,
though not create files beside it. A signal whose handler lacks SA_RESTART can interrupt a call that
nothing else could (EINTR).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from functools import cached_property

from assembler.linux import allowed_calls, syscalls
from assembler.linux.caller_credentials import CallerCredentials
from assembler.linux.callers import BY_KERNEL, Answer, Answering, ByKernel, Call, Callers
from assembler.linux.create_calls import CreateCalls
from assembler.linux.credentials import Credentials
from assembler.linux.file_owners import FileOwners
from assembler.linux.job import SetupFailed
from assembler.linux.owner_calls import OwnerCalls
from assembler.linux.owner_filter import Ownership
from assembler.linux.ownership import Owner


class Supervisor:
    """Answers the calls that come from `listener`. It lives in the first process of the sandbox's
    pid namespace, whose root is that of the payload and whose /proc is the namespace's own.

    `initial` are the credentials of a process that has not changed them. `upper` is a descriptor of
    the overlay's upper directory, -1 for none. `below` are the owners of the links and FIFOs of
    lower layers. `kept` is what the filter was made for. `apart` says that processes may have mounts
    or a root of their own.

    With `container` the filter was made for a program that makes a container, crun perhaps. Its own
    calls are the kernel's: to it a device node has to be one. The payload is whoever executes a
    program in another root than ours (with a full map: asks for a device there), and what comes of
    it; with the first such call this process takes the container's mounts for its own.
    """

    def __init__(
        self,
        listener: int,
        initial: Credentials,
        upper: int = -1,
        below: Mapping[str, Owner] | None = None,
        *,
        kept: Ownership = Ownership.SUPERVISED,
        apart: bool = False,
        container: bool = False,
    ) -> None:
        # With a full map chroot(2) is the kernel's, and so rare are device nodes.
        self._callers = Callers(listener, apart=apart, chrooted=kept is Ownership.MAPPED)
        self._credentials = CallerCredentials(self._callers, initial, container=container)
        self._owners = FileOwners(self._callers, upper, below or {})
        self._kept = kept
        self._container = container
        self._joined = False
        if not container:
            self._owners.find_links()
        os.umask(0)  # modes are computed from the callers' masks

    def fileno(self) -> int:
        """The listener, readable when a call waits."""
        return self._callers.fileno()

    def answer(self) -> None:
        """Receive one call and answer it; nothing happens when its caller is gone."""
        call = self._callers.receive()
        if call is None:
            return
        try:
            if self._container and not self._is_of_the_payload(call):
                value: Answer = BY_KERNEL
            else:
                value = self._answers[call.number](call)
        except ByKernel:
            self._callers.leave(call)
        except OSError as error:
            self._callers.answer(call, error=error.errno or errno.EIO)
        else:
            if value == BY_KERNEL:
                self._callers.leave(call)
            elif value is not None:
                self._callers.answer(call, value)

    def owners(self) -> dict[str, Owner]:
        """The owners of links and FIFOs in the upper directory, by their paths now."""
        return self._owners.of_links()

    @cached_property
    def _executing(self) -> tuple[int | None, ...]:
        machine = syscalls.machine()
        return tuple(allowed_calls.number(name, machine) for name in ("execve", "execveat"))

    @cached_property
    def _answers(self) -> dict[int, Answering]:
        """What answers the calls, by number; most steps make none where only devices need it."""
        known = (self._callers, self._credentials, self._owners)
        answers = {
            **self._credentials.answers(),
            **OwnerCalls(*known).answers(),
            **CreateCalls(*known, self._kept).answers(),
            "chroot": self._chroot,
        }
        machine = syscalls.machine()
        numbered = ((allowed_calls.number(name, machine), name) for name in answers)
        return {number: answers[name] for number, name in numbered if number is not None}

    def _chroot(self, call: Call) -> int:
        self._callers.chrooted = True
        raise ByKernel

    def _is_of_the_payload(self, call: Call) -> bool:
        if self._kept is Ownership.SUPERVISED:
            if self._credentials.enrolled(call):
                return True
            if call.number not in self._executing or not self._callers.contained(call):
                return False
            self._credentials.enrol(call)
        elif not self._callers.contained(call):
            return False
        if not self._joined:
            try:
                self._callers.join(call)
            except OSError as error:
                self._callers.check(call)
                raise SetupFailed(f"the container's mounts cannot be joined: {error}") from error
            self._joined = True
            self._owners.find_links()
        return True

"""RUN: a process over the stage's layers; what it wrote becomes a layer directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from assembler.engine.concealed import passwords
from assembler.engine.mounts import Mounted
from assembler.engine.services import Sandbox, Services
from assembler.errors import AssemblerError, ProcessFailed, StepError
from assembler.plan.steps import Limit, Run
from assembler.runtime.base import HOSTNAME, Process, Root
from assembler.store.disk import mount_point

if TYPE_CHECKING:
    from assembler.linux.cgroups import Group
    from assembler.masking import Masks

_KILLED = 137  # 128 + SIGKILL
_NOT_EXECUTED = (1, 126, 127)  # of containers, and of shells, when a program is no use
_REMEMBERED = 4096  # bytes of output


def execute(
    step: Run,
    id: str,
    lowers: Sequence[str],
    *,
    sandbox: Sandbox,
    services: Services,
    mounted: Mounted,
    output: Callable[[bytes], None],
    more: bool = False,
) -> None:
    """Run `step` over `lowers`; its upper directory is published as layer directory `id`. `more`
    says that the stage has another such step. No secret is in what `output` gets, nor in errors.

    Raises ProcessFailed for another exit status than 0.
    """
    values = passwords(step.proxies).union(mounted.secrets)
    masks = services.concealed.masks(services.secrets, values)
    with sandbox.snapshotter.prepare(id, lowers) as root, sandbox.groups.step() as group:
        process = _process(step, services, mounted, sandbox.limits, group.groups, more)
        said = _Tail(output)
        try:
            with _masked(masks, said) as shown:
                status = sandbox.runtime.run(
                    process, root, mounted.mounts, shown, services.cancellation
                )
        except StepError as error:  # a user, a limit or a hook of this step
            error.place_at(step.span)
            error.hint = error.hint or group.shortage(killed=True)
            raise
        if status != 0:
            raise ProcessFailed(
                f'process "{" ".join(step.argv)}" did not complete successfully: '
                f"exit code: {status}",
                status,
                step.span,
                hint=group.shortage(status == _KILLED)
                or _full(root.upper)
                or _unexecuted(status, step, root, said, services, masks),
            )


@contextmanager
def _masked(
    masks: Masks | None, output: Callable[[bytes], None]
) -> Iterator[Callable[[bytes], None]]:
    if masks is None:
        yield output
        return
    try:
        with masks.masked(output) as shown:
            yield shown
    except AssemblerError as error:  # which may say what a runtime said
        error.message, error.hint = masks.text(error.message), masks.text(error.hint)
        error.args = (error.message,)
        raise


def _process(
    step: Run,
    services: Services,
    mounted: Mounted,
    limits: tuple[Limit, ...],
    cgroups: tuple[Group, ...],
    more: bool,
) -> Process:
    asked = {limit.name for limit in step.limits}
    return Process(
        argv=step.argv,
        # each name once: of two, runtimes and programs do not take the same one
        env=tuple(dict(step.env + step.proxies + mounted.env).items()),
        cwd=step.cwd,
        user=step.user,
        network=step.network,
        hostname=step.hostname or HOSTNAME,
        insecure=step.security == "insecure",
        add_hosts=services.add_hosts,
        shared_memory=step.shared_memory,
        limits=(*step.limits, *(limit for limit in limits if limit.name not in asked)),
        groups=mounted.groups,
        host_groups=mounted.host_groups,
        hooks=mounted.hooks,
        cgroups=cgroups,
        more=more,
    )


def _unexecuted(
    status: int, step: Run, root: Root, said: _Tail, services: Services, masks: Masks | None
) -> str:
    """A hint when the step failed because a program could not be executed."""
    if status not in _NOT_EXECUTED:
        return ""
    from assembler.engine.refusals import refusal

    told = refusal(status, step, root, said.text, services.host())
    return masks.text(told) if masks is not None else told  # a script may name a secret


class _Tail:
    """The end of what a step says, on its way to `output`."""

    def __init__(self, output: Callable[[bytes], None]) -> None:
        self._output = output
        self._said = b""

    def __call__(self, piece: bytes) -> None:
        self._said = (self._said + piece[-_REMEMBERED:])[-_REMEMBERED:]
        self._output(piece)

    @property
    def text(self) -> str:
        """What it was."""
        return self._said.decode("utf-8", "surrogateescape")


def _full(path: str) -> str:
    """A hint when the step may have failed because nothing could be written any more."""
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize
    if free >= 1 << 20 and (found.f_favail or not found.f_files):
        return ""
    what = "space" if free < 1 << 20 else "inodes"
    return (
        f"no {what} left on the file system of {path} ({mount_point(path)}, {free} bytes free); "
        "`assemble prune` frees what no image needs, or set ASSEMBLE_STORE elsewhere"
    )

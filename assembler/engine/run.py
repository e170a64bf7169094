"""RUN: a process over the stage's layers; what it wrote becomes a layer directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from assembler.engine.services import Sandbox, Services
from assembler.errors import ProcessFailed, Unsupported
from assembler.plan.steps import (
    Run,
    SecretMount,
    TmpfsMount,
)
from assembler.runtime.base import FileContent, Process, RunMount, TemporaryFiles

StageDirectories = Callable[[int], tuple[str, ...]]
"""The layer directories of a finished stage, topmost first."""


def execute(
    step: Run,
    id: str,
    lowers: Sequence[str],
    *,
    sandbox: Sandbox,
    services: Services,
    mounts: StageDirectories,
    output: Callable[[bytes], None],
) -> None:
    """Run `step` over `lowers`; its upper directory is published as layer directory `id`.

    Raises ProcessFailed for another exit status than 0, and Unsupported for a mount that this
    version cannot provide.
    """
    env, run_mounts = _mounts(step, services)
    process = Process(
        argv=step.argv,
        env=step.env + step.proxies + env,
        cwd=step.cwd,
        user=step.user,
        network=step.network,
        add_hosts=services.add_hosts,
    )
    with sandbox.snapshotter.prepare(id, lowers) as root:
        status = sandbox.runtime.run(process, root, run_mounts, output, services.cancellation)
        if status != 0:
            raise ProcessFailed(
                f'process "{" ".join(step.argv)}" did not complete successfully: '
                f"exit code: {status}",
                status,
                step.span,
            )


def _mounts(
    step: Run, services: Services
) -> tuple[tuple[tuple[str, str], ...], tuple[RunMount, ...]]:
    if step.security != "sandbox":
        raise Unsupported(f"RUN --security={step.security} is not supported yet", step.span)
    mounts: list[RunMount] = [
        FileContent(f"/dev/pipes/{name}", text.encode("utf-8", "surrogateescape"), 0o755)
        for name, text in step.scripts
    ]
    env: list[tuple[str, str]] = []
    for mount in step.mounts:
        if isinstance(mount, TmpfsMount):
            mounts.append(TemporaryFiles(mount.target, mount.size))
        elif isinstance(mount, SecretMount):
            _secret(mount, step, services, env, mounts)
        else:
            kind = type(mount).__name__.removesuffix("Mount").lower()
            raise Unsupported(f"RUN --mount=type={kind} is not supported yet", step.span)
    return tuple(env), tuple(mounts)


def _secret(
    mount: SecretMount,
    step: Run,
    services: Services,
    env: list[tuple[str, str]],
    mounts: list[RunMount],
) -> None:
    value = services.secrets.get(mount.id)
    if value is None:
        if mount.required:
            raise ProcessFailed(f"secret {mount.id}: not found", 1, step.span)
        return
    content = value()
    if mount.env:
        env.append((mount.env, content.decode("utf-8", "surrogateescape")))
    if mount.target:
        mounts.append(FileContent(mount.target, content, mount.mode, mount.uid, mount.gid))

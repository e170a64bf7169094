"""CDI hooks, the same for every runtime: before a step, on a root of its own (rule M12).

BuildKit leaves them to runc, and what they write (ld.so.cache, symlinks) becomes part of the
image. Here they write into a layer that only the step sees, so no image depends on the host's
drivers. Hooks of other stages would have to run inside the container, unconfined, or at its end,
where a failure comes too late: a step that has one is refused.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence

from assembler.cancellation import Cancellation
from assembler.errors import HostError, StepError
from assembler.linux import zygote
from assembler.linux.hooks import HooksJob, HostProgram
from assembler.linux.job import Job, Setting
from assembler.linux.owner_filter import Ownership
from assembler.linux.root import memory_of
from assembler.runtime.base import FileContent, Hook, Process, Root, RunMount
from assembler.runtime.native import network_files, run_job, split_mounts
from assembler.values import replace

_BEFORE = ("prestart", "createRuntime", "createContainer")


def with_hooks(
    started: zygote.Zygote,
    process: Process,
    root: Root,
    mounts: Sequence[RunMount],
    ownership: Ownership,
    output: Callable[[bytes], None],
    cancellation: Cancellation,
) -> Root:
    """`root` with what the hooks of `process` made of it as its topmost lower layer.

    Raises StepError for a hook that fails or cannot be run.
    """
    for hook in process.hooks:
        if hook.stage not in _BEFORE:
            raise StepError(
                f"device {hook.device}: a CDI hook {hook.stage} ({hook.path}) cannot be run here",
                hint=f"hooks are run before the step: {', '.join(_BEFORE)}",
            )
    if not root.work:
        raise HostError(
            f"device {process.hooks[0].device}: CDI hooks need overlay mounts",
            "overlay mounts",
            hint="put the store on a local file system with --store DIR (see assemble doctor)",
        )
    scratch = f"{root.scratch}.hooks"
    upper, work = os.path.join(scratch, "upper"), os.path.join(scratch, "work")
    for path in (upper, work):
        os.makedirs(path, 0o755)
    shutil.copystat(root.upper, upper)
    owner = os.stat(root.upper)
    os.chown(upper, owner.st_uid, owner.st_gid)
    # a hook is the host's own program and has no business with the step's secrets
    _, directories = split_mounts([one for one in mounts if not isinstance(one, FileContent)])
    job = Job(
        setting=Setting(
            hostname=process.hostname,
            memory=memory_of(scratch),
            private_network=process.network == "none",
            ownership=ownership,
            insecure=process.insecure,
            shared_memory=process.shared_memory,
        ),
        argv=(),
        env=(),
        cwd="/",
        user="",
        lowers=root.lowers,
        upper=upper,
        work=work,
        scratch=scratch,
        program=root.program,
        files=network_files(process),
        directories=tuple(directories),
    )
    ordered = sorted(process.hooks, key=lambda hook: _BEFORE.index(hook.stage))
    programs = tuple(map(_program, ordered))
    run_job(started, HooksJob(job, programs), output, cancellation)
    return replace(root, lowers=(upper, *root.lowers))


def _program(hook: Hook) -> HostProgram:
    pairs = tuple((name, value) for name, _, value in (one.partition("=") for one in hook.env))
    name = f"device {hook.device}: the CDI hook {hook.stage} ({hook.path})"
    return HostProgram(name, hook.path, hook.args or (hook.path,), pairs, hook.timeout)

"""podman as the runtime, by subprocess, on the same snapshots (rootless-runtime.md 4b).

It runs inside our user namespace, in a pid namespace of its own, with its state in the step's
scratch directory: killing the first process leaves nothing of podman, conmon or the container.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence

from assembler.cancellation import Cancellation
from assembler.errors import HostError, RuntimeMissing, StepError
from assembler.linux import zygote
from assembler.linux.command import Command
from assembler.linux.job import DirectoryMount, FileMount
from assembler.linux.root import mount_points
from assembler.linux.userns import IdMap
from assembler.runtime.base import Process, Root, RunMount
from assembler.runtime.native import network_files, run_job, split_mounts

_OWN_FAILURES = (125, 126)
_EXPLICIT = frozenset({"PATH", "HOME", "USER", "XDG_RUNTIME_DIR", "TMPDIR"})
_SHORT = ("/mnt", "/media", "/srv", "/opt", "/tmp")
_ADDED = ("container", "TERM", "HOSTNAME")
_ALLOWED = ("suid", "dev", "exec")
_CAPABILITIES = "AUDIT_WRITE,MKNOD,NET_RAW"  # Docker has them, podman's default has not


class Podman:
    """Runs each process by `podman run --rootfs`."""

    name = "podman"

    def __init__(self, started: zygote.Zygote, id_map: IdMap, executable: str, oci: str) -> None:
        self._zygote = started
        self._id_map = id_map
        self._executable = executable
        self._oci = oci

    @classmethod
    def start(cls, id_map: IdMap, executable: str = "podman") -> Podman:
        """Find podman and fork the zygote; call it before any thread. Raises RuntimeMissing."""
        found = shutil.which(executable)
        oci = next((name for name in ("crun", "runc") if shutil.which(name)), "")
        if found is None or not oci:
            raise RuntimeMissing(
                f"{executable if found is None else 'crun'} is not installed",
                "podman",
                hint="apt-get install podman crun, or leave --runtime away",
            )
        return cls(zygote.start(), id_map, found, oci)

    def run(
        self,
        process: Process,
        root: Root,
        mounts: Sequence[RunMount],
        output: Callable[[bytes], None],
        cancellation: Cancellation,
    ) -> int:
        """See `runtime.base.Runtime.run`."""
        cancellation.check()
        if process.hooks:
            from assembler.runtime.hooks import with_hooks

            single = self._id_map.single
            root = with_hooks(self._zygote, process, root, mounts, single, output, cancellation)
        files, directories = split_mounts(mounts)
        command = self._command(process, root, (*network_files(process), *files), directories)
        for name in ("root", "run", "tmp", "xdg"):
            os.makedirs(os.path.join(root.scratch, "podman", name), mode=0o700)
        said: list[bytes] = []

        def listen(chunk: bytes) -> None:
            said[:] = [*said[-8:], chunk]
            output(chunk)

        status = run_job(self._zygote, command, listen, cancellation)
        _raise_own_failure(status, said)
        return status

    def close(self) -> None:
        """End every container."""
        self._zygote.close()

    def _command(
        self,
        process: Process,
        root: Root,
        files: Sequence[FileMount],
        directories: Sequence[DirectoryMount],
    ) -> Command:
        # podman refuses a runroot of more than 50 characters: its state is shown at a short path
        # that every host has, in the command's own mount namespace.
        state = next(path for path in _SHORT if os.path.isdir(path))
        env = dict(process.env)
        argv = [self._executable, *self._global_options(state), "run", *_run_options(process)]
        for name, value in env.items():
            argv.append(f"--env={name}={value}" if name in _EXPLICIT else f"--env={name}")
        targets = mount_points(files, directories) | {"/run": True, "/run/.containerenv": False}
        for number, file in enumerate(files):
            options = "" if file.mode & 0o222 else ":ro"
            argv.append(f"--volume={{f{number}}}:{file.target}{options}")
        for number, directory in enumerate(directories):
            option = f"type=bind,src={{d{number}}},dst={directory.target}"
            # podman's own default is nosuid,nodev
            allowed = [word for word in _ALLOWED if f"no{word}" not in directory.options]
            words = ",".join((*allowed, *directory.options))
            argv.append(f"--mount={option},ro={str(directory.read_only).lower()},{words}")
        argv += ["--rootfs", "{root}", *process.argv]
        return Command(
            argv=tuple(argv),
            env=tuple({**env, **self._environment(state)}.items()),
            lowers=root.lowers,
            upper=root.upper,
            work=root.work,
            scratch=root.scratch,
            files=tuple(files),
            directories=tuple(directories),
            targets=tuple(targets.items()),
            shown=((os.path.join(root.scratch, "podman"), state),),
            links=(("/etc/mtab", "/proc/mounts"),),
            cgroups="covered" if self._oci == "crun" else "read-only",
        )

    def _global_options(self, state: str) -> list[str]:
        return [
            f"--root={state}/root",
            f"--runroot={state}/run",
            f"--tmpdir={state}/tmp",
            "--storage-driver=vfs",
            "--cgroup-manager=cgroupfs",
            "--events-backend=none",
            f"--runtime={self._oci}",
        ]

    def _environment(self, state: str) -> dict[str, str]:
        """podman's own variables: it is told that it is in its user namespace already."""
        return {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": state,
            "USER": "root",
            "XDG_RUNTIME_DIR": f"{state}/xdg",
            "TMPDIR": "/var/tmp",
            "_CONTAINERS_USERNS_CONFIGURED": "done",
            "_CONTAINERS_ROOTLESS_UID": str(self._id_map.outer_uid or 1000),
            "_CONTAINERS_ROOTLESS_GID": str(self._id_map.outer_gid or 1000),
        }


def _privileges(insecure: bool) -> list[str]:
    if insecure:
        options = ("seccomp=unconfined", "unmask=ALL")
        return ["--cap-add=ALL", *(f"--security-opt={option}" for option in options)]
    return [f"--cap-add={_CAPABILITIES}"]


def _raise_own_failure(status: int, said: Sequence[bytes]) -> None:
    """Raise what podman itself, not the command, had to say (podman-run(1), "Exit Status")."""
    if status not in _OWN_FAILURES or not any(b"Error:" in chunk for chunk in said):
        return
    text = b"".join(said).decode("utf-8", "replace").strip().splitlines()[-1]
    reason = text.removeprefix("Error: ")
    if reason.startswith("unable to find "):  # a user or group that the image does not have
        raise StepError(reason)
    if status == _OWN_FAILURES[0]:
        raise HostError(f"podman failed: {text[:500]}", "podman")


def _run_options(process: Process) -> list[str]:
    options = [
        "--rm",
        "--log-driver=none",
        "--cgroups=disabled",
        "--no-hosts",
        "--passwd=false",
        "--http-proxy=false",
        "--init=false",
        "--pull=never",
        *_privileges(process.insecure),
        f"--hostname={process.hostname}",
        f"--network={'none' if process.network == 'none' else 'host'}",
        f"--workdir={process.cwd}",
        "--entrypoint=",
        f"--shm-size={process.shared_memory}b",
        *(f"--ulimit={one.name}={one.soft}:{one.hard}" for one in process.limits),
    ]
    if process.network != "none":
        options.append("--dns=none")
    if process.user:
        options.append(f"--user={process.user}")
    if process.host_groups:
        options.append("--group-add=keep-groups")  # crun's; podman itself refuses it for runc
    else:
        options += [f"--group-add={group}" for group in process.groups]
    return options + [f"--unsetenv={name}" for name in _ADDED]

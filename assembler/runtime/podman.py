"""podman as the runtime, by subprocess, on the same snapshots (rootless-runtime.md 4b).

It runs inside our user namespace, in a pid namespace of its own, with its state in the step's
scratch directory: killing the first process leaves nothing of podman, conmon or the container.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack

from assembler.errors import HostError, RuntimeMissing
from assembler.linux import seccomp, syscalls, zygote
from assembler.linux.command import Command, literal
from assembler.linux.job import DirectoryMount, FileMount
from assembler.linux.owner_filter import Ownership
from assembler.linux.payload import CAPABILITIES
from assembler.linux.restraint import oom_score
from assembler.linux.root import mount_points
from assembler.linux.supervision import kept_here
from assembler.linux.userns import IdMap
from assembler.runtime.base import Process, Root
from assembler.runtime.native import Forked
from assembler.runtime.oci_runtime import capability_names

_OWN_FAILURE = 125
_QUOTED = 500  # bytes of its last line that an error repeats
# What podman itself, conmon, Go or the dynamic linker would heed: said in words, which the host's
# users see, and never in podman's own environment. Of the others podman is told the names only.
_HEEDED = frozenset(
    "PATH HOME USER TMPDIR XDG_RUNTIME_DIR XDG_CONFIG_HOME XDG_DATA_HOME XDG_CACHE_HOME"
    " DBUS_SESSION_BUS_ADDRESS NOTIFY_SOCKET LISTEN_FDS LISTEN_PID LISTEN_FDNAMES"
    " LD_ASSUME_KERNEL LD_AUDIT LD_BIND_NOT LD_BIND_NOW LD_DEBUG LD_DEBUG_OUTPUT LD_DYNAMIC_WEAK"
    " LD_HWCAP_MASK LD_LIBRARY_PATH LD_ORIGIN_PATH LD_POINTER_GUARD LD_PREFER_MAP_32BIT_EXEC"
    " LD_PRELOAD LD_PROFILE LD_PROFILE_OUTPUT LD_SHOW_AUXV LD_TRACE_LOADED_OBJECTS"
    " LD_TRACE_PRELINKING LD_USE_LOAD_BIAS LD_VERBOSE LD_WARN"
    " GCONV_PATH GLIBC_TUNABLES LOCPATH NLSPATH MALLOC_CHECK_ MALLOC_TRACE"
    " GOCOVERDIR GODEBUG GOGC GOMAXPROCS GOMEMLIMIT GOTRACEBACK"
    " CONTAINER_CONNECTION CONTAINER_HOST CONTAINER_PROXY CONTAINER_SSHKEY DOCKER_HOST"
    " CONTAINERS_CONF CONTAINERS_CONF_OVERRIDE CONTAINERS_GRAPHROOT CONTAINERS_HELPER_BINARY_DIR"
    " CONTAINERS_REGISTRIES_CONF CONTAINERS_REGISTRIES_CONF_OVERRIDE CONTAINERS_RUNROOT"
    " CONTAINERS_STORAGE_CONF CONTAINERS_STORAGE_CONF_OVERRIDE PODMAN_CONNECTIONS_CONF"
    " PODMAN_USERNS STORAGE_DRIVER STORAGE_OPTS"
    " _CONTAINERS_ROOTLESS_GID _CONTAINERS_ROOTLESS_UID _CONTAINERS_USERNS_CONFIGURED".split()
)
_SHORT = ("/mnt", "/media", "/srv", "/opt", "/tmp")
_ADDED = ("container", "TERM", "HOSTNAME")
_ALLOWED = ("suid", "dev", "exec")


class Podman(Forked):
    """Runs each process by `podman run --rootfs`."""

    name = "podman"

    def __init__(self, started: zygote.Zygote, id_map: IdMap, executable: str, oci: str) -> None:
        super().__init__(started, kept_here(single=id_map.single))
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

    def _job(
        self,
        process: Process,
        root: Root,
        files: Sequence[FileMount],
        directories: Sequence[DirectoryMount],
        stack: ExitStack,
    ) -> Command:
        for name in ("root", "run", "tmp", "xdg"):
            os.makedirs(os.path.join(root.scratch, "podman", name), mode=0o700)
        # The default, since capabilities that are added reach users other than root.
        with open(_file(root, "containers.conf"), "x", encoding="ascii") as stream:
            names = json.dumps(capability_names(CAPABILITIES))
            stream.write(f"[containers]\ndefault_capabilities = {names}\n")
        if not process.insecure:
            pretending = self.ownership is Ownership.IGNORED
            with open(_file(root, "seccomp.json"), "x", encoding="ascii") as stream:
                json.dump(seccomp.specification(syscalls.machine(), pretending=pretending), stream)
        # podman refuses a runroot of more than 50 characters: its state is shown at a short path
        # that every host has, in the command's own mount namespace.
        state = next(path for path in _SHORT if os.path.isdir(path))
        env = dict(process.env)
        options = [*self._global_options(state), "run", *_run_options(process)]
        if process.insecure:
            options += ["--cap-add=ALL", "--security-opt=seccomp=unconfined"]
            options += ["--security-opt=unmask=ALL"]
        else:
            options.append(f"--security-opt=seccomp={_file(root, 'seccomp.json')}")
        if self.ownership is not Ownership.MAPPED:
            options.append("--user=0:0")  # there is nobody else to be
        else:
            options.append(f"--user={process.user or '0'}")  # so that groups are looked up
        for name, value in env.items():
            options.append(f"--env={name}={value}" if name in _HEEDED else f"--env={name}")
        argv = [literal(word) for word in (self._executable, *options)]
        if "HOME" not in env:
            argv.append("--env=HOME={home}")
        targets = mount_points(files, directories) | {"/run": True, "/run/.containerenv": False}
        for number, file in enumerate(files):
            argv.append(_mount(f"f{number}", file.target, not file.mode & 0o222))
        for number, directory in enumerate(directories):
            # podman's own default is nosuid,nodev
            allowed = [word for word in _ALLOWED if f"no{word}" not in directory.options]
            words = (*allowed, *directory.options)
            argv.append(_mount(f"d{number}", directory.target, directory.read_only, words))
        argv += ["--rootfs", "{root}", *(literal(word) for word in process.argv)]
        return Command(
            argv=tuple(argv),
            env=(
                *((name, value) for name, value in env.items() if name not in _HEEDED),
                *self._environment(state).items(),
            ),
            lowers=root.lowers,
            upper=root.upper,
            work=root.work,
            scratch=root.scratch,
            program=root.program,
            files=tuple(files),
            directories=tuple(directories),
            targets=tuple(targets.items()),
            shown=((os.path.join(root.scratch, "podman"), state),),
            links=(("/etc/mtab", "/proc/mounts"),),
            cgroups="covered" if self._oci == "crun" else "read-only",
            user=process.user,
            cwd=process.cwd,
            ownership=self.ownership,
            insecure=process.insecure,
        )

    def _checked(self, status: int, said: bytes) -> int:
        # podman-run(1), "Exit Status"
        if status == _OWN_FAILURE and b"Error:" in said:
            *before, line = said.strip().split(b"\n")
            # Only whole lines: in a part of one no secret is recognised.
            whole = len(line) <= _QUOTED and (before or line.startswith(b"Error:"))
            text = line.decode("utf-8", "surrogateescape") if whole else "see its output"
            raise HostError(f"podman failed: {text}", "podman")
        return status

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
            "CONTAINERS_CONF": f"{state}/containers.conf",
            "_CONTAINERS_USERNS_CONFIGURED": "done",
            "_CONTAINERS_ROOTLESS_UID": str(self._id_map.outer_uid or 1000),
            "_CONTAINERS_ROOTLESS_GID": str(self._id_map.outer_gid or 1000),
        }


def _mount(name: str, target: str, read_only: bool, words: Sequence[str] = ()) -> str:
    """The option that binds what `{name}` stands for; its fields are those of a CSV record."""
    quoted = literal(target.replace('"', '""'))
    more = ",".join((f"ro={str(read_only).lower()}", *words))
    return f'--mount=type=bind,"src={{{name}}}","dst={quoted}",{more}'


def _file(root: Root, name: str) -> str:
    return os.path.join(root.scratch, "podman", name)


def _run_options(process: Process) -> list[str]:
    options = [
        "--rm",
        "--log-driver=passthrough",  # with others conmon copies output, and loses that of short steps
        "--cgroups=disabled",
        "--no-hosts",
        "--passwd=false",
        "--http-proxy=false",
        "--init=false",
        "--pull=never",
        f"--hostname={process.hostname}",
        f"--network={'none' if process.network == 'none' else 'host'}",
        f"--workdir={process.cwd}",
        "--entrypoint=",
        f"--shm-size={process.shared_memory}b",
        f"--oom-score-adj={oom_score()}",
        *(f"--ulimit={one.name}={one.soft}:{one.hard}" for one in process.limits),
    ]
    if process.network != "none":
        options.append("--dns=none")
    if process.host_groups:
        options.append("--group-add=keep-groups")  # crun's; podman itself refuses it for runc
    else:
        options += [f"--group-add={group}" for group in process.groups]
    return options + [f"--unsetenv={name}" for name in _ADDED]

"""crun and runc by subprocess, on bundles of our own (rootless-runtime.md 4a, runtime-spec).

They run inside our user namespace, so a bundle asks for no other one, and in a pid namespace of
their own: killing its first process leaves nothing of them or the container.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from assembler.errors import HostError, RuntimeMissing
from assembler.linux import bundle, seccomp, syscalls, zygote
from assembler.linux.command import Command, literal
from assembler.linux.job import DirectoryMount, FileMount
from assembler.linux.owner_filter import Ownership
from assembler.linux.payload import ALL_CAPABILITIES, CAPABILITIES
from assembler.linux.root import mount_points
from assembler.linux.supervision import kept_here
from assembler.linux.system_mounts import MASKED, READ_ONLY
from assembler.linux.userns import IdMap
from assembler.runtime.base import Process, Root
from assembler.runtime.native import Forked

NAMES = ("crun", "runc")
_CAPABILITY_NAMES = (  # by number, capability.h
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
)  # fmt: skip


class OciRuntime(Forked):
    """Runs each process by `crun run` or `runc run`."""

    def __init__(
        self, started: zygote.Zygote, ownership: Ownership, name: str, executable: str
    ) -> None:
        super().__init__(started, ownership)
        self.name = name
        self._executable = executable

    @classmethod
    def start(cls, id_map: IdMap, name: str) -> OciRuntime:
        """Find the program `name` and fork the zygote; call it before any thread. Raises
        RuntimeMissing."""
        executable = shutil.which(name)
        if executable is None:
            raise RuntimeMissing(
                f"{name} is not installed",
                name,
                hint=f"apt-get install {name}, or leave --runtime away",
            )
        return cls(zygote.start(), kept_here(single=id_map.single), name, executable)

    def _job(
        self,
        process: Process,
        root: Root,
        files: Sequence[FileMount],
        directories: Sequence[DirectoryMount],
        stack: ExitStack,
    ) -> bundle.Bundle:
        if process.host_groups and self.name != "crun":
            raise HostError(
                f"{process.host_groups} can be used by a group of the host only, and {self.name}"
                " gives a step no groups of the host",
                "groups of the host",
                hint="--runtime native or crun keeps them",
            )
        crun = self.name == "crun"
        options = ["--root={memory}/state", "--log={log}", "--log-format=json"]
        options += ["--cgroup-manager=disabled"] if crun else ["--rootless=true"]
        command = Command(
            argv=(literal(self._executable), *options, "run", "--bundle={bundle}", "step"),
            env=(("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("XDG_RUNTIME_DIR", "/nonexistent")),
            lowers=root.lowers,
            upper=root.upper,
            work=root.work,
            scratch=root.scratch,
            program=root.program,
            files=tuple(files),
            directories=tuple(directories),
            targets=tuple(mount_points(files, directories).items()),
            shown=(),
            links=(),
            cgroups="covered" if crun else "read-only",
            user=process.user,
            cwd=process.cwd,
            ownership=self.ownership,
            insecure=process.insecure,
        )
        document = config(process, files, directories, self.ownership)
        return bundle.Bundle(command, document, process.groups)


def capability_names(mask: int) -> list[str]:
    """The names of the capabilities in `mask`."""
    return [f"CAP_{name}" for bit, name in enumerate(_CAPABILITY_NAMES) if mask >> bit & 1]


def config(
    process: Process,
    files: Sequence[FileMount],
    directories: Sequence[DirectoryMount],
    ownership: Ownership,
) -> dict[str, Any]:
    """config.json without user and root, which only the mounted root tells (config.md, linux).

    Sources `{f0}` and `{d0}` stand for the first of `files` and of `directories`.
    """
    private = process.network == "none"
    namespaces = ["pid", "ipc", "uts", "mount", *(["network"] if private else [])]
    mask = ALL_CAPABILITIES if process.insecure else CAPABILITIES
    capabilities = capability_names(mask)
    sets = ["bounding", "effective", "permitted"]
    if process.insecure:  # users other than root have them too
        sets += ["inheritable", "ambient"]
    linux: dict[str, Any] = {"namespaces": [{"type": name} for name in namespaces]}
    if not process.insecure:
        linux["maskedPaths"] = [f"/{path}" for path in MASKED]
        linux["readonlyPaths"] = [f"/{path}" for path in READ_ONLY]
        linux["seccomp"] = seccomp.specification(
            syscalls.machine(), pretending=ownership is Ownership.IGNORED
        )
    return {
        "ociVersion": "1.0.2",
        "hostname": process.hostname,
        "process": {
            "terminal": False,
            "args": list(process.argv),
            "env": [f"{name}={value}" for name, value in process.env],
            "cwd": process.cwd,
            "noNewPrivileges": False,
            "rlimits": [
                {
                    "type": f"RLIMIT_{one.name.upper()}",
                    "soft": one.soft % (1 << 64),
                    "hard": one.hard % (1 << 64),
                }
                for one in process.limits
            ],
            "capabilities": dict.fromkeys(sets, capabilities),
        },
        "mounts": [*_system_mounts(process, ownership), *_own_mounts(files, directories)],
        "linux": linux,
        "annotations": {"run.oci.keep_original_groups": "1"} if process.host_groups else {},
    }


def _system_mounts(process: Process, ownership: Ownership) -> list[dict[str, Any]]:
    private = process.network == "none"
    shared = f"size={process.shared_memory}"
    pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    group = ["gid=5"] if ownership is Ownership.MAPPED else []
    sys = ("sysfs", ["ro"]) if private else ("/sys", ["rbind", "ro"])
    rows = [
        ("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", [*pts, *group]),
        ("/dev/shm", "tmpfs", "tmpfs", ["nosuid", "noexec", "nodev", "mode=1777", shared]),
        ("/dev/mqueue", "mqueue", "mqueue", ["nosuid", "noexec", "nodev"]),
        ("/sys", "sysfs" if private else "none", sys[0], ["nosuid", "noexec", "nodev", *sys[1]]),
    ]
    return [
        {"destination": target, "type": kind, "source": source, "options": options}
        for target, kind, source, options in rows
    ]


def _own_mounts(
    files: Sequence[FileMount], directories: Sequence[DirectoryMount]
) -> list[dict[str, Any]]:
    sources = [
        *((f"{{f{number}}}", file.target, file.mode & 0o222 == 0, ()) for number, file in
          enumerate(files)),
        *((f"{{d{number}}}", directory.target, directory.read_only, directory.options)
          for number, directory in enumerate(directories)),
    ]  # fmt: skip
    # One that lies in another comes after it.
    return [
        {
            "destination": target,
            "type": "none",
            "source": source,
            "options": ["rbind", "ro" if read_only else "rw", *options],
        }
        for source, target, read_only, options in sorted(sources, key=lambda source: source[1])
    ]

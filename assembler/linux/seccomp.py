"""The system calls a RUN may not make: moby's default profile as a BPF program (seccomp(2)).

What moby allows only with capabilities that a step does not have is refused with EPERM; clone3
and numbers newer than this table get ENOSYS, so that C libraries fall back to what can be checked.
AF_NETLINK stays open: groupadd and useradd die when the audit socket fails with EPERM.
"""

from __future__ import annotations

import errno
import struct

_X86_64 = {
    "acct": 163, "add_key": 248, "bpf": 321, "clock_adjtime": 305, "clock_settime": 227,
    "create_module": 174, "delete_module": 176, "fanotify_init": 300, "finit_module": 313,
    "get_kernel_syms": 177, "get_mempolicy": 239, "init_module": 175, "io_uring_setup": 425,
    "io_uring_enter": 426, "io_uring_register": 427, "ioperm": 173, "iopl": 172, "kcmp": 312,
    "kexec_file_load": 320, "kexec_load": 246, "keyctl": 250, "lookup_dcookie": 212,
    "mbind": 237, "mount": 165, "move_pages": 279, "nfsservctl": 180, "open_by_handle_at": 304,
    "perf_event_open": 298, "pivot_root": 155, "query_module": 178, "quotactl": 179,
    "reboot": 169, "request_key": 249, "set_mempolicy": 238, "setdomainname": 171,
    "sethostname": 170, "setns": 308, "settimeofday": 164, "swapoff": 168, "swapon": 167,
    "sysfs": 139, "_sysctl": 156, "syslog": 103, "umount2": 166, "unshare": 272, "uselib": 134,
    "userfaultfd": 323, "ustat": 136, "vhangup": 153,
}  # fmt: skip
_AARCH64 = {
    "acct": 89, "add_key": 217, "bpf": 280, "clock_adjtime": 266, "clock_settime": 112,
    "delete_module": 106, "fanotify_init": 262, "finit_module": 273, "get_mempolicy": 236,
    "init_module": 105, "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
    "kcmp": 272, "kexec_file_load": 294, "kexec_load": 104, "keyctl": 219, "lookup_dcookie": 18,
    "mbind": 235, "mount": 40, "move_pages": 239, "nfsservctl": 42, "open_by_handle_at": 265,
    "perf_event_open": 241, "pivot_root": 41, "quotactl": 60, "reboot": 142, "request_key": 218,
    "set_mempolicy": 237, "setdomainname": 162, "sethostname": 161, "setns": 268,
    "settimeofday": 170, "swapoff": 225, "swapon": 224, "syslog": 116, "umount2": 39,
    "unshare": 97, "userfaultfd": 282, "vhangup": 58,
}  # fmt: skip
_EVERYWHERE = {
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
    "fspick": 433, "mount_setattr": 442, "quotactl_fd": 443, "lsm_get_self_attr": 459,
    "lsm_set_self_attr": 460, "lsm_list_modules": 461, "open_tree_attr": 467,
}  # fmt: skip
_NEWEST = 470
_CLONE3 = 435
_ARCHITECTURES = {
    # audit architecture, denied numbers, clone, socket, personality
    "x86_64": (0xC000003E, _X86_64, 56, 41, 135),
    "aarch64": (0xC00000B7, _AARCH64, 220, 198, 92),
}
_NAMESPACE_FLAGS = 0x7E020000
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
_AF_ALG, _AF_VSOCK = 38, 40

_LOAD, _EQUAL, _ABOVE, _BITS, _RETURN = 0x20, 0x15, 0x25, 0x45, 0x06
_ALLOW = 0x7FFF0000
_X32 = 0x40000000


def _refuse(number: int) -> int:
    return 0x50000 | number


def profile(machine: str) -> bytes:
    """The program for `machine` (`x86_64`, `aarch64`). Raises KeyError for another one."""
    audit, denied, clone, socket, personality = _ARCHITECTURES[machine]
    code: list[tuple[int, int, int, int]] = []

    def test(operation: int, value: int, result: int) -> None:
        code.append((operation, 0, 1, value))
        code.append((_RETURN, 0, 0, result))

    def on_argument(number: int, tests: list[tuple[int, int, int]]) -> None:
        # Skips itself when the call is another one; the argument's low half is enough for flags.
        code.append((_EQUAL, 0, 2 * len(tests) + 2, number))
        code.append((_LOAD, 0, 0, 16))
        for operation, value, result in tests:
            test(operation, value, result)
        code.append((_RETURN, 0, 0, _ALLOW))

    code.append((_LOAD, 0, 0, 4))
    code.append((_EQUAL, 1, 0, audit))
    code.append((_RETURN, 0, 0, _refuse(errno.ENOSYS)))  # another ABI of the same kernel
    code.append((_LOAD, 0, 0, 0))
    test(_ABOVE, _X32 - 1, _refuse(errno.ENOSYS))
    test(_ABOVE, _NEWEST, _refuse(errno.ENOSYS))
    test(_EQUAL, _CLONE3, _refuse(errno.ENOSYS))
    for number in sorted({**denied, **_EVERYWHERE}.values()):
        test(_EQUAL, number, _refuse(errno.EPERM))
    on_argument(clone, [(_BITS, _NAMESPACE_FLAGS, _refuse(errno.EPERM))])
    on_argument(
        socket,
        [
            (_EQUAL, _AF_ALG, _refuse(errno.EPERM)),
            (_EQUAL, _AF_VSOCK, _refuse(errno.EPERM)),
        ],
    )
    code.append((_EQUAL, 0, 2 * len(_PERSONALITIES) + 2, personality))
    code.append((_LOAD, 0, 0, 16))
    for value in _PERSONALITIES:
        test(_EQUAL, value, _ALLOW)
    code.append((_RETURN, 0, 0, _refuse(errno.EPERM)))
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)

"""`--shm-size`, `--ulimit`, `--resource`, `--cgroup-parent`, `--timeout`: amounts as docker's command
line spells them (rule R5)."""

from __future__ import annotations

import re
from typing import Any

from assembler.cli.options import RESOURCES
from assembler.environment import Environment
from assembler.errors import UsageError
from assembler.expressions import expression
from assembler.layer.limits import DEFAULT_LIMITS, Limits
from assembler.linux.resources import Resources
from assembler.plan.steps import SHARED_MEMORY, Limit

NAMES = (
    "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile",
    "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
)  # fmt: skip
_LEAST_MEMORY = 6 << 20  # docker's: a container does not start with less
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = expression(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_LIST = expression(r"[0-9]{1,6}(?:-[0-9]{1,6})?(?:,[0-9]{1,6}(?:-[0-9]{1,6})?)*")


def shared_memory_of(text: str) -> int:
    """The bytes of `64m` and its kin; docker's 64 MiB for nothing. Raises UsageError."""
    if not text:
        return SHARED_MEMORY
    size = size_of(text)
    if size is None:
        raise UsageError(f"--shm-size {text}: not a size", hint="--shm-size 128m")
    if not size:
        raise UsageError(f"--shm-size {text}: more than nothing is needed", hint="--shm-size 128m")
    return size


def size_of(text: str) -> int | None:
    """The bytes that `text` says, units of 1024; None for what is no size."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        return None
    unit = _UNITS[match[3].lower()]
    size = int(match[1]) * unit
    if match[2]:
        size += int(match[2]) * unit // 10 ** len(match[2])
    return size


def space_of(name: str, text: str) -> int:
    """The bytes that `text`, the value of `name`, says; 0 for nothing. Raises UsageError."""
    size = size_of(text) if text else 0
    if size is None:
        raise UsageError(f"{name} {text}: not a size", hint=f"{name} 20gb")
    return size


def archive_limits_of(environment: Environment) -> Limits:
    """What layers and archives may hold: $ASSEMBLE_MAX_LAYER bytes, $ASSEMBLE_MAX_ENTRIES files and
    directories (T14, T15). Raises UsageError."""
    size = space_of("ASSEMBLE_MAX_LAYER", environment.max_layer)
    text = environment.max_entries
    if text and not (text.isascii() and text.isdecimal() and len(text) <= 12):
        raise UsageError(
            f"ASSEMBLE_MAX_ENTRIES {text}: not a number", hint="ASSEMBLE_MAX_ENTRIES 10000000"
        )
    entries = int(text or 0)
    return Limits(size=size or DEFAULT_LIMITS.size, entries=entries or DEFAULT_LIMITS.entries)


def resources_of(words: tuple[str, ...]) -> Resources:
    """`--resource KEY=VALUE`, the last of one key winning; 0, and less where it is not -1 for
    `memory-swap`, is no limit. Raises UsageError."""
    values: dict[str, Any] = {}
    for word in words:
        key, equals, value = (part.strip() for part in word.partition("="))
        if not equals:
            message = f'--resource: invalid resource "{word}", expected key=value'
            raise UsageError(message, hint="--resource memory=2g")
        if key not in RESOURCES:
            from assembler.dockerfile.suggest import did_you_mean

            message = f'--resource: unknown resource "{key}"{did_you_mean(key, RESOURCES)}'
            raise UsageError(message, hint=f"one of {', '.join(RESOURCES)}")
        found = _amount(key, value)
        if found is None:
            hint = {"memory": "memory=2g", "cpus": "cpuset-cpus=0-3", "mems": "cpuset-mems=0,1"}
            raise UsageError(
                f'--resource: invalid value "{value}" for resource {key}',
                hint=f"--resource {hint.get(key.rpartition('-')[2], f'{key}=50000')}",
            )
        values[key.replace("-", "_")] = found
    return _consistent(Resources(**values))


def _amount(key: str, value: str) -> int | str | None:
    """The value of a key of `--resource`, None for one it cannot have."""
    if key.startswith("cpuset"):
        return value if not value or _LIST.fullmatch(value) else None
    if key == "memory-swap" and value == "-1":
        return -1
    if key.startswith("memory"):
        return size_of(value)
    digits = value.removeprefix("-").removeprefix("+")
    return max(0, int(value)) if _is_amount(digits) and digits != "-1" else None


def _consistent(asked: Resources) -> Resources:
    """`asked`, which the kernel can be told. Raises UsageError, with docker's reasons."""
    problem = ""
    if 0 < asked.memory < _LEAST_MEMORY:
        problem = "memory: the least that a process can be given is 6m"
    elif asked.memory_swap > 0 and not asked.memory:
        problem = "memory-swap is memory and swap together: it needs memory as well"
    elif 0 < asked.memory_swap < asked.memory:
        problem = "memory-swap is memory and swap together: it must be at least memory"
    elif asked.cpu_period and not 1000 <= asked.cpu_period <= 1_000_000:
        problem = "cpu-period: it must be between 1000 and 1000000 microseconds"
    elif 0 < asked.cpu_quota < 1000:
        problem = "cpu-quota: it must be at least 1000 microseconds"
    if problem:
        hint = "--resource memory=2g --resource memory-swap=4g --resource cpu-quota=50000"
        raise UsageError(f"--resource {problem}", hint=hint)
    return asked


def cgroup_parent_of(text: str) -> str:
    """The path of the group that is meant, from the top of the hierarchies: `a-b.slice` is
    systemd's `a.slice/a-b.slice`. Raises UsageError."""
    parts = [part for part in text.split("/") if part and part != "."]
    if ".." in parts or (text and not parts) or "\0" in text:
        message = f"--cgroup-parent {text}: not the path of a group below the top"
        raise UsageError(message, hint="--cgroup-parent /builds")
    if len(parts) == 1 and text.endswith(".slice") and not text.startswith("-"):
        names = text.removesuffix(".slice").split("-")
        parts = ["-".join(names[: count + 1]) + ".slice" for count in range(len(names))]
    return "/".join(parts)


def limits_of(words: tuple[str, ...]) -> tuple[Limit, ...]:
    """`--ulimit NAME=SOFT[:HARD]`, -1 for no limit; the last of one name wins. Raises UsageError."""
    from assembler.dockerfile.suggest import did_you_mean

    found: dict[str, Limit] = {}
    for word in words:
        name, equals, values = word.partition("=")
        if name not in NAMES:
            known = ", ".join(NAMES)
            message = f"--ulimit {word}: invalid ulimit type: {name}{did_you_mean(name, NAMES)}"
            raise UsageError(message, hint=f"one of {known}")
        soft, _, hard = values.partition(":")
        hard = hard or soft
        if not equals or not _is_amount(soft) or not _is_amount(hard):
            raise UsageError(f"--ulimit {word}: not an amount", hint="--ulimit nofile=1024:2048")
        limit = Limit(name, int(soft), int(hard))
        if limit.hard != -1 and (limit.soft == -1 or limit.soft > limit.hard):
            message = f"--ulimit {word}: the soft limit must be at most the hard one"
            raise UsageError(f"{message}: {limit.soft} > {limit.hard}")
        found[name] = limit
    return tuple(found.values())


def _is_amount(text: str) -> bool:
    return text == "-1" or (text.isascii() and text.isdecimal() and len(text) < 19)

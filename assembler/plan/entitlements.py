"""What `--allow` grants besides the entitlements that a plan itself needs (rule M12)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from assembler.dockerfile.flags import csv_fields
from assembler.errors import BadFlag, UsageError
from assembler.values import field, value


@value
class DeviceAllowance:
    """The devices that steps may have: `every` one, or those that `names` mean. `aliases` are
    names that only this build has: what a step calls so is the device named."""

    every: bool = False
    names: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)


def device_allowance(allow: Iterable[str]) -> DeviceAllowance:
    """The allowance by the entitlements `device` and `device=NAME[,alias=NAME]` among `allow`.

    Raises UsageError for another form.
    """
    every, names, aliases = False, list[str](), dict[str, str]()
    for word in allow:
        entitlement, _, rest = word.partition("=")
        if entitlement != "device":
            continue
        if not rest:
            every = True
            continue
        name, alias = _granted(word, rest)
        if alias:
            aliases[alias] = name
        else:
            names.append(name)
    return DeviceAllowance(every, tuple(names), aliases)


def _granted(word: str, rest: str) -> tuple[str, str]:
    hint = "--allow device=VENDOR/CLASS=NAME[,alias=NAME]"
    try:
        name, *fields = csv_fields(rest)
    except BadFlag as error:
        raise UsageError(f"--allow {word}: {error.message}", hint=hint) from error
    alias = ""
    for field_ in fields:
        key, equals, value = field_.partition("=")
        if not equals:
            raise UsageError(f'--allow {word}: invalid device config "{field_}"', hint=hint)
        if key != "alias":
            raise UsageError(f'--allow {word}: unknown device config key "{key}"', hint=hint)
        alias = value
    if not name:
        raise UsageError(f"--allow {word}: the device has no name", hint=hint)
    return name, alias

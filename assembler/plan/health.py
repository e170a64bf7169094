"""HEALTHCHECK, and durations as Go prints them (rules K12, Y6)."""

from __future__ import annotations

from assembler.dockerfile.instructions import HealthCheck
from assembler.oci.config import Healthcheck
from assembler.plan.state import StageScope, StageState
from assembler.values import replace


def healthcheck(state: StageState, instruction: HealthCheck, scope: StageScope) -> StageState:
    """The text is not wrapped in SHELL: whoever runs the check picks the shell (rule K3)."""
    health = Healthcheck(
        _test(instruction),
        instruction.interval,
        instruction.timeout,
        instruction.start_period,
        instruction.start_interval,
        instruction.retries,
    )
    execution = replace(state.execution, healthcheck=health)
    return replace(state, execution=execution).told(f"HEALTHCHECK {_shown(health)}")


def _test(instruction: HealthCheck) -> tuple[str, ...]:
    command = instruction.command
    if command is None:
        return ("NONE",)
    if command.arguments is not None:
        return ("CMD", *command.arguments)
    return ("CMD-SHELL", command.text)


def _shown(health: Healthcheck) -> str:
    return (
        f"{{Test:[{' '.join(health.test)}] Interval:{go_duration(health.interval)} "
        f"Timeout:{go_duration(health.timeout)} StartPeriod:{go_duration(health.start_period)} "
        f"StartInterval:{go_duration(health.start_interval)} Retries:{health.retries}}}"
    )


def go_duration(nanoseconds: int) -> str:
    """A duration as Go prints it: `5m0s`, `1.5s`, `20ms`, `0s`."""
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < 1_000_000_000:
        for unit, size in (("ms", 1_000_000), ("µs", 1_000), ("ns", 1)):
            if nanoseconds >= size:
                return f"{_decimal(nanoseconds, size)}{unit}"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{_decimal(rest, 1_000_000_000)}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    digits = f"{rest:0{len(str(unit)) - 1}d}".rstrip("0")
    return f"{whole}.{digits}"

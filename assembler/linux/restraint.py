"""What keeps a step from taking the builder down where there are no cgroups: it costs nothing and
needs no permission (proc(5), getrlimit(2))."""

from __future__ import annotations

import resource

from assembler.linux.resources import less_reserve

_SCORE = "/proc/self/oom_score_adj"
_WORSE, _WORST = 500, 1000


def oom_score() -> int:
    """The oom_score_adj of steps of this process: they look bigger to the kernel's OOM killer by
    half of the memory there is, in a container's group by half of its limit, which the builder
    never takes. Raises OSError without /proc."""
    with open(_SCORE, "rb") as stream:
        return min(int(stream.read()) + _WORSE, _WORST)


def offer_to_the_oom_killer() -> None:
    """Give this process, and those it starts, the score of a step. In a step's root no module can
    be imported any more, not even that of an encoding: bytes."""
    try:
        score = oom_score()
        with open(_SCORE, "wb") as stream:
            stream.write(b"%d" % score)
    except OSError:
        return  # no /proc, or a read-only one: nothing that a step would have to fail for


def process_limit(processes: int) -> tuple[int, int]:
    """RLIMIT_NPROC, soft and hard, for a step: at most `processes`, and less than the builder may
    have, so that the builder can go on. The hard limit stays: a step may know better.

    The kernel counts by user, since 5.14 inside the build's user namespace alone; it does not hold
    the host's root to it (clone(2), EAGAIN).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    return (processes if soft < 0 else min(processes, less_reserve(soft))), hard

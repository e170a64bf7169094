"""One RUN by chroot(2): for root of a container that may make no namespace (rootless-runtime 5b).

There are no mounts and no process namespace; the step sees the container's network and, without
/proc, little else. What it leaves running is ended through the subreaper.
"""

from __future__ import annotations

from dataclasses import dataclass

from assembler.linux import reaping
from assembler.linux.job import Job
from assembler.linux.payload import Payload, Records


@dataclass(frozen=True, slots=True)
class ChrootJob:
    """`job` in the tree at `job.chroot`, which the caller makes ready and puts back."""

    job: Job

    def run(self, output: int) -> int:
        """Run it and end what it leaves behind; its status. Raises SetupFailed, OSError."""
        reaping.adopt()
        try:
            return Payload.start(self.job.setting, self.job.chroot).run(self.job, output, Records())
        finally:
            reaping.end_children()

"""Programs that this host does not execute: told before the build where that is sure, and by the RUN."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assembler.linux.elf import EMULATED, Elf, program_for
from assembler.linux.emulators import Host

pytestmark = pytest.mark.integration

RUNTIMES = ("native", "podman", "crun", "runc")
FOREIGN = next(one for one in ("arm64", "amd64") if one != Host.here().architecture)

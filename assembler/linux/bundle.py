"""An OCI runtime's bundle over a mounted root: config.json exists only in memory, since the
environment in it may hold secrets (runtime-spec, bundle.md)."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any

from assembler.linux.accounts import account
from assembler.linux.command import Command, filled
from assembler.linux.job import SetupFailed
from assembler.linux.owner_filter import Ownership

_OWN_FAILURE = 1  # of crun and runc, and of any command: only their logs tell


@dataclass(frozen=True, slots=True)
class Bundle:
    """`command` is the runtime's, with `{bundle}` for the bundle's path and `{log}` for its log.
    `config` is config.json with the names of `command` in mounts' sources; the user and HOME are
    filled in from the root's own files."""

    command: Command
    config: dict[str, Any]

    def run(self, output: int) -> int:
        """Mount, write the bundle, run; the runtime's status. Raises SetupFailed, OSError."""
        with self.command.mounted() as names:
            root = names["root"]
            found = account(self.command.user, root)
            process = dict(self.config["process"])
            mapped = self.command.ownership is Ownership.MAPPED  # else there is nobody else to be
            process["user"] = {
                "uid": found.uid if mapped else 0,
                "gid": found.gid if mapped else 0,
                "umask": 0o022,
                "additionalGids": found.groups if mapped else [],
            }
            if not any(word.startswith("HOME=") for word in process["env"]):
                process["env"] = [*process["env"], f"HOME={found.home}"]
            mounts = [
                mount | {"source": filled(mount["source"], names)}
                for mount in self.config["mounts"]
            ]
            config = self.config | {"process": process, "mounts": mounts, "root": {"path": root}}
            names["bundle"] = os.path.join(names["memory"], "bundle")
            os.mkdir(names["bundle"], 0o700)
            with open(os.path.join(names["bundle"], "config.json"), "x", encoding="utf-8") as file:
                json.dump(config, file, ensure_ascii=True)
            names["log"] = os.path.join(names["memory"], "log")
            status = self.command.execute(names, found, output)
            return _status_of(_error(names["log"])) if status == _OWN_FAILURE else status


def _status_of(reason: str) -> int:
    """What shells make of a command that could not be executed: 127 when it is not there, 126 when
    it is. The runtime has told why. Raises SetupFailed for its other failures."""
    lowered = reason.lower()
    if not reason:
        return _OWN_FAILURE  # it was the command's own status
    if any(text in lowered for text in ("not found", "no such file", "not a directory")):
        return 127
    if any(text in lowered for text in ("permission denied", "exec format error", "open exec")):
        return 126
    raise SetupFailed(reason)


def _error(log: str) -> str:
    """The last error in the runtime's log of JSON lines, empty when there is none."""
    found = ""
    try:
        with open(log, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    record = json.loads(line)
                except ValueError:
                    continue  # a line that is no record says nothing about the step
                if record.get("level") in ("error", "fatal"):
                    found = str(record.get("msg", ""))
    except FileNotFoundError:
        return ""
    return found

"""What a build reads from the command line's paths: Dockerfile, context, secrets."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from assembler.environment import Environment
from assembler.errors import UsageError
from assembler.source import Source

if TYPE_CHECKING:
    from assembler.context.base import Context

MAX_DOCKERFILE = 16 << 20
MAX_SECRET = 500 << 10  # rule M9


def dockerfile_of(file: str, context: str) -> tuple[Source, str]:
    """The Dockerfile's text, and its path (empty when it came from stdin); rules P1-P3."""
    if file == "-" or (context == "-" and not file):
        return Source("Dockerfile", _decode(sys.stdin.buffer.read(MAX_DOCKERFILE + 1), "-")), ""
    path = file or _default(context)
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_DOCKERFILE + 1)
    except OSError as error:
        raise UsageError(
            f"failed to read dockerfile: open {path}: {error.strerror}",
            hint="name another file with -f",
        ) from error
    return Source(os.path.basename(path), _decode(content, path)), path


def context_of(path: str, dockerfile: str) -> Context | None:
    """The build context at `path`, ignore rules applied; None when it is `-`."""
    if path == "-":
        return None
    if path.startswith(("http://", "https://", "git://", "git@", "ssh://")):
        raise UsageError(f"{path}: a remote context is not supported yet", hint="give a directory")
    if not os.path.isdir(path):
        problem = "not a directory" if os.path.exists(path) else "no such directory"
        raise UsageError(f"build context {path}: {problem}")
    from assembler.context.directory import DirectoryContext, find_ignore_file
    from assembler.dockerfile.ignore import IgnoreRules

    source = find_ignore_file(path, dockerfile)
    return DirectoryContext(path, None if source is None else IgnoreRules.parse(source))


def secrets_of(words: tuple[str, ...], environment: Environment) -> dict[str, Callable[[], bytes]]:
    """`--secret id=X[,src=FILE|env=VAR][,type=file|env]` (rule M11): readers by id."""
    found: dict[str, Callable[[], bytes]] = {}
    for word in words:
        fields = dict(part.partition("=")[::2] for part in word.split(","))
        unknown = fields.keys() - {"id", "src", "source", "env", "type"}
        if unknown or not fields.get("id"):
            raise UsageError(
                f"invalid --secret {word!r}", hint="--secret id=NAME[,src=FILE|env=VAR]"
            )
        found[fields["id"]] = _secret(fields, environment)
    return found


def _secret(fields: dict[str, str], environment: Environment) -> Callable[[], bytes]:
    name = fields["id"]
    path = fields.get("src") or fields.get("source", "")
    variable = fields.get("env", "")
    if not path and not variable:
        from_environment = fields.get("type", "env") == "env" and name in environment.variables
        variable, path = (name, "") if from_environment else ("", name)
    if variable:
        if variable not in environment.variables:
            raise UsageError(f"secret {name}: the environment has no {variable}")
        value = environment.get(variable).encode("utf-8", "surrogateescape")
        return lambda: value
    if not os.path.isfile(path):
        raise UsageError(f"secret {name}: {path}: no such file")
    return lambda: _read_secret(name, path)


def _read_secret(name: str, path: str) -> bytes:
    with open(path, "rb") as stream:
        content = stream.read(MAX_SECRET + 1)
    if len(content) > MAX_SECRET:
        raise UsageError(f"secret {name}: larger than {MAX_SECRET} bytes")
    return content


def _default(context: str) -> str:
    root = "." if context == "-" else context
    for name in ("Dockerfile", "dockerfile", "Containerfile"):
        path = os.path.join(root, name)
        if os.path.exists(path):
            return path
    return os.path.join(root, "Dockerfile")


def _decode(content: bytes, path: str) -> str:
    if len(content) > MAX_DOCKERFILE:
        raise UsageError(f"{path}: larger than {MAX_DOCKERFILE} bytes")
    return content.decode("utf-8", "surrogateescape")

"""Secrets and ssh agents of the command line (rule M11)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from assembler.environment import Environment
from assembler.errors import AssemblerError, UsageError

MAX_SECRET = 500 << 10  # rule M9


def secrets_of(words: tuple[str, ...], environment: Environment) -> dict[str, Callable[[], bytes]]:
    """`--secret id=X[,src=FILE|env=VAR][,type=file|env]` (rule M11): readers by id.

    Raises UsageError for another form, and for a secret that is not there or too large.
    """
    from assembler.dockerfile.flags import parse_csv_fields

    found: dict[str, Callable[[], bytes]] = {}
    for word in words:
        try:
            pairs = parse_csv_fields(word)
        except AssemblerError as error:
            raise _bad_secret(word, error.message) from error
        fields = {key: value for key, value in pairs if value is not None}
        if bare := [key for key, value in pairs if value is None]:
            raise _bad_secret(word, f"{bare[0]} has no value")
        if unknown := fields.keys() - {"id", "src", "source", "env", "type"}:
            raise _bad_secret(word, f"there is no {min(unknown)}")
        if not fields.get("id"):
            raise _bad_secret(word, "the id is missing")
        if fields.get("type", "file") not in ("file", "env"):
            raise _bad_secret(word, f'unsupported secret type "{fields["type"]}"')
        found[fields["id"]] = _secret(fields, environment)
    return found


def _bad_secret(word: str, problem: str) -> UsageError:
    return UsageError(
        f"invalid --secret {word!r}: {problem}",
        hint="--secret id=NAME[,src=FILE|env=VARIABLE][,type=file|env]",
    )


def _secret(fields: dict[str, str], environment: Environment) -> Callable[[], bytes]:
    name = fields["id"]
    path = fields.get("src") or fields.get("source", "")
    variable = fields.get("env", "")
    if fields.get("type") == "env" and path and not variable:
        variable, path = path, ""  # as buildx has it: src of type=env names a variable
    if not path and not variable:
        from_environment = fields.get("type") == "env" or (
            "type" not in fields and name in environment.variables
        )
        variable, path = (name, "") if from_environment else ("", name)
    if variable:
        if variable not in environment.variables:
            raise UsageError(f"secret {name}: the environment has no {variable}")
        value = environment.get(variable).encode("utf-8", "surrogateescape")
        return lambda: value
    return _secret_file(name, path)


def _secret_file(name: str, path: str) -> Callable[[], bytes]:
    """A reader of the file, looked at now; a pipe, which is read but once, is read now."""
    if not os.path.exists(path):
        raise UsageError(f"secret {name}: {path}: no such file")
    content = _read_secret(name, path)
    if os.path.isfile(path):
        return lambda: _read_secret(name, path)
    return lambda: content


def _read_secret(name: str, path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_SECRET + 1)
    except OSError as error:
        raise UsageError(f"secret {name}: {path}: {error.strerror}") from error
    if len(content) > MAX_SECRET:
        raise UsageError(f"secret {name}: {path} is larger than {MAX_SECRET} bytes")
    return content


def agents_of(words: tuple[str, ...], environment: Environment) -> dict[str, tuple[str, ...]]:
    """`--ssh default|ID[=SOCKET|KEY[,KEY]]` (rule M11): by id the path of an agent's socket, or
    those of private keys.

    Raises UsageError for what is not there, and for an id that is given twice.
    """
    found: dict[str, tuple[str, ...]] = {}
    for word in words:
        id, _, text = word.partition("=")
        id = id or "default"
        if id in found:
            raise UsageError(f"--ssh {word}: there is an agent {id} already")
        paths = [path for path in text.split(",") if path]
        if not paths and not environment.get("SSH_AUTH_SOCK"):
            raise UsageError(f"--ssh {word}: no ssh agent is running", hint="set SSH_AUTH_SOCK")
        paths = paths or [environment.get("SSH_AUTH_SOCK")]
        sockets = [path for path in paths if _is_socket(word, path)]
        if sockets and len(paths) > 1:
            raise UsageError(f"--ssh {word}: {sockets[0]} is a socket, which stands alone")
        found[id] = tuple(map(os.path.abspath, paths))
    return found


def _is_socket(word: str, path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise UsageError(f"--ssh {word}: {path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode) and not stat.S_ISREG(mode):
        raise UsageError(f"--ssh {word}: {path} is neither a socket nor a private key")
    return stat.S_ISSOCK(mode)

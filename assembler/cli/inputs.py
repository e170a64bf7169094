"""What a build reads from the command line's paths: Dockerfile, contexts, secrets."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from assembler.environment import Environment
from assembler.errors import AssemblerError, UsageError
from assembler.source import Source

if TYPE_CHECKING:
    from assembler.context.base import Context
    from assembler.context.tree import TreeContext
    from assembler.plan.contexts import NamedContext
    from assembler.remotes import Remotes

MAX_DOCKERFILE = 16 << 20
MAX_SECRET = 500 << 10  # rule M9
_NAMES = ("Dockerfile", "dockerfile", "Containerfile")
_REMOTE = ("http://", "https://", "git://", "ssh://", "git@", "github.com/")


@dataclass(frozen=True, slots=True)
class Inputs:
    """The Dockerfile and the contexts of a build. `files` are named contexts that are trees,
    `named` is what each name stands for; `path` is the Dockerfile's, empty when it is no file."""

    dockerfile: Source
    path: str = field(default="", kw_only=True)
    context: Context | None = None
    files: dict[str, Context] = field(default_factory=dict)
    named: dict[str, NamedContext] = field(default_factory=dict)


def inputs_of(
    file: str, context: str, named: tuple[str, ...], keep_git_dir: bool, remotes: Remotes
) -> Inputs:
    """What `-f FILE`, `--build-context` and CONTEXT name (rules P1-P3, X1-X4, G1).

    Raises UsageError for a path or value that cannot be meant.
    """
    if file == "-" and context == "-":
        raise UsageError("stdin cannot be both the Dockerfile and the context")
    files: dict[str, Context] = {}
    meanings: dict[str, NamedContext] = {}
    for word in named:
        _named(word, files, meanings, remotes)
    if context == "-":
        return _from_stdin(file, files, meanings, remotes)
    if not os.path.isdir(context) and context.startswith(_REMOTE):
        fetched = _remote(context, "", keep_git_dir, remotes)
        dockerfile = _stdin() if file == "-" else _inside(fetched, file, context)
        return Inputs(dockerfile, fetched, files, meanings)
    dockerfile, path = dockerfile_of(file, context)
    tree = directory_context(context, path, "")
    return Inputs(dockerfile, tree, files, meanings, path=path)


def dockerfile_of(file: str, context: str) -> tuple[Source, str]:
    """The Dockerfile's text, and its path (empty when it came from stdin); rules P1-P3."""
    if file == "-":
        return _stdin(), ""
    path = _existing(file) if file else _default(context)
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_DOCKERFILE + 1)
    except OSError as error:
        raise UsageError(
            f"failed to read dockerfile: open {path}: {error.strerror}",
            hint="name another file with -f",
        ) from error
    name = os.path.normpath(path)
    if os.path.isabs(name) or name.startswith("../"):
        name = os.path.basename(name)  # paths of the host are in no message (language 18.4)
    return Source(name, _decode(content, path)), path


def directory_context(path: str, dockerfile: str, name: str) -> Context:
    """The directory at `path` as build context, ignore rules applied (rule G1)."""
    if not os.path.isdir(path):
        problem = "not a directory" if os.path.exists(path) else "no such directory"
        raise UsageError(f"build context {name or path}: {problem}")
    from assembler.context.directory import DirectoryContext, find_ignore_file
    from assembler.dockerfile.ignore import IgnoreRules

    source = find_ignore_file(path, dockerfile)
    rules = None if source is None else IgnoreRules.parse(source)
    return DirectoryContext(path, rules, name)


def _named(
    word: str, files: dict[str, Context], meanings: dict[str, NamedContext], remotes: Remotes
) -> None:
    """`--build-context name=value` (rule X3)."""
    from assembler.oci.reference import Reference
    from assembler.plan.contexts import NEVER, FilesContext, ImageContext, context_name

    key, equals, value = word.partition("=")
    if not key or not equals or not value:
        raise UsageError(
            f"invalid --build-context {word!r}",
            hint="--build-context NAME=DIRECTORY, NAME=docker-image://IMAGE or NAME=URL",
        )
    if key in NEVER:
        raise UsageError(f"--build-context {word}: {key} cannot be replaced")
    try:
        name = context_name(key)
        if value.startswith("docker-image://"):
            reference = Reference.parse(value.removeprefix("docker-image://"))
            meanings[name] = ImageContext(str(reference))
            return
    except ValueError as error:
        raise UsageError(f"--build-context {word}: {error}") from error
    if value.startswith("oci-layout://"):
        path, at, rest = value.removeprefix("oci-layout://").partition("@")
        meanings[name] = ImageContext(f"oci-layout://{os.path.abspath(path)}{at}{rest}")
        return
    if value.startswith(("target:", "input:")):
        raise UsageError(
            f"--build-context {word}: {value.partition(':')[0]}: is for bake files only",
            hint="name the stage in the Dockerfile",
        )
    if not os.path.isdir(value) and value.startswith(_REMOTE):
        files[name] = _remote(value, name, False, remotes)
    else:
        files[name] = directory_context(value, "", name)
    meanings[name] = FilesContext(name)


def _remote(url: str, name: str, keep_git_dir: bool, remotes: Remotes) -> TreeContext:
    from assembler.dockerfile.remote import parse_git

    try:
        repository = parse_git(url, context=True)
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from error
    if repository is not None:
        keep = keep_git_dir if repository.keep_git_dir is None else repository.keep_git_dir
        return remotes.repository(repository, name, keep)
    return remotes.fetched(url, name)


def _from_stdin(
    file: str, files: dict[str, Context], meanings: dict[str, NamedContext], remotes: Remotes
) -> Inputs:
    """Stdin is an archive with a Dockerfile in it, or a Dockerfile (rules P2, X4)."""
    spooled = remotes.spooled(sys.stdin.buffer)
    tree = remotes.archive(spooled, "")
    if tree is not None:
        return Inputs(_inside(tree, file, "the archive on stdin"), tree, files, meanings)
    if file:
        raise UsageError(
            "stdin is no archive, so there is no context to find the Dockerfile in",
            hint=f"assemble build - < {file}",
        )
    with spooled.open() as stream:
        content = stream.read(MAX_DOCKERFILE + 1)
    return Inputs(Source("Dockerfile", _decode(content, "-")), None, files, meanings)


def _inside(context: TreeContext, file: str, place: str) -> Source:
    """The Dockerfile of a context that is no directory here; ignore rules do not hide it (G6)."""
    from assembler.context.tree import text_of

    for name in (file,) if file else _NAMES:
        found = text_of(context.files, name, os.path.basename(name))
        if found is not None:
            return found
    raise UsageError(
        f"failed to read dockerfile: {place} has no {file or 'Dockerfile'}",
        hint="name another file with -f",
    )


def secrets_of(words: tuple[str, ...], environment: Environment) -> dict[str, Callable[[], bytes]]:
    """`--secret id=X[,src=FILE|env=VAR][,type=file|env]` (rule M11): readers by id."""
    from assembler.dockerfile.flags import parse_csv_fields

    found: dict[str, Callable[[], bytes]] = {}
    for word in words:
        try:
            fields = {key: value or "" for key, value in parse_csv_fields(word)}
        except AssemblerError as error:
            raise UsageError(f"invalid --secret {word!r}: {error.message}") from error
        unknown = fields.keys() - {"id", "src", "source", "env", "type"}
        if unknown or not fields.get("id") or fields.get("type", "") not in ("", "file", "env"):
            raise UsageError(
                f"invalid --secret {word!r}", hint="--secret id=NAME[,src=FILE|env=VAR]"
            )
        found[fields["id"]] = _secret(fields, environment)
    return found


def _secret(fields: dict[str, str], environment: Environment) -> Callable[[], bytes]:
    name = fields["id"]
    path = fields.get("src") or fields.get("source", "")
    variable = fields.get("env", "")
    if fields.get("type") == "env" and path and not variable:
        variable, path = path, ""  # as buildx has it: src of type=env names a variable
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


def _existing(path: str) -> str:
    """`path`, or its lowercase form where only that exists (rule P1)."""
    directory, name = os.path.split(path)
    lower = os.path.join(directory, "dockerfile")
    return (
        lower
        if name == "Dockerfile" and not os.path.exists(path) and os.path.exists(lower)
        else path
    )


def _default(context: str) -> str:
    for name in _NAMES:
        path = os.path.join(context, name)
        if os.path.exists(path):
            return path
    return os.path.join(context, "Dockerfile")


def _stdin() -> Source:
    return Source("Dockerfile", _decode(sys.stdin.buffer.read(MAX_DOCKERFILE + 1), "-"))


def _decode(content: bytes, path: str) -> str:
    if len(content) > MAX_DOCKERFILE:
        raise UsageError(f"{path}: larger than {MAX_DOCKERFILE} bytes")
    return content.decode("utf-8", "surrogateescape")

"""What a build reads from the command line's paths: the Dockerfile and the contexts."""

from __future__ import annotations

import os
import posixpath
import sys
from typing import TYPE_CHECKING

from assembler.errors import UsageError
from assembler.source import Source, redacted
from assembler.values import field, replace, value

if TYPE_CHECKING:
    from assembler.context.base import Context
    from assembler.context.tree import TreeContext
    from assembler.dockerfile.remote import GitReference
    from assembler.plan.contexts import NamedContext
    from assembler.remotes import Remotes

MAX_DOCKERFILE = 16 << 20
_NAMES = ("Dockerfile", "dockerfile", "Containerfile")


@value
class Inputs:
    """The Dockerfile and the contexts of a build. `files` are named contexts that are trees,
    `named` is what each name stands for; `path` is the Dockerfile's, empty when it is no file."""

    dockerfile: Source
    path: str = field(default="", kw_only=True)
    context: Context | None = None
    files: dict[str, Context] = field(default_factory=dict)
    named: dict[str, NamedContext] = field(default_factory=dict)


@value
class GitOptions:
    """What build arguments say of repositories that are contexts: BUILDKIT_CONTEXT_KEEP_GIT_DIR
    (rule A12), and SOURCE_DATE_EPOCH, under which files have their commit's time."""

    keep: bool = False
    commit_times: bool = False


def inputs_of(
    file: str,
    context: str,
    named: tuple[str, ...],
    git: GitOptions,
    remotes: Remotes,
    records: str = "",
) -> Inputs:
    """What `-f FILE`, `--build-context` and CONTEXT name (rules P1-P3, X1-X4, G1). What is found in
    the files of directories is remembered in the directory `records`, if there is one.

    Raises UsageError for a path or value that cannot be meant.
    """
    if file == "-" and context == "-":
        raise UsageError("stdin cannot be both the Dockerfile and the context")
    if not context:
        raise UsageError("the context is empty", hint="`.` is the current directory")
    files: dict[str, Context] = {}
    meanings: dict[str, NamedContext] = {}
    for word in named:
        _named(word, files, meanings, git, remotes, records)
    if context == "-":
        return _from_stdin(file, files, meanings, remotes)
    remote = _elsewhere(context)
    if remote is not None:
        fetched = _remote(remote, "", git, remotes)
        if file == "-" or os.path.isabs(file) or _is_url(file):
            dockerfile, path = dockerfile_of(file, "", remotes)
            return Inputs(dockerfile, _ruled(fetched, ""), files, meanings, path=path)
        dockerfile, inner = _inside(fetched, file, redacted(context))
        return Inputs(dockerfile, _ruled(fetched, inner), files, meanings)
    if not os.path.isdir(context):
        raise _no_directory(context, "")
    dockerfile, path = dockerfile_of(file, context, remotes)
    tree = directory_context(context, path, "", records)
    return Inputs(dockerfile, tree, files, meanings, path=path)


def dockerfile_of(file: str, context: str, remotes: Remotes) -> tuple[Source, str]:
    """The Dockerfile's text, and its path (empty when it is no file here); rules P1-P3."""
    if file == "-":
        with remotes.spooled(sys.stdin.buffer).open() as stream:
            return Source("Dockerfile", _decode(stream.read(MAX_DOCKERFILE + 1), "-")), ""
    if _is_url(file):
        found = remotes.fetched(file, "").tree().lookup("Dockerfile")
        if found is None or found.source is None:
            raise UsageError(
                f"{file} is an archive, not a Dockerfile", hint="it can be the context"
            )
        with found.source.open() as stream:
            return Source("Dockerfile", _decode(stream.read(MAX_DOCKERFILE + 1), file)), ""
    path = _existing(file) if file else _default(context)
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_DOCKERFILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        problem = error.strerror if isinstance(error, OSError) else str(error)
        raise UsageError(
            f"failed to read dockerfile: open {path}: {problem}",
            hint="name another file with -f",
        ) from error
    name = os.path.normpath(path)
    if os.path.isabs(name) or name.startswith("../"):
        name = os.path.basename(name)  # paths of the host are in no message (language 18.4)
    return Source(name, _decode(content, path)), path


def directory_context(path: str, dockerfile: str, name: str, records: str = "") -> Context:
    """The directory at `path` as build context, ignore rules applied (rule G1)."""
    if not os.path.isdir(path):
        raise _no_directory(path, name)
    from assembler.context.directory import DirectoryContext, find_ignore_file
    from assembler.dockerfile.ignore import IgnoreRules

    source = find_ignore_file(path, dockerfile)
    rules = None if source is None else IgnoreRules.parse(source)
    return DirectoryContext(path, rules, name, records)


def _no_directory(path: str, name: str) -> UsageError:
    problem = "not a directory" if os.path.exists(path) else "no such directory"
    shown = f"{name} ({path})" if name else path
    images = ", docker-image://IMAGE or oci-layout://DIRECTORY" if name else ", or -"
    return UsageError(
        f"build context {shown}: {problem}",
        hint=f"it is a directory, the URL of a repository or an archive{images}",
    )


def _named(
    word: str,
    files: dict[str, Context],
    meanings: dict[str, NamedContext],
    git: GitOptions,
    remotes: Remotes,
    records: str,
) -> None:
    """`--build-context name=value` (rule X3)."""
    from assembler.plan.contexts import NEVER, FilesContext, context_key

    key, equals, value = word.partition("=")
    shown = redacted(word)
    if not key or not equals or not value:
        raise UsageError(
            f"invalid --build-context {shown!r}",
            hint="--build-context NAME=DIRECTORY, NAME=docker-image://IMAGE or NAME=URL",
        )
    try:
        name = context_key(key)
        if name.partition("::")[0] in NEVER:
            raise UsageError(f"--build-context {shown}: {key} cannot be replaced")
        image = _image(value)
    except ValueError as error:
        raise UsageError(f"--build-context {shown}: {error}") from error
    if value.startswith(("target:", "input:")):
        raise UsageError(
            f"--build-context {shown}: {value.partition(':')[0]}: is for bake files only",
            hint="name the stage in the Dockerfile",
        )
    files.pop(name, None)
    if image is not None:
        meanings[name] = image
        return
    if value == "docker-image://scratch":
        files[name] = _nothing(name)
    elif (remote := _elsewhere(value)) is not None:
        files[name] = _deferred(remote, name, git, remotes)
    else:
        files[name] = directory_context(value, "", name, records)
    meanings[name] = FilesContext(name)


def _image(value: str) -> NamedContext | None:
    """What `docker-image://` and `oci-layout://` values stand for, None for any other value."""
    from assembler.oci.reference import LAYOUT, Reference
    from assembler.plan.contexts import ImageContext

    if value.startswith("docker-image://") and value != "docker-image://scratch":
        return ImageContext(str(Reference.parse(value.removeprefix("docker-image://"))))
    if not value.startswith(LAYOUT):
        return None
    from assembler.image_names import LayoutName

    layout = LayoutName.parse(value)
    if not os.path.isfile(os.path.join(layout.path, "index.json")):
        raise ValueError(f"{layout.path} holds no OCI layout: there is no index.json")
    return ImageContext(str(replace(layout, path=os.path.abspath(layout.path))))


def _elsewhere(value: str) -> str | GitReference | None:
    """A context that is no directory here: a git repository, or an http URL; None for others."""
    from assembler.dockerfile.remote import parse_git, without_credentials

    if os.path.isdir(value):
        return None
    try:
        repository = parse_git(value, context=True)
        if repository is not None or not _is_url(value):
            return repository
        without_credentials(value)
    except ValueError as error:
        raise UsageError(f"{redacted(value)}: {error}") from error
    return value


def _remote(
    wanted: str | GitReference, name: str, git: GitOptions, remotes: Remotes
) -> TreeContext:
    if isinstance(wanted, str):
        return remotes.fetched(wanted, name)
    keep = git.keep if wanted.keep_git_dir is None else wanted.keep_git_dir
    times = wanted.commit_times or git.commit_times
    return remotes.repository(replace(wanted, commit_times=times), name, keep)


def _deferred(wanted: str | GitReference, name: str, git: GitOptions, remotes: Remotes) -> Context:
    from assembler.context.deferred import DeferredContext

    named = replace(git, keep=False)  # the argument is of the main context
    return DeferredContext(name, lambda: _ruled(_remote(wanted, name, named, remotes), ""))


def _ruled(context: TreeContext, dockerfile: str) -> TreeContext:
    """`context` with the ignore rules it brings along; `dockerfile` is a path in it, or empty."""
    from assembler.context.tree import ignore_rules

    return replace(context, rules=ignore_rules(context.files, dockerfile))


def _nothing(name: str) -> Context:
    from assembler.context.tree import TreeContext
    from assembler.layer.tree import EmptyTree

    return TreeContext(name, EmptyTree())


def _from_stdin(
    file: str, files: dict[str, Context], meanings: dict[str, NamedContext], remotes: Remotes
) -> Inputs:
    """Stdin is an archive with a Dockerfile in it, or a Dockerfile (rules P2, X4)."""
    spooled = remotes.spooled(sys.stdin.buffer)
    tree = remotes.archive(spooled, "")
    if tree is not None:
        dockerfile, inner = _inside(tree, file, "the archive on stdin")
        return Inputs(dockerfile, _ruled(tree, inner), files, meanings)
    if file:
        raise UsageError(
            "stdin is no archive, so there is no context to find the Dockerfile in",
            hint=f"assemble build - < {file}",
        )
    with spooled.open() as stream:
        content = stream.read(MAX_DOCKERFILE + 1)
    if b"\0" in content[:512]:
        raise UsageError(
            "stdin is neither an archive nor a Dockerfile",
            hint="an archive is a tar, by itself or compressed by gzip, bzip2, xz or zstd",
        )
    return Inputs(Source("Dockerfile", _decode(content, "-")), None, files, meanings)


def _inside(context: TreeContext, file: str, place: str) -> tuple[Source, str]:
    """The Dockerfile of a context that is no directory here, and its path in it; ignore rules do
    not hide it (rule G6)."""
    from assembler.context.tree import text_of

    names = [file] if file else list(_NAMES)
    if posixpath.basename(file) == "Dockerfile":
        names.append(posixpath.join(posixpath.dirname(file), "dockerfile"))  # rule P1
    for name in names:
        found = text_of(context.files, name, os.path.basename(name))
        if found is not None:
            return found, posixpath.normpath(name).lstrip("/")
    raise UsageError(
        f"failed to read dockerfile: {place} has no {file or 'Dockerfile'}",
        hint="name another file with -f",
    )


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


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


def _decode(content: bytes, path: str) -> str:
    if len(content) > MAX_DOCKERFILE:
        raise UsageError(f"{path}: larger than {MAX_DOCKERFILE} bytes")
    return content.decode("utf-8", "surrogateescape")

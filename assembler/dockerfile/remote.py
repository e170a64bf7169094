"""Sources that are elsewhere: what counts as a URL or as a git repository, and what its text asks
for (rules C3, C29, X1). Nothing is fetched here."""

from __future__ import annotations

import posixpath

from assembler.expressions import expression
from assembler.values import field, replace, value

_SCHEME = expression(r"([A-Za-z0-9]+)://")
_SCP = expression(r"(?P<user>[A-Za-z0-9_-]+)@(?P<host>[A-Za-z0-9.-]+):(?P<path>[^?#]+)(?P<rest>.*)")
_ON_GITHUB = expression(r"https?://github\.com/[^/?#]+/[^/?#]+/?(?:[?#].*)?")
_COMMIT = expression(r"[0-9a-fA-F]{1,64}")
_GIT_SCHEMES = frozenset({"http", "https", "ssh", "git"})
_TRUE = frozenset("1 t T TRUE true True".split())
_FALSE = frozenset("0 f F FALSE false False".split())


@value
class GitReference:
    """What a git URL asks for. `remote` is what git is given; `ref` a commit, tag or branch, empty
    for the remote's default; `subdirectory` without slashes at its ends; `checksum` a commit or the
    beginning of one. None where the text does not say. `credentials`, `user:password` of an http
    URL, are in no key, history or document."""

    remote: str
    ref: str = ""
    subdirectory: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None
    commit_times: bool = False
    fetch_by_commit: bool = False
    credentials: str = field(default="", compare=False, repr=False)


def is_url(text: str) -> bool:
    """Whether `text` is fetched over http; a git repository over http is one too."""
    return text.startswith(("http://", "https://"))


def remote_kind(text: str) -> str:
    """`git ref` or `URL` when `text` is elsewhere, as error messages call it; else empty."""
    try:
        repository = parse_git(text) is not None
    except ValueError:
        repository = True  # it names one, in a wrong way
    return "git ref" if repository else "URL" if is_url(text) else ""


def without_credentials(url: str) -> tuple[str, str]:
    """An http `url` without its user and password, and these as `user:password`, empty where
    there are none. Raises ValueError for a URL that is none."""
    from urllib.parse import unquote, urlsplit, urlunsplit

    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    _ = parts.port  # raises for one that is no number
    if not parts.hostname:
        raise ValueError("a URL needs a host")
    if not at:
        return url, ""
    words = (unquote(word, errors="surrogateescape") for word in user.partition(":")[::2])
    return urlunsplit(parts._replace(netloc=host)), ":".join(words)


def parse_git(text: str, *, context: bool = False) -> GitReference | None:
    """The repository that `text` names, None when it names none.

    http and https count only when the path ends in `.git`. As a build context, a repository on
    github.com is known without it, and without its scheme. Raises ValueError for a query that
    contradicts itself, and for what git could take for an option.
    """
    bare = context and text.startswith("github.com/")
    text = f"https://{text}" if bare else text
    if match := _SCHEME.match(text):
        on_github = bare or (context and _ON_GITHUB.fullmatch(text) is not None)
        return _from_url(text, match[1].lower(), on_github)
    match = _SCP.fullmatch(text)
    if match is None:
        return None
    head, _, fragment = match["rest"].partition("#")
    remote = f"{match['user']}@{match['host']}:{match['path']}"
    if remote.startswith("-") or match["host"].startswith("-"):
        raise ValueError(f'invalid git remote "{remote}"')
    return _with_query(remote, head.removeprefix("?"), fragment)


def _from_url(text: str, scheme: str, on_github: bool) -> GitReference | None:
    from urllib.parse import unquote, urlsplit, urlunsplit  # few files have a URL

    if scheme not in _GIT_SCHEMES:
        return None
    parts = urlsplit(text)
    if scheme in ("http", "https") and not (parts.path.endswith(".git") or on_github):
        return None
    if not text.isprintable():
        raise ValueError("a git URL has no control characters")
    remote = urlunsplit((scheme, parts.netloc, parts.path, "", ""))
    credentials = ""
    if scheme in ("http", "https"):
        remote, credentials = without_credentials(remote)
    elif parts.password is not None:  # neither ssh nor git takes one from a URL
        remote = remote.replace(f":{parts.password}@", "@", 1)
    if (parts.hostname or "-").startswith("-"):
        raise ValueError(f'invalid git remote "{remote}"')
    found = _with_query(remote, parts.query, unquote(parts.fragment))
    return replace(found, credentials=credentials)


def _with_query(remote: str, query: str, fragment: str) -> GitReference:
    from urllib.parse import parse_qs

    ref, _, subdirectory = fragment.partition(":")
    subdirectory = _clean(subdirectory)
    values = parse_qs(query, keep_blank_values=True)
    given: dict[str, str] = {}
    for key, found in values.items():
        if len(found) > 1:
            raise ValueError(f'query "{key}" has multiple values')
        if not found[0] and key not in ("submodules", "keep-git-dir", "fetch-by-commit"):
            raise ValueError(f'query "{key}" has no value')
        given[key] = found[0]
    known = {"ref", "tag", "branch", "subdir", "checksum", "commit", "keep-git-dir"}
    known |= {"submodules", "mtime", "fetch-by-commit"}
    if unknown := sorted(given.keys() - known):
        raise ValueError(f'unexpected query "{unknown[0]}"')
    if "tag" in given and "branch" in given:
        raise ValueError("branch conflicts with tag")
    for key, prefix in (("ref", ""), ("tag", "refs/tags/"), ("branch", "refs/heads/")):
        if key in given:
            ref = _agreed("ref", ref, prefix + given[key].removeprefix(prefix))
    if "subdir" in given:
        subdirectory = _agreed("subdir", subdirectory, _clean(given["subdir"]))
    if given.get("mtime", "checkout") not in ("checkout", "commit"):
        raise ValueError(
            f'invalid mtime value: "{given["mtime"]}" (must be "checkout" or "commit")'
        )
    checksum = _agreed("checksum", given.get("checksum", ""), given.get("commit", ""))
    if ref.startswith("-") or not ref.isprintable():
        raise ValueError(f'invalid git ref "{ref}"')
    if checksum and not _COMMIT.fullmatch(checksum):
        raise ValueError(
            f'invalid checksum "{checksum}", expected a commit or the first digits of it'
        )
    return GitReference(
        remote=remote,
        ref=ref,
        subdirectory=subdirectory,
        checksum=checksum,
        keep_git_dir=_truth(given, "keep-git-dir"),
        submodules=_truth(given, "submodules"),
        commit_times=given.get("mtime") == "commit",
        fetch_by_commit=_truth(given, "fetch-by-commit") is True,
    )


def _agreed(name: str, before: str, now: str) -> str:
    if before and now and before != now:
        raise ValueError(f'{name} conflicts: "{before}" vs "{now}"')
    return now or before


def _truth(given: dict[str, str], key: str) -> bool | None:
    if key not in given:
        return None
    value = given[key]
    if value not in _TRUE | _FALSE and value:
        raise ValueError(f'invalid {key} value: "{value}"')
    return value not in _FALSE


def _clean(path: str) -> str:
    return posixpath.normpath(f"/{path}").strip("/") if path else ""


def file_name(url: str) -> str:
    """What a file fetched from `url` is called: the path's last element (rule C27)."""
    from urllib.parse import unquote, urlsplit

    path = unquote(urlsplit(url).path, errors="surrogateescape")
    name = posixpath.basename(path.rstrip("/"))
    return name if name not in ("", ".", "..") and "\0" not in name else "__unnamed__"

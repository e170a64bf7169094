"""What a registry's refusal means, and what to do about it: one error for each status."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from urllib.parse import quote

from assembler.errors import (
    NotFound,
    ProtocolViolation,
    RateLimited,
    RegistryError,
    Unauthorized,
    Unreachable,
)
from assembler.net.client import Response
from assembler.net.origin import Origin
from assembler.net.retry import RETRYABLE
from assembler.registry.credential import Found
from assembler.registry.repository import Repository
from assembler.source import printable

NOT_ALLOWED = "the registry does not allow this: is it a read-only mirror, or the tag immutable?"
LONGEST = 200  # characters of a server's text that are shown
_WRITES = ("upload", "push", "blob upload", "mount")
_NAMED = ("the blob ", "a part of the blob ", "the configuration ")
_MOST_PARSED = 64 << 10
_SKEW = 5  # minutes


def refused(response: Response, repository: Repository, operation: str) -> RegistryError:
    """The error for a status that is no success: which registry and repository, what was asked,
    what the server says, who we were to it, and what to do."""
    tokens = repository.tokens
    secrets = tuple(tokens.secrets()) if tokens is not None else ()
    found = tokens.found if tokens is not None else None
    status, where = response.status, f"{repository.registry}/{repository.name}".rstrip("/")
    mirror = f" (a mirror of {repository.reference.registry})" if repository.mirror else ""
    said = quoted(response, secrets)
    other = _elsewhere(response, repository)
    by = f" by {other}, where the registry led" if other else ""
    text = f"{where}{mirror}: {operation} was answered with status {status}{by}{said}"
    kind: type[RegistryError] = ProtocolViolation
    hint = ""
    if 200 <= status < 400:
        hint = _unexpected(response)
    elif status in (401, 403) and other:
        kind = Unauthorized
        hint = (
            f"{other} refuses, not the registry, and is shown no credential: try again, or ask who"
            f" runs the registry{_clock(response, time.time())}"
        )
    elif status in (401, 403):
        kind = Unauthorized
        text += f"; {_who(found)}"
        hint = _rights(status, repository.registry, found) + _clock(response, time.time())
    elif status == 404:
        kind = NotFound
        text = f"{where}{mirror}: {operation}: not found{by}{said}"
        hint = _missing(operation, repository.registry, found)
    elif status == 413:
        hint = (
            "the registry, or a proxy before it, limits the size of uploads: raise it there"
            " (nginx: client_max_body_size)"
        )
    elif status == 429:
        kind = RateLimited
        hint = _limited(response, repository.registry, found)
    elif status == 507:
        hint = "the registry has no space left, or its quota for you is used up"
    elif status in RETRYABLE or status >= 500:
        kind = Unreachable
        hint = "the registry, or a proxy before it, fails: try again later, or ask who runs it"
    elif status == 405 or "UNSUPPORTED" in said:
        hint = NOT_ALLOWED
    return kind(text, registry=repository.registry, operation=operation, status=status, hint=hint)


def token_refused(
    response: Response, registry: str, server: str, found: Found | None, secrets: Iterable[str]
) -> RegistryError:
    """The error for an answer of the token server `server` that gives no token."""
    status = response.status
    said = quoted(response, secrets)
    text = f"{registry}: its token server {shown(server)} answered with status {status}{said}"
    kind: type[RegistryError] = ProtocolViolation
    hint = "the registry's authentication is at fault, or something answers in its place"
    if status in (400, 401, 403):
        kind, text, hint = Unauthorized, f"{text}; {_who(found)}", _rights(401, registry, found)
    elif status == 429:
        kind, hint = RateLimited, _limited(response, registry, found)
    elif status in RETRYABLE or status >= 500:
        kind, hint = Unreachable, "the token server fails: try again later"
    return kind(text, registry=registry, operation="a token", status=status, hint=hint)


def not_a_registry(response: Response, registry: str) -> ProtocolViolation:
    """The error for something at /v2/ that speaks no distribution protocol (R13)."""
    return ProtocolViolation(
        f"{registry} does not answer as a registry does: status {response.status} for /v2/"
        f"{quoted(response, ())}",
        registry=registry,
        operation="its version",
        status=response.status,
        hint=_unexpected(response) or "is its name right, and is it a container registry?",
    )


def quoted(response: Response, secrets: Iterable[str]) -> str:
    """` (what the server says)`: escaped, short, without `secrets`; empty for nothing."""
    try:
        document = json.loads(response.body[:_MOST_PARSED])
        errors = document.get("errors") or [document]
        words = [one.get("message") or one.get("code") or one.get("details") for one in errors[:3]]
        said = "; ".join(str(word) for word in words if word)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        said = response.body[: 4 * LONGEST].decode("utf-8", "replace")
    said = shown(said, secrets)
    return f" ({said})" if said else ""


def codes(response: Response) -> set[str]:
    """The error codes of the distribution spec in a refusal."""
    try:
        return {str(one.get("code")) for one in json.loads(response.body)["errors"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()


def shown(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` of a server on one line: without `secrets`, escaped, its first LONGEST characters."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "xxxxx").replace(quote(secret, safe=""), "xxxxx")
    return printable(" ".join(text.split()))[:LONGEST]


def _elsewhere(response: Response, repository: Repository) -> str:
    """The host that answered, empty where it is the registry's own origin or nobody says."""
    if not response.url or Origin.of(response.url) == Origin.of(repository.url):
        return ""
    return shown(Origin.of(response.url).name)


def _who(found: Found | None) -> str:
    if found is None:
        return "it asked for no credential"
    if found.credential is None:
        looked = ", ".join(map(printable, found.looked)) or "no place"
        return f"no credential was found (looked in {looked})"
    return f"the credential from {printable(found.source)} was refused"


def _rights(status: int, registry: str, found: Found | None) -> str:
    if found is not None and found.credential is None:
        return f"log in with `assemble login {registry}`, or check the name"
    if status == 401:
        return f"log in anew with `assemble login {registry}`; the password may have been changed"
    return (
        "ask for the right to do this, check the name, or log in as somebody else with"
        f" `assemble login {registry}`"
    )


def _clock(response: Response, now: float) -> str:
    """What to add where the clocks differ so much that tokens and signatures are not taken."""
    try:
        there = parsedate_to_datetime(response.header("date")).timestamp()
    except (ValueError, TypeError, OverflowError):
        return ""
    minutes = round((now - there) / 60)
    if abs(minutes) < _SKEW:
        return ""
    how = "ahead of" if minutes > 0 else "behind"
    return f"; this machine's clock is {abs(minutes)} minutes {how} the registry's"


def _missing(operation: str, registry: str, found: Found | None) -> str:
    if operation.startswith(_NAMED):
        return "the image names it, and its registry has lost it: have the image pushed anew"
    if not any(word in operation for word in _WRITES):
        hint = "check the name and the tag"
        nobody = found is None or found.credential is None
        return f"{hint}; if it is private, `assemble login {registry}`" if nobody else hint
    return (
        "the repository does not exist and the registry makes none by itself, or you may not write"
        " to it: create it there first, check the name"
    )


def _limited(response: Response, registry: str, found: Found | None) -> str:
    wait = _reset(response, time.time())
    todo = [f"wait {wait}" if wait else "wait"]
    if found is None or found.credential is None:
        todo.append(f"`assemble login {registry}` for a higher limit")
    return ", ".join([*todo, "or use a mirror in registries.conf"])


def _reset(response: Response, now: float) -> str:
    """How long the limit holds, as Retry-After or the RateLimit fields tell it; empty if nobody
    does. X-RateLimit-Reset is a time at some registries, seconds at others."""
    for name in ("retry-after", "ratelimit-reset", "x-ratelimit-reset"):
        text = response.header(name).strip()
        seconds = 0.0
        if text.isdigit() and len(text) < 12:
            seconds = float(text)
            seconds -= now if seconds > now / 2 else 0
        elif text:
            try:
                seconds = parsedate_to_datetime(text).timestamp() - now
            except (ValueError, TypeError, OverflowError):
                continue
        if seconds > 0:
            at = time.strftime("%H:%M:%S UTC", time.gmtime(now + min(seconds, 1e9)))
            return f"{seconds:.0f} seconds, until {at}"
    limit = response.header("ratelimit-limit")  # `100;w=21600`, Docker Hub's
    window = limit.partition(";w=")[2]
    return f"up to {int(window) // 60} minutes" if window.isdigit() and len(window) < 8 else ""


def _unexpected(response: Response) -> str:
    if "html" in response.header("content-type") or response.body.lstrip()[:1] == b"<":
        return (
            "it sent a web page: a login page of the network, a proxy, or a server that is no"
            " registry answers in its place"
        )
    return ""

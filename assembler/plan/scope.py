"""Where variables come from: build arguments, automatic and predefined ones (rules A1-A12)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from assembler.dockerfile.instructions import Arg, Pair
from assembler.dockerfile.words import expand
from assembler.errors import ExpansionFailed
from assembler.oci.platform import Platform
from assembler.source import Span
from assembler.values import value

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
PREDEFINED = frozenset(PROXIES) | {name.lower() for name in PROXIES}
SPECIAL = frozenset(
    {
        "SOURCE_DATE_EPOCH",
        "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
        "BUILDKIT_CACHE_MOUNT_NS",
        "BUILDKIT_MULTI_PLATFORM",
        "BUILDKIT_SANDBOX_HOSTNAME",
        "BUILDKIT_INLINE_CACHE",
        "BUILDKIT_SYNTAX",
        "BUILDKIT_DOCKERFILE_CHECK",
        "BUILDKIT_BUILD_NAME",
        "BUILDKIT_SBOM_SCAN_CONTEXT",
        "BUILDKIT_SBOM_SCAN_STAGE",
    }
)
UNSET_IN_RUN = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})


@value
class Scope:
    """Values of names. `declared` are names that count as declared even without a value."""

    values: Mapping[str, str]
    declared: frozenset[str] = frozenset()

    def lookup(self, name: str) -> str | None:
        """The value of `name`, None when it has none."""
        return self.values.get(name)


def expanded(word: str, scope: Scope, escape: str, span: Span) -> str:
    """`word` with its variables replaced. Raises ExpansionFailed at `span`."""
    try:
        return expand(word, scope.lookup, escape).text
    except ExpansionFailed as error:
        raise ExpansionFailed(error.message, span.blame(word), hint=error.hint) from error


def blamed(span: Span, value: str, written: str) -> Span:
    """`span` blaming a value where it stands on the line, else the word it was expanded from."""
    return span.blame(value if value and value in written else written)


def automatic(target: Platform, build: Platform, stage: str) -> dict[str, str]:
    """The automatic arguments of the global scope (rule A9)."""
    found: dict[str, str] = {}
    for prefix, platform in (("TARGET", target), ("BUILD", build)):
        found |= {
            f"{prefix}PLATFORM": str(platform),
            f"{prefix}OS": platform.os,
            f"{prefix}ARCH": platform.architecture,
            f"{prefix}VARIANT": platform.variant,
            f"{prefix}OSVERSION": "",
        }
    return found | {"TARGETSTAGE": stage}


def global_scope(
    arguments: Iterable[Arg], build_args: Mapping[str, str], given: Mapping[str, str], escape: str
) -> Scope:
    """The scope of FROM lines: automatic arguments `given`, then the global ARGs in order (A2)."""
    values = {name: build_args.get(name, value) for name, value in given.items()}
    declared = set(values)
    for argument in arguments:
        for pair in argument.pairs:
            declared.add(pair.key)
            if pair.key in build_args:
                values[pair.key] = build_args[pair.key]
            elif pair.value is not None:
                values[pair.key] = expanded(pair.value, Scope(values), escape, argument.span)
    return Scope(values, frozenset(declared))


def argument_value(
    pair: Pair,
    local: Scope,
    outer: Scope,
    build_args: Mapping[str, str],
    *,
    escape: str,
    span: Span,
) -> str | None:
    """What `ARG` in a stage sets: the build argument, else its default, else the global value
    (rules A3, A4); None when it only declares the name."""
    if pair.key in build_args:
        return build_args[pair.key]
    if pair.value is not None:
        return expanded(pair.value, local, escape, span)
    return outer.lookup(pair.key)


def proxies(build_args: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The proxy variables of every RUN: a value given in either case is there in both, the lower
    case's where they differ (rule A11)."""
    found: dict[str, str] = {}
    for name in PROXIES:
        value = build_args.get(name.lower(), build_args.get(name))
        if value:
            found |= {name: value, name.lower(): value}
    return tuple(found.items())

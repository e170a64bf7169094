"""The lint rules: their names and texts, which of them a file wants, and those that need nothing
but the text (dockerfile-language.md 9; rules D7, D8, LN1).

Rules that need variables, base images or the ignore file are in `plan.lint`.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from assembler.dockerfile.instructions import (
    Arg,
    Dockerfile,
    From,
    Instruction,
    Maintainer,
    Stage,
    Warning,
)
from assembler.dockerfile.words import WHITESPACE, quoted
from assembler.expressions import expression
from assembler.source import Span
from assembler.values import value

RESERVED = frozenset({"scratch", "context"})
_CHECK = expression(r"check\s*=\s*(\S+)", re.IGNORECASE)
_TRUE = frozenset("1 t T TRUE true True".split())
_FALSE = frozenset("0 f F FALSE false False".split())


@value
class Rule:
    """A rule. `url` is where its meaning is explained; empty when it is not."""

    name: str
    description: str
    url: str
    experimental: bool = False


def _table(*rows: tuple[str, str, str]) -> Mapping[str, Rule]:
    place = "https://docs.docker.com/go/dockerfile/rule"
    return MappingProxyType(
        {
            name: Rule(
                name,
                description,
                f"{place}/{slug}/" if slug else "",
                experimental=name == "InvalidDefinitionDescription",
            )
            for name, slug, description in rows
        }
    )


RULES = _table(
    ("StageNameCasing", "stage-name-casing", "Stage names should be lowercase"),
    (
        "FromAsCasing",
        "from-as-casing",
        "The 'as' keyword should match the case of the 'from' keyword",
    ),
    (
        "NoEmptyContinuation",
        "no-empty-continuation",
        "Empty continuation lines will become errors in a future release",
    ),
    (
        "ConsistentInstructionCasing",
        "consistent-instruction-casing",
        "All commands within the Dockerfile should use the same casing (either upper or lower)",
    ),
    ("DuplicateStageName", "duplicate-stage-name", "Stage names should be unique"),
    (
        "ReservedStageName",
        "reserved-stage-name",
        "Reserved words should not be used as stage names",
    ),
    (
        "JSONArgsRecommended",
        "json-args-recommended",
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to"
        " OS signals",
    ),
    (
        "MaintainerDeprecated",
        "maintainer-deprecated",
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author",
    ),
    ("UndefinedArgInFrom", "undefined-arg-in-from", "FROM command must use declared ARGs"),
    ("UndefinedVar", "undefined-var", "Variables should be defined before their use"),
    (
        "WorkdirRelativePath",
        "workdir-relative-path",
        "Relative workdir without an absolute workdir declared within the build can have"
        " unexpected results if the base image changes",
    ),
    (
        "MultipleInstructionsDisallowed",
        "multiple-instructions-disallowed",
        "Multiple instructions of the same type should not be used in the same stage",
    ),
    (
        "LegacyKeyValueFormat",
        "legacy-key-value-format",
        "Legacy key/value format with whitespace separator should not be used",
    ),
    (
        "InvalidBaseImagePlatform",
        "",
        "Base image platform does not match expected target platform",
    ),
    (
        "RedundantTargetPlatform",
        "redundant-target-platform",
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the"
        " default behavior",
    ),
    (
        "SecretsUsedInArgOrEnv",
        "secrets-used-in-arg-or-env",
        "Sensitive data should not be used in the ARG or ENV commands",
    ),
    (
        "InvalidDefaultArgInFrom",
        "invalid-default-arg-in-from",
        "Default value for global ARG results in an empty or invalid base image name",
    ),
    (
        "FromPlatformFlagConstDisallowed",
        "from-platform-flag-const-disallowed",
        "FROM --platform flag should not use a constant value",
    ),
    (
        "CopyIgnoredFile",
        "copy-ignored-file",
        "Attempting to Copy file that is excluded by .dockerignore",
    ),
    (
        "ExposeProtoCasing",
        "expose-proto-casing",
        "Protocol in EXPOSE instruction should be lowercase",
    ),
    (
        "ExposeInvalidFormat",
        "expose-invalid-format",
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will"
        " become an error in a future release",
    ),
    (
        "InvalidDefinitionDescription",
        "invalid-definition-description",
        "Comment for build stage or argument should follow the format: `# <arg/stage name>"
        " <description>`. If this is not intended to be a description comment, add an empty line"
        " or comment between the instruction and the comment.",
    ),
)


@value
class CheckOptions:
    """What a `check` directive says (rule D7). In `skip` and `experimental`, `all` is every rule."""

    skip: frozenset[str] = frozenset()
    experimental: frozenset[str] = frozenset()
    error: bool = False

    @classmethod
    def parse(cls, text: str) -> CheckOptions:
        """The options that `skip=A,B;error=true;experimental=C` spells. Raises ValueError."""
        skip, experimental, error = frozenset[str](), frozenset[str](), False
        for option in text.split(";") if text.strip(WHITESPACE) else ():
            name, equals, value = (part.strip(WHITESPACE) for part in option.partition("="))
            names = frozenset(word.strip(WHITESPACE) for word in value.split(","))
            if not equals or name not in ("skip", "error", "experimental"):
                raise ValueError(f"invalid check option {quoted(name)}")
            if name == "skip":
                skip = names
            elif name == "experimental":
                experimental = names
            elif value in _TRUE | _FALSE:
                error = value in _TRUE
            else:
                raise ValueError(f"failed to parse check option {quoted(option)}: not a boolean")
        return cls(skip, experimental, error)

    def merged(self, other: CheckOptions) -> CheckOptions:
        """Both together; whether a warning is an error stays as it is here (rule D8)."""
        return CheckOptions(
            self.skip | other.skip, self.experimental | other.experimental, self.error
        )

    def wants(self, rule: str) -> bool:
        """Whether a warning of `rule` is to be shown. Remarks without a rule always are."""
        if not rule:
            return True
        if RULES[rule].experimental:
            return not self.experimental.isdisjoint((rule, "all"))
        return self.skip.isdisjoint((rule, "all"))


def comment_options(comment: Iterable[str]) -> CheckOptions:
    """What `# check=skip=…` above an instruction asks for (rule D8); nothing when it is wrong."""
    for line in comment:
        if match := _CHECK.match(line):
            try:
                return CheckOptions.parse(match[1])
            except ValueError:
                return CheckOptions()
    return CheckOptions()


def wanted(
    dockerfile: Dockerfile, warnings: Iterable[Warning], options: CheckOptions
) -> tuple[Warning, ...]:
    """Those of `warnings` that `options` and the comments above their lines let through, by line."""
    instructions = tuple(every_instruction(dockerfile))
    starts = [instruction.span.start for instruction in instructions]

    def here(line: int) -> CheckOptions:
        number = bisect_right(starts, line) - 1
        comment = instructions[number].comment if number >= 0 else ()
        return options.merged(comment_options(comment)) if comment else options

    kept = [
        warning
        for warning in dict.fromkeys(warnings)
        if here(warning.span.start).wants(warning.rule)
    ]
    return tuple(sorted(kept, key=lambda warning: warning.span.start))


def every_instruction(dockerfile: Dockerfile) -> Iterator[Instruction]:
    """All instructions of a file, global ARGs and FROMs too, in order."""
    yield from dockerfile.arguments
    for stage in dockerfile.stages:
        yield stage.base
        yield from stage.instructions


def text_warnings(dockerfile: Dockerfile) -> Iterator[Warning]:
    """What is to be said about the text alone: of every stage, needed or not (rule LN1)."""
    yield from line_warnings(dockerfile)
    yield from _stage_names(dockerfile.stages)
    yield from _casing(dockerfile.stages)


def line_warnings(dockerfile: Dockerfile) -> Iterator[Warning]:
    """What is to be said about single instructions, whatever follows them."""
    yield from dockerfile.warnings
    for instruction in every_instruction(dockerfile):
        if isinstance(instruction, From):
            yield from _from(instruction)
        elif isinstance(instruction, Arg):
            yield from _description(instruction, "ARG", [pair.key for pair in instruction.pairs])
        elif isinstance(instruction, Maintainer):
            message = "Maintainer instruction is deprecated in favor of using label"
            span = instruction.span.blame(keyword(instruction))
            yield Warning(message, span, "MaintainerDeprecated")


def keyword(instruction: Instruction) -> str:
    """The instruction's name as written."""
    return instruction.text.split(maxsplit=1)[0]


def _from(line: From) -> Iterator[Warning]:
    if not line.name:
        return
    *_, as_, name = line.text.split()
    if name != name.lower():
        message = f"Stage name '{name}' should be lowercase"
        yield Warning(message, line.span.blame(name), "StageNameCasing")
    from_ = keyword(line)
    if from_ in (from_.lower(), from_.upper()):
        as_wanted = as_.lower() if from_ == from_.lower() else as_.upper()
        if as_ != as_wanted:
            message = f"'{as_}' and '{from_}' keywords' casing do not match"
            yield Warning(message, line.span.blame(as_), "FromAsCasing")
    yield from _description(line, "FROM", [line.name])


def _description(instruction: Arg | From, name: str, keys: list[str]) -> Iterator[Warning]:
    """A comment above a definition describes it: its first word is the name (rule L6)."""
    described = [line for line in instruction.comment if not _CHECK.match(line)]
    if described and described[-1].split(" ")[0] not in keys:
        example = keys[0] if len(keys) == 1 else "<arg_key>"
        message = f"Comment for {name} should follow the format: `# {example} <description>`"
        yield Warning(message, instruction.span, "InvalidDefinitionDescription")


def _stage_names(stages: Iterable[Stage]) -> Iterator[Warning]:
    seen: set[str] = set()
    for stage in stages:
        if stage.name in RESERVED:
            message = (
                f"Stage name should not use the same name as reserved stage {quoted(stage.name)}"
            )
            yield Warning(message, _name_span(stage), "ReservedStageName")
        if stage.name and stage.name in seen:
            message = f"Duplicate stage name {quoted(stage.name)}, stage names should be unique"
            yield Warning(message, _name_span(stage), "DuplicateStageName")
        seen.add(stage.name)


def _name_span(stage: Stage) -> Span:
    return stage.base.span.blame(stage.base.text.split()[-1])


def _casing(stages: Iterable[Stage]) -> Iterator[Warning]:
    instructions = [one for stage in stages for one in (stage.base, *stage.instructions)]
    words = [keyword(one) for one in instructions]
    cases = Counter("lower" if word == word.lower() else "upper" for word in words if _even(word))
    lower = cases["lower"] > cases["upper"]
    for word, instruction in zip(words, instructions, strict=True):
        if word != (word.lower() if lower else word.upper()):
            case = "lowercase" if lower else "uppercase"
            message = f"Command '{word}' should match the case of the command majority ({case})"
            yield Warning(message, instruction.span.blame(word), "ConsistentInstructionCasing")


def _even(word: str) -> bool:
    return word in (word.lower(), word.upper())


def description(comment: Iterable[str], name: str) -> str:
    """What the comment above a definition of `name` says about it (rule L6); empty for nothing."""
    for line in comment:
        if name and line.startswith(f"{name} "):
            return line[len(name) + 1 :]
    return ""

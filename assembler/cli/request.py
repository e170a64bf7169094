"""What `build`, `check` and `plan` share: options that say what is to be built, and the request
they amount to."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from assembler.cli import declared as click
from assembler.cli.annotations import annotations_of
from assembler.cli.options import RESOURCES, pairs, platforms_of
from assembler.environment import PROXY_NAMES, Environment
from assembler.errors import UsageError

if TYPE_CHECKING:
    from assembler.builder import Builder
    from assembler.cancellation import Cancellation
    from assembler.cli.inputs import Inputs
    from assembler.dockerfile.instructions import Dockerfile
    from assembler.events import Sink
    from assembler.images import Pull
    from assembler.oci.platform import Platform
    from assembler.plan.unset import Unset
    from assembler.request import BuildRequest

Command = TypeVar("Command", bound=Callable[..., Any])

ENTITLEMENTS = ("network.host", "security.insecure", "device")
DELETE = "buildx.local.delete"
"""What `--allow` calls the removal of files that are not below the working directory; RUN has nothing
of it."""
OPTIONS = (
    click.option(
        "-f", "--file", "file", metavar="FILE", default="", help="The Dockerfile; - is stdin."
    ),
    click.option("--target", metavar="STAGE", default="", help="The stage to build."),
    click.option(
        "--require",
        metavar="STAGE,…",
        multiple=True,
        help="Stages that must succeed too, such as tests; nothing of them is kept. * is every stage.",
    ),
    click.option(
        "--build-arg", "build_args", metavar="K[=V]", multiple=True, help="Value of an ARG."
    ),
    click.option(
        "--build-context",
        "build_contexts",
        metavar="NAME=…",
        multiple=True,
        help="What stands in for a stage or image: a directory, URL or docker-image://.",
    ),
    click.option(
        "--platform",
        "platforms",
        metavar="OS/ARCH[,…]",
        multiple=True,
        help="The platform of the image; of several, an index of images is made.",
    ),
    click.option("--label", "labels", metavar="K=V", multiple=True, help="Label of the image."),
    click.option(
        "--unset",
        metavar="KIND[:NAME],…",
        multiple=True,
        help="Leave it out of the image's configuration: volume, expose, env, label, each also with a"
        " name as in expose:80, entrypoint, cmd, healthcheck, onbuild, user, workdir, stopsignal,"
        " shell.",
    ),
    click.option(
        "--annotation", "annotations", metavar="[TYPE:]K=V", multiple=True, help="Annotation."
    ),
    click.option(
        "--secret",
        "secrets",
        metavar="id=…",
        multiple=True,
        help="Secret for RUN --mount, masked in output.",
    ),
    click.option(
        "--ssh", "ssh", metavar="default|ID[=…]", multiple=True, help="Agent for git over ssh."
    ),
    click.option("--network", type=click.Choice(["default", "none", "host"]), default="default"),
    click.option(
        "--add-host", "add_hosts", metavar="NAME:IP", multiple=True, help="Line of /etc/hosts."
    ),
    click.option("--shm-size", metavar="SIZE", default="", help="Size of /dev/shm, as in 128m."),
    click.option(
        "--ulimit", "ulimits", metavar="NAME=N[:N]", multiple=True, help="Resource limit of steps."
    ),
    click.option(
        "--resource",
        "resources",
        metavar="KEY=VALUE",
        multiple=True,
        help="Limit of each step: memory=2g, cpu-quota=50000.",
    ),
    *(
        click.option(
            f"--{key}",
            *{"memory": ("-m",), "cpu-shares": ("-c",)}.get(key, ()),
            default="",
            hidden=True,
        )
        for key in RESOURCES
    ),
    click.option(
        "--cgroup-parent",
        "cgroup_parent",
        metavar="PATH",
        default="",
        help="The cgroup that steps run below.",
    ),
    click.option(
        "--allow",
        "allow",
        metavar="ENTITLEMENT",
        multiple=True,
        help=f"Let RUN ask for it: {', '.join(ENTITLEMENTS)}[=NAME[,alias=NAME]]; or {DELETE}.",
    ),
    click.option("--no-cache", is_flag=True, help="Run every step."),
    click.option(
        "--no-cache-filter",
        "no_cache_filter",
        metavar="STAGE,…",
        multiple=True,
        help="Run every step of these stages.",
    ),
    click.option(
        "--cache-ttl",
        "cache_ttl",
        metavar="DURATION",
        default="",
        help="Run steps again whose results are older, as in 168h; 0 is --no-cache.",
    ),
    click.option(
        "--cache-from", metavar="REF|type=…", multiple=True, help="Cache to take results from."
    ),
    click.option(
        "--cache-to", metavar="REF|type=…", multiple=True, help="Where to write the cache."
    ),
    click.option(
        "--pull",
        type=click.Choice(["always", "missing", "newer", "never", "true", "false"]),
        metavar="[=MODE]",
        is_flag=False,
        flag_value="always",
        default="missing",
        help="Ask registries even for images the store has: always, if newer, missing, or never.",
    ),
)


def request_options(command: Command) -> Command:
    """The options that say what is to be built, in the order of the help."""
    for option in reversed(OPTIONS):
        command = option.by_click(command)
    return command


def builder_for(
    options: Mapping[str, Any], environment: Environment, cancellation: Cancellation, sink: Sink
) -> Builder:
    """A builder with the store, runtime and secrets that the options name."""
    from assembler.builder import Builder
    from assembler.cli.limits import archive_limits_of
    from assembler.cli.secrets import agents_of, secrets_of

    return Builder(
        environment,
        store=options["store"],
        runtime=options.get("runtime", "auto"),
        snapshotter=options.get("snapshotter", "auto"),
        access=options["access"],
        jobs=options.get("jobs") or 0,
        secrets=secrets_of(options["secrets"], environment),
        agents=agents_of(options["ssh"], environment),
        cdi_directories=options.get("cdi_spec_dirs", ()),
        archive_limits=archive_limits_of(environment),
        sink=sink,
        cancellation=cancellation,
    )


def read_inputs(builder: Builder, options: Mapping[str, Any], environment: Environment) -> Inputs:
    """The Dockerfile and the contexts."""
    from assembler.cli.inputs import GitOptions, inputs_of

    arguments = build_args_of(options["build_args"], environment)
    git = GitOptions(
        keep=arguments.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "").lower() in ("1", "t", "true"),
        commit_times=bool(arguments.get("SOURCE_DATE_EPOCH")),
    )
    named = options["build_contexts"]
    records = builder.store.contexts_directory
    return inputs_of(options["file"], options["context"], named, git, builder.remotes, records)


def request_of(
    inputs: Inputs, options: Mapping[str, Any], environment: Environment
) -> BuildRequest:
    """The request that the options amount to. Raises SyntaxProblem for the Dockerfile."""
    from assembler.dockerfile.parser import parse

    return request_for(parse(inputs.dockerfile), inputs, options, environment)


def request_for(
    dockerfile: Dockerfile, inputs: Inputs, options: Mapping[str, Any], environment: Environment
) -> BuildRequest:
    """The request that the options amount to, for a Dockerfile that is parsed."""
    from assembler.cli.durations import ttl_of
    from assembler.cli.limits import cgroup_parent_of, limits_of, resources_of, shared_memory_of
    from assembler.plan.contexts import Contexts
    from assembler.request import BuildRequest

    ttl = ttl_of(options["cache_ttl"])
    platforms = platforms_of(options["platforms"], environment)
    arguments = build_args_of(options["build_args"], environment)
    indexed = is_indexed(platforms, arguments)
    return BuildRequest(
        dockerfile=dockerfile,
        context=inputs.context,
        files=inputs.files,
        contexts=Contexts(inputs.named),
        target=options["target"],
        require=tuple(filter(None, ",".join(options["require"]).split(","))),
        build_args=arguments,
        platform=platforms[0] if platforms else None,
        others=platforms[1:],
        indexed=indexed,
        labels=pairs(options["labels"], "--label"),
        unset=unset_of(options["unset"]),
        annotations=annotations_of(options["annotations"], indexed=indexed),
        network=options["network"],
        allow=allowed(options["allow"], options["network"]),
        pull=pull_of(options["pull"]),
        no_cache=without_cache(options["no_cache"] or ttl == 0, options["no_cache_filter"]),
        since=None if ttl is None else time.time() - ttl,
        require_cached=options.get("require_cached", False),
        **caches_of(options, environment),
        add_hosts=hosts_of(options["add_hosts"]),
        shared_memory=shared_memory_of(options["shm_size"]),
        limits=limits_of(options["ulimits"]),
        resources=resources_of(resource_words(options)),
        cgroup_parent=cgroup_parent_of(options["cgroup_parent"]),
    )


def place_of(inputs: Inputs, context: str) -> str:
    """What tells builds of one Dockerfile and context; a digest, so that no path is in a record."""
    if context == "-":
        return ""
    import hashlib

    where = (os.path.realpath(path) for path in (context, inputs.path))
    text = "\0".join(where)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def unset_of(words: tuple[str, ...]) -> tuple[Unset, ...]:
    """What `--unset` takes out of the image's configuration. Raises UsageError."""
    if not words:
        return ()
    from assembler.plan.unset import parse

    return parse(words)


def pull_of(text: str) -> Pull:
    """What `--pull` says: a mode of buildah's, or buildx's true and false."""
    from assembler.images import Pull

    return Pull({"true": "always", "false": "missing"}.get(text, text))


def resource_words(options: Mapping[str, Any]) -> tuple[str, ...]:
    """The words of `--resource`, which win over the options that the keys are as well."""
    values = ((key, options.get(key.replace("-", "_"))) for key in RESOURCES)
    return (*(f"{key}={value}" for key, value in values if value), *options["resources"])


def build_args_of(words: tuple[str, ...], environment: Environment) -> dict[str, str]:
    """`--build-arg K[=V]`, the last of one name winning (rule CL2); a bare K takes the
    environment's value. What the environment says of proxies (rule A11) and SOURCE_DATE_EPOCH
    (rule T1) is an argument too, unless one is given; of a proxy in either case."""
    given = pairs(words, "--build-arg", environment.variables)
    names = [form for name in PROXY_NAMES for form in (name, name.lower())]
    told = {name.upper() for name in given}
    own = [name for name in (*names, "SOURCE_DATE_EPOCH") if name.upper() not in told]
    return {name: environment.get(name) for name in own if environment.get(name)} | given


def is_indexed(platforms: Sequence[Platform], arguments: Mapping[str, str]) -> bool:
    """Whether an index is made: for several platforms, or where BUILDKIT_MULTI_PLATFORM asks for one
    (rule A12). Raises UsageError."""
    several, name = len(platforms) > 1, "BUILDKIT_MULTI_PLATFORM"
    if not arguments.get(name):
        return several
    from assembler.cli.truths import parse_truth

    wanted = parse_truth("--build-arg", arguments, name, several)
    if several and not wanted:
        raise UsageError(
            f"--build-arg {name}={arguments[name]}: several platforms make an index",
            hint="leave it out, or build for one --platform",
        )
    return wanted


def caches_of(options: Mapping[str, Any], environment: Environment) -> dict[str, Any]:
    """What `--cache-from` and `--cache-to` amount to. Raises UsageError."""
    arguments = build_args_of(options["build_args"], environment)
    sources, targets = options.get("cache_from", ()), options.get("cache_to", ())
    if not (sources or targets or "BUILDKIT_INLINE_CACHE" in arguments):
        return {}
    from assembler.cli.caches import sources_of, targets_of

    return {"cache_from": sources_of(sources), "cache_to": targets_of(targets, arguments)}


def without_cache(every: bool, stages: tuple[str, ...]) -> frozenset[str]:
    """The stages that take nothing from the cache, `*` for all of them (rule S12). Raises
    UsageError."""
    if every:
        return frozenset("*")
    words = (word.strip().lower() for value in stages for word in value.split(","))
    found = frozenset(word for word in words if word)
    if "*" in found:
        raise UsageError("--no-cache-filter *: not a stage", hint="--no-cache is for all stages")
    return found


def allowed(words: tuple[str, ...], network: str) -> frozenset[str]:
    """The entitlements of `--allow`; a build on the host's network has that one, as under buildx.
    Raises UsageError for another, and for a value where none is taken or that is no device."""
    from assembler.plan.entitlements import device_allowance

    found = {"network.host"} if network == "host" else set()
    for word in words:
        name, equals, rest = word.partition("=")
        if word == DELETE:
            continue
        if name not in ENTITLEMENTS:
            known = ", ".join((*ENTITLEMENTS, DELETE))
            raise UsageError(f"--allow {word}: unknown entitlement", hint=f"one of {known}")
        if equals and name != "device":
            raise UsageError(f"--allow {word}: {name} takes no value")
        found.add(f"{name}={rest}" if rest else name)
    device_allowance(found)
    return frozenset(found)


def hosts_of(words: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """`--add-host NAME:ADDRESS` or `NAME=ADDRESS`, several by commas (rule R5).

    Raises UsageError for another form, and for what is no address.
    """
    found: list[tuple[str, str]] = []
    for word in (part for value in words for part in value.split(",")):
        name, _, address = word.partition("=" if "=" in word else ":")
        if address == "host-gateway":
            address = "127.0.0.1"  # RUN has the network of the host
        address = address[1:-1] if address[:1] + address[-1:] == "[]" else address
        if not name or name.split() != [name] or not _is_address(address):
            raise UsageError(
                f"invalid --add-host {word!r}", hint="--add-host NAME:ADDRESS, say db:10.0.0.2"
            )
        found.append((name, address))
    return tuple(found)


def _is_address(text: str) -> bool:
    from ipaddress import ip_address

    try:
        return bool(ip_address(text))
    except ValueError:
        return False

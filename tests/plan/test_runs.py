"""RUN as a plan has it: forms, environment, mounts, devices, network, security (dockerfile-language
5), rule by rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from assembler.dockerfile.parser import parse
from assembler.errors import AssemblerError, BadFlag, DockerfileError
from assembler.oci.digest import Digest
from assembler.oci.platform import Platform
from assembler.plan import keys
from assembler.plan.make import PlanRequest, make, needs
from assembler.plan.plan import PlannedStage
from assembler.plan.steps import (
    BindMount,
    CacheMount,
    ContextOrigin,
    Device,
    ImageOrigin,
    Mount,
    Run,
    SecretMount,
    SshMount,
    StageOrigin,
    TmpfsMount,
)
from assembler.source import Source

AMD64 = Platform("linux", "amd64")
ALLOWED = frozenset({"network.host", "security.insecure", "device"})
One = TypeVar("One", bound=Mount)


def request(text: str, args: Mapping[str, str] | None = None) -> PlanRequest:
    """Asks for the plan of `text` after `FROM scratch`, after a stage called `st`."""
    source = Source("Dockerfile", f"FROM scratch AS st\nFROM scratch\n{text}\n")
    return PlanRequest(
        dockerfile=parse(source), build_platform=AMD64, build_args=args or {}, allow=ALLOWED
    )


def stage(text: str, args: Mapping[str, str] | None = None, **more: object) -> PlannedStage:
    made = make(replace(request(text, args), **more), {})  # type: ignore[arg-type]
    return made.stage(made.target)


def run(text: str, args: Mapping[str, str] | None = None, **more: object) -> Run:
    """The last step of `text`."""
    found = stage(text, args, **more).steps[-1]
    assert isinstance(found, Run)
    return found


def mount(kind: type[One], text: str, before: str = "") -> One:
    """The mount that `--mount=TEXT` is, in the state after `before`."""
    [found] = run(f"{before}\nRUN --mount={text} x").mounts
    assert isinstance(found, kind)
    return found


def refused(text: str) -> str:
    with pytest.raises(DockerfileError) as caught:
        stage(text)
    assert caught.value.span is not None and caught.value.span.start == 2 + text.count("\n") + 1
    return caught.value.message


def mount_refused(text: str) -> str:
    with pytest.raises(BadFlag) as caught:
        stage(f"RUN --mount={text} x")
    assert caught.value.span is not None and caught.value.span.start == 3
    return caught.value.message


# 5.1 Forms and environment


def test_R1_shell_and_exec_form() -> None:
    assert run('RUN echo "a  b" && c').argv == ("/bin/sh", "-c", 'echo "a  b" && c')
    assert run('RUN ["a", "b c", "$d"]').argv == ("a", "b c", "$d")
    assert run('SHELL ["/x", "-y"]\nRUN a').argv == ("/x", "-y", "a")
    assert run('SHELL ["/x", "-y"]\nRUN ["a"]').argv == ("a",)
    assert refused("RUN []") == "RUN needs a command"


def test_R1_another_shell_where_the_system_is_another() -> None:
    asked = replace(request("CMD a\nENTRYPOINT b"), platform=Platform("windows", "amd64"))
    made = make(asked, {}).stage(1).config.execution
    assert made.cmd == ("cmd", "/S", "/C", "a") and made.entrypoint == ("cmd", "/S", "/C", "b")


def test_R2_where_as_whom_and_with_what() -> None:
    found = run("WORKDIR /a\nUSER u:g\nENV e=1\nARG a=2\nRUN x", {"http_proxy": "p"})
    assert (found.cwd, found.user) == ("/a", "u:g")
    assert dict(found.env).items() >= {"e": "1", "a": "2"}.items()
    assert dict(found.proxies) == {"HTTP_PROXY": "p", "http_proxy": "p"}
    assert found.hostname == ""
    assert run("RUN x", {"BUILDKIT_SANDBOX_HOSTNAME": "h"}).hostname == "h"
    assert run("RUN x").cwd == "/"


def test_R4_a_run_knows_all_its_lines() -> None:
    found = run("ENV a=b\nRUN one && \\\n  # why\n  two && \\\n  three")
    assert (found.span.start, found.span.end) == (4, 7)
    assert (run("RUN <<EOF\na\nb\nEOF").span.start, run("RUN <<EOF\na\nb\nEOF").span.end) == (3, 6)


def test_R5_names_of_hosts_are_in_the_key_and_addresses_are_not() -> None:
    found = run("RUN x", hosts=("db", "web"))
    assert found.hosts == ("db", "web")
    parent = keys.scratch_key(AMD64)
    plain = keys.definition_key(parent, run("RUN x"), [])
    assert keys.definition_key(parent, found, []) != plain
    assert keys.definition_key(parent, run("RUN x", hosts=("db",)), []) != plain


def test_R6_every_run_is_a_layer() -> None:
    made = stage("RUN true\nRUN true")
    assert [line.step for line in made.history] == [0, 1]


def test_R7_what_a_runs_key_depends_on() -> None:
    parent = keys.scratch_key(AMD64)

    def key(text: str, args: Mapping[str, str] | None = None) -> str:
        return str(keys.definition_key(parent, run(text, args), []))

    plain = key("RUN x")
    different = [
        key("RUN y"),
        key("ENV e=1\nRUN x"),
        key("ARG a=1\nRUN x"),
        key("ARG a=1\nRUN x", {"a": "2"}),
        key("WORKDIR /a\nRUN x"),
        key("USER u\nRUN x"),
        key("RUN --network=none x"),
        key("RUN --security=insecure x"),
        key("RUN --mount=type=tmpfs,target=/a x"),
        key("RUN --mount=type=secret,id=a x"),
        key("RUN --mount=type=cache,target=/a x"),
        key("RUN --mount=type=cache,target=/a,uid=1 x"),
        key("RUN --mount=type=cache,target=/a,ro x"),
        key("RUN --mount=type=tmpfs,target=/a,size=1m x"),
        key("RUN --mount=type=ssh x"),
        key("RUN --device=a/b x"),
        key("RUN <<EOF\nx\nEOF"),  # with a line end
        key('SHELL ["/bin/bash", "-c"]\nRUN x'),
        key("ARG HTTP_PROXY\nRUN x", {"HTTP_PROXY": "p"}),
    ]
    assert len({plain, *different}) == len(different) + 1
    same = [
        key("ARG a\nRUN x"),
        key("LABEL a=1\nCMD c\nENTRYPOINT e\nEXPOSE 1\nVOLUME /v\nSTOPSIGNAL 9\nRUN x"),
        key("HEALTHCHECK NONE\nMAINTAINER m\nONBUILD RUN y\nRUN x"),
        key("RUN x\nARG late=1"),
        key("RUN x", {"HTTP_PROXY": "p", "no_proxy": "q"}),
        key("RUN x", {"undeclared": "1"}),
        key("# told\n\nRUN   x  "),
        key("RUN \\\n# told\n  x"),
        key('RUN --network=default ["/bin/sh", "-c", "x"]'),
        key("WORKDIR /\nRUN x"),
    ]
    assert set(same) == {plain}
    for text, others in (
        (
            "RUN --mount=type=cache,target=/a{} x",
            ["", ",id=two", ",sharing=locked", ",from=st,source=/b"],
        ),
        ("RUN --mount=type=ssh,target=/a{} x", [",id=one", ",id=two"]),
        ("RUN <<{0}\nx\n{0}", ["EOF", "END"]),
        ("RUN <<{}EOF\n\tx\nEOF", ["-", "-"]),
    ):
        assert len({key(text.format(other)) for other in others}) == 1, text


# 5.2 Mounts: syntax


def test_M1_fields_keys_and_bare_words() -> None:
    assert mount(BindMount, "TARGET=/a,Source=/b,RW") == BindMount(
        "/a", "/b", ContextOrigin(), False
    )
    assert mount(SecretMount, "type=secret,id=a,required").required
    assert mount(BindMount, r"\"target=/a,b\",source=/c").target == "/a,b"
    assert mount(BindMount, "target=/a,target=/b").target == "/b"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("target", "invalid field 'target' must be a key=value pair"),
        ("Foo", "invalid field 'Foo' must be a key=value pair"),
        ("env,type=secret", "invalid field 'env' must be a key=value pair"),
        ("xyz=x", "unexpected key 'xyz' in 'xyz=x'"),
        ("Taget=/x", "unexpected key 'taget' in 'Taget=/x' (did you mean target?)"),
        ("dts=/x", "unexpected key 'dts' in 'dts=/x' (did you mean dst?)"),
        ("type=tmpfs,siz=1,target=/a", "unexpected key 'siz' in 'siz=1' (did you mean size?)"),
    ],
)
def test_M1_other_words(text: str, message: str) -> None:
    assert mount_refused(text) == message


def test_M2_types() -> None:
    assert isinstance(mount(BindMount, "target=/a"), BindMount)
    assert isinstance(mount(TmpfsMount, "type=TMPFS,target=/a"), TmpfsMount)
    assert mount_refused("type=cahe,target=/a") == (
        'unsupported mount type "cahe" (did you mean cache?)'
    )
    assert mount_refused("type=volume") == 'unsupported mount type "volume"'


def test_M2_required_and_size_follow_their_type() -> None:
    assert mount(SecretMount, "type=secret,required=true,id=a").required
    assert mount_refused("required=true,type=secret,id=a") == (
        "unexpected key 'required' for mount type 'bind'"
    )
    assert mount_refused("size=1,type=tmpfs,target=/a") == (
        "unexpected key 'size' for mount type 'bind'"
    )


def test_M2_other_keys_may_come_first() -> None:
    cache = mount(CacheMount, "mode=0700,uid=1,gid=2,sharing=locked,target=/a,type=cache")
    assert (cache.mode, cache.uid, cache.gid, cache.sharing) == (0o700, 1, 2, "locked")


@pytest.mark.parametrize("key", ["target", "dst", "destination"])
@pytest.mark.parametrize(
    ("path", "where"),
    [("/a/../b", "/b"), ("c", "/w/c"), ("", "/w"), (".", "/w"), ("//a//b/", "/a/b")],
)
def test_M3_targets(key: str, path: str, where: str) -> None:
    for kind in ("bind", "cache", "tmpfs"):
        [found] = run(f"WORKDIR /w\nRUN --mount=type={kind},{key}={path} x").mounts
        assert not isinstance(found, SecretMount) and found.target == where


@pytest.mark.parametrize(
    "text", ["target=/", "target=/a/..", "target=.", "type=cache", "type=tmpfs"]
)
def test_M3_not_the_root(text: str) -> None:
    assert mount_refused(text) == 'invalid mount target "/"'


@pytest.mark.parametrize("key", ["source", "src"])
@pytest.mark.parametrize(
    ("path", "wanted"), [("/a", "/a"), ("a/b/", "/a/b"), ("", "/"), ("..", "/"), ("./c", "/c")]
)
def test_M3_sources(key: str, path: str, wanted: str) -> None:
    assert mount(BindMount, f"target=/m,{key}={path}").source == wanted


def test_M3_from() -> None:
    assert mount(BindMount, "target=/m,from=st").origin == StageOrigin(0)
    assert mount(BindMount, "target=/m,from=img:1").origin == ImageOrigin(
        "docker.io/library/img:1 linux/amd64"
    )
    assert mount_refused("target=/m,from=$x") == (
        "'from' doesn't support variable expansion, define alias stage instead"
    )


@pytest.mark.parametrize("key", ["mode=0700", "uid=1", "gid=1"])
@pytest.mark.parametrize("kind", ["bind", "tmpfs"])
def test_M4_owners_and_modes_are_for_what_is_made(key: str, kind: str) -> None:
    name = key.partition("=")[0]
    message = f'{name} not allowed for "{kind}" type mounts'
    assert mount_refused(f"type={kind},target=/a,{key}") == message
    for other in ("cache", "secret", "ssh"):
        assert run(f"RUN --mount=type={other},target=/a,{key} x").mounts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("target=/a,sharing=shared", "invalid cache sharing set for bind mount"),
        ("type=tmpfs,target=/a,sharing=shared", "invalid cache sharing set for tmpfs mount"),
        ("type=secret,id=a,sharing=shared", "secret mount should not define sharing"),
        ("target=/a,size=1", "unexpected key 'size' for mount type 'bind'"),
        ("type=cache,target=/a,size=1", "unexpected key 'size' for mount type 'cache'"),
        ("type=cache,target=/a,required", "unexpected key 'required' for mount type 'cache'"),
        ("type=cache,target=/a,mode=9", "invalid value 9 for mode"),
        ("type=cache,target=/a,mode=0o7", "invalid value 0o7 for mode"),
        ("type=cache,target=/a,mode=-1", "invalid value -1 for mode"),
        ("type=cache,target=/a,uid=root", "invalid value root for uid"),
        ("type=cache,target=/a,uid=", "invalid value  for uid"),
        ("type=cache,target=/a,gid=4294967296", "invalid value 4294967296 for gid"),
        ("type=cache,target=/a,gid=1_0", "invalid value 1_0 for gid"),
    ],
)
def test_M4_keys_of_other_types_and_values_that_are_none(text: str, message: str) -> None:
    assert mount_refused(text) == message


def test_M5_who_may_write() -> None:
    assert mount(BindMount, "target=/a").read_only
    assert not mount(CacheMount, "type=cache,target=/a").read_only
    assert mount(CacheMount, "type=cache,target=/a,ro").read_only


@pytest.mark.parametrize(
    ("text", "read_only"),
    [(f"{key}{value}", wanted) for key in ("ro", "readonly") for value, wanted in (
        ("", True), ("=1", True), ("=T", True), ("=true", True), ("=0", False), ("=FALSE", False)
    )]
    + [(f"{key}{value}", wanted) for key in ("rw", "readwrite") for value, wanted in (
        ("", False), ("=t", False), ("=True", False), ("=f", True), ("=false", True)
    )]
    + [("ro,rw", False), ("rw,ro", True)],
)  # fmt: skip
def test_M5_in_words(text: str, read_only: bool) -> None:
    assert mount(BindMount, f"target=/a,{text}").read_only is read_only


@pytest.mark.parametrize("key", ["ro", "rw", "readonly", "readwrite"])
def test_M5_neither_true_nor_false(key: str) -> None:
    assert mount_refused(f"target=/a,{key}=yes") == f"invalid value for {key}: yes"


# 5.3 Mounts: types


def test_M6_bind() -> None:
    assert mount(BindMount, "target=/a") == BindMount("/a", "/", ContextOrigin(), True)


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("target=/a/../b", "/b"),
        ("target=./c/", "c"),
        ("target=/a,id=x/y", "x/y"),
        ("target=$T", "/t"),
    ],
)
def test_M7_a_cache_is_known_by_its_id_else_by_its_target_as_written(text: str, id: str) -> None:
    assert mount(CacheMount, f"type=cache,{text}", "ENV T=/t\nWORKDIR /w").id == id


def test_M7_caches() -> None:
    text = "RUN --mount=type=cache,target=/a,id=i x"
    [found] = run(text, {"BUILDKIT_CACHE_MOUNT_NS": "ns"}).mounts
    assert isinstance(found, CacheMount) and found.id == "ns/i"
    plain = mount(CacheMount, "type=cache,target=/a")
    assert (plain.sharing, plain.uid, plain.gid, plain.mode) == ("shared", 0, 0, 0o755)
    assert plain.origin is None
    seeded = mount(CacheMount, "type=cache,target=/a,from=st,source=b")
    assert (seeded.origin, seeded.source) == (StageOrigin(0), "/b")


@pytest.mark.parametrize("sharing", ["shared", "private", "locked", "LOCKED"])
def test_M7_sharing(sharing: str) -> None:
    found = mount(CacheMount, f"type=cache,target=/a,sharing={sharing}")
    assert found.sharing == sharing.lower()


def test_M7_sharing_that_is_none() -> None:
    assert mount_refused("type=cache,target=/a,sharing=locke") == (
        'unsupported sharing value "locke" (did you mean locked?)'
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64", 64), ("64b", 64), ("64k", 64 << 10), ("64m", 64 << 20), ("1g", 1 << 30),
        ("1T", 1 << 40), ("2p", 2 << 50), ("1.5KiB", 1536), ("1 MB", 1 << 20), (".5k", 512),
    ],
)  # fmt: skip
def test_M8_sizes(text: str, size: int) -> None:
    escaped = text.replace(" ", "\\ ")
    assert mount(TmpfsMount, f"type=tmpfs,target=/a,size={escaped}") == TmpfsMount("/a", size)


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1x", "1kk", "1bb", "inf", "nan", "1e5", "9" * 400]
)
def test_M8_sizes_that_are_none(text: str) -> None:
    assert mount_refused(f"type=tmpfs,target=/a,size={text}") == f"invalid value for size: {text}"


@pytest.mark.parametrize(
    ("text", "id", "target", "env"),
    [
        ("id=a", "a", "/run/secrets/a", ""),
        ("id=a/b", "a/b", "/run/secrets/b", ""),
        ("source=a", "a", "/run/secrets/a", ""),
        ("target=/x/y", "y", "/x/y", ""),
        ("target=x/y", "y", "/w/x/y", ""),
        ("id=a,target=/x", "a", "/x", ""),
        ("id=a,env=E", "a", "", "E"),
        ("id=a,env=E,target=/x", "a", "/x", "E"),
        ("id=a,env=", "a", "", "a"),
        ("target=/x,env=E", "x", "/x", "E"),
    ],
)
def test_M9_secrets(text: str, id: str, target: str, env: str) -> None:
    found = mount(SecretMount, f"type=secret,{text}", "WORKDIR /w")
    assert (found.id, found.target, found.env) == (id, target, env)
    assert (found.mode, found.uid, found.gid, found.required) == (0o400, 0, 0, False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id=a,source=b", "both source and id can't be set"),
        ("id=a,from=st", "secret mount should not have a from"),
        ("env=E", "invalid secret mount. one of source, target required"),
        ("required=true", "invalid secret mount. one of source, target required"),
    ],
)
def test_M9_secrets_that_cannot_be(text: str, message: str) -> None:
    assert mount_refused(f"type=secret,{text}") == message


def test_M9_secrets_are_in_no_environment_and_history() -> None:
    made = stage("RUN --mount=type=secret,id=token,env=TOKEN use $TOKEN")
    [found] = made.steps
    assert isinstance(found, Run) and "TOKEN" not in dict(found.env)
    assert found.name == "[stage-1 1/1] RUN --mount=type=secret,id=token,env=TOKEN use $TOKEN"
    assert made.history[0].history.created_by == "RUN /bin/sh -c use $TOKEN # buildkit"


def test_M10_agents() -> None:
    text = (
        "RUN --mount=type=ssh --mount=type=tmpfs,target=/t --mount=type=ssh,id=x,mode=0666,uid=5 y"
    )
    first, _, second = run(text).mounts
    assert first == SshMount("default", "/run/buildkit/ssh_agent.0")
    assert second == SshMount("x", "/run/buildkit/ssh_agent.1", uid=5, mode=0o666)
    assert mount(SshMount, "type=ssh,required,target=/s") == SshMount(
        "default", "/s", required=True
    )
    assert first.mode == 0o600  # type: ignore[union-attr]
    assert mount_refused("type=ssh,source=/x") == "ssh does not support source"


# 5.4 and 5.5 Devices, network, security


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("vendor.com/class=dev", Device("vendor.com/class=dev")),
        ("Vendor.com/Class=Dev", Device("Vendor.com/Class=Dev")),
        ("vendor.com/class=*", Device("vendor.com/class=*")),
        ("vendor.com/class", Device("vendor.com/class")),
        ("class,required", Device("class", required=True)),
        ("required,class", Device("class", required=True)),
        ("name=class,required=false", Device("class")),
    ],
)
def test_M12_devices(text: str, device: Device) -> None:
    assert run(f"RUN --device={text} x").devices == (device,)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("required", "device name is empty"),
        ("a,b", "invalid field 'b' must be a key=value pair"),
        ("a,required=x", "invalid value for required: x"),
        ("a,requird=true", "unexpected key 'requird' in 'requird=true' (did you mean required?)"),
        ("name=a,name=b", "device name already set to a"),
    ],
)
def test_M12_devices_that_are_none(text: str, message: str) -> None:
    assert refused(f"RUN --device={text} x") == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('\\"a', 'failed to parse csv fields: missing closing " in "a'),
        ('a\\"b', 'failed to parse csv fields: bare " in non-quoted field a"b'),
    ],
)
def test_M12_devices_that_are_no_csv(text: str, message: str) -> None:
    assert refused(f"RUN --device={text} x") == message


plain = st.text(
    st.characters(codec="ascii", exclude_characters="\"'\\\\,", exclude_categories=("C", "Z")),
    min_size=1,
)


@given(plain, st.booleans(), st.booleans())
def test_M12_any_word_is_a_name(name: str, required: bool, keyed: bool) -> None:
    assume(name.partition("=")[0].lower() not in ("name", "required"))
    text = f"{'name=' if keyed else ''}{name}{',required' if required else ''}"
    assert run(f"RUN --device={text} x").devices == (Device(name, required),)


def test_M12_a_malformed_device_is_told_before_a_network_that_is_none() -> None:
    assert refused("RUN --network=x --device=a,b x") == (
        "invalid field 'b' must be a key=value pair"
    )


def test_M12_names_are_not_expanded() -> None:
    assert run("ARG D=v/c=d\nRUN --device=$D x").devices == (Device("$D"),)


def test_M12_a_plan_leaves_it_to_the_executing_host_what_is_allowed() -> None:
    assert run("RUN --device=v/c=d x", allow=frozenset()).devices == (Device("v/c=d"),)


def test_M12_devices_are_in_the_key_by_their_names_as_written() -> None:
    texts = ("x", "--device=v/c=d x", "--device=v/c x", "--device=v/c=d,required x")
    parent = Digest.of(b"")
    found = {keys.definition_key(parent, run(f"RUN {text}"), ()) for text in texts}
    assert len(found) == len(texts)
    assert keys.definition_key(parent, run("RUN --device=name=v/c=d x"), ()) in found


def test_M12_several_devices() -> None:
    assert run("RUN --device=a --device=b,required x").devices == (Device("a"), Device("b", True))


@pytest.mark.parametrize("mode", ["default", "none", "host"])
def test_N1_networks(mode: str) -> None:
    assert run(f"RUN --network={mode} x").network == mode
    wanted = "host" if mode == "default" else mode
    assert run(f"RUN --network={mode} x", network="host").network == wanted
    assert run("RUN x", network=mode).network == mode


def test_N1_who_gives_every_run_the_hosts_network_allows_it() -> None:
    found = run("RUN --network=host x", network="host", allow=frozenset())
    assert found.network == "host"


def test_N1_a_network_that_is_none() -> None:
    assert refused("RUN --network=bridge x") == 'invalid network mode "bridge"'


def test_N2_securities() -> None:
    assert run("RUN x").security == run("RUN --security=sandbox x").security == "sandbox"
    assert run("RUN --security=insecure x").security == "insecure"
    assert refused("RUN --security=none x") == 'security "none" is not valid'


@pytest.mark.parametrize(
    ("flag", "entitlement"),
    [
        ("--network=host", "network.host"),
        ("--security=insecure", "security.insecure"),
    ],
)
def test_N1_N2_entitlements(flag: str, entitlement: str) -> None:
    for allowed in (frozenset[str](), ALLOWED - {entitlement}):
        with pytest.raises(AssemblerError) as caught:
            stage(f"RUN {flag} x", allow=allowed)
        assert entitlement in caught.value.message
        assert caught.value.hint == f"allow it with --allow {entitlement}"
    assert stage(f"RUN {flag} x", allow=frozenset({entitlement})).steps


# 18.4 What must never leak


def test_18_4_proxies_and_secrets_are_in_no_history_configuration_and_key() -> None:
    text = "RUN --mount=type=secret,id=s --mount=type=ssh x"
    given = dict.fromkeys(("HTTP_PROXY", "https_proxy", "NO_PROXY"), "user:password@proxy")
    made, plain = stage(text, given), stage(text)
    assert (made.steps, made.history, made.config) == (plain.steps, plain.history, plain.config)
    assert "password" not in repr((made.history, made.config, made.steps[0].name))
    assert needs(request(text, given), {}) == ()

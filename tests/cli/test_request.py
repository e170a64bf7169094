"""Flags of `build`, `check` and `plan`: their grammars, and what a wrong value is told
(rules M11, A8, A11, A12, CL1, CL2, S12, K9, Y8)."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from assembler.cli.annotations import annotations_of
from assembler.cli.inputs import Inputs
from assembler.cli.main import run
from assembler.cli.options import pairs, platforms_of
from assembler.cli.request import (
    allowed,
    build_args_of,
    hosts_of,
    request_of,
    without_cache,
)
from assembler.cli.secrets import MAX_SECRET, agents_of, secrets_of
from assembler.environment import Environment
from assembler.errors import UsageError
from assembler.images import host_platform
from assembler.oci.image import Annotations
from assembler.oci.platform import Platform
from assembler.plan.make import make
from assembler.request import BuildRequest, plan_request
from assembler.source import Source

AMD64 = Platform.parse("linux/amd64")


def environment(**variables: str) -> Environment:
    return Environment.read({"HOME": "/home/me", **variables})


def request(text: str = "FROM scratch\n", **options: Any) -> BuildRequest:
    """The request of a command line with these options only."""
    variables = options.pop("variables", {})
    given = {
        "target": "", "require": (), "build_args": (), "platforms": (), "labels": (), "unset": (), "annotations": (),
        "network": "default", "allow": (), "pull": "missing", "no_cache": False,
        "no_cache_filter": (), "cache_ttl": "", "add_hosts": (), "shm_size": "", "ulimits": (),
        "resources": (), "cgroup_parent": "", **options,
    }  # fmt: skip
    return request_of(Inputs(Source("Dockerfile", text)), given, environment(**variables))


# --build-arg -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "variables", "expected"),
    [
        (("A=1",), {}, {"A": "1"}),
        (("A=1", "A=2"), {}, {"A": "2"}),
        (("A=b=c",), {}, {"A": "b=c"}),
        (("A=",), {}, {"A": ""}),
        (("A",), {"A": "env"}, {"A": "env"}),
        (("A",), {"A": ""}, {"A": ""}),
        (("A",), {}, {}),
        (("A=1", "A"), {"A": "env"}, {"A": "env"}),
        (("A=1", "A"), {}, {"A": "1"}),
    ],
)
def test_CL2_build_arguments(
    words: tuple[str, ...], variables: dict[str, str], expected: dict[str, str]
) -> None:
    assert build_args_of(words, environment(**variables)) == expected


def test_A11_proxies_of_the_environment_are_arguments() -> None:
    variables = {"HTTP_PROXY": "p", "no_proxy": "n", "HTTPS_PROXY": ""}
    assert build_args_of((), environment(**variables)) == {"HTTP_PROXY": "p", "no_proxy": "n"}


@pytest.mark.parametrize("word", ["http_proxy=mine", "HTTP_PROXY=mine"])
def test_A11_one_that_is_given_replaces_those_of_either_case(word: str) -> None:
    variables = {"HTTP_PROXY": "p", "http_proxy": "q"}
    assert build_args_of((word,), environment(**variables)) == dict([word.split("=")])


def test_T1_the_epoch_of_the_environment_is_an_argument() -> None:
    set_ = environment(SOURCE_DATE_EPOCH="5")
    assert build_args_of((), set_) == {"SOURCE_DATE_EPOCH": "5"}
    assert build_args_of(("SOURCE_DATE_EPOCH=6",), set_) == {"SOURCE_DATE_EPOCH": "6"}
    assert build_args_of(("SOURCE_DATE_EPOCH=",), set_) == {"SOURCE_DATE_EPOCH": ""}


def test_A8_A12_arguments_nobody_declares_are_warned_about_except_the_builders_own() -> None:
    words = ("VERSOIN=1", "BUILDKIT_INLINE_CACHE=1", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1",
             "SOURCE_DATE_EPOCH=1", "http_proxy=p", "TARGETARCH=x")  # fmt: skip
    asked = request("ARG VERSION\nFROM scratch\n", build_args=words, variables={"HTTPS_PROXY": "p"})
    warned = [warning.message for warning in make(plan_request(asked), {}).warnings]
    told = [message for message in warned if message.startswith("--build-arg")]
    assert told == ["--build-arg VERSOIN is declared by no ARG (did you mean VERSION?)"]


# --label, --annotation ---------------------------------------------------------------------------


def test_K9_labels_of_the_command_line() -> None:
    words = ("a=1", "a=2", "b=c=d", "bare", "e=")
    assert request(labels=words).labels == {"a": "2", "b": "c=d", "bare": "", "e": ""}
    plan = make(plan_request(request("FROM scratch\nLABEL a=0 f=g\n", labels=("a=1",))), {})
    assert plan.stages[-1].config.execution.labels == {"a": "1", "f": "g"}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("k=v", Annotations({"k": "v"})),
        ("k=", Annotations({"k": ""})),
        ("k=a=b:c", Annotations({"k": "a=b:c"})),
        ("manifest:k=v", Annotations({"k": "v"})),
        ("manifest:a:b=v", Annotations({"a:b": "v"})),
        ("manifest-descriptor:k=v", Annotations({}, {"k": "v"})),
        ("manifest,manifest-descriptor:k=v", Annotations({"k": "v"}, {"k": "v"})),
        ("manifest[linux/amd64]:k=v", Annotations({"k": "v"})),
        ("manifest[linux/x86_64]:k=v", Annotations({"k": "v"})),
        ("manifest[linux/arm64]:k=v", Annotations()),
        ("manifest[linux/arm64],manifest-descriptor[amd64]:k=v", Annotations({}, {"k": "v"})),
    ],
)
def test_Y8_annotations(word: str, expected: Annotations) -> None:
    assert annotations_of((word,)).of(AMD64) == expected


def test_Y8_the_last_one_of_a_key_wins() -> None:
    assert annotations_of(("k=1", "manifest:k=2")) == Annotations({"k": "2"})


def test_Y8_what_is_for_one_platform_wins_and_an_index_has_its_own() -> None:
    words = ("manifest[linux/arm64]:k=arm", "k=all", "index:i=1", "index-descriptor:d=1")
    found = annotations_of(words, indexed=True)
    assert found.of(AMD64).manifest == {"k": "all"}
    assert found.of(Platform.parse("arm64")).manifest == {"k": "arm"}
    assert (found.index, found.index_descriptor) == ({"i": "1"}, {"d": "1"})


def test_Y8_of_two_the_other_wins_at_each_level() -> None:
    one = annotations_of(("a=1", "b=1", "manifest[amd64]:c=1", "index:i=1"), indexed=True)
    other = annotations_of(("b=2", "manifest[amd64]:d=2", "manifest[arm64]:e=2"), indexed=True)
    both = one.under(other)
    assert (both.manifest, both.index) == ({"a": "1", "b": "2"}, {"i": "1"})
    assert both.of(AMD64).manifest == {"a": "1", "b": "2", "c": "1", "d": "2"}
    assert both.of(Platform.parse("arm64")).manifest == {"a": "1", "b": "2", "e": "2"}


def test_Y8_what_is_no_utf8_is_refused() -> None:
    with pytest.raises(UsageError, match="no UTF-8"):
        annotations_of(("k=caf\udce9",))


def test_Y8_they_are_of_the_platform_that_is_asked_for() -> None:
    asked = request(annotations=("manifest[linux/arm64]:k=v",), platforms=("linux/arm64",))
    assert asked.platform is not None
    assert asked.annotations.of(asked.platform).manifest == {"k": "v"}


# --secret, --ssh ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("id=x,src={file}", b"file"),
        ("id=x,source={file}", b"file"),
        ("id=x,src={file},type=file", b"file"),
        ("type=file,id=x,src={file}", b"file"),
        ("ID=x,SRC={file}", b"file"),
        ('id=x,"src={comma}"', b"comma"),
        ("id=x,env=VARIABLE", b"variable"),
        ("id=x,src=VARIABLE,type=env", b"variable"),
        ("id=x,type=env,env=VARIABLE", b"variable"),
        ("id=VARIABLE", b"variable"),
        ("id=VARIABLE,type=env", b"variable"),
        ("id={file}", b"file"),
        ("id={file},type=file", b"file"),
        ("id=VARIABLE,src={file}", b"file"),
    ],
)
def test_M11_secrets(tmp_path: Path, word: str, value: bytes) -> None:
    (tmp_path / "file").write_bytes(b"file")
    (tmp_path / "a,b").write_bytes(b"comma")
    word = word.format(file=tmp_path / "file", comma=tmp_path / "a,b")
    found = secrets_of((word,), environment(VARIABLE="variable"))
    assert [read() for read in found.values()] == [value]


def test_M11_a_file_of_the_ids_name_where_the_type_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "BOTH").write_bytes(b"file")
    given = environment(BOTH="variable")
    assert secrets_of(("id=BOTH",), given)["BOTH"]() == b"variable"
    assert secrets_of(("id=BOTH,type=file",), given)["BOTH"]() == b"file"


def test_M11_the_last_one_of_an_id_wins() -> None:
    found = secrets_of(("id=x,env=A", "id=x,env=B"), environment(A="a", B="b"))
    assert found["x"]() == b"b"


def test_M11_a_secret_may_be_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"from a program")
    os.close(writer)
    try:
        read = secrets_of((f"id=x,src=/dev/fd/{reader}",), environment())["x"]
    finally:
        os.close(reader)
    assert (read(), read()) == (b"from a program", b"from a program")


def test_M11_the_bytes_of_a_variable_are_kept() -> None:
    found = secrets_of(("id=x",), environment(x=b"\xff\n".decode("utf-8", "surrogateescape")))
    assert found["x"]() == b"\xff\n"


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("x", "x has no value"),
        ("src=f", "the id is missing"),
        ("id=,src=f", "the id is missing"),
        ("id=x,mode=4", "there is no mode"),
        ("id=x,type=text", 'unsupported secret type "text"'),
        ('id=x,"src=f', 'missing closing "'),
        ("id=x,src=nosuch", "secret x: nosuch: no such file"),
        ("id=x,src=/etc", "secret x: /etc: Is a directory"),
        ("id=x,env=NOSUCH", "secret x: the environment has no NOSUCH"),
        ("id=x,src=/dev/zero", f"secret x: /dev/zero is larger than {MAX_SECRET} bytes"),
        ("id=NOSUCH,type=env", "the environment has no NOSUCH"),
    ],
)
def test_M11_wrong_secrets(word: str, problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        secrets_of((word,), environment())
    assert problem in raised.value.message


@pytest.fixture
def agent(tmp_path: Path) -> str:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    return str(path)


def test_M11_agents(agent: str) -> None:
    given = environment(SSH_AUTH_SOCK=agent)
    assert agents_of(("default",), given) == {"default": (agent,)}
    assert agents_of(("",), given) == {"default": (agent,)}
    assert agents_of((f"a={agent}", "b"), given) == {"a": (agent,), "b": (agent,)}
    assert agents_of((f"a={agent}",), environment()) == {"a": (agent,)}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("default",), "no ssh agent is running"),
        (("a=nosuch",), "--ssh a=nosuch: nosuch: No such file"),
        (("a=/etc",), "/etc is neither a socket nor a private key"),
        (("a=/etc/passwd,{agent}",), "{agent} is a socket, which stands alone"),
        (("a={agent}", "a={agent}"), "there is an agent a already"),
    ],
)
def test_M11_wrong_agents(agent: str, words: tuple[str, ...], problem: str) -> None:
    with pytest.raises(UsageError) as raised:
        agents_of(tuple(word.format(agent=agent) for word in words), environment())
    assert problem.format(agent=agent) in raised.value.message


def test_M11_private_keys(tmp_path: Path) -> None:
    keys = [tmp_path / name for name in ("one", "two")]
    for key in keys:
        key.write_text("a key")
    word = f"default={keys[0]},{keys[1]}"
    assert agents_of((word,), environment()) == {"default": tuple(map(str, keys))}


# The others --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "stages", "expected"),
    [
        (False, (), set()),
        (True, ("a",), {"*"}),
        (False, ("a,B", " c ,,"), {"a", "b", "c"}),
    ],
)
def test_S12_stages_without_a_cache(
    every: bool, stages: tuple[str, ...], expected: set[str]
) -> None:
    assert without_cache(every, stages) == expected


def test_S12_every_stage_has_an_option_of_its_own() -> None:
    with pytest.raises(UsageError, match=r"--no-cache-filter \*: not a stage") as caught:
        without_cache(False, ("a,*",))
    assert caught.value.hint == "--no-cache is for all stages"


def test_a_ttl_is_a_moment_and_none_at_all_is_no_cache() -> None:
    before = time.time()
    since = request(cache_ttl="1h30m").since
    assert since is not None and before - 5400 <= since <= time.time() - 5400
    assert request().since is None and request().no_cache == frozenset()
    assert request(cache_ttl="0").no_cache == request(cache_ttl="0s").no_cache == {"*"}


@pytest.mark.parametrize("text", ["soon", "5", "1d", "-1h"])
def test_a_ttl_is_a_duration(text: str) -> None:
    with pytest.raises(UsageError, match=f"--cache-ttl {text}: ") as caught:
        request(cache_ttl=text)
    assert caught.value.hint == "--cache-ttl 168h"


def test_N1_entitlements() -> None:
    assert allowed(("network.host", "device=vendor/class", "security.insecure"), "default") == {
        "network.host", "device=vendor/class", "security.insecure",
    }  # fmt: skip
    assert allowed(("device=",), "default") == allowed(("device",), "default") == {"device"}
    assert allowed((), "host") == {"network.host"} and allowed((), "none") == set()
    text = "FROM scratch\nRUN --network=host x\n"
    assert make(plan_request(request(text, network="host")), {}).stages


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("h:10.0.0.1", [("h", "10.0.0.1")]),
        ("h=10.0.0.1", [("h", "10.0.0.1")]),
        ("h:::1", [("h", "::1")]),
        ("h=::1", [("h", "::1")]),
        ("h:[::1]", [("h", "::1")]),
        ("h=[10.0.0.1]", [("h", "10.0.0.1")]),
        ("a:1.1.1.1,b:2.2.2.2", [("a", "1.1.1.1"), ("b", "2.2.2.2")]),
        ("host.docker.internal:host-gateway", [("host.docker.internal", "127.0.0.1")]),
    ],
)
def test_R5_hosts(word: str, expected: list[tuple[str, str]]) -> None:
    assert list(hosts_of((word,))) == expected


@pytest.mark.parametrize(
    ("words", "default", "expected"),
    [
        (("linux/aarch64",), "", "linux/arm64"),
        (("",), "arm", "linux/arm/v7"),
        (("amd64",), "arm", "linux/amd64"),
        ((), "", ""),
        (("linux/arm64,linux/amd64",), "", "linux/amd64 linux/arm64"),
        (("linux/arm64", "amd64, linux/arm/v7"), "", "linux/amd64 linux/arm/v7 linux/arm64"),
        (("amd64,x86_64", "linux/amd64"), "", "linux/amd64"),
        (("linux/arm64/v8,linux/arm64",), "", "linux/arm64"),
        ((), "arm64,amd64", "linux/amd64 linux/arm64"),
    ],
)
def test_A10_the_platforms_asked_for_each_once_in_one_order(
    words: tuple[str, ...], default: str, expected: str
) -> None:
    found = platforms_of(words, environment(DOCKER_DEFAULT_PLATFORM=default))
    assert " ".join(map(str, found)) == expected


def test_A10_local_is_the_platform_of_this_machine() -> None:
    assert platforms_of(("local",), environment()) == (host_platform(),)


def test_A12_an_index_is_for_several_platforms_or_where_it_is_asked_for() -> None:
    one, two = ("linux/amd64",), ("linux/amd64,linux/arm64",)
    asked = ("BUILDKIT_MULTI_PLATFORM=1",)
    assert not request(platforms=one).indexed and not request().indexed
    assert request(platforms=two).indexed and request(platforms=two).others
    assert request(platforms=one, build_args=asked).indexed
    assert request(build_args=asked).indexed and request(build_args=asked).platform is None
    assert not request(platforms=one, build_args=("BUILDKIT_MULTI_PLATFORM=false",)).indexed


def test_pairs_with_and_without_an_environment() -> None:
    assert pairs(("a",), "--x") == {"a": ""} and pairs(("a",), "--x", {}) == {}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--build-arg", "=x"], "--build-arg '=x': the name is empty"),
        (["--label", "=x"], "--label '=x': the name is empty"),
        (["--label", ""], "--label '': the name is empty"),
        (["--annotation", "x"], "invalid --annotation 'x', expected key=value"),
        (["--annotation", "=x"], "invalid --annotation '=x', expected key=value"),
        (["--annotation", "manifest:=x"], "expected key=value"),
        (["--annotation", ":k=v"], "invalid annotation type ''"),
        (["--annotation", "com.example:k=v"], "invalid annotation type 'com.example'"),
        (["--annotation", "layer:k=v"], "unknown annotation type 'layer'"),
        (["--annotation", "index:k=v"], "index annotations not supported for single platform"),
        (["--platform", "amd64,arm64", "--annotation", "index[amd64]:k=v"], "for all platforms"),
        (["--annotation", "manifest[a/b/c/d]:k=v"], "invalid platform 'a/b/c/d'"),
        (["--annotation", "manifest[linux:k=v"], "invalid annotation type 'manifest[linux'"),
        (["--secret", "x"], "invalid --secret 'x'"),
        (["--ssh", "default"], "no ssh agent is running"),
        (["--allow", "root"], "--allow root: unknown entitlement"),
        (["--allow", "device=v/c=d,x"], '--allow device=v/c=d,x: invalid device config "x"'),
        (["--allow", "device=a,b=c"], '--allow device=a,b=c: unknown device config key "b"'),
        (["--allow", "device=,alias=c"], "--allow device=,alias=c: the device has no name"),
        (["--allow", 'device="a'], 'failed to parse csv fields: missing closing " in "a'),
        (["--allow", "network.host=x"], "--allow network.host=x: network.host takes no value"),
        (["--add-host", "h"], "invalid --add-host 'h'"),
        (["--add-host", ":1.1.1.1"], "invalid --add-host ':1.1.1.1'"),
        (["--add-host", "h:nowhere"], "invalid --add-host 'h:nowhere'"),
        (["--add-host", "h\n1.1.1.1 g:1.1.1.1"], "invalid --add-host"),
        (["--platform", "linux/"], "--platform linux/: invalid platform"),
        (["--platform", "amd64,linux/"], "--platform linux/: invalid platform"),
        (["--platform", "amd64,"], "--platform amd64,: a platform is empty"),
        (
            ["--platform", "amd64,arm64", "--build-arg", "BUILDKIT_MULTI_PLATFORM=0"],
            "BUILDKIT_MULTI_PLATFORM=0: several platforms make an index",
        ),
        (
            ["--build-arg", "BUILDKIT_MULTI_PLATFORM=x"],
            "BUILDKIT_MULTI_PLATFORM is neither true nor false",
        ),
        (
            ["--platform", "amd64,arm64", "-o", "type=docker,dest=x"],
            "docker exporter does not currently support exporting manifest lists",
        ),
        (["--network", "bridge"], "'bridge' is not one of 'default', 'none', 'host'"),
        (["--build-context", "x"], "invalid --build-context 'x'"),
        (["--jobs", "0"], "0 is not in the range x>=1"),
        (["--jobs", "many"], "'many' is not a valid integer range"),
        (["--progress", "loud"], "'loud' is not one of"),
        (["--runtime", "docker"], "'docker' is not one of"),
        (["-t", "UPPER"], "repository name must be lowercase"),
        (["-f", "nosuch"], "failed to read dockerfile: open nosuch: No such file"),
        (["--nosuch"], "No such option '--nosuch'"),
        (["--target"], "Option '--target' requires an argument"),
    ],
)
def test_a_wrong_value_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    problem: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("ASSEMBLE_STORE", str(tmp_path / "store"))
    (tmp_path / "Dockerfile").write_text("FROM scratch\n")
    where = [] if arguments == ["--target"] else ["."]
    monkeypatch.setattr(sys, "argv", ["assemble", "build", *arguments, *where])
    assert run() == 2
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert told.out == "" and problem in lines[-1] and lines[-1].startswith("ERROR: ")
    assert len(lines) <= 2 and all(line.startswith("hint: ") for line in lines[:-1])


# --resource, --cgroup-parent ---------------------------------------------------------------------


def test_R5_the_keys_of_resource_are_options_too_and_it_wins() -> None:
    asked = request(memory="1g", cpu_quota="5000", resources=("memory=2g",)).resources
    assert (asked.memory, asked.cpu_quota) == (2 << 30, 5000)


def test_R5_resources_are_not_part_of_the_plan() -> None:
    text = "FROM scratch\nCOPY a /\nRUN b\n"
    plain, limited = request(text), request(text, resources=("memory=64m",), cgroup_parent="/x")
    assert limited.cgroup_parent == "x"
    assert make(plan_request(plain), {}) == make(plan_request(limited), {})


def test_R5_limits_and_shared_memory_are_part_of_the_plan_in_whatever_order() -> None:
    text = "FROM scratch\nRUN b\n"
    plain = make(plan_request(request(text)), {})
    asked = [("nofile=1:2", "core=0"), ("core=0", "nofile=1:2")]
    limited = [make(plan_request(request(text, ulimits=words)), {}) for words in asked]
    assert limited[0] == limited[1] != plain
    assert make(plan_request(request(text, shm_size="1m")), {}) != plain
    assert make(plan_request(request(text, shm_size="64m")), {}) == plain


@pytest.mark.parametrize("command", ["build", "plan", "check"])
def test_R5_a_bad_resource_is_a_usage_error(
    command: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ASSEMBLE_STORE", str(tmp_path / "store"))
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    monkeypatch.setattr(sys, "argv", ["assemble", command, "--resource", "bogus=1", str(tmp_path)])
    assert run() == 2
    said = capsys.readouterr().err
    assert "hint: one of memory, memory-swap" in said
    assert 'ERROR: --resource: unknown resource "bogus"' in said

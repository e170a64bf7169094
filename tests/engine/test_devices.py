"""Which devices a step gets, and what they change about it (M12)."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from assembler.cdi.registry import Registry, registry
from assembler.cdi.specification import BadSpec, Device, DeviceNode, Edits, Hook, Mount, Spec
from assembler.dockerfile.parser import parse
from assembler.engine import devices
from assembler.errors import AssemblerError, DockerfileError, StepError
from assembler.events import Warned
from assembler.oci.platform import Platform
from assembler.plan.entitlements import device_allowance
from assembler.plan.make import PlanRequest, make
from assembler.plan.plan import Plan
from assembler.plan.steps import Run
from assembler.runtime import base
from assembler.source import Source

LINUX = Platform("linux", "amd64")


def plan_of(flags: str) -> Plan:
    """The plan whose only step, on line 2, has `flags`."""
    text = f"FROM scratch\nRUN {flags} x\n"
    request = PlanRequest(dockerfile=parse(Source("Dockerfile", text)), build_platform=LINUX)
    return make(request, {})


@dataclass
class Host:
    """A host with these devices, and a build that is allowed `allow`."""

    found: Registry
    allow: Sequence[str] = ("device",)
    read: int = 0
    warned: list[str] = field(default_factory=list)

    def services(self) -> Any:
        def sink(event: Any) -> None:
            assert isinstance(event, Warned) and event.span is not None and event.span.start == 2
            self.warned.append(event.message)

        def devices() -> Registry:
            self.read += 1
            return self.found

        return SimpleNamespace(
            devices=devices,
            devices_allowed=device_allowance(self.allow),
            sink=sink,
            clock=lambda: 0.0,
        )

    def provide(self, flags: str) -> devices.Provided:
        [step] = plan_of(flags).stages[0].steps
        assert isinstance(step, Run)
        return devices.provide(step, self.services())

    def check(self, flags: str) -> None:
        devices.check(plan_of(flags), self.services())

    def refused(self, flags: str) -> AssemblerError:
        """Why `flags` are refused: the same before anything runs and when the step would."""
        said = []
        for ask in (self.check, self.provide):
            with pytest.raises((DockerfileError, StepError)) as caught:
                ask(flags)
            assert caught.value.span is not None and caught.value.span.start == 2
            said.append((caught.value.message, caught.value.hint))
        assert said[0] == said[1]
        return caught.value


def host(*given: Spec | BadSpec, allow: Sequence[str] = ("device",)) -> Host:
    files = [(0, f"/etc/cdi/{number}.json", one) for number, one in enumerate(given)]
    return Host(registry(files, ("/etc/cdi",)), allow)


def env(name: str, **annotations: str) -> Device:
    """A device that is known by a variable."""
    named = {f"org.mobyproject.buildkit.device.{key}": text for key, text in annotations.items()}
    return Device(name, Edits(env=((name.upper(), "1"),)), named)


def one(allow: Sequence[str] = ("device",), **edits: Any) -> Host:
    """A host with the device v/c=d."""
    return host(Spec("1.1.0", "v/c", (Device("d", Edits(**edits)),)), allow=allow)


SEVERAL = Spec("0.6.0", "v/c", (env("a"), env("b"), env("e", autoallow="true")))


# What a step may have ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "allow", "expected"),
    [
        ("--device=v/c=a", ["device"], ["A"]),
        ("--device=v/c=b --device=v/c=a", ["device"], ["B", "A"]),
        ("--device=v/c --device=v/c=a", ["device"], ["A"]),
        ("--device=v/c=*", ["device"], ["A", "B", "E"]),
        ("--device=v/c=*", ["device=v/c=a", "device=v/c=b"], ["A", "B", "E"]),
        ("--device=v/c=a", ["device=v/c=*"], ["A"]),
        ("--device=v/c=a", ["device=v/c"], ["A"]),
        ("--device=v/c=e", [], ["E"]),
        ("--device=gpu", ["device=v/c=b,alias=gpu"], ["B"]),
        ("--device=none", [], []),
    ],
)
def test_M12_devices_of_a_step(flags: str, allow: list[str], expected: list[str]) -> None:
    given = host(SEVERAL, allow=allow)
    given.check(flags)
    assert [name for name, _ in given.provide(flags).env] == expected


def test_M12_devices_that_are_not_allowed() -> None:
    error = host(SEVERAL, allow=()).refused("--device=v/c=a")
    assert error.message == "device v/c=a is requested by the build but not allowed"
    assert error.hint == "allow it with --allow device=v/c=a"
    error = host(SEVERAL, allow=["device=other"]).refused("--device=v/c=*")
    assert error.message == "devices v/c=a, v/c=b are requested by the build but not allowed"
    assert error.hint == "allow it with --allow device=v/c=a --allow device=v/c=b"


def test_M12_a_required_device_that_is_missing() -> None:
    error = host(SEVERAL, allow=()).refused("--device=v/c=z,required")
    assert error.message == 'required device "v/c=z" is not registered'
    assert error.hint == (
        "CDI specifications are read from /etc/cdi; --cdi-spec-dir DIR reads another directory"
    )


def test_M12_it_comes_before_what_is_not_allowed() -> None:
    error = host(SEVERAL, allow=()).refused("--device=v/c=a --device=z,required")
    assert error.message == 'required device "z" is not registered'


def test_M12_files_that_could_not_be_read_are_named_with_it() -> None:
    bad = [BadSpec(f"bad {number}") for number in range(5)]
    error = host(*bad, allow=()).refused("--device=z,required")
    assert error.hint.startswith(
        "/etc/cdi/0.json: bad 0; /etc/cdi/1.json: bad 1; /etc/cdi/2.json: bad 2; 2 more problems; "
    )


def test_M12_an_optional_device_that_is_missing_is_told() -> None:
    given = host(SEVERAL, allow=())
    given.check("--device=v/c=z")
    assert not given.warned, "what is cached goes without nothing"
    assert given.provide("--device=v/c=z") == devices.Provided((), (), (), ())
    assert given.warned == ['optional device "v/c=z" is not registered: RUN goes without it']


def test_M12_and_so_are_files_that_may_be_the_reason() -> None:
    given = host(BadSpec("no devices"))
    given.provide("--device=v/c=z")
    assert given.warned == [
        'optional device "v/c=z" is not registered: RUN goes without it'
        " (/etc/cdi/0.json: no devices)"
    ]


def test_M12_no_specification_is_read_where_all_is_allowed_or_nothing_asked() -> None:
    allowed, plain = host(SEVERAL), host(SEVERAL, allow=())
    allowed.check("--device=v/c=z,required")
    plain.check("")
    assert (allowed.read, plain.read) == (0, 0)


# What they change --------------------------------------------------------------------------------


def test_M12_a_node_is_the_hosts_where_nothing_else_is_said() -> None:
    given = one(nodes=(DeviceNode("/dev/of-mine", "/dev/zero"), DeviceNode("/dev/null", kind="u")))
    mode = stat.S_IMODE(os.stat("/dev/zero").st_mode)
    assert given.provide("--device=v/c").mounts == (
        base.DeviceNode("/dev/of-mine", "/dev/zero", "c", (1, 5), mode),
        base.DeviceNode("/dev/null", "/dev/null", "c", (1, 3), mode),
    )


def test_M12_a_node_that_is_described_need_not_be_there() -> None:
    node = DeviceNode("/dev/x", "/dev/no-such", "b", 7, 1, mode=0o640, uid=5, gid=6)
    fifo = DeviceNode("/dev/../dev/p", "/dev/no-such", "p")
    assert one(nodes=(node, fifo)).provide("--device=v/c").mounts == (
        base.DeviceNode("/dev/x", "/dev/no-such", "b", (7, 1), 0o640, 5, 6),
        base.DeviceNode("/dev/p", "/dev/no-such", "p", (0, 0), 0o600),
    )


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"nodes": (DeviceNode("/dev/no-such"),)}, "/dev/no-such is no device node of this host"),
        ({"nodes": (DeviceNode("/x", "/etc/passwd"),)}, "/etc/passwd is no device node of this host"),
        ({"nodes": (DeviceNode("/x", "/dev/null", "b"),)}, "/dev/null is of type c, not b"),
        ({"nodes": (DeviceNode("/..", "/dev/null"),)}, "nothing can be mounted at /.."),
        ({"mounts": (Mount("/no-such", "/m"),)}, "/no-such is not there to be mounted at /m"),
        ({"mounts": (Mount("etc", "/m"),)}, "etc is not there to be mounted at /m"),
        ({"mounts": (Mount("/etc", "/m", kind="nfs"),)}, "a mount of type nfs at /m is not provided"),
        ({"mounts": (Mount("/etc", "/m", ("dirsync",)),)},
         "the option dirsync of the mount at /m is not provided"),
        ({"mounts": (Mount("tmpfs", "/m", ("uid=1",), "tmpfs"),)},
         "the option uid=1 of the mount at /m is not provided"),
    ],
)  # fmt: skip
def test_M12_what_cannot_be_provided(edits: dict[str, Any], message: str) -> None:
    with pytest.raises(StepError) as caught:
        one(**edits).provide("--device=v/c=d")
    assert caught.value.message == f"device v/c=d: {message}"
    assert caught.value.span is not None and caught.value.span.start == 2


def test_M12_an_interface_cannot_be_moved() -> None:
    with pytest.raises(StepError) as caught:
        one(interfaces=("eth7",)).provide("--device=v/c")
    assert "device v/c=d moves the network interface eth7" in caught.value.message


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("", (), base.BindSource("/m", "/etc", False)),
        ("bind", ("ro",), base.BindSource("/m", "/etc", True)),
        ("none", ("rbind", "ro", "rprivate", "nosuid", "nodev", "noexec"),
         base.BindSource("/m", "/etc", True, options=("nosuid", "nodev", "noexec"))),
        ("ext4", ("bind", "ro", "rw"), base.BindSource("/m", "/etc", False)),
        ("tmpfs", ("size=64m", "nosuid"), base.TemporaryFiles("/m", 64 << 20)),
        ("tmpfs", (), base.TemporaryFiles("/m", 0)),
    ],
)  # fmt: skip
def test_M12_mounts(kind: str, options: tuple[str, ...], expected: base.RunMount) -> None:
    given = one(mounts=(Mount("/etc", "/n/../m/", options, kind),))
    assert given.provide("--device=v/c").mounts == (expected,)


def test_M12_hooks_know_the_device_that_brings_them() -> None:
    def hook(path: str) -> Hook:
        return Hook("createContainer", path, ("a",), ("B=c",), 3)

    shared = Edits(hooks=(hook("/shared"),))
    given = host(
        Spec(
            "0.6.0",
            "v/c",
            (Device("a", Edits(hooks=(hook("/a"),))), Device("b", Edits(hooks=(hook("/b"),)))),
            shared,
        )
    )
    assert given.provide("--device=v/c=*").hooks == tuple(
        base.Hook("createContainer", path, ("a",), ("B=c",), 3, name)
        for path, name in (("/shared", "v/c=a"), ("/a", "v/c=a"), ("/b", "v/c=b"))
    )


def test_M12_a_group_that_is_not_mapped_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "group_is_mapped", lambda gid: gid != 44)
    given = one(groups=(44, 45))
    assert given.provide("--device=v/c").groups == (45,)
    assert given.warned == ["device v/c=d: group 44 is not mapped here, so RUN is not in it"]


def test_M12_the_callers_groups_are_kept_for_a_node_that_only_they_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "open_by_group", lambda path: path == "/dev/zero")
    nodes = (DeviceNode("/dev/a", "/dev/null"), DeviceNode("/dev/b", "/dev/zero"))
    given = one(nodes=nodes)
    assert given.provide("--device=v/c").host_groups == "/dev/zero"
    assert "/dev/zero can be used by a group of this user only" in given.warned[0]
    assert one(nodes=nodes[:1]).provide("--device=v/c").host_groups == ""


def test_M12_cache_scheduling_is_told_to_be_ignored() -> None:
    given = one(intel_rdt="0.7.0")
    assert given.provide("--device=v/c") == devices.Provided((), (), (), ())
    assert given.warned == ["device v/c=d: intelRdt is not applied, only root of the host could"]


def test_M12_files_of_the_host_are_looked_at_when_the_step_runs(tmp_path: Path) -> None:
    given = one(mounts=(Mount(str(tmp_path / "late"), "/m"),))
    given.check("--device=v/c")
    (tmp_path / "late").touch()
    assert given.provide("--device=v/c").mounts

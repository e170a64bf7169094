"""Devices by name, and who wins where several files have one (M12)."""

from __future__ import annotations

from typing import Any

import pytest

from assembler.cdi.registry import Registered, Registry, merged, registry
from assembler.cdi.specification import BadSpec, Device, DeviceNode, Edits, Hook, Mount, Spec

CLASS = "org.mobyproject.buildkit.device.class"
AUTO = "org.mobyproject.buildkit.device.autoallow"


def device(name: str, **annotations: str) -> Device:
    named = {f"org.mobyproject.buildkit.device.{key}": text for key, text in annotations.items()}
    return Device(name, Edits(env=(("NAME", name),)), named)


def spec(kind: str, *devices: Device, **more: Any) -> Spec:
    return Spec("0.6.0", kind, devices, **more)


HOST = registry(
    [
        (0, "/etc/cdi/a.yaml", spec("v1.com/device", device("foo"))),
        (0, "/etc/cdi/b.yaml", spec("v1.com/multi", *map(device, ("foo", "bar", "qux")))),
        (
            0,
            "/etc/cdi/c.yaml",
            spec(
                "v1.com/gpu", device("g1", **{"class": "gpus"}), device("g0", **{"class": "gpus"})
            ),
        ),
    ]
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("v1.com/device=foo", ["v1.com/device=foo"]),
        ("v1.com/multi", ["v1.com/multi=bar"]),
        ("v1.com/multi=", ["v1.com/multi=bar"]),
        ("v1.com/multi=*", ["v1.com/multi=bar", "v1.com/multi=foo", "v1.com/multi=qux"]),
        ("gpus", ["v1.com/gpu=g0", "v1.com/gpu=g1"]),
        ("v1.com/device=none", []),
        ("v1.com/devic", []),
        ("V1.com/device=foo", []),
        ("v1.com/=foo", []),
        ("foo", []),
        ("*", []),
    ],
)
def test_M12_names(name: str, expected: list[str]) -> None:
    assert [one.name for one in HOST.find(name)] == expected


def test_M12_a_class_may_look_like_a_kind() -> None:
    host = registry([(0, "f", spec("v/c", device("d", **{"class": "any/gpu"})))])
    assert [one.name for one in host.find("any/gpu")] == ["v/c=d"]


def test_M12_annotations_of_the_specification_hold_for_its_devices() -> None:
    given = spec("v/c", device("a"), device("b", autoallow="false"), annotations={AUTO: "true"})
    a, b = registry([(0, "f", given)]).find("v/c=*")
    assert a.auto_allowed and not b.auto_allowed


@pytest.mark.parametrize(
    ("text", "allowed"), [("1", True), ("True", True), ("yes", False), ("", False)]
)
def test_M12_what_allows_a_device(text: str, allowed: bool) -> None:
    one = Registered(device("d", autoallow=text), spec("v/c"), "f")
    assert one.auto_allowed is allowed


def test_M12_the_later_directory_has_the_device() -> None:
    given = [
        (1, "/var/run/cdi/a.json", spec("v/c", device("d"))),
        (0, "/etc/cdi/a.json", spec("v/c", device("d"), device("e"))),
    ]
    host = registry(given)
    assert [(one.name, one.path) for one in host.devices.values()] == [
        ("v/c=d", "/var/run/cdi/a.json"),
        ("v/c=e", "/etc/cdi/a.json"),
    ]
    assert not host.problems


def test_M12_of_two_files_in_one_directory_neither_has_the_device() -> None:
    first, second = (0, "/etc/cdi/a.json", spec("v/c", device("d"), device("e"))), (
        0, "/etc/cdi/b.json", spec("v/c", device("d")),
    )  # fmt: skip
    host = registry([second, first])
    assert list(host.devices) == ["v/c=e"]
    assert host.problems == (
        "/etc/cdi/a.json and /etc/cdi/b.json: both have the device v/c=d, so neither counts",
    )
    above = (1, "/run/cdi/c.json", spec("v/c", device("d")))
    assert registry([first, second, above]).devices["v/c=d"].path == "/run/cdi/c.json"


def test_M12_a_file_that_is_none_is_a_problem_and_no_more() -> None:
    host = registry([(0, "a", BadSpec("no devices")), (0, "b", spec("v/c", device("d")))])
    assert host.problems == ("a: no devices",)
    assert host.find("v/c=d")
    assert len(registry([(0, "a", BadSpec("x" * 10_000))]).problems[0]) < 400


def test_M12_edits_of_a_specification_come_once_and_first() -> None:
    shared = Edits(env=(("A", "spec"), ("B", "spec")), hooks=(Hook("poststop", "/h"),))
    one = Device("one", Edits(env=(("A", "one"),), groups=(5,), intel_rdt="0.7.0"))
    two = Device("two", Edits(env=(("C", "two"),), groups=(5, 6), interfaces=("eth0",)))
    found = registry([(0, "f", spec("v/c", one, two, edits=shared))]).find("v/c=*")
    assert merged(found) == Edits(
        env=(("A", "one"), ("B", "spec"), ("C", "two")),
        hooks=(Hook("poststop", "/h"),),
        groups=(5, 6),
        intel_rdt="0.7.0",
        interfaces=("eth0",),
    )
    assert merged(()) == Edits()


def test_M12_the_last_node_and_the_last_mount_of_a_path_count() -> None:
    first = Edits(nodes=(DeviceNode("/dev/a", "/x"),), mounts=(Mount("/x", "/m"),))
    second = Edits(nodes=(DeviceNode("/dev/a", "/y"),), mounts=(Mount("/y", "/m"),))
    given = spec("v/c", Device("a", first), Device("b", second))
    found = merged(registry([(0, "f", given)]).find("v/c=*"))
    assert (found.nodes, found.mounts) == (second.nodes, second.mounts)


def test_M12_a_host_without_specifications_has_no_devices() -> None:
    assert Registry().find("v/c=d") == Registry().find("v/c=*") == ()

"""How the answers are shown."""

from __future__ import annotations

import json

from assembler.cdi.registry import Registry, registry
from assembler.cdi.specification import BadSpec, Device, Edits, Spec
from assembler.cli.doctor import as_json, text, usable
from assembler.linux.emulators import Host
from assembler.linux.probes import Answer, Report
from tests.linux.test_emulators import emulator, host, kernel

OVERLAY = Answer("overlay mounts", True, "ext4", "no RUN", "a local disk", 0.0021)
FILTER = Answer("system call filters", True, "", "RUN is refused", "another kernel", 0.0005)
HOST = host(emulator(fixed=True), known=kernel("386"))
REFLINK = Answer("reflinks", False, "not supported", "copies cost", "put it on xfs", 0.0002)


def test_a_missing_feature_is_shown_with_its_cost_and_its_cure() -> None:
    found = Report("full", "65537 ids", "", (OVERLAY, FILTER, REFLINK), ("crun",))
    assert text(found, Registry(), HOST) == (
        "ids      full: 65537 ids\n"
        "runtime  native; also here: crun\n"
        "executes linux/amd64, linux/386, linux/arm64 (qemu-aarch64)\n"
        "\n"
        "ok  overlay mounts         2.1 ms  ext4\n"
        "ok  system call filters    0.5 ms\n"
        "no  reflinks               0.2 ms  not supported\n"
        "    without: copies cost\n"
        "    mend:    put it on xfs\n"
    )
    assert usable(found)


def test_a_refusal_says_what_is_missing_and_the_line_that_helps() -> None:
    found = Report("", "this host lets no user namespace be made", "sysctl -w x=1", (), ())
    assert text(found, Registry(), HOST).splitlines()[:2] == [
        "refused  this host lets no user namespace be made",
        "         sysctl -w x=1",
    ]
    assert not usable(found)


def test_json_holds_every_field() -> None:
    found = Report("single", "one id", "apt-get install uidmap", (OVERLAY, FILTER), ())
    document = json.loads(as_json(found, Registry(), HOST))
    assert document["usable"] is True
    assert document["mode"] == "single"
    assert document["answers"][0]["feature"] == "overlay mounts"


def test_without_filters_no_build_can_run_and_without_overlays_it_can() -> None:
    no_overlay = Answer("overlay mounts", False, "Invalid argument", "copies", "a local disk")
    no_filter = Answer("system call filters", False, "Invalid argument", "RUN", "another kernel")
    assert usable(Report("full", "65537 ids", "", (no_overlay, FILTER), ()))
    assert not usable(Report("full", "65537 ids", "", (OVERLAY, no_filter), ()))


def test_M12_devices_are_shown_with_what_allows_them() -> None:
    edits = Edits(env=(("A", "1"),))
    auto = {"org.mobyproject.buildkit.device.autoallow": "true"}
    given = Spec("0.6.0", "v/c", (Device("a", edits), Device("b", edits, auto)))
    files = [(0, "/etc/cdi/v.json", given), (0, "/etc/cdi/w.json", BadSpec("no \x1b devices"))]
    devices = registry(files)
    found = Report("full", "65537 ids", "", (OVERLAY,), ())
    assert text(found, devices, HOST).splitlines()[-4:] == [
        "devices for RUN --device:",
        "ok  v/c=a  with --allow device=v/c=a  (/etc/cdi/v.json)",
        "ok  v/c=b  (/etc/cdi/v.json)",
        "no  /etc/cdi/w.json: no \\x1b devices",
    ]
    document = json.loads(as_json(found, devices, HOST))
    assert document["devices"] == [
        {"name": "v/c=a", "path": "/etc/cdi/v.json", "auto_allowed": False},
        {"name": "v/c=b", "path": "/etc/cdi/v.json", "auto_allowed": True},
    ]
    assert document["device_problems"] == ["/etc/cdi/w.json: no \x1b devices"]


def executed(on: Host) -> str:
    """The line about programs."""
    return text(Report("full", "65537 ids", "", (), ()), Registry(), on).splitlines()[2]


def test_N15_what_else_is_executed_is_told_in_one_line() -> None:
    assert executed(HOST) == "executes linux/amd64, linux/386, linux/arm64 (qemu-aarch64)"
    loose = executed(host(emulator(fixed=False)))
    assert "linux/arm64 (qemu-aarch64, if the image has /usr/bin/qemu-aarch64)" in loose
    assert executed(host()).startswith("executes linux/amd64; for others: register an emulator")


def test_N15_programs_are_told_what_is_executed_and_by_whom() -> None:
    found = Report("full", "65537 ids", "", (), ())
    for fixed in (True, False):
        on = host(emulator(fixed=fixed), known=kernel("386"))
        assert json.loads(as_json(found, Registry(), on))["platforms"] == [
            {"platform": "linux/amd64", "emulator": "", "in_image": False},
            {"platform": "linux/386", "emulator": "", "in_image": False},
            {"platform": "linux/arm64", "emulator": "/usr/bin/qemu-aarch64", "in_image": not fixed},
        ]

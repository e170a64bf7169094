"""CDI specifications: what they say, and what refuses them (M12; CDI SPEC.md 1.1.0)."""

from __future__ import annotations

import json
import string
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.cdi.specification import (
    BadSpec,
    Device,
    DeviceNode,
    Edits,
    Hook,
    Mount,
    Spec,
    parse,
)

GPU = """\
---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
      hostPath: /dev/nvidia0
      fileMode: 0666
      permissions: rw
- name: all
  containerEdits:
    deviceNodes: [{path: /dev/nvidia0}, {path: /dev/dri/card1, type: c, major: 226, minor: 1}]
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  deviceNodes:
  - path: /dev/nvidiactl
  hooks:
  - hookName: createContainer
    path: /usr/bin/nvidia-ctk
    args: [nvidia-ctk, hook, update-ldcache, --folder, /usr/lib]
    env: [NVIDIA_CTK_DEBUG=false]
    timeout: 20
  mounts:
  - hostPath: /usr/lib/libcuda.so.1
    containerPath: /usr/lib/libcuda.so.1
    options: [ro, nosuid, nodev, bind]
"""


def written(**changes: Any) -> dict[str, Any]:
    """A specification with one device, as JSON has it."""
    edits = {"env": ["A=1"]}
    return {
        "cdiVersion": "1.1.0",
        "kind": "vendor.com/class",
        "devices": [{"name": "dev", "containerEdits": edits}],
        **changes,
    }


def read(document: object) -> Spec:
    return parse(json.dumps(document).encode(), yaml=False)


def edits(**members: Any) -> Edits:
    """What the first device of a specification with these containerEdits needs."""
    devices = [{"name": "dev", "containerEdits": members}]
    return read(written(devices=devices)).devices[0].edits


def refused(content: object, *, yaml: bool = False) -> str:
    """Why a specification is none."""
    text = content if isinstance(content, str) else json.dumps(content)
    with pytest.raises(BadSpec) as caught:
        parse(text.encode(), yaml=yaml)
    return str(caught.value)


def test_M12_a_specification_of_a_gpu() -> None:
    spec = parse(GPU.encode(), yaml=True)
    assert (spec.version, spec.kind) == ("0.5.0", "nvidia.com/gpu")
    first, every = spec.devices
    assert first == Device(
        "0",
        Edits(nodes=(DeviceNode("/dev/nvidia0", "/dev/nvidia0", mode=0o666, permissions="rw"),)),
    )
    assert every.edits.nodes[1] == DeviceNode("/dev/dri/card1", kind="c", major=226, minor=1)
    assert spec.edits == Edits(
        env=(("NVIDIA_VISIBLE_DEVICES", "void"),),
        nodes=(DeviceNode("/dev/nvidiactl"),),
        hooks=(
            Hook(
                "createContainer",
                "/usr/bin/nvidia-ctk",
                ("nvidia-ctk", "hook", "update-ldcache", "--folder", "/usr/lib"),
                ("NVIDIA_CTK_DEBUG=false",),
                20,
            ),
        ),
        mounts=(
            Mount(
                "/usr/lib/libcuda.so.1",
                "/usr/lib/libcuda.so.1",
                ("ro", "nosuid", "nodev", "bind"),
            ),
        ),
    )


def test_M12_json_and_yaml_say_the_same() -> None:
    document = written(annotations={"a": "b"}, containerEdits={"additionalGids": [0, 44]})
    text = json.dumps(document)
    assert parse(text.encode(), yaml=True) == parse(text.encode(), yaml=False)
    assert read(document).edits.groups == (44,), "a group 0 is ignored"


def test_M12_what_yaml_reads_as_truth_or_number_is_text_where_text_is_meant() -> None:
    text = GPU.replace("cdiVersion: 0.5.0", "cdiVersion: v0.6.0\nannotations: {auto: true, n: 1}")
    spec = parse(text.replace('"0"', "0").encode(), yaml=True)
    assert spec.annotations == {"auto": "true", "n": "1"}
    assert spec.devices[0].name == "0"


def test_M12_the_case_of_fields_does_not_matter_and_null_is_nothing() -> None:
    assert edits(additionalGIDs=[5], deviceNodes=None).groups == (5,)
    spec = read(written(Annotations={"a": "b"}, containerEdits=None))
    assert (spec.annotations, spec.edits) == ({"a": "b"}, Edits())


@pytest.mark.parametrize(
    ("version", "changes"),
    [
        ("0.4.0", {"mounts": [{"hostPath": "/a", "containerPath": "/b", "type": "none"}]}),
        ("0.5.0", {"deviceNodes": [{"path": "/a", "hostPath": "/b"}]}),
        ("0.7.0", {"additionalGids": [1]}),
        ("0.7.0", {"intelRdt": {"closID": "x"}}),
        ("1.1.0", {"intelRdt": {"schemata": []}}),
        ("1.1.0", {"netDevices": [{"hostInterfaceName": "a", "name": "b"}]}),
    ],
)
def test_M12_a_field_needs_the_version_that_brought_it(
    version: str, changes: dict[str, Any]
) -> None:
    assert read(written(cdiVersion=version, containerEdits=changes)).version == version
    text = refused(written(cdiVersion="0.3.0", containerEdits=changes))
    assert text == f"cdiVersion 0.3.0: what it uses needs {version} at least"


@pytest.mark.parametrize(
    ("version", "changes"),
    [
        ("0.6.0", {"annotations": {"a": "b"}}),
        ("0.6.0", {"kind": "vendor.com/cl.ass"}),
        ("0.5.0", {"devices": [{"name": "0", "containerEdits": {"env": ["A=1"]}}]}),
    ],
)
def test_M12_so_do_names_and_annotations(version: str, changes: dict[str, Any]) -> None:
    assert read(written(cdiVersion=version, **changes))
    assert f"needs {version}" in refused(written(cdiVersion="0.4.0", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cdiVersion": "2.0.0"}, 'cdiVersion "2.0.0" is not known; the newest is 1.1.0'),
        ({"cdiVersion": None}, 'cdiVersion "" is not known; the newest is 1.1.0'),
        ({"kind": "vendor"}, 'kind "vendor": invalid class ""'),
        ({"kind": "1vendor/c"}, 'kind "1vendor/c": invalid vendor "1vendor"'),
        ({"kind": "v/c/d"}, 'kind "v/c/d": invalid class "c/d"'),
        ({"devices": []}, "no devices"),
        ({"devices": {}}, "devices must be a list"),
        ({"devices": [{"name": "a"}]}, 'device "a" has no containerEdits'),
        ({"devices": [{"name": "-"}]}, 'devices[0]: invalid device name "-"'),
        ({"devices": [3]}, "devices[0] must be an object"),
        ({"more": 1}, 'the specification: unknown field "more"'),
        ({"annotations": {"a": []}}, "annotations must be a string"),
        ({"containerEdits": {"env": ["A"]}}, "containerEdits.env[0]: invalid environment variable \"A\""),
        ({"containerEdits": {"mounts": [{"hostPath": "/a", "containerPath": "b"}]}},
         'containerEdits.mounts[0].containerPath must be an absolute path, not "b"'),
        ({"containerEdits": {"hooks": [{"hookName": "x", "path": "/p"}]}},
         'containerEdits.hooks[0]: invalid hook name "x"'),
        ({"containerEdits": {"deviceNodes": [{"path": "/a", "type": "x"}]}},
         'containerEdits.deviceNodes[0]: invalid type "x"'),
        ({"containerEdits": {"deviceNodes": [{"path": "/a", "permissions": "rx"}]}},
         'containerEdits.deviceNodes[0]: invalid permissions "rx"'),
        ({"containerEdits": {"deviceNodes": [{"path": "/a", "major": "1"}]}},
         "containerEdits.deviceNodes[0].major must be a number from 0 to 4294967295"),
        ({"containerEdits": {"deviceNodes": [{"path": "/a", "uid": -1}]}},
         "containerEdits.deviceNodes[0].uid must be a number from 0 to 4294967295"),
        ({"containerEdits": {"intelRdt": {"x": 1}}}, 'containerEdits.intelRdt: unknown field "x"'),
        ({"containerEdits": {"netDevices": [{"name": "b"}]}},
         "containerEdits.netDevices[0]: hostInterfaceName and name are needed"),
    ],
)  # fmt: skip
def test_M12_what_is_wrong_is_named(changes: dict[str, Any], message: str) -> None:
    assert refused(written(**changes)) == message


def test_M12_names_that_are_there_twice() -> None:
    device = {"name": "dev", "containerEdits": {"env": ["A=1"]}}
    assert refused(written(devices=[device, device])) == '"dev" is there twice'
    assert refused('{"kind": "a", "kind": "b"}') == '"kind" is there twice'
    assert refused("kind: a\nkind: b\n", yaml=True) == '"kind" is there twice'
    assert refused('{"kind": "a", "Kind": "b"}') == 'the specification: "Kind" is there twice'


@pytest.mark.parametrize(
    ("text", "yaml", "message"),
    [
        ("{\n]", False, "line 2: Expecting property name enclosed in double quotes"),
        ("a: [\nb", True, "line 3: did not find expected ',' or ']'"),
        ("a: !!python/object:os.system x", True, "line 1: could not determine a constructor"),
        ("", True, "the specification must be an object"),
        ("- a", True, "the specification must be an object"),
        ("a: b\n---\nc: d", True, "line 2: but found another document"),
        ("a: \0", True, ""),
        ("[" * 100_000, False, "it is nested too deeply"),
        ("[" * 100_000, True, ""),
        ("? [a]\n: b", True, "line 1: "),
        ("&a [*a]", True, "the specification must be an object"),
        ('{"a": ' + "1" * 5000 + "}", False, "Exceeds the limit"),
        ("kind: 0x" + "f" * 5000, True, "Exceeds the limit"),
        ("a: !!timestamp x", True, "a value does not fit its tag"),
        ("a: !!int ''", True, "a value does not fit its tag"),
        ("a: !!bool x", True, "a value does not fit its tag"),
        ("a: 2000-99-99", True, "month must be in 1..12"),
    ],
)
def test_M12_what_is_no_json_or_yaml(text: str, yaml: bool, message: str) -> None:
    assert refused(text, yaml=yaml).startswith(message)


def test_M12_merge_keys_do_not_grow() -> None:
    levels = [f"- &x{level} {{<<: [*x{level - 1}, *x{level - 1}]}}" for level in range(1, 60)]
    text = "\n".join(["- &x0 {a: b}", *levels])
    assert refused(text, yaml=True) == "line 60: merge keys (<<) are not read"


def test_M12_a_name_that_is_an_alias_of_itself() -> None:
    bomb = "a: &a [x, x]\n" + "".join(
        f"{name}: &{name} [*{before}, *{before}]\n"
        for before, name in zip(string.ascii_lowercase, string.ascii_lowercase[1:], strict=False)
    )
    assert refused(bomb, yaml=True) == 'the specification: unknown field "a"'
    text = "cdiVersion: 0.7.0\nkind: v/c\ndevices: [{name: d, containerEdits: {env: &e [*e]}}]"
    assert refused(text, yaml=True) == "devices[0].containerEdits.env[0] must be a string"


words = st.text(st.characters(blacklist_categories=("Cs",)), max_size=12)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(
            ["cdiVersion", "kind", "devices", "name", "containerEdits", "env", "deviceNodes",
             "path", "type", "mounts", "hooks", "hookName", "options", "annotations", "fileMode"]
        ) | words, inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(values)
def test_M12_any_document_is_a_specification_or_refused(value: object) -> None:
    for document in (value, written(containerEdits=value), written(devices=[value])):
        try:
            assert isinstance(read(document), Spec)
        except BadSpec as problem:
            assert str(problem)


@given(st.binary(max_size=60), st.booleans())
def test_M12_any_bytes_are_a_specification_or_refused(content: bytes, yaml: bool) -> None:
    with pytest.raises(BadSpec):
        parse(content, yaml=yaml)


letters = string.ascii_letters
names = st.from_regex(rf"[{letters}0-9]([{letters}0-9_.:-]{{0,9}}[{letters}0-9])?", fullmatch=True)


@given(names)
def test_M12_device_names(name: str) -> None:
    device = {"name": name, "containerEdits": {"env": ["A=1"]}}
    assert read(written(devices=[device])).devices[0].name == name
    for wrong in (f".{name}", f"{name}:", f"{name}=", f"a b{name}", f"{name}\n"):
        assert "invalid device name" in refused(written(devices=[device | {"name": wrong}]))


def test_M12_json_is_read_without_a_yaml_parser() -> None:
    code = (
        "import sys; from assembler.cdi.specification import parse\n"
        "parse(sys.stdin.buffer.read(), yaml=False); assert 'yaml' not in sys.modules"
    )
    text = json.dumps(written())
    subprocess.run([sys.executable, "-c", code], input=text.encode(), check=True)

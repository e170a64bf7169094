"""config.toml: the limits of the store, and what is said about a wrong file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from assembler.cache.bounds import Bounds, Space
from assembler.cli.configuration import bounds_of
from assembler.environment import Environment
from assembler.errors import UsageError


def read(
    tmp_path: Path, user: str | bytes = "", system: str = "", **variables: str
) -> tuple[Bounds, list[str]]:
    """What the files and variables say, and what is told about them."""
    for name, text in (("home", user), ("etc", system)):
        if text:
            (tmp_path / name / "assemble").mkdir(parents=True, exist_ok=True)
            content = text if isinstance(text, bytes) else text.encode()
            (tmp_path / name / "assemble/config.toml").write_bytes(content)
    environment = Environment.read({"XDG_CONFIG_HOME": str(tmp_path / "home"), **variables})
    told: list[str] = []
    return bounds_of(environment, told.append, str(tmp_path / "etc")) or Bounds(), told


def test_without_files_and_variables_there_are_no_bounds(tmp_path: Path) -> None:
    assert read(tmp_path) == (Bounds(), [])


def test_the_keys_and_forms_of_buildkitd(tmp_path: Path) -> None:
    found, told = read(
        tmp_path,
        '[cache]\nreservedSpace = 512000000\nmaxUsedSpace = "20GB"\nminFreeSpace = "10%"\n'
        'keepDuration = "48h"\n',
    )
    assert found == Bounds(
        reserved=Space(512_000_000), max_used=Space(20 << 30), min_free=Space(percent=10),
        keep=172_800,
    )  # fmt: skip
    assert not told


@pytest.mark.parametrize(
    ("text", "seconds"), [("172800", 172_800), ('"172800"', 172_800), ('"1h30m"', 5400), ("0", 0)]
)
def test_a_duration_is_seconds_or_go_s(tmp_path: Path, text: str, seconds: float) -> None:
    assert read(tmp_path, f"[cache]\nkeepDuration = {text}\n")[0].keep == seconds


def test_the_user_s_file_is_over_etc_s_and_the_environment_over_both(tmp_path: Path) -> None:
    system = '[cache]\nmaxUsedSpace = "1GB"\nminFreeSpace = "2GB"\nreservedSpace = "3GB"\n'
    user = '[cache]\nminFreeSpace = "4GB"\nreservedSpace = "5GB"\n'
    found, _ = read(tmp_path, user, system, ASSEMBLE_RESERVED_SPACE="5%")
    assert found == Bounds(
        max_used=Space(1 << 30), min_free=Space(4 << 30), reserved=Space(percent=5)
    )
    found, _ = read(
        tmp_path, ASSEMBLE_MAX_USED_SPACE="0", ASSEMBLE_MIN_FREE_SPACE="1", ASSEMBLE_RESERVED_SPACE="0"
    )  # fmt: skip
    assert found == Bounds(min_free=Space(1))


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("[cache]\nmaxUsedSpace = 'much'", ':2: maxUsedSpace: "much" is not a size', "20GB"),
        ("[cache]\n# a\nminFreeSpace = -1", ":3: minFreeSpace: -1 is not a size", "10%"),
        ("[cache]\nminFreeSpace = 1.5", ":2: minFreeSpace: 1.5 is not a size", ""),
        ("[cache]\nminFreeSpace = true", ":2: minFreeSpace: true is not a size", ""),
        ("[cache]\nminFreeSpace = '101%'", ':2: minFreeSpace: "101%" is not a size', ""),
        ("[cache]\nkeepDuration = 'soon'", ':2: keepDuration: "soon" is not a duration', "48h"),
        ("[cache]\nkeepDuration = '-1h'", ':2: keepDuration: "-1h" is not a duration', ""),
        ("\ncache = 5", ":2: cache: a table was expected", "[cache]"),
        ("[[cache]]\nx = 1", ":1: cache: a table was expected", "[cache]"),
        ("cache = {keepDuration = []}", ":1: keepDuration: [] is not a duration", ""),
        ("[cache\n", " is not TOML: ", ""),
        (b"\xff", " is not TOML: ", ""),
    ],
)
def test_what_is_wrong_is_named_with_file_line_and_key(
    tmp_path: Path, text: str | bytes, problem: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert caught.value.message.startswith(f"{tmp_path}/home/assemble/config.toml{problem}")
    assert hint in caught.value.hint and "\n" not in caught.value.message


def test_what_is_not_known_is_told_and_left_out(tmp_path: Path) -> None:
    text = '[cash]\n\n[cache]\nmaxUsedSpce = 5\nkeepDuration = 5\n[x.y]\nz."a\\u001b" = 1\n'
    found, told = read(tmp_path, text)
    path = f"{tmp_path}/home/assemble/config.toml"
    assert found == Bounds(keep=5)
    assert told == [
        f"{path}:1: cash is not known here (did you mean cache?): it is left out",
        f"{path}:6: x is not known here: it is left out",
        f"{path}:4: maxUsedSpce is not known here (did you mean maxUsedSpace?): it is left out",
    ]


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ASSEMBLE_MIN_FREE_SPACE much: not a size"):
        read(tmp_path, ASSEMBLE_MIN_FREE_SPACE="much")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "etc/assemble/config.toml").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"etc/assemble/config\.toml cannot be read: Is a dir"):
        read(tmp_path)
    (tmp_path / "etc/assemble/config.toml").rmdir()
    with pytest.raises(UsageError, match="larger than 1 MiB"):
        read(tmp_path, "#" * (1 << 20) + "\n")


def test_toml_is_imported_only_where_there_is_a_file(tmp_path: Path) -> None:
    code = (
        "import sys; from assembler.cli.configuration import bounds_of\n"
        "from assembler.environment import Environment\n"
        "found = bounds_of(Environment.read({'XDG_CONFIG_HOME': sys.argv[1]}), print, sys.argv[1])\n"
        "print(found, *({'tomllib', 'assembler.cache.bounds'} & set(sys.modules)))"
    )

    def imported() -> str:
        command = [sys.executable, "-c", code, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert imported() == "None\n"
    (tmp_path / "assemble").mkdir()
    (tmp_path / "assemble/config.toml").write_text("[cache]\n")
    assert imported() == "None tomllib\n"

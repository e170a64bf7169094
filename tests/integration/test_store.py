"""The store under builds: collected beneath them, damaged, killed, read by others."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
EPOCH = {"SOURCE_DATE_EPOCH": "1700000000"}


def write(directory: Path, dockerfile: str, **files: bytes) -> Path:
    """A context."""
    directory.mkdir(exist_ok=True)
    (directory / "Dockerfile").write_text(dockerfile)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def check(assemble: Any) -> dict[str, Any]:
    """What `store check` says, which has to be that nothing is wrong."""
    found = json.loads(assemble("store", "check", "--json").stdout)
    assert found["problems"] == []
    return dict(found)


def blobs(assemble: Any) -> dict[str, Path]:
    directory = Path(assemble.env["ASSEMBLE_STORE"], "blobs/sha256")
    return {path.name: path for path in directory.iterdir()}


def manifest(assemble: Any, name: str) -> dict[str, Any]:
    index = json.loads(Path(assemble.env["ASSEMBLE_STORE"], "index.json").read_text())
    names = {
        one["annotations"]["org.opencontainers.image.ref.name"]: one["digest"]
        for one in index["manifests"]
    }
    return dict(json.loads(blobs(assemble)[names[name].partition(":")[2]].read_text()))


def test_CR06_builds_and_prunes_at_once_are_safe(assemble: Any, tmp_path: Path) -> None:
    context = write(
        tmp_path / "context",
        "FROM busybox AS a\nCOPY f /f\nRUN --mount=type=cache,target=/c cat /f > /c/x; sleep 0.3\n"
        "RUN cp /f /g && mkdir /d && touch /d/f && chown -R 5:5 /d && chmod 0 /d && sleep 0.2\nFROM busybox\nCOPY --from=a /g /\nRUN sleep 0.2; test -s /g\n",
        f=os.urandom(200_000),
    )
    expected = assemble("build", "-q", context, **EPOCH).stdout

    def begin(*arguments: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            assemble.command(*arguments),
            env={**assemble.env, **EPOCH}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    prunes = 0
    while prunes < 2:  # as long as that takes: a prune may be slower than the builds
        builds = [begin("build", "-q", *extra, context) for extra in ([], ["--no-cache"])]
        while any(build.poll() is None for build in builds):
            done = assemble("prune", "--all", "--force", **EPOCH)
            prunes += 1
            assert "Total:" in done.stdout
        ended = [build.communicate() for build in builds]
        assert [build.returncode for build in builds] == [0, 0], ended
        assert {out for out, _ in ended} == {expected}
    assemble("prune", "--all", "--force")
    assert check(assemble)["layers"] == 0
    store = Path(assemble.env["ASSEMBLE_STORE"])
    for name in ("leases", "ingest", "scratch"):
        assert not list((store / name).iterdir())
    assert assemble("build", "-q", context, **EPOCH).stdout == expected


def test_CR06_a_push_goes_on_though_its_image_is_removed_and_pruned(
    assemble: Any, own_registry: tuple[str, Path], tmp_path: Path
) -> None:
    host, _ = own_registry
    context = write(tmp_path / "context", "FROM scratch\nCOPY f /f\n", f=os.urandom(3_000_000))
    assemble("build", "-q", "-t", "gone", context)
    code = (
        "import sys, time\n"
        "from assembler.registry import push\n"
        "from assembler.__main__ import main\n"
        "real = push.upload\n"
        "def slow(*arguments, **options):\n"
        "    print('uploading', flush=True); sys.stdin.readline(); real(*arguments, **options)\n"
        "push.upload = slow\n"
        "sys.argv = ['assemble', 'push', 'gone', sys.argv[1]]\n"
        "sys.exit(main())\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, f"{host}/gone/image:1"],
        env=dict(assemble.env), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as push:  # fmt: skip
        assert push.stdout is not None and push.stdout.readline() == "uploading\n"
        assemble("rmi", "gone")
        assemble("prune", "--all", "--force")
        push.communicate("\n" * 10, timeout=300)
        assert push.returncode == 0
    assemble("prune", "--all", "--force")
    assemble("pull", f"{host}/gone/image:1")
    check(assemble)


def flip(path: Path) -> None:
    """Change one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.chmod(0o644)
    path.write_bytes(content)


def test_CR07_a_damaged_base_layer_is_named_and_fetched_again(
    assemble: Any, hub: Any, registry: Any, tmp_path: Path
) -> None:
    hub("busybox")
    env = {
        "ASSEMBLE_STORE": str(tmp_path / "second"),
        "CONTAINERS_REGISTRIES_CONF": str(registry.mirror),
    }
    context = write(tmp_path / "context", "FROM busybox\nRUN echo x > /x\n")
    first = assemble("build", "-q", "-t", "x", context, **env, **EPOCH)
    assemble("prune", "--force", **env)
    store = Path(env["ASSEMBLE_STORE"])
    largest = max((store / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    flip(largest)
    found = assemble("store", "check", code=1, **env).stdout
    assert largest.name in found
    (context / "Dockerfile").write_text("FROM busybox\nRUN echo y > /y\n")
    assemble("build", "-q", "-t", "y", context, **env)
    check_again = json.loads(assemble("store", "check", "--json", **env).stdout)
    assert check_again["problems"] == []
    (context / "Dockerfile").write_text("FROM busybox\nRUN echo x > /x\n")
    again = assemble("build", "-q", "-t", "x", context, **env, **EPOCH)
    assert again.stdout == first.stdout


@pytest.mark.parametrize("output", ["oci,tar=false", "oci", "docker", "registry"])
def test_CR07_a_damaged_layer_is_built_again_when_it_is_written(
    assemble: Any, own_registry: tuple[str, Path], tmp_path: Path, output: str
) -> None:
    context = write(tmp_path / "context", "FROM scratch\nCOPY f /f\n", f=os.urandom(300_000))
    name = f"{own_registry[0]}/some/image:1"
    words = ["build", "-t", name, "-o", f"type={output},dest={tmp_path}/out", context]
    if output == "registry":
        words[4] = "type=registry"
    expected = assemble("build", "-t", name, context, **EPOCH).stdout
    (layer,) = manifest(assemble, name)["layers"]
    path = blobs(assemble)[layer["digest"].partition(":")[2]]
    flip(path)
    done = assemble(*words, **EPOCH)
    assert done.stdout == expected
    assert path.name in done.stderr and "building again" in done.stderr
    check(assemble)


def test_CR07_a_damaged_layer_of_a_step_is_made_again_by_the_build_that_unpacks_it(
    assemble: Any, tmp_path: Path
) -> None:
    text = "FROM busybox AS a\nRUN echo 1 > /a\nFROM scratch\nCOPY --from=a /a /a\nCOPY f /f\n"
    context = write(tmp_path / "context", text, f=os.urandom(200_000))
    expected = assemble("build", "-q", "-t", "x", context, **EPOCH).stdout
    own = manifest(assemble, "docker.io/library/x:latest")["layers"]
    damaged = [blobs(assemble)[layer["digest"].partition(":")[2]] for layer in own]
    for path in damaged:
        flip(path)
    mounting = "FROM busybox\nRUN --mount=from=x,target=/x cat /x/f > /g\n"
    (context / "Dockerfile").write_text(text.replace("scratch", "scratch AS x") + mounting)
    done = assemble("build", "-t", "y", context, **EPOCH)
    for path in damaged:
        assert f"sha256:{path.name} in the store was damaged" in done.stderr
    assert done.stderr.count("building again") == len(damaged)
    (context / "Dockerfile").write_text(text)
    assert assemble("build", "-q", "-t", "x", context, **EPOCH).stdout == expected
    check(assemble)


def test_CR07_what_cannot_be_fetched_again_is_named_with_what_to_do(
    assemble: Any, hub: Any, registry: Any, tmp_path: Path
) -> None:
    hub("busybox")
    name = f"{registry.host}/never/pushed:1"
    assemble("build", "-q", "-o", f"type=oci,dest={tmp_path}/x.tar", write(
        tmp_path / "context", "FROM scratch\nCOPY f /f\n", f=os.urandom(200_000)))  # fmt: skip
    assemble("import", tmp_path / "x.tar", name)
    (layer,) = manifest(assemble, name)["layers"]
    path = blobs(assemble)[layer["digest"].partition(":")[2]]
    flip(path)
    context = write(tmp_path / "above", f"FROM {name}\nRUN true\n")
    done = assemble("build", context, code=1, **EPOCH)
    error = done.stderr[done.stderr.index("ERROR: ") :]
    assert path.name in error and name in error
    assert f"hint: {name} came from no registry: build or import it again" in done.stderr
    assemble("import", tmp_path / "x.tar", name)
    assemble("build", write(tmp_path / "above", f"FROM {name}\nWORKDIR /x\n"), **EPOCH)


def test_CR07_a_damaged_layer_of_a_layout_is_taken_from_the_layout_again(
    assemble: Any, tmp_path: Path
) -> None:
    context = write(tmp_path / "context", "FROM busybox\nCOPY f /f\n", f=os.urandom(200_000))
    layout = tmp_path / "layout"
    assemble("build", "-t", "x", "-o", f"type=oci,tar=false,dest={layout}", context, **EPOCH)
    _, layer = manifest(assemble, "docker.io/library/x:latest")["layers"]
    path = blobs(assemble)[layer["digest"].partition(":")[2]]
    flip(path)
    base = ("--build-context", f"base=oci-layout://{layout}")
    (context / "Dockerfile").write_text("FROM base\nRUN cp /f /g\n")
    done = assemble("build", *base, context, **EPOCH)
    assert f"sha256:{path.name} in the store was damaged" in done.stderr
    check(assemble)


def test_CR07_repair_removes_what_is_damaged_and_the_next_build_is_right(
    assemble: Any, tmp_path: Path
) -> None:
    context = write(
        tmp_path / "context", "FROM busybox\nCOPY f /f\nRUN cp /f /g\n", f=os.urandom(100_000)
    )
    expected = assemble("build", "-q", "-t", "x", context, **EPOCH).stdout
    own = manifest(assemble, "docker.io/library/x:latest")["layers"][1:]
    for layer in own:
        flip(blobs(assemble)[layer["digest"].partition(":")[2]])
    Path(assemble.env["ASSEMBLE_STORE"], "cache.db").write_bytes(b"no database" * 1000)
    damaged = json.loads(assemble("store", "check", "--json", code=1).stdout)["problems"]
    assert {one["path"].rpartition("/")[2] for one in damaged if one["removable"]} == {
        "cache.db", *(layer["digest"].partition(":")[2] for layer in own),
    }  # fmt: skip
    done = assemble("store", "check", "--repair", code=1)
    assert done.stdout.count("; removed") == 3
    assert assemble("build", "-q", "-t", "x", context, **EPOCH).stdout == expected
    check(assemble)


def test_CR12_a_store_of_a_newer_version_is_refused_untouched(
    assemble: Any, tmp_path: Path
) -> None:
    store = tmp_path / "newer"
    store.mkdir()
    (store / "version").write_text("2\n")
    context = write(tmp_path / "context", "FROM scratch\nCOPY Dockerfile /\n")
    for words in (["build", context], ["images"], ["du"], ["prune", "--force"]):
        done = assemble(*words, code=1, ASSEMBLE_STORE=str(store))
        assert "has version '2'" in done.stderr and len(done.stderr.splitlines()) == 2
    assert [path.name for path in store.iterdir()] == ["version"]


def test_CR09_eight_writers_of_a_layout_and_a_reader_that_polls(
    assemble: Any, tmp_path: Path
) -> None:
    context = write(
        tmp_path / "context", "FROM busybox\nARG N\nRUN echo $N > /n\n", f=os.urandom(1000)
    )
    layout = tmp_path / "layout"
    bad, reads = 0, 0
    while reads <= 100:  # once, unless the machine hardly lets the reader read
        writers = [
            subprocess.Popen(
                assemble.command(
                    "build", "-q", "--build-arg", f"N={number}", "-t", f"image:{number}",
                    "-o", f"type=oci,dest={layout},tar=false", context,
                ),
                env=dict(assemble.env), stdout=subprocess.DEVNULL,
            )
            for number in range(8)
        ]  # fmt: skip
        while any(writer.poll() is None for writer in writers):
            for index in (layout, Path(assemble.env["ASSEMBLE_STORE"])):
                try:
                    found = json.loads((index / "index.json").read_bytes())["manifests"]
                    reads += 1
                except FileNotFoundError:
                    continue
                except ValueError:
                    bad += 1
                    continue
                for one in found:
                    if not (index / "blobs/sha256" / one["digest"].partition(":")[2]).is_file():
                        bad += 1
            time.sleep(0.001)
        assert [writer.returncode for writer in writers] == [0] * 8
        assert bad == 0 and (layout / "index.json").is_file(), "else it is never read"
    found = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert len(found) == 8 and not (layout / "ingest").exists()


def test_skopeo_reads_the_store_as_an_OCI_layout(
    assemble: Any, require: Any, tmp_path: Path
) -> None:
    require("skopeo")
    context = write(tmp_path / "context", "FROM busybox\nLABEL who=me\nCOPY f /f\n", f=b"content")
    digest = assemble("build", "-q", "-t", "reg.example/some/name:1.2", context).stdout.strip()
    store = assemble.env["ASSEMBLE_STORE"]
    source = f"oci:{store}:reg.example/some/name:1.2"
    done = subprocess.run(
        ["skopeo", "inspect", source], check=True, capture_output=True, text=True,
        env={**assemble.env, "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip
    found = json.loads(done.stdout)
    assert (found["Digest"], found["Labels"], len(found["Layers"])) == (digest, {"who": "me"}, 2)
    subprocess.run(
        ["skopeo", "--insecure-policy", "copy", "-q", source, f"dir:{tmp_path}/copied"],
        check=True, env={**assemble.env, "XDG_RUNTIME_DIR": str(tmp_path)},
    )  # fmt: skip


def test_a_build_killed_anywhere_leaves_a_sound_store_and_nothing_behind(
    assemble: Any, tmp_path: Path
) -> None:
    context = write(
        tmp_path / "context", "FROM busybox\nCOPY . /all\nRUN cp -r /all /more\nRUN true\n"
    )
    generator = random.Random(3)
    for number in range(200):
        (context / f"file-{number}").write_bytes(generator.randbytes(generator.randrange(3000)))
    layout = tmp_path / "layout"
    words = ("build", "-q", "-t", "k", "-o", f"type=oci,dest={layout},tar=false", context)
    started = time.monotonic()
    expected = assemble(*words, **EPOCH).stdout
    whole = time.monotonic() - started
    store = Path(assemble.env["ASSEMBLE_STORE"])
    for _ in range(4):
        assemble("rmi", "k", code=None)
        assemble("prune", "--all", "--force")
        build = subprocess.Popen(
            assemble.command(*words), env={**assemble.env, **EPOCH},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        time.sleep(generator.uniform(0.1, whole))
        build.kill()
        build.communicate()  # all that it began has its streams
        check(assemble)
        assert assemble(*words, **EPOCH).stdout == expected
        for name in ("ingest", "scratch", "leases"):
            assert not list((store / name).iterdir())
        assert not list(store.glob("layers/*/.*"))


@pytest.mark.parametrize(
    ("home", "place"),
    [("", "data/assemble"), ("/no/such/home", "spare/assemble-"), ("closed", "spare/assemble-")],
)
def test_RS03_a_build_works_whatever_home_is(
    assemble: Any, tmp_path: Path, home: str, place: str
) -> None:
    context = write(tmp_path / "context", "FROM scratch\nCOPY f /f\n", f=b"content")
    for name in ("spare", "closed"):
        (tmp_path / name).mkdir()
    (tmp_path / "closed").chmod(0o500)
    env = {"PATH": assemble.env["PATH"], "TMPDIR": str(tmp_path / "spare")}
    env |= {"HOME": str(tmp_path / home)} if home else {"XDG_DATA_HOME": str(tmp_path / "data")}
    done = subprocess.run(
        assemble.command("build", context), env=env, capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout.startswith("sha256:"), done.stderr
    assert ("cannot be written: the store is" in done.stderr) == place.startswith("spare")
    assert list(tmp_path.glob(f"{place}*/index.json")) or list(tmp_path.glob(f"{place}*/version"))


def test_a_cap_removes_after_a_build_what_was_not_used_in_it(assemble: Any, tmp_path: Path) -> None:
    old = write(tmp_path / "old", "FROM busybox\nCOPY f /f\nRUN true\n", f=os.urandom(2_000_000))
    new = write(tmp_path / "new", "FROM busybox\nCOPY f /f\nRUN true\n", f=os.urandom(2_000_000))
    assemble("build", "-q", old)
    count = len(blobs(assemble))
    assemble("build", "-q", "-t", "new", new, ASSEMBLE_MAX_USED_SPACE="1")
    found = [json.loads(line) for line in assemble("du", "--format", "json").stdout.splitlines()]
    assert len(blobs(assemble)) == count and sum(one["Size"] for one in found) < 8_000_000
    assert "DONE" not in assemble("build", "-t", "new", new).stderr.partition("export")[0]
    assert "not a size" in assemble("build", new, code=2, ASSEMBLE_MAX_USED_SPACE="much").stderr
    check(assemble)


def test_bounds_of_the_configuration_are_kept_without_looking_each_time(
    assemble: Any, tmp_path: Path
) -> None:
    home = tmp_path / "config"
    (home / "assemble").mkdir(parents=True)
    (home / "assemble/config.toml").write_text('[cache]\nmaxUsedSpace = "1MB"\nmaxusedspace = 1\n')
    env = {"XDG_CONFIG_HOME": str(home)}
    text = "FROM busybox AS a\nCOPY f /f\nRUN cp /f /g\nFROM busybox\nCOPY --from=a /g /\n"
    old = write(tmp_path / "old", text, f=os.urandom(2_000_000))
    new = write(tmp_path / "new", text, f=os.urandom(2_000_000))
    assemble("build", "-q", old)
    done = assemble("build", "-t", "new", new, **env)
    assert done.stderr.count(f"{home}/assemble/config.toml:3: maxusedspace is not known here") == 1
    assemble("build", "-q", "-t", "new", new)
    found = [json.loads(line) for line in assemble("du", "--format", "json").stdout.splitlines()]
    assert 4_000_000 < sum(one["Size"] for one in found if not one["Shared"]) < 7_000_000
    note = Path(assemble.env["ASSEMBLE_STORE"], "measured")
    env["ASSEMBLE_MAX_USED_SPACE"] = "1GB"
    assemble("build", "-q", "-t", "new", new, **env)
    before = written(note)
    assemble("build", "-q", "-t", "new", new, **env)
    assert written(note) == before
    assemble("build", "-q", "-t", "new", "--no-cache", new, **env)
    assert written(note) != before
    check(assemble)


def written(path: Path) -> tuple[int, int]:
    """What tells a file from the next one there, which may have an inode of the one before."""
    found = path.stat()
    return found.st_ino, found.st_mtime_ns


def test_space_that_is_to_be_free_is_made_before_a_build_and_after_it(
    assemble: Any, tmp_path: Path
) -> None:
    text = (
        "FROM busybox AS a\nRUN head -c 2000000 /dev/zero > /f\nFROM busybox\nCOPY --from=a /f /\n"
    )
    old = write(tmp_path / "old", text)
    assemble("build", "-q", "-t", "old", old)
    directories = Path(assemble.env["ASSEMBLE_STORE"], "layers")
    assert len(list(directories.glob("*/*"))) == 2
    failing = write(tmp_path / "failing", "FROM scratch\nCOPY none /\n")
    assemble("build", failing, code=1, ASSEMBLE_MIN_FREE_SPACE="100%")
    assert not list(directories.glob("*/*"))
    words = ("build", "-q", "--no-cache", old)
    assemble(*words, ASSEMBLE_MIN_FREE_SPACE="100%", ASSEMBLE_RESERVED_SPACE="1GB")
    assert len(list(directories.glob("*/*"))) == 2
    check(assemble)


def test_a_store_that_cannot_be_collected_fails_no_build(assemble: Any, tmp_path: Path) -> None:
    context = write(tmp_path / "context", "FROM scratch\nCOPY f /f\n", f=b"content")
    store = Path(assemble.env["ASSEMBLE_STORE"])
    (store / "index.json").write_text("no index")
    done = assemble("build", context, ASSEMBLE_MAX_USED_SPACE="1", ASSEMBLE_MIN_FREE_SPACE="100%")
    told = "the store could not be brought within its limits: "
    assert done.stderr.count(f"{told}{store}/index.json is not an image index") == 2
    assert done.stdout.startswith("sha256:")


def test_CR08_a_cache_that_is_deleted_under_a_build_costs_records_only(
    assemble: Any, tmp_path: Path
) -> None:
    text = "FROM busybox\nRUN echo a > /a\nRUN echo waits; sleep 2; echo b > /b\nRUN echo c > /c\n"
    context = write(tmp_path / "context", text)
    expected = assemble("build", "-q", context, **EPOCH).stdout
    database = Path(assemble.env["ASSEMBLE_STORE"], "cache.db")
    build = subprocess.Popen(
        assemble.command("build", "--no-cache", context), env={**assemble.env, **EPOCH},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert build.stderr is not None
    assert any(line.endswith(" waits\n") for line in build.stderr)
    database.unlink()
    other = assemble("build", "-q", context, **EPOCH).stdout
    out, _ = build.communicate(timeout=300)
    assert (build.returncode, out, other) == (0, expected, expected)
    assert assemble("build", "-q", context, **EPOCH).stdout == expected
    assert not list(database.parent.glob("cache.db.bak-*"))
    check(assemble)


def test_du_has_the_formats_of_buildx(assemble: Any, tmp_path: Path) -> None:
    context = write(tmp_path / "context", "FROM busybox\nRUN true\n")
    assemble("build", "-q", "-t", "x", context)
    table = assemble("du").stdout.splitlines()
    assert table[0].split() == ["ID", "RECLAIMABLE", "SIZE", "LAST", "ACCESSED"]
    assert [line.split(":")[0] for line in table[-4:]] == [
        "Shared",
        "Private",
        "Reclaimable",
        "Total",
    ]
    records = [json.loads(line) for line in assemble("du", "--format", "json").stdout.splitlines()]
    shown = assemble("du", "--format", "{{.ID}} {{.Type}}").stdout.splitlines()
    assert (
        shown == [f"{one['ID']} {one['Type']}" for one in records] and len(table) == len(shown) + 5
    )
    pretty, verbose = (
        re.sub(r"Last used: .* ago", "", assemble("du", *words).stdout)
        for words in (("--format", "pretty"), ("--verbose",))
    )
    assert pretty == verbose and "Created at:   20" in pretty
    assert (
        "cannot be used together" in assemble("du", "--verbose", "--format", "json", code=2).stderr
    )
    assert "hint: {{.NAME}} in it may be ID, " in assemble("du", "--format", "yaml", code=2).stderr
    assert assemble("du", "--filter", "inuse", "--filter", "private").stdout.count("\n") == 1


def test_prune_asks_somebody_or_is_told_not_to(assemble: Any) -> None:
    done = assemble("prune", code=2)
    assert "hint: add --force" in done.stderr and not done.stdout


def test_CR07_a_file_is_never_taken_out_of_a_damaged_layer(
    assemble: Any, hub: Any, registry: Any, tmp_path: Path
) -> None:
    hub("busybox")
    env = {
        "ASSEMBLE_STORE": str(tmp_path / "second"),
        "CONTAINERS_REGISTRIES_CONF": str(registry.mirror),
    }
    context = write(tmp_path / "context", "FROM scratch\nCOPY --from=busybox /bin/busybox /one\n")
    assemble("build", "-q", context, **env, **EPOCH)
    blobs_now = Path(env["ASSEMBLE_STORE"], "blobs/sha256").iterdir()
    base = sorted(blobs_now, key=lambda path: path.stat().st_size)[-2:]
    copied = "FROM scratch\nCOPY --from=busybox /bin/busybox /two\n"
    (context / "Dockerfile").write_text(copied)
    for path in base:
        flip(path)
    damaged = assemble("build", "-q", context, **env, **EPOCH).stdout
    fresh = {**env, "ASSEMBLE_STORE": str(tmp_path / "third")}
    assert assemble("build", "-q", context, **fresh, **EPOCH).stdout == damaged


def test_CR02_what_a_power_cut_spoilt_of_a_layer_is_in_no_later_image(
    assemble: Any, tmp_path: Path
) -> None:
    """The kernel had the names of directories on disk, and not the files in them."""
    below = "FROM busybox AS a\nRUN echo old > /old\nRUN echo new > /new\n"
    context = write(tmp_path / "context", below)
    words = ("build", "-q", context)
    assemble(*words, **EPOCH)
    write(context, f"{below}RUN cat /old /new > /f\nFROM scratch\nCOPY --from=a /f /\n")
    note = Path(assemble.env["ASSEMBLE_STORE"], "settled")
    (old,), (new,) = (list(note.parent.glob(f"layers/*/*/**/{name}")) for name in ("old", "new"))
    kept, gone = (next(one for one in path.parents if len(one.name) == 64) for path in (old, new))

    lines = [line.split(maxsplit=1) for line in note.read_text().splitlines()]
    settled = [("0" if kept.name in rest else since, rest) for since, rest in lines[1:]]
    note.write_text("".join(f"{since} {rest}\n" for since, rest in [("another", "0"), *settled]))
    new.write_bytes(b"")
    assemble("images", ASSEMBLE_FSYNC="off")
    assert gone.exists(), "the user has it so"
    inode = kept.stat().st_ino
    built = assemble(*words, **EPOCH).stdout
    assert kept.stat().st_ino == inode and new.read_text() == "new\n"
    assert check(assemble)["layers"] == len(lines)
    assert assemble("build", "-q", "--no-cache", context, **EPOCH).stdout == built

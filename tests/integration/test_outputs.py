"""Outputs as scripts for `docker buildx build` ask for them: into docker or podman, by digest,
with annotations, with results in files (rules O1, O2, Y8)."""

from __future__ import annotations

import io
import json
import os
import pty
import shutil
import signal
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.processes import naming

pytestmark = pytest.mark.integration

SCRIPT = """\
#!/bin/sh
exec {podman} --root={directory}/root --runroot={directory}/r --tmpdir={directory}/tmp \\
    --storage-driver=vfs --cgroup-manager=cgroupfs --events-backend=none --runtime=runc "$@"
"""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    path = tmp_path / "context"
    path.mkdir()
    (path / "Dockerfile").write_text("FROM busybox\nRUN echo made >/made\nCMD cat /made\n")
    return path


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A PATH of one directory, where newuidmap is, and neither docker nor podman."""
    path = tmp_path / "programs"
    path.mkdir()
    for name in ("newuidmap", "newgidmap"):
        (path / name).symlink_to(str(shutil.which(name)))
    return path


def script(programs: Path, name: str, text: str) -> None:
    (programs / name).write_text(text)
    (programs / name).chmod(0o755)


def test_O1_load_loads_into_podman_after_a_step_that_needed_a_namespace(
    assemble: Any, podman: Any, context: Path, programs: Path
) -> None:
    script(programs, "podman", SCRIPT.format(podman="/usr/bin/podman", directory=podman.directory))
    done = assemble(
        "build", "--load", "-t", "loaded:1", "-t", "example.com/team/loaded", context,
        PATH=str(programs), XDG_RUNTIME_DIR=str(podman.directory),
    )  # fmt: skip
    assert "importing to podman" in done.stderr
    for name in ("docker.io/library/loaded:1", "example.com/team/loaded:latest"):
        assert podman("run", "--rm", "--network=host", "--cgroups=no-conmon", name) == "made\n"
    assert "loaded:1" in assemble("images").stdout, "the store keeps it as without --load"


def test_O1_what_cannot_load_is_an_error_before_and_after_the_build(
    assemble: Any, context: Path, programs: Path
) -> None:
    nothing = assemble("build", "--load", context, code=1, PATH=str(programs))
    assert "ERROR: there is neither docker nor podman on PATH" in nothing.stderr
    assert "hint: -o type=docker,dest=FILE" in nothing.stderr and "RUN" not in nothing.stderr
    script(programs, "docker", "#!/bin/sh\necho 'Cannot connect to the daemon' >&2; exit 1\n")
    failed = assemble("build", "-o", "type=docker", context, code=1, PATH=str(programs))
    assert "ERROR: docker load ended with status 1: Cannot connect to the daemon" in failed.stderr
    assert failed.stdout == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_O1_a_load_that_takes_too_long_ends_with_the_build(
    assemble: Any, context: Path, programs: Path, number: int
) -> None:
    note, seconds = programs / "note", 500_000_000 + os.getpid()
    script(programs, "docker", f"#!/bin/sh\necho >{note}; exec /bin/sleep {seconds}\n")
    process = subprocess.Popen(
        assemble.command("build", "--load", context),
        env={**assemble.env, "PATH": str(programs)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not note.exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert stdout == ""
    if number == signal.SIGINT:
        assert process.returncode == 130 and "cancelled" in stderr
    while left := naming(seconds):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def tags(host: str, repository: str) -> Any:
    """The tags of a repository; a docker-registry says 404 where there never was one."""
    try:
        with urllib.request.urlopen(f"http://{host}/v2/{repository}/tags/list") as answer:
            return json.load(answer)["tags"]
    except urllib.error.HTTPError as error:
        assert error.code == 404
        return None


def test_O1_push_by_digest_moves_no_tag(
    assemble: Any, own_registry: tuple[str, Path], context: Path, tmp_path: Path
) -> None:
    host, _ = own_registry
    name, results = f"{host}/matrix/app", tmp_path / "results"
    output = "type=image,push-by-digest=true,name-canonical=true,push=true"
    digest = assemble(
        "build", "-t", name, "-o", output, "--metadata-file", results, context
    ).stdout.strip()
    assert tags(host, "matrix/app") is None
    assert json.loads(results.read_text())["image.name"] == name
    assert assemble("images").stdout.count(name) == 1
    assert f"{name}@{digest}" in assemble("images").stdout
    own = {"ASSEMBLE_STORE": str(tmp_path / "other")}
    assert assemble("pull", f"{name}@{digest}", **own).stdout.strip() == digest
    tagged = assemble("build", "-t", f"{name}:1", "-o", output, context, code=2)
    assert f"push-by-digest: {name}:1 has a tag or a digest" in tagged.stderr
    assemble("build", "-o", f"type=image,push=1,name={name}:1", context)
    assert tags(host, "matrix/app") == ["1"]
    nameless = assemble("build", "-o", output, context, code=2)
    assert "--push needs a name" in nameless.stderr


def test_O1_an_image_without_a_name_is_known_by_its_digest(
    assemble: Any, own_registry: tuple[str, Path], context: Path, tmp_path: Path
) -> None:
    host, _ = own_registry
    output = f"type=image,dangling-name-prefix={host}/nameless,push=true"
    digest = assemble("build", "-o", output, context).stdout.strip()
    assert tags(host, "nameless") is None
    own = {"ASSEMBLE_STORE": str(tmp_path / "other")}
    assert assemble("pull", f"{host}/nameless@{digest}", **own).stdout.strip() == digest
    assert f"{host}/nameless@{digest}" in assemble("images").stdout
    assemble("build", "-t", "unkept", "-o", "type=image,store=false", context)
    assert "unkept" not in assemble("images").stdout


def test_T2_new_layers_always_have_the_times_of_SOURCE_DATE_EPOCH(
    assemble: Any, context: Path
) -> None:
    epoch, output = {"SOURCE_DATE_EPOCH": "1"}, "type=image,rewrite-timestamp="
    expected = assemble("build", context, **epoch).stdout
    assert assemble("build", "-o", f"{output}true", context, **epoch).stdout == expected
    refused = assemble("build", "-o", f"{output}false", context, code=2, **epoch)
    assert "new layers have no times after SOURCE_DATE_EPOCH" in refused.stderr
    assemble("build", "-o", f"{output}false", context)


def test_Y8_annotations_of_an_output_are_those_of_the_option(
    assemble: Any, tmp_path: Path, context: Path
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    words = ("--annotation", "a=1", "--annotation", "manifest-descriptor:b=2")
    assemble("build", *words, "-t", "x:1", "-o", f"type=oci,dest={ours},tar=false", context)
    attributes = "annotation.a=1,annotation-manifest-descriptor.b=2"
    by_output = f"type=oci,dest={theirs},tar=false,{attributes}"
    assemble("build", "-t", "x:1", "-o", by_output, context)
    assert (ours / "index.json").read_bytes() == (theirs / "index.json").read_bytes()
    (entry,) = json.loads((ours / "index.json").read_text())["manifests"]
    manifest = json.loads((ours / "blobs/sha256" / entry["digest"][7:]).read_text())
    assert manifest["annotations"] == {"a": "1"} and entry["annotations"]["b"] == "2"
    for option in (("--annotation", "index:a=1"), ("-o", "type=oci,dest=x,annotation-index.a=1")):
        refused = assemble("build", *option, context, code=2)
        assert "index annotations not supported for single platform export" in refused.stderr


def test_O1_an_archive_goes_to_stdout_and_to_no_terminal(assemble: Any, context: Path) -> None:
    command = assemble.command("build", "-t", "x:1", "-o", "type=oci", context)
    done = subprocess.run(command, env=assemble.env, check=True, capture_output=True)
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        assert "index.json" in archive.getnames()
    assert done.stdout.endswith(bytes(1024)), "nothing but the archive"
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0), open(theirs, "wb", buffering=0) as terminal:
        refused = subprocess.run(command, env=assemble.env, stdout=terminal, stderr=subprocess.PIPE)
    assert refused.returncode == 2 and b"refusing to write to a terminal" in refused.stderr


def test_O2_results_go_to_files_to_devices_and_to_stdout(
    assemble: Any, context: Path, tmp_path: Path
) -> None:
    id, metadata, digest = (tmp_path / name for name in ("id", "metadata", "digest"))
    done = assemble(
        "build", "-t", "x:1", "--iidfile", id, "--metadata-file", metadata, "--digest-file", digest,
        "--provenance", "false", "--sbom=false", "--attest", "type=provenance,disabled=true", context,
        BUILDX_NO_DEFAULT_ATTESTATIONS="1",
    )  # fmt: skip
    document = json.loads(metadata.read_text())
    assert document["containerimage.digest"] == digest.read_text() == done.stdout.strip()
    assert document["containerimage.config.digest"] == id.read_text()
    assert document["image.name"] == "docker.io/library/x:1"
    assert document["buildx.build.ref"] == json.loads(
        assemble("history", "--format", "json").stdout.splitlines()[0]
    )["ref"]  # fmt: skip
    out = assemble("build", "--digest-file", "/dev/stdout", "--iidfile", "/dev/null", context)
    assert out.stdout == 2 * done.stdout.strip() + "\n"
    assert Path("/dev/null").is_char_device()
    refused = assemble("build", "--provenance=mode=max", context, code=2)
    assert "attestations are not made yet" in refused.stderr and "#1" not in refused.stderr


@pytest.mark.root
def test_O2_a_file_that_is_mounted_is_written_in_place(
    assemble: Any, context: Path, tmp_path: Path
) -> None:
    log, target = tmp_path / "log", tmp_path / "termination-log"
    log.write_text("something longer than any digest, which has to be gone afterwards; " * 9)
    target.touch()
    prefix = ["unshare", "-m", "sh", "-c", f'mount --bind {log} {target} && exec "$@"', "sh"]
    done = assemble("build", "--digest-file", target, context, prefix=prefix)
    assert log.read_text() == done.stdout.strip() and target.read_text() == ""

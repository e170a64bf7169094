"""`--platform a,b`: images for several platforms in one index (rules O3, A12, S18)."""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Assemble, environment

pytestmark = pytest.mark.integration

BOTH = "linux/amd64,linux/arm64"
INDEX = "application/vnd.oci.image.index.v1+json"
LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFESTS = ", ".join(
    (INDEX, LIST, "application/vnd.oci.image.manifest.v1+json",
     "application/vnd.docker.distribution.manifest.v2+json")
)  # fmt: skip
CROSS = """\
ARG BASE
FROM --platform=$BUILDPLATFORM busybox AS tools
RUN cat /proc/sys/kernel/random/uuid >/tool
FROM --platform=$BUILDPLATFORM busybox AS build
RUN cat /proc/sys/kernel/random/uuid >/once
ARG TARGETARCH
RUN --mount=from=tools,target=/t mkdir /out && cp /once /t/tool /out && echo $TARGETARCH >/out/arch
FROM $BASE
COPY --from=build /out /out
"""


def fetched(host: str, path: str) -> bytes:
    request = urllib.request.Request(f"http://{host}/v2/{path}", headers={"Accept": MANIFESTS})
    with urllib.request.urlopen(request, timeout=30) as answer:
        content: bytes = answer.read()
        return content


def written(directory: Path, dockerfile: str, **files: str) -> Path:
    """A context with a Dockerfile and files."""
    directory.mkdir(parents=True)
    (directory / "Dockerfile").write_text(dockerfile)
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory


def platforms(index: dict[str, Any]) -> list[str]:
    return ["/".join(entry["platform"].values()) for entry in index["manifests"]]


@pytest.fixture(scope="session")
def base(registry: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a base image for two platforms, in the registry."""
    directory = tmp_path_factory.mktemp("base")
    context = written(
        directory / "context", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /base\n",
        amd64="x86", arm64="arm",
    )  # fmt: skip
    name = f"{registry.host}/multi/base:1"
    Assemble(environment(directory / "store"))(
        "build", "--platform", BOTH, "-t", name, "--push", context
    )
    return name


def out(podman: Any, layout: Path, tag: str, architecture: str, directory: Path) -> Path:
    """The root file system of one platform's image of a layout, unpacked by umoci."""
    alone = directory / f"{tag}-{architecture}"
    podman.skopeo(
        f"--override-arch={architecture}", "copy", f"oci:{layout}:{tag}", f"oci:{alone}:one"
    )
    podman.umoci_unpack(alone, "one", directory / f"{tag}-{architecture}-bundle")
    return directory / f"{tag}-{architecture}-bundle/rootfs"


def test_O3_a_cross_build_makes_an_index_and_what_is_for_all_runs_once(
    assemble: Any, registry: Any, base: str, podman: Any, require: Callable[..., None],
    tmp_path: Path,
) -> None:  # fmt: skip
    require("skopeo", "umoci", "buildah")
    context = written(tmp_path / "context", CROSS)
    name, layout = f"{registry.host}/multi/cross:1", tmp_path / "layout"
    iid, metadata = tmp_path / "iid", tmp_path / "metadata.json"
    arguments = (
        "build", "--platform", BOTH, "--build-arg", f"BASE={base}", "-t", name, "--push",
        "-o", f"type=oci,dest={layout},tar=false", "--iidfile", iid, "--metadata-file", metadata,
        "--progress", "plain", context,
    )  # fmt: skip
    done = assemble(*arguments)
    digest = done.stdout.strip()
    content = fetched(registry.host, "multi/cross/manifests/1")
    assert digest == iid.read_text() == f"sha256:{hashlib.sha256(content).hexdigest()}"
    index = json.loads(content)
    assert (index["mediaType"], platforms(index)) == (INDEX, ["amd64/linux", "arm64/linux"])
    told = json.loads(metadata.read_text())
    assert told["containerimage.digest"] == digest
    assert told["containerimage.descriptor"]["mediaType"] == INDEX
    assert "containerimage.config.digest" not in told
    shown = [line.partition(" ")[2] for line in done.stderr.splitlines() if "RUN" in line]
    assert {line.partition("]")[0] for line in shown if line.startswith("[")} == {
        "[linux/amd64 tools 2/2",
        "[linux/amd64 build 2/3",
        "[linux/amd64 build 3/3",
        "[linux/amd64->arm64 build 2/3",
        "[linux/amd64->arm64 build 3/3",
    }
    for architecture, text in (("amd64", "x86"), ("arm64", "arm")):
        root = out(podman, layout, "1", architecture, tmp_path)
        assert (root / "base").read_text() == text
        assert (root / "out/arch").read_text() == f"{architecture}\n"
    first, second = (tmp_path / f"1-{one}-bundle/rootfs/out" for one in ("amd64", "arm64"))
    for file in ("once", "tool"):
        assert (first / file).read_text() == (second / file).read_text()
    again = assemble(*arguments, "--require-cached")
    assert again.stdout == done.stdout

    raw = podman.skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}")
    assert raw.encode() == content
    podman("pull", "--tls-verify=false", "--platform", "linux/arm64", name)
    assert podman("image", "inspect", "--format", "{{.Architecture}}", name) == "arm64\n"
    podman.buildah("pull", "--tls-verify=false", "--platform", "linux/amd64", name)
    assert "amd64" in podman.buildah("inspect", "--type=image", name)

    assert assemble("images").stdout.count("linux/amd64,linux/arm64")
    copied = assemble("copy", f"store:{name}", f"{registry.host}/multi/copied:1")
    assert copied.stdout.strip() == digest
    assert assemble("push", name, f"{registry.host}/multi/pushed:1").stdout.strip() == digest
    assert assemble("tag", name, "other:1").returncode == 0
    for subject in (name, "other:1"):
        assert f"Index:       {digest}\n" in assemble("inspect", subject).stdout
        arm = assemble("inspect", "--platform", "linux/arm64", "--format", "json", subject)
        assert json.loads(arm.stdout)["config"]["architecture"] == "arm64"
    assert assemble("du").returncode == 0
    assert assemble("prune", "--force").returncode == 0
    assert "problem" not in assemble("store", "check").stdout
    assert assemble("push", name, f"{registry.host}/multi/kept:1").stdout.strip() == digest
    assemble("rmi", name, "other:1")
    pulled = assemble("pull", "--all-platforms", name)
    assert pulled.stdout.strip() == digest


def test_S12_without_the_cache_what_is_for_all_runs_anew_and_once(
    assemble: Any, base: str, podman: Any, require: Callable[..., None], tmp_path: Path
) -> None:
    require("skopeo", "umoci")
    context = written(tmp_path / "context", CROSS)
    seen = set()
    for tag in ("one", "two"):
        assemble(
            "build", "--platform", BOTH, "--build-arg", f"BASE={base}", "--no-cache",
            "-t", f"fresh:{tag}", "-o", f"type=oci,dest={tmp_path}/layout,tar=false", context,
        )  # fmt: skip
        roots = [
            out(podman, tmp_path / "layout", tag, architecture, tmp_path)
            for architecture in ("amd64", "arm64")
        ]
        for file in ("once", "tool"):
            (text,) = {(root / "out" / file).read_text() for root in roots}
            seen.add(text)
    assert len(seen) == 4


def test_what_a_base_lacks_is_told_before_anything_runs(
    assemble: Any, registry: Any, base: str, tmp_path: Path
) -> None:
    context = written(tmp_path / "context", CROSS)
    asked = ("build", "--platform", f"{BOTH},linux/s390x", "--build-arg", f"BASE={base}", "-t")
    failed = assemble(*asked, f"{registry.host}/multi/lacking:1", "--push", context, code=1)
    assert "has no image for linux/s390x" in failed.stderr
    assert "it has linux/amd64, linux/arm64" in failed.stderr
    assert "RUN" not in failed.stderr.partition("Dockerfile:")[0]


def test_105_no_tag_moves_when_one_platform_fails(
    assemble: Any, registry: Any, base: str, tmp_path: Path
) -> None:
    name = f"{registry.host}/multi/failing:1"
    context = written(tmp_path / "context", CROSS)
    asked = ("build", "--platform", BOTH, "--build-arg", f"BASE={base}", "-t", name, "--push")
    first = assemble(*asked, context).stdout.strip()
    text = CROSS.replace("cp /once", "test $TARGETARCH = amd64 && cp /once")
    (context / "Dockerfile").write_text(text)
    failed = assemble(*asked, context, code=1)
    assert "[linux/amd64->arm64 build 3/3] RUN" in failed.stderr
    kept = fetched(registry.host, "multi/failing/manifests/1")
    assert f"sha256:{hashlib.sha256(kept).hexdigest()}" == first
    told = json.loads(assemble("explain", "--json").stdout)
    assert (told["build"]["status"], told["build"]["platform"]) == ("error", BOTH)


def test_all_is_known_again_without_the_registry(
    assemble: Any, own_registry: tuple[str, Path], tmp_path: Path
) -> None:
    """The store keeps the images of a base for both platforms under its one name."""
    host = own_registry[0]
    context = written(
        tmp_path / "base", "FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /base\n",
        amd64="x86", arm64="arm",
    )  # fmt: skip
    other = Assemble(environment(tmp_path / "other"))
    other("build", "--platform", BOTH, "-t", f"{host}/base:1", "--push", context)
    above = written(tmp_path / "above", f"FROM {host}/base:1\nCOPY file /file\n", file="x")
    asked = ("build", "--platform", BOTH, "-t", "above:1", above)
    first = assemble(*asked)
    shutil.rmtree(own_registry[1])
    for more in ((), ("--pull=never",), ("--require-cached",)):
        assert assemble(*asked, *more).stdout == first.stdout
    assert "will run" not in assemble("plan", "--offline", "--platform", BOTH, above).stdout


def test_A12_O3_the_forms_of_an_index(
    assemble: Any, registry: Any, podman: Any, require: Callable[..., None], tmp_path: Path
) -> None:
    require("skopeo", "buildah")
    context = written(tmp_path / "context", "FROM scratch\nCOPY file /file\n", file="x")
    archive, lists, one = tmp_path / "oci.tar", tmp_path / "lists", tmp_path / "one"
    epoch = ("--build-arg", "SOURCE_DATE_EPOCH=0")
    first = assemble(
        "build", *epoch, "--platform", BOTH, "-t", "forms:1", "-o", f"type=oci,dest={archive}",
        "-o", f"type=oci,dest={lists},tar=false,oci-mediatypes=false", context,
    )  # fmt: skip
    raw = podman.skopeo("inspect", "--raw", f"oci-archive:{archive}")
    assert f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}" == first.stdout.strip()
    (entry,) = json.loads((lists / "index.json").read_text())["manifests"]
    assert entry["mediaType"] == LIST and "platform" not in entry
    of_docker = json.loads((lists / "blobs/sha256" / entry["digest"][7:]).read_text())
    assert of_docker["mediaType"] == LIST
    kinds = {one["mediaType"] for one in of_docker["manifests"]}
    assert kinds == {"application/vnd.docker.distribution.manifest.v2+json"}
    name = f"{registry.host}/multi/list:1"
    pushed = ("-t", name, "-o", "type=registry,oci-mediatypes=false")
    assemble("build", *epoch, "--platform", BOTH, *pushed, context)
    raw = podman.skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}")
    assert json.loads(raw) == of_docker
    podman.buildah(
        "bud", "--isolation=chroot", "--platform", BOTH, "--manifest", "theirs", str(context)
    )
    theirs = json.loads(podman.buildah("manifest", "inspect", "theirs"))
    assert sorted(platforms(theirs)) == platforms(of_docker) == ["amd64/linux", "arm64/linux"]
    turned = assemble(
        "build", *epoch, "--platform", "linux/arm64", "--platform", "linux/amd64,arm64",
        "--store", tmp_path / "other", context,
    )  # fmt: skip
    assert turned.stdout == first.stdout
    alone = assemble(
        "build", "--platform", "linux/arm/v7", "--build-arg", "BUILDKIT_MULTI_PLATFORM=1",
        "--annotation", "index:of=index", "--annotation", "index-descriptor:of=entry",
        "--annotation", "manifest[linux/arm/v7]:of=manifest", "--annotation", "manifest:of=all",
        "--annotation", "manifest-descriptor[linux/arm64]:of=none",
        "-t", "forms:2", context, "-o",
        f"type=oci,dest={one},tar=false,annotation-index.own=1,annotation-index.of=output",
    )  # fmt: skip
    (entry,) = json.loads((one / "index.json").read_text())["manifests"]
    assert (entry["digest"], entry["annotations"]["of"]) == (alone.stdout.strip(), "entry")
    index = json.loads(podman.skopeo("inspect", "--raw", f"oci:{one}:2"))
    assert index["annotations"] == {"of": "index", "own": "1"}
    (child,) = index["manifests"]
    assert child["platform"] == {"architecture": "arm", "os": "linux", "variant": "v7"}
    assert "annotations" not in child
    manifest = one / "blobs/sha256" / child["digest"].removeprefix("sha256:")
    assert json.loads(manifest.read_text())["annotations"] == {"of": "manifest"}


@pytest.mark.parametrize("kind", ["registry", "local", "inline"])
def test_a_shared_cache_is_for_all_platforms(
    assemble: Any, registry: Any, busybox_store: Path, kind: str, tmp_path: Path
) -> None:
    text = CROSS.replace("$BASE", "scratch")
    context = written(tmp_path / "context", text)
    image, cache = f"{registry.host}/multi/{kind}:1", f"{registry.host}/multi/{kind}:cache"
    targets = {
        "registry": (f"type=registry,ref={cache},mode=max", cache),
        "local": (f"type=local,dest={tmp_path}/cache,mode=max", f"type=local,src={tmp_path}/cache"),
        "inline": ("type=inline", image),
    }
    to, source = targets[kind]
    asked = ("build", "--platform", BOTH, "-t", image, "--push", context)
    first = assemble(*asked, "--cache-to", to).stdout
    digests = {}
    for platform in (BOTH, "linux/arm64", "linux/amd64"):
        store = tmp_path / platform.replace("/", "-").replace(",", "-")
        shutil.copytree(busybox_store, store, copy_function=shutil.copy)
        other = Assemble(environment(store))
        done = other(
            "build", "--platform", platform, "--cache-from", source, "--require-cached",
            "-o", "type=cacheonly", "--cache-to", "type=inline", context,
        )  # fmt: skip
        digests[platform] = done.stdout
    if kind == "inline":
        assert digests[BOTH] == first
        index = json.loads(fetched(registry.host, f"multi/{kind}/manifests/1"))
        told = {
            "/".join(reversed(list(one["platform"].values()))): one for one in index["manifests"]
        }
        for platform, entry in told.items():
            assert digests[platform].strip() == entry["digest"]


def test_explain_and_plan_tell_the_platforms(assemble: Any, base: str, tmp_path: Path) -> None:
    context = written(tmp_path / "context", CROSS)
    asked = ("--platform", BOTH, "--build-arg", f"BASE={base}")
    before = assemble("plan", *asked, context).stdout
    assert before.startswith(
        "target linux/amd64 stage-2, linux/amd64\ntarget linux/arm64 stage-2, linux/arm64\n"
    )
    assemble("build", *asked, "-t", "told:1", context)
    after = assemble("plan", *asked, context).stdout
    assert "5 stages, 7 steps: 7 known, 0 to execute" in after
    told = assemble("explain", "--step", "build", "told:1").stdout
    assert "[linux/amd64 build 2/3] RUN" in told and "[linux/amd64->arm64 build 3/3] RUN" in told
    assert "tools" not in told.partition("\n\n")[2].replace("from=tools", "")
    (context / "Dockerfile").write_text(CROSS.replace("mkdir /out", "mkdir -p /out"))
    assemble("build", *asked, "-t", "told:1", context)
    told = assemble("explain", "--step", "build:3", "told:1").stdout
    assert told.count("run         the command mkdir /out") == 2
    assert "[linux/amd64 build 3/3]" in told and "[linux/amd64->arm64 build 3/3]" in told
    drawn = assemble("plan", "--format", "mermaid", *asked, context).stdout
    assert drawn.count("(target)") == 2
    document = json.loads(assemble("plan", "--format", "json", *asked, context).stdout)
    assert [one["platform"]["text"] for one in document["plan"]["also"]] == ["linux/arm64"]


def test_S14_an_index_of_one_says_the_platform_that_a_base_brings(
    assemble: Any, tmp_path: Path
) -> None:
    base = written(tmp_path / "base", "FROM scratch\nCOPY file /file\n", file="x")
    assemble("build", "--platform", "linux/arm64", "-t", "arm:1", base)
    context = written(tmp_path / "context", "FROM arm:1\nLABEL a=b\n")
    layout = tmp_path / "layout"
    forced = ("--build-arg", "BUILDKIT_MULTI_PLATFORM=1")
    assemble("build", *forced, "-o", f"type=oci,dest={layout},tar=false", context)
    (entry,) = json.loads((layout / "index.json").read_text())["manifests"]
    index = json.loads((layout / "blobs/sha256" / entry["digest"][7:]).read_text())
    assert platforms(index) == ["arm64/linux"]


def test_O1_files_of_each_platform_are_in_a_directory_of_its_own(
    assemble: Any, base: str, tmp_path: Path
) -> None:
    context = written(tmp_path / "context", CROSS)
    asked = ("build", "--platform", BOTH, "--build-arg", f"BASE={base}")
    assemble(*asked, "-o", f"{tmp_path}/out", "-o", f"type=tar,dest={tmp_path}/all.tar", context)
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")}
    inside = {"", "/base", "/out", "/out/arch", "/out/once", "/out/tool"}
    names = {f"{name}{path}" for name in ("linux_amd64", "linux_arm64") for path in inside}
    assert found == names
    assert (tmp_path / "out/linux_arm64/out/arch").read_text() == "arm64\n"
    assert (tmp_path / "out/linux_amd64/base").read_text() == "x86"
    with tarfile.open(tmp_path / "all.tar") as archive:
        assert set(archive.getnames()) == names
    together = ("-o", f"type=local,dest={tmp_path}/together,platform-split=false")
    failed = assemble(*asked, *together, context, code=1)
    assert "'base' of linux/arm64 would take the place of that of linux/amd64" in failed.stderr
    one = ("build", "--platform", "linux/arm64", "--build-arg", f"BASE={base}")
    assemble(*one, "-o", f"type=local,dest={tmp_path}/one,platform-split=true", context)
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["linux_arm64"]

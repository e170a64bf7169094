"""What a build does not do: fetch, unpack, pack what nothing needs (design decision 1)."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from assembler.cache.local import LocalCache
from assembler.cancellation import Cancellation
from assembler.context.directory import DirectoryContext
from assembler.dockerfile.parser import parse
from assembler.engine.blobs import ChangeBlobs
from assembler.engine.change import BaseChange, Change
from assembler.engine.execution import execute
from assembler.engine.services import Sandbox, Services, Take
from assembler.errors import BadArchive, StoreError
from assembler.layer.compression import by_name
from assembler.linux.cgroups import unlimited
from assembler.oci.config import ImageConfig
from assembler.oci.descriptor import CHUNKED_CHECKSUM, Descriptor
from assembler.oci.digest import Digest
from assembler.oci.image import Image, Layer
from assembler.oci.platform import Platform
from assembler.plan.make import PlanRequest, make, needs
from assembler.plan.plan import ResolvedImage
from assembler.runtime.base import Process, Root, RunMount
from assembler.source import Source
from assembler.store.store import Store
from assembler.testing import MemoryRemote
from tests.engine.runtimes import FakeRuntime
from tests.engine.test_execution import PlainDirectories

LINUX = Platform("linux", "amd64")


def archive(files: dict[str, str]) -> bytes:
    """A tar: a name that ends in a slash is a directory, a text that begins with -> a link."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as writer:
        for name, text in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.mode = 0o755 if name.endswith("/") else 0o644
            info.uid, info.gid = os.getuid(), os.getgid()
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            elif text.startswith("->"):
                info.type, info.linkname = tarfile.SYMTYPE, text[2:]
            else:
                info.size = len(text)
            writer.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


class Directories(PlainDirectories):
    """Remembers what it made."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.made: list[str] = []

    @contextmanager
    def create(self, id: str) -> Iterator[str]:
        with super().create(id) as work:
            yield work
        self.made.append(id)


class WritingRuntime(FakeRuntime):
    """A runtime whose commands are `write PATH TEXT`."""

    def __init__(self) -> None:
        super().__init__()
        self.lowers: tuple[str, ...] = ()

    def execute(
        self,
        process: Process,
        root: Root,
        mounts: Sequence[RunMount],
        output: Callable[[bytes], None],
    ) -> int:
        _, path, text = process.argv[-1].split()
        self.lowers = root.lowers
        target = Path(root.upper, path.lstrip("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        return 0


class Bench:
    """A context, a store, and images whose blobs are elsewhere. `moved` are their transfers."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.context = directory / "context"
        self.context.mkdir()
        self.runtime = WritingRuntime()
        self.snapshotter = Directories(directory / "layers")
        self.moved: list[tuple[str, str]] = []
        self.entered = 0
        self.parts = True
        self.images: dict[str, ResolvedImage] = {}
        self.blobs: dict[Digest, bytes] = {}
        self.names: dict[Digest, str] = {}
        self.packed: list[Digest] = []
        self.fetching: Callable[[], object] = lambda: None

    def image(self, name: str, *layers: dict[str, str], compression: str = "gzip") -> None:
        """Let `name` mean an image of these layers."""
        made: list[Layer] = []
        for number, files in enumerate(layers):
            tar, kind = archive(files), by_name(compression, None)
            pieces: list[bytes] = []
            writer = kind.writer(lambda piece, pieces=pieces: pieces.append(bytes(piece)))  # type: ignore[misc]
            writer.write(tar)
            ending = writer.close()
            annotations = {} if ending is None else ending.annotations
            blob = b"".join(pieces)
            digest = Digest.of(blob)
            self.blobs[digest] = blob
            self.names[digest] = f"{name}/{number}"
            described = Descriptor(kind.media_type, digest, len(blob), annotations)
            made.append(Layer(described, Digest.of(tar)))
        config = ImageConfig(platform=LINUX, diff_ids=tuple(layer.diff_id for layer in made))
        image = Image.create(config, tuple(made))
        full = f"docker.io/library/{name}:latest"
        descriptor = image.manifest.descriptor
        self.images[full] = ResolvedImage(full, descriptor, image.config, image.manifest.layers)

    def build(self, text: str, *, whole: bool = False) -> Image:
        self.moved.clear()
        self.runtime.ran.clear()
        self.snapshotter.made.clear()
        self.packed.clear()
        asked = PlanRequest(
            dockerfile=parse(Source("Dockerfile", text)),
            build_args={},
            platform=LINUX,
            build_platform=LINUX,
            labels={},
            epoch=1_700_000_000,
        )
        plan = make(asked, {need.key: self.images[need.image] for need in needs(asked, {})})
        with (
            Store.open(str(self.directory / "store")) as store,
            LocalCache(str(self.directory / "cache.db")) as cache,
            Cancellation() as cancellation,
        ):
            return execute(plan, self.services(store, cache, cancellation, whole))[0]

    def services(
        self, store: Store, cache: LocalCache, cancellation: Cancellation, whole: bool
    ) -> Services:
        @contextmanager
        def sandbox() -> Iterator[Sandbox]:
            self.entered += 1
            yield Sandbox(self.snapshotter, self.runtime, unlimited(), (), "full")

        def stream(image: ResolvedImage, layer: Descriptor, take: Take) -> None:
            self.moved.append(("read", self.names[layer.digest]))
            take(self.blobs[layer.digest])

        def part(image: ResolvedImage, layer: Descriptor, offset: int, size: int) -> bytes | None:
            self.moved.append(("part", self.names[layer.digest]))
            return self.blobs[layer.digest][offset : offset + size] if self.parts else None

        def fetch(image: ResolvedImage, layer: Descriptor, take: Take) -> None:
            self.moved.append(("pull", self.names[layer.digest]))
            self.fetching()
            take(self.blobs[layer.digest])
            store.blobs.put(self.blobs[layer.digest])

        return Services(
            store=store,
            cache=cache,
            packed=cache,
            contexts={"": DirectoryContext(str(self.context), None)},
            remote=MemoryRemote({}),
            sandbox=sandbox,
            fetch=fetch,
            stream=stream,
            part=part,
            whole=whole,
            compression=by_name("uncompressed", None),
            sink=lambda event: None,
            cancellation=cancellation,
            clock=lambda: 1_700_000_000.0,
            secrets={},
        )

    def files(self, image: Image) -> dict[str, str]:
        """The regular files of the image's last layer."""
        with Store.open(str(self.directory / "store")) as store:
            content = store.blobs.read(image.manifest.layers[-1])
        with tarfile.open(fileobj=io.BytesIO(content)) as reader:
            members = [member for member in reader if member.isfile()]
            return {one.name: reader.extractfile(one).read().decode() for one in members}  # type: ignore[union-attr]

    def store_has(self, name: str) -> bool:
        """Whether the blob of the layer `name` is in the store."""
        digest = next(digest for digest, known in self.names.items() if known == name)
        with Store.open(str(self.directory / "store")) as store:
            return store.blobs.has(digest)

    def directories(self) -> list[str]:
        """The layer directories there are."""
        return sorted(os.listdir(self.directory / "layers")) if self.entered else []


@pytest.fixture
def bench(tmp_path: Path, without_owners: None) -> Bench:
    made = Bench(tmp_path)
    (made.context / "f").write_text("of the context")
    made.image(
        "base",
        {"etc/": "", "etc/passwd": "user:x:7:8::/:/bin/sh\n", "etc/group": "", "srv/": ""},
        {"app": "->srv", "srv/": "", "srv/old": "old"},
    )
    return made


def test_a_copy_onto_a_base_makes_no_directory_and_stores_no_blob(bench: Bench) -> None:
    image = bench.build("FROM base\nWORKDIR /app\nCOPY f /app/new\n")
    assert bench.files(image) == {"srv/new": "of the context"}  # rule C10: the link was followed
    assert sorted(bench.moved) == [("read", "base/0"), ("read", "base/1")]
    assert not bench.entered and not bench.directories()
    assert not bench.store_has("base/0") and not bench.store_has("base/1")
    assert image.layers[0].descriptor.digest in bench.blobs


@pytest.mark.parametrize("held", [60_000, 1], ids=["in memory", "in a file"])
def test_files_of_different_steps_are_never_names_of_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    """Each step numbers those of its files that have several names."""
    monkeypatch.setattr("assembler.layer.entry_map._MOST", held)
    for name in ("one", "two", "three"):
        (bench.context / name).mkdir()
        (bench.context / name / "x").write_text(name)
        os.link(bench.context / name / "x", bench.context / name / "y")
    stage = "FROM scratch AS made\nCOPY one /one\nCOPY two /two\nFROM made\nCOPY three /three\n"
    image = bench.build(f"{stage}FROM scratch\nCOPY --from=1 / /\n")
    assert bench.files(image) == {"one/x": "one", "two/x": "two", "three/x": "three"}


def test_T7_a_step_sees_nothing_below_a_layer_whose_root_is_opaque(bench: Bench) -> None:
    bench.image("anew", {"a": "1"}, {".wh..wh..opq": "", "b": "2"}, {"c": "3"})
    bench.build('FROM anew\nRUN ["sh", "write /made 1"]\n')
    shown = {name for lower in bench.runtime.lowers for name in os.listdir(lower)}
    assert shown == {"b", "c"}


def test_blobs_of_layers_that_are_to_be_unpacked_are_fetched_together(bench: Bench) -> None:
    bench.image("parts", *({f"{n}/f": "x"} for n in range(3)))
    together = threading.Barrier(3, timeout=60)
    bench.fetching = together.wait
    bench.build('FROM parts\nRUN ["sh", "write /made 1"]\n')
    assert sorted(bench.moved) == [("pull", f"parts/{n}") for n in range(3)]


def test_a_blob_that_cannot_be_fetched_is_asked_for_once(bench: Bench) -> None:
    bench.image("parts", {"a": "1"}, {"b": "2"})

    def fails() -> None:
        raise StoreError("gone")

    bench.fetching = fails
    with pytest.raises(StoreError, match="gone"):
        bench.build('FROM parts\nRUN ["sh", "write /made 1"]\n')
    assert bench.moved.count(("pull", "parts/0")) == 1
    assert bench.moved.count(("pull", "parts/1")) <= 1


def test_the_index_of_a_base_is_read_once_in_the_life_of_a_store(bench: Bench) -> None:
    bench.build("FROM base\nCOPY f /app/new\n")
    (bench.context / "f").write_text("another")
    image = bench.build("FROM base\nCOPY f /app/new\n")
    assert bench.moved == []
    assert bench.files(image) == {"srv/new": "another"}


def test_CR05_a_base_that_another_build_has_just_fetched_is_read_from_the_store(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ChangeBlobs.lacks

    def overtaken(self: ChangeBlobs, change: Change) -> bool:
        lacked = real(self, change)
        if isinstance(change, BaseChange):
            with Store.open(str(bench.directory / "store")) as store:
                store.blobs.put(bench.blobs[change.descriptor.digest])
        return lacked

    monkeypatch.setattr(ChangeBlobs, "lacks", overtaken)
    image = bench.build("FROM base\nCOPY f /app/new\n", whole=True)
    assert bench.files(image) == {"srv/new": "of the context"} and bench.moved == []


def test_a_damaged_index_is_made_anew(bench: Bench) -> None:
    bench.build("FROM base\nCOPY f /app/new\n")
    for path in (bench.directory / "store/indexes").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    image = bench.build("FROM base\nCOPY f /app/newer\n")
    assert len(bench.moved) == 2
    assert bench.files(image) == {"srv/newer": "of the context"}


def test_T17_a_base_that_is_not_what_its_configuration_says_is_refused(bench: Bench) -> None:
    bench.image("liar", {"a": "1"})
    liar = bench.images["docker.io/library/liar:latest"]
    other = gzip.compress(archive({"b": "2"}), mtime=0)
    bench.blobs[liar.layers[0].digest] = other
    with pytest.raises(BadArchive, match="not what the image configuration says") as caught:
        bench.build("FROM liar\nCOPY f /x\n")
    assert str(liar.layers[0].digest) in caught.value.message


def test_C25_a_linked_copy_does_not_look_at_its_base(bench: Bench) -> None:
    image = bench.build("FROM base\nCOPY --link f /app/new\n")
    assert bench.moved == []
    assert bench.files(image) == {"app/new": "of the context"}


def test_C25_a_linked_layer_is_taken_again_when_the_base_moves(bench: Bench) -> None:
    bench.image("newer", {"app/": "", "other": "1"})
    before = bench.build("FROM base\nCOPY --link f /app/new\n")
    after = bench.build("FROM newer\nCOPY --link f /app/new\n")
    assert bench.moved == []
    assert after.layers[-1] == before.layers[-1]
    assert after.layers[:-1] != before.layers[:-1]


def test_C25_what_is_above_a_linked_copy_depends_on_the_base(bench: Bench) -> None:
    bench.image("newer", {"app/": "", "other": "1"})
    text = 'FROM {}\nCOPY --link f /app/new\nRUN ["sh", "write /made 1"]\n'
    bench.build(text.format("base"))
    assert bench.runtime.ran == ["write /made 1"]
    bench.build(text.format("newer"))
    assert bench.runtime.ran == ["write /made 1"]
    bench.build(text.format("newer"))
    assert bench.runtime.ran == []


def test_metadata_needs_nothing_of_a_base(bench: Bench) -> None:
    image = bench.build('FROM base\nENV A=b\nCMD ["x"]\nWORKDIR /\n')
    assert bench.moved == [] and not bench.entered
    assert len(image.layers) == 2


def test_an_image_that_is_kept_whole_has_its_blobs_indexed_on_their_way(bench: Bench) -> None:
    bench.build("FROM base\nCOPY f /app/new\n", whole=True)
    assert sorted(bench.moved) == [("pull", "base/0"), ("pull", "base/1")]
    assert bench.store_has("base/0") and bench.store_has("base/1")


def test_C17_an_owner_by_name_is_looked_up_in_the_index(bench: Bench) -> None:
    image = bench.build("FROM base\nCOPY --chown=user f /app/new\n")
    with Store.open(str(bench.directory / "store")) as store:
        content = store.blobs.read(image.manifest.layers[-1])
    with tarfile.open(fileobj=io.BytesIO(content)) as reader:
        assert (reader.getmember("srv/new").uid, reader.getmember("srv/new").gid) == (7, 8)
    assert sorted(bench.moved) == [("read", "base/0"), ("read", "base/1")]


def test_files_of_an_image_are_taken_out_of_its_blobs(bench: Bench) -> None:
    image = bench.build("FROM scratch\nCOPY --from=base /app/old /etc/passwd /out/\n")
    assert bench.files(image) == {"out/old": "old", "out/passwd": "user:x:7:8::/:/bin/sh\n"}
    assert sorted(bench.moved) == [("pull", "base/0"), ("pull", "base/1")]
    assert not bench.entered


def test_B14_files_that_are_alike_in_several_layers_are_told_apart(bench: Bench) -> None:
    """The first member of each layer, of the same size: a change of either is one."""
    text = "FROM scratch\nCOPY --from=two /d /out/\n"
    for first in ("11111", "22222", "33333"):
        bench.image("two", {"d/": "", "d/a": first}, {"d/": "", "d/b": "22222"})
        assert bench.files(bench.build(text)) == {"out/a": first, "out/b": "22222"}


def test_files_of_a_stage_that_runs_nothing_are_taken_as_they_are(bench: Bench) -> None:
    image = bench.build(
        "FROM base AS st\nCOPY f /srv/mine\nFROM scratch\nCOPY --from=st /app/ /out/\n"
    )
    assert bench.files(image) == {"out/old": "old", "out/mine": "of the context"}
    assert not bench.entered
    with LocalCache(str(bench.directory / "cache.db")) as cache:
        rows = cache._database.execute("SELECT count(*) FROM layers").fetchone()
    assert rows == (1,)  # the stage's own layer was never packed


def test_a_run_makes_each_directory_once_and_a_copy_above_it_none(bench: Bench) -> None:
    text = 'FROM base\nCOPY f /a\nRUN ["sh", "write /made 1"]\nCOPY f /app/b\n'
    bench.build(text)
    assert bench.entered == 1
    assert len(bench.snapshotter.made) == len(set(bench.snapshotter.made)) == 4
    assert sorted(bench.moved) == [("pull", "base/0"), ("pull", "base/1")]  # and no index of them


def test_a_copy_above_a_run_that_is_known_enters_no_namespace(bench: Bench) -> None:
    text = 'FROM base\nRUN ["sh", "write /made 1"]\nCOPY f /app/b\n'
    first = bench.build(text)
    (bench.context / "f").write_text("changed")
    second = bench.build(text)
    assert bench.entered == 1 and bench.runtime.ran == []
    assert second.layers[:-1] == first.layers[:-1]
    assert bench.files(second) == {"srv/b": "changed"}


def test_C26_an_archive_is_unpacked_without_a_namespace(bench: Bench) -> None:
    files = {"d/": "", "d/a": "1", "l": "->d/a"}
    (bench.context / "x.tar").write_bytes(archive(files))
    image = bench.build("FROM base\nADD x.tar /app/\n")
    assert bench.files(image) == {"srv/d/a": "1"}
    assert not bench.entered
    assert os.listdir(bench.directory / "store/scratch") == []


TABLED = (
    {"etc/": "", "etc/passwd": "user:x:7:8::/:/bin/sh\n", "etc/group": "", "srv/": "", "gone": "1"},
    {"app": "->srv", "srv/": "", "srv/old": "old", ".wh.gone": ""},
)


def test_the_table_of_a_layer_says_what_its_index_would(bench: Bench) -> None:
    bench.image("tabled", *TABLED, compression="zstd:chunked")
    bench.image("plain", *TABLED)
    text = "FROM {}\nWORKDIR /app/made\nCOPY f /app/new\nCOPY f /gone/\n"
    by_table = bench.build(text.format("tabled"))
    assert sorted(bench.moved) == [("part", "tabled/0"), ("part", "tabled/1")]
    assert not bench.entered
    by_index = bench.build(text.format("plain"))
    assert by_table.layers[2:] == by_index.layers[2:]
    assert bench.files(by_table) == {"gone/f": "of the context"}


def test_a_table_is_asked_for_once_in_the_life_of_a_store(bench: Bench) -> None:
    bench.image("tabled", *TABLED, compression="zstd:chunked")
    bench.build("FROM tabled\nCOPY f /app/new\n")
    bench.build("FROM tabled\nCOPY f /app/newer\n")
    assert bench.moved == []


def test_a_table_is_no_index_of_another_image(bench: Bench) -> None:
    bench.image("liar", {"app": "->nowhere"}, compression="zstd:chunked")
    bench.image("honest", {"app/": ""})
    liar, honest = (bench.images[f"docker.io/library/{n}:latest"] for n in ("liar", "honest"))
    config = replace(liar.config, diff_ids=honest.config.diff_ids)
    bench.images["docker.io/library/liar:latest"] = replace(liar, config=config)
    bench.build("FROM liar\nCOPY f /app/new\n")
    image = bench.build("FROM honest\nCOPY f /app/new\n")
    assert bench.moved == [("read", "honest/0")]
    assert bench.files(image) == {"app/new": "of the context"}


def test_what_a_table_cannot_give_is_read_from_the_layer(bench: Bench) -> None:
    bench.image("tabled", *TABLED, compression="zstd:chunked")
    image = bench.build("FROM tabled\nCOPY --chown=user f /app/new\n")
    assert sorted(set(bench.moved)) == [
        ("part", "tabled/0"),
        ("part", "tabled/1"),
        ("pull", "tabled/0"),  # for /etc/passwd
    ]
    with Store.open(str(bench.directory / "store")) as store:
        content = store.blobs.read(image.manifest.layers[-1])
    with tarfile.open(fileobj=io.BytesIO(content)) as reader:
        assert (reader.getmember("srv/new").uid, reader.getmember("srv/new").gid) == (7, 8)


@pytest.mark.parametrize("trouble", ["no parts", "another digest", "damage"])
def test_where_a_table_cannot_be_had_the_layer_is_read(bench: Bench, trouble: str) -> None:
    bench.image("tabled", TABLED[1], compression="zstd:chunked")
    image = bench.images["docker.io/library/tabled:latest"]
    layer = image.layers[0]
    if trouble == "no parts":
        bench.parts = False
    else:
        other = str(Digest.of(b"other")) if trouble == "another digest" else "nonsense"
        annotations = {**layer.annotations, CHUNKED_CHECKSUM: other}
        layers = (replace(layer, annotations=annotations),)
        bench.images["docker.io/library/tabled:latest"] = replace(image, layers=layers)
    built = bench.build("FROM tabled\nCOPY f /app/new\n")
    assert ("read", "tabled/0") in bench.moved
    assert bench.files(built) == {"srv/new": "of the context"}

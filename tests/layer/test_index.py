"""File indexes: a layer's tree without its directory (reliability.md T1 to T17; rule C20)."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assembler.errors import BadArchive
from assembler.layer.apply import unpack
from assembler.layer.changeset import Entry, InlineBytes, Kind
from assembler.layer.compression import by_name
from assembler.layer.directory import nowhere
from assembler.layer.index import IndexTree, LayerIndex, index
from assembler.layer.indexer import Indexer
from assembler.layer.members import MemberBytes, Members, SpooledMembers, gather
from assembler.layer.table import MembersByPath, Table
from assembler.layer.tar_writer import TarWriter
from assembler.layer.tree import DirectoryTree, MergedTree, Tree, everything
from assembler.oci.descriptor import CHUNKED_CHECKSUM, CHUNKED_POSITION, LAYER_ZSTD, Descriptor
from assembler.oci.digest import Digest
from tests.layer.archives import ZEROS, raw
from tests.layer.test_sparse import newer

ME, GROUP = os.getuid(), os.getgid()


def entry(path: str, kind: Kind = Kind.FILE, text: str = "", **more: object) -> Entry:
    """An entry of ours. The text of a file is its bytes, of a link where it leads."""
    mode = 0o755 if kind is Kind.DIRECTORY else 0o640
    made = Entry(path, kind, mode, ME, GROUP, mtime=5_000_000_001)
    if kind is Kind.FILE:
        made = made._replace(size=len(text), source=InlineBytes(text.encode()))
    elif text:
        made = made._replace(link=text)
    return made._replace(**more)  # type: ignore[arg-type]


def directory(path: str, **more: object) -> Entry:
    return entry(path, Kind.DIRECTORY, **more)


def tar(entries: Iterable[Entry]) -> bytes:
    """The members in the order they are given."""
    pieces: list[bytes] = []
    writer = TarWriter(lambda piece: pieces.append(bytes(piece)))
    for one in entries:
        writer.add(one)
    writer.close()
    return b"".join(pieces)


class Layers:
    """Layers of an image, lowest first, as blobs, directories and indexes."""

    def __init__(self, work: Path, *layers: Sequence[Entry] | bytes) -> None:
        self.work = work
        self.blobs = [one if isinstance(one, bytes) else tar(one) for one in layers]
        (work / "spool").mkdir()

    def unpacked(self) -> Tree:
        """As `layer.apply` unpacks them."""
        trees: list[DirectoryTree] = []
        for number, blob in enumerate(self.blobs):
            path = self.work / str(number)
            path.mkdir(mode=0o755)
            path.chmod(0o755)
            lower = MergedTree(trees[:]).lookup if trees else nowhere
            unpack(io.BytesIO(blob), str(path), lower=lower)
            trees.insert(0, DirectoryTree(str(path)))
        return MergedTree(trees)

    def indexed(self) -> Tree:
        """By their indexes, written and read back."""
        trees: list[IndexTree] = []
        for blob in self.blobs:
            diff_id = Digest.of(blob)
            made = index(io.BytesIO(blob), diff_id)
            again = LayerIndex.parse(b"".join(made.serialise()), diff_id)
            assert again == made
            trees.insert(0, IndexTree(again, self.members(blob), MergedTree(trees[:])))
        return MergedTree(trees)

    def members(self, blob: bytes) -> SpooledMembers:
        return SpooledMembers(lambda: io.BytesIO(blob), str(self.work / "spool"))


def shown(tree: Tree) -> list[tuple[object, ...]]:
    """Everything of a tree, with bytes. Directories that nothing names belong to whoever builds."""
    found: list[tuple[object, ...]] = []
    for one in everything(tree):
        content = b""
        if one.kind is Kind.FILE and one.source is not None:
            with one.source.open() as stream:
                content = stream.read()
        owner = (one.uid, one.gid) if (one.uid, one.gid) != (0, 0) else (ME, GROUP)
        found.append((one.path, one.kind, one.mode, owner, one.mtime, one.size, one.link, content))
    return found


CASES: dict[str, tuple[Sequence[Entry], ...]] = {
    "an ordinary layer": (
        [
            directory("", mode=0o711),
            directory("etc"),
            entry("etc/passwd", text="root:x:0:0::/:/bin/sh\n"),
            directory("usr", mode=0o2750),
            directory("usr/bin"),
            entry("usr/bin/x", text="bytes", mode=0o4755),
            entry("bin", Kind.SYMLINK, "usr/bin", mode=0o600),
            entry("usr/bin/y", Kind.HARDLINK, "usr/bin/x"),
            entry("fifo", Kind.FIFO),
        ],
    ),
    "parents that nothing names": ([entry("a/b/c", text="1"), entry("a/d", text="2")],),
    "T2 parents that are in the layer below": (
        [directory("a", mode=0o700), directory("a/b", mode=0o711)],
        [entry("a/b/c", text="1")],
    ),
    "T2 a name under a link of the layer below": (
        [
            directory("usr"),
            directory("usr/lib", mode=0o711),
            entry("lib", Kind.SYMLINK, "/usr/lib"),
        ],
        [entry("lib/x.so", text="so")],
    ),
    "T2 a name under a link of its own layer": (
        [
            directory("usr"),
            directory("usr/lib"),
            entry("lib", Kind.SYMLINK, "usr/lib"),
            entry("lib/x.so", text="so"),
            directory("lib/more"),
        ],
    ),
    "T2 a link that leads out stops at the root": (
        [entry("up", Kind.SYMLINK, "../../.."), entry("up/etc/x", text="1")],
    ),
    "T5 a hard link to a file of the layer below": (
        [directory("d"), entry("d/a", text="shared", mode=0o600)],
        [entry("b", Kind.HARDLINK, "d/a")],
    ),
    "T5 a hard link to a symbolic link": (
        [entry("l", Kind.SYMLINK, "nowhere"), entry("m", Kind.HARDLINK, "l")],
    ),
    "T7 whiteouts": (
        [directory("d"), entry("d/a", text="1"), entry("d/b", text="2"), entry("c", text="3")],
        [directory("d"), entry("d/a", Kind.WHITEOUT), entry("c", Kind.WHITEOUT)],
    ),
    "T7 an opaque directory": (
        [directory("d"), entry("d/a", text="1")],
        [directory("d"), entry("d/b", text="2"), entry("d", Kind.OPAQUE)],
    ),
    "T7 a whiteout, then what replaces it": (
        [directory("d"), entry("d/a", text="1")],
        [entry("d", Kind.WHITEOUT), directory("d"), entry("d/b", text="2")],
    ),
    "T7 a whiteout of what the layer itself has": (
        [directory("d"), entry("d/low", text="0"), entry("f", text="low")],
        [
            directory("d"),
            entry("d/a", text="1"),
            entry("d", Kind.WHITEOUT),
            entry("f", text="high"),
            entry("f", Kind.WHITEOUT),
        ],
    ),
    "T7 something below what is whited out": (
        [directory("d", mode=0o700), entry("d/a", text="1")],
        [entry("d", Kind.WHITEOUT), entry("d/b", text="2")],
    ),
    "T9 the last entry for a path counts": (
        [
            entry("a", text="1"),
            entry("a", text="22"),
            directory("b"),
            entry("b/c", text="3"),
            entry("b", text="file"),
            entry("c", text="4"),
            directory("c"),
            entry("c/d", text="5"),
            directory("e"),
            entry("e/f", text="6"),
            directory("e", mode=0o700),
        ],
    ),
    "T9 a directory replaces a link to one": (
        [
            directory("real"),
            entry("l", Kind.SYMLINK, "real"),
            entry("l/a", text="1"),
            directory("l"),
            entry("l/b", text="2"),
        ],
    ),
    "T15 names that are no text": (
        [directory("d\udcff"), entry("d\udcff/new\nline\x1b", text="1"), entry('"\\', text="2")],
    ),
    "Z4 attributes that a layer keeps, and those that it does not": (
        [entry("f", xattrs=(("trusted.x", b"0"), ("user.a", b"\0\xff"), ("user.overlay.b", b"2")))],
    ),
}


@pytest.mark.parametrize("layers", CASES.values(), ids=CASES.keys())
def test_an_index_shows_what_the_directory_shows(
    layers: tuple[Sequence[Entry], ...], tmp_path: Path
) -> None:
    made = Layers(tmp_path, *layers)
    found = shown(made.indexed())
    assert found == shown(made.unpacked())
    assert len(found) > 1


@pytest.mark.parametrize("layers", CASES.values(), ids=CASES.keys())
def test_a_table_of_contents_says_what_the_index_says(layers: tuple[Sequence[Entry], ...]) -> None:
    for members in layers:
        blob = tar(members)
        told = chunked(blob)
        if told is None:  # there is no table where names are no text, or are there twice
            names = [one.path for one in members if one.kind is not Kind.OPAQUE]
            assert len(set(names)) < len(names) or not "".join(names).isprintable()
            continue
        index_of = index(io.BytesIO(blob), Digest.of(blob))
        assert plain(told) == plain(index_of)


def chunked(blob: bytes) -> LayerIndex | None:
    """What the table says that `blob` has as zstd:chunked; None where it has none."""
    pieces: list[bytes] = []
    writer = by_name("zstd:chunked", None).writer(lambda piece: pieces.append(bytes(piece)))
    writer.write(blob)
    ending = writer.close()
    packed = b"".join(pieces)
    annotations = {} if ending is None else ending.annotations
    table = Table.of(Descriptor(LAYER_ZSTD, Digest.of(packed), len(packed), annotations))
    return table and table.index(packed[table.offset : table.offset + table.size])


def plain(index: LayerIndex) -> object:
    """What an index says of names; a table has no bytes, and numbers its members as it likes."""
    return index.settled, index.root, index.opaque, list(index.entries(None))


@pytest.mark.parametrize(
    "position", ["", "1:2", "0:5:5:2", "9:9999:5:1", "-1:5:5:1", "0:5:0:1", "0:5:99999999999:1"]
)
def test_T10_a_table_that_cannot_be_or_is_too_large_is_none(position: str) -> None:
    known = {CHUNKED_CHECKSUM: str(Digest.of(b"x")), CHUNKED_POSITION: position}
    assert Table.of(Descriptor(LAYER_ZSTD, Digest.of(b"y"), 1000, known)) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"version":1,"entries":[',
        '{"version":1,"entries":[{"type":"reg"}]}',
        '{"version":1,"entries":[{"type":"odd","name":"x"}]}',
        '{"version":1,"entries":[{"type":"reg","name":"x","size":"y"}]}',
        '{"version":1,"entries":[{"type":"reg","name":"x","modtime":"yesterday"}]}',
        '{"version":1,"entries":[{"type":"dir","name":"x","modtime":"2020-01-01T00:00:00"}]}',
        '{"version":1,"entries":[{"type":"reg","name":"x","size":1e999}]}',
        '{"version":1,"entries":[{"type":"reg","name":"x","size":-1}]}',
        '{"version":1,"entries":[{"type":"char","name":"x","devMajor":9999999}]}',
        '{"version":1,"entries":[{"type":"symlink","name":"x"}]}',
        '{"version":1,"entries":[{"type":"dir","name":"\\ud800"}]}',
        '{"version":1,"entries":[{"type":"dir","name":"caf\\udce9"}]}',
        '{"version":1,"entries":[{"type":"dir","name":"caf\\ufffd"}]}',
        '{"version":1,"entries":[{"type":"dir","name":"a\\u0000b"}]}',
        '{"version":1,"entries":[{"type":"symlink","name":"x","linkName":"\\ud800"}]}',
        '{"version":1,"entries":[{"type":"reg","name":"x","xattrs":{"user.\\ud800":""}}]}',
        pytest.param(
            f'{{"version":1,"entries":[{{"type":"dir","name":"{"n" * 5000}"}}]}}', id="a long name"
        ),
        pytest.param(
            f'{{"version":1,"entries":[{{"type":"dir","name":"x","more":{"[" * 99999}', id="deep"
        ),
        '{"version":1,"entries":[{"type":"dir","name":"x"} {"type":"dir","name":"y"}]}',
        '{"version":1,"entries":[7]}',
        '{"version":1,"entries":[{"type":"dir","name":"x"},',
        '{"version":1,"entries":[{"type":"dir","name":"x"},]}',
    ],
)
def test_T11_a_table_that_cannot_be_read_is_refused(text: str) -> None:
    import zstandard

    content = zstandard.compress(text.encode())
    with pytest.raises(ValueError):
        Table(Digest.of(content), 0, len(content)).index(content)
    with pytest.raises(ValueError, match="another digest"):
        Table(Digest.of(b"other"), 0, len(content)).index(content)


def test_times_of_tables() -> None:
    times = [
        "1970-01-01T00:00:01Z",
        "1969-12-31T23:59:59.5Z",
        "2001-01-01T01:00:00.000000001+01:00",
    ]
    rows = ",".join(f'{{"type":"dir","name":"{n}","modtime":"{t}"}}' for n, t in enumerate(times))
    import zstandard

    content = zstandard.compress(f'{{"version": 1,\n"entries" : [\n{rows}\n]\n}}'.encode())
    found = Table(Digest.of(content), 0, len(content)).index(content).below("", None)
    assert [found[str(n)].mtime for n in range(3)] == [
        10**9,
        -(10**9) // 2,
        978_307_200 * 10**9 + 1,
    ]


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
ENTRIES = st.one_of(
    PATHS.map(directory),
    st.builds(lambda path, text: entry(path, text=text), PATHS, st.sampled_from(["", "x", "yy"])),
    st.builds(lambda path, link: entry(path, Kind.SYMLINK, link), PATHS, PATHS),
    st.builds(lambda path, link: entry(path, Kind.SYMLINK, "/" + link), PATHS, PATHS),
    st.builds(lambda path, link: entry(path, Kind.HARDLINK, link), PATHS, PATHS),
    PATHS.map(lambda path: entry(path, Kind.WHITEOUT)),
    PATHS.map(lambda path: entry(path, Kind.OPAQUE)),
)


@given(st.lists(st.lists(ENTRIES, max_size=8), min_size=1, max_size=3))
def test_T9_any_order_of_members_shows_the_same_as_a_directory(
    tmp_path_factory: pytest.TempPathFactory, layers: list[list[Entry]]
) -> None:
    made = Layers(tmp_path_factory.mktemp("layers"), *layers)
    try:
        unpacked = shown(made.unpacked())
    except BadArchive:
        with pytest.raises(BadArchive):
            shown(made.indexed())
        return
    assert shown(made.indexed()) == unpacked


BLOB = tar([directory("d"), entry("d/a", text="one"), entry("d/b", text="two" * 100_000)])


@pytest.mark.parametrize("name", ["gzip", "zstd", "uncompressed"])
def test_an_index_is_made_while_a_blob_passes_through(name: str) -> None:
    packed: list[bytes] = []
    stream = by_name(name, None).writer(packed.append)
    stream.write(BLOB)
    stream.close()
    blob = b"".join(packed)
    with Indexer(Digest.of(BLOB)) as indexer:
        for start in range(0, len(blob), 1000):
            indexer.write(blob[start : start + 1000])
        assert indexer.result() == index(io.BytesIO(BLOB), Digest.of(BLOB))


def test_an_indexer_keeps_what_it_was_given_whatever_becomes_of_the_memory() -> None:
    memory = bytearray(1000)
    with Indexer(Digest.of(BLOB)) as indexer:
        for start in range(0, len(BLOB), 1000):
            piece = BLOB[start : start + 1000]
            memory[: len(piece)] = piece
            indexer.write(memoryview(memory)[: len(piece)])
        assert indexer.result() == index(io.BytesIO(BLOB), Digest.of(BLOB))


def test_T12_what_breaks_off_is_no_layer() -> None:
    with pytest.raises(BadArchive), Indexer(Digest.of(BLOB)) as indexer:
        indexer.write(BLOB[:2000])
        indexer.result()


def test_an_indexer_whose_writer_fails_leaves_no_thread() -> None:
    with pytest.raises(ConnectionError), Indexer(Digest.of(BLOB)) as indexer:
        indexer.write(BLOB[:2000])
        raise ConnectionError
    assert not indexer._thread.is_alive()


def test_T12_damage_stops_the_writer_at_once() -> None:
    with pytest.raises(BadArchive, match="checksum"), Indexer(Digest.of(BLOB)) as indexer:
        for _ in range(5_000):  # more than can be on its way
            indexer.write(b"no tar" * 1000)


def test_an_index_can_be_given_up_in_the_middle_of_a_file() -> None:
    asked = []
    blob = tar([entry("big", text="x" * (8 << 20))])
    index(io.BytesIO(blob), Digest.of(blob), check=lambda: asked.append(None))
    assert len(asked) > 8


def test_T17_an_index_is_of_the_layer_that_the_configuration_names() -> None:
    with pytest.raises(BadArchive, match="not what the image configuration says"):
        index(io.BytesIO(BLOB), Digest.of(b"another"))


def test_an_index_that_is_damaged_is_none() -> None:
    diff_id = Digest.of(BLOB)
    content = b"".join(index(io.BytesIO(BLOB), diff_id).serialise())
    flipped = bytes([content[-1] ^ 1])
    for damaged in (b"", content[:-1], content[:-1] + flipped, b"x" + content):
        with pytest.raises(ValueError):
            LayerIndex.parse(damaged, diff_id)
    with pytest.raises(ValueError, match="another layer"):
        LayerIndex.parse(content, Digest.of(b"another"))


def test_an_index_is_small_and_is_read_in_parts() -> None:
    names = [f"usr/d{n // 100}/file{n}" for n in range(20_000)]
    folders = sorted({name.rpartition("/")[0] for name in names})
    blob = tar([directory("usr"), *map(directory, folders), *map(entry, names)])
    made = index(io.BytesIO(blob), Digest.of(blob))
    assert sum(map(len, made.serialise())) < 10 * len(names)
    assert list(made.below("usr/d7", None)) == [f"file{n}" for n in range(700, 800)]


def test_members_are_read_in_one_pass_and_no_further_than_the_last(tmp_path: Path) -> None:
    files = [entry(f"f{n}", text=f"text {n}") for n in range(10)]
    end = entry("big", text="x" * (1 << 20))
    blob = tar([*files, end])
    opened: list[io.BytesIO] = []

    def open_blob() -> io.BytesIO:
        opened.append(io.BytesIO(blob))
        return opened[-1]

    members = SpooledMembers(open_blob, str(tmp_path))
    tree = IndexTree(index(io.BytesIO(blob), Digest.of(blob)), members, MergedTree(()))
    wanted = [tree.lookup("f3"), tree.lookup("f7"), tree.lookup("f3")]
    entries = [one for one in wanted if one is not None]
    gather(entries)
    texts = []
    for one in entries:
        assert isinstance(one.source, MemberBytes)
        with one.source.open() as stream:
            texts.append(stream.read())
    assert texts == [b"text 3", b"text 7", b"text 3"]
    assert len(opened) == 1
    (spooled,) = tmp_path.iterdir()
    assert spooled.read_bytes() == b"text 3text 7"


def test_files_of_different_layers_are_never_one_file() -> None:
    """What tells names of one file apart from others must live as long as they do: of 200 layers, nine
    had what another had before."""
    trees: list[IndexTree] = []
    for number in range(300):
        names = [f"d{number}/{name}" for name in "xy"]  # parents may be below: it is placed again
        blob = tar([entry(names[0], text="x"), entry(names[1], Kind.HARDLINK, names[0])])
        made = index(io.BytesIO(blob), Digest.of(blob))
        assert not made.settled
        trees.append(IndexTree(made, SpooledMembers(partial(io.BytesIO, blob), ""), MergedTree(())))
    found = {one.path: one for one in everything(MergedTree(trees))}
    for number in range(300):
        assert found[f"d{number}/x"].kind is Kind.FILE
        assert found[f"d{number}/y"].link == f"d{number}/x"


def test_members_of_a_table_are_found_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An index has the path of each only in its order."""
    blob = tar(entry(f"f{n}", text=f"text {n}") for n in range(50))
    told, own = chunked(blob), index(io.BytesIO(blob), Digest.of(blob))
    assert told is not None
    members = SpooledMembers(lambda: io.BytesIO(blob), str(tmp_path))
    by_path = MembersByPath(told, lambda: IndexTree(own, members, MergedTree(())))
    tree = IndexTree(told, by_path, MergedTree(()))
    found = [one for n in range(50) if (one := tree.lookup(f"f{n}")) is not None]
    passes = 0
    all_of = LayerIndex.entries

    def counted(self: LayerIndex, members: Members | None) -> Iterator[Entry]:
        nonlocal passes
        passes += 1
        return all_of(self, members)

    monkeypatch.setattr(LayerIndex, "entries", counted)
    gather(found)
    for n, one in enumerate(found):
        assert one.source is not None
        with one.source.open() as stream:
            assert stream.read() == f"text {n}".encode()
    assert passes == 1


def test_T8_account_files_are_in_the_index_unless_they_are_large() -> None:
    small, large = "root:x:0:0::/:/bin/sh\n", "user:x:1:1::/:/bin/sh\n" * 10_000
    blob = tar([directory("etc"), entry("etc/passwd", text=small), entry("etc/group", text=large)])
    found = index(io.BytesIO(blob), Digest.of(blob)).below("etc", None)
    assert found["passwd"].source == InlineBytes(small.encode())
    assert isinstance(found["group"].source, MemberBytes)


def test_T11_an_account_file_with_holes_is_in_the_index_with_all_its_bytes() -> None:
    etc = raw(b"etc/", kind=b"5")
    blob = etc + newer(10, b"1,1,8,1", name=b"etc/passwd") + ZEROS
    found = index(io.BytesIO(blob), Digest.of(blob)).below("etc", None)
    assert found["passwd"].source == InlineBytes(b"\0001\0\0\0\0\0\0002\0")

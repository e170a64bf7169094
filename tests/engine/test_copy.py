"""Where COPY and ADD put what they selected, and as whose (reference 6.3, 6.4, 6.5)."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zstandard

from assembler.engine import copy
from assembler.errors import AssemblerError, StepError
from assembler.layer.changeset import Entry, Kind
from assembler.layer.tree import ChangesetTree, DirectoryTree, MergedTree

NOW = 5_000_000_000
ACCOUNTS = (b"root:x:0:0:::\nann:x:7:8:::\nbob:x:9:bad:::\n", b"root:x:0:\nstaff:x:50:ann\n")


@pytest.fixture
def accounts(bench: Any) -> Any:
    """A bench whose stage knows ann and staff, and whose context has a file f and d/g."""
    passwd, group = ACCOUNTS
    bench.stage = (bench.file("etc/passwd", passwd), bench.file("etc/group", group))
    (bench.context / "d").mkdir()
    for name in ("f", "d/g"):
        (bench.context / name).write_text(name)
        (bench.context / name).chmod(0o644)
    return bench


@pytest.mark.parametrize(
    ("destination", "target"),
    [
        ("/abs", "w/real/f"),
        ("/abs/f", "w/real/f"),
        ("/up", "real/f"),
        ("/up/", "real/f"),
        ("/filelink", "w/real/old"),
        ("/dangling", "new/name"),
        ("/chain", "w/real/f"),
        ("lnk", "w/real/f"),
        ("../abs/../f", "f"),
    ],
)
def test_C10_links_in_the_destination_are_followed_inside_the_root(
    accounts: Any, destination: str, target: str
) -> None:
    accounts.stage = (
        accounts.directory("w/real"),
        accounts.file("w/real/old"),
        accounts.directory("real"),
        accounts.link("abs", "/w/real"),
        accounts.link("up", "../../../real"),
        accounts.link("filelink", "w/real/old"),
        accounts.link("dangling", "/new/name"),
        accounts.link("chain", "abs"),
        accounts.link("w/lnk", "real"),
    )
    made = accounts.run(f"COPY f {destination}")
    assert [path for path, one in made.items() if one.kind is Kind.FILE] == [target]


def test_C10_a_link_where_the_file_itself_goes_is_replaced(accounts: Any) -> None:
    accounts.stage = (accounts.link("x/f", "/etc/important"), accounts.file("etc/important"))
    assert accounts.run("COPY f /x/")["x/f"].kind is Kind.FILE


def test_C10_links_in_a_circle(accounts: Any) -> None:
    accounts.stage = (accounts.link("a", "b"), accounts.link("b", "a"))
    with pytest.raises(StepError, match="too many levels of symbolic links") as caught:
        accounts.run("COPY f /a/f")
    assert caught.value.span is not None


def test_C11_the_last_of_several_sources_wins_where_the_destination_is_no_directory(
    accounts: Any,
) -> None:
    made = accounts.run("COPY f d/g /x")
    assert accounts.text_of(made["x"]) == "d/g"
    assert accounts.paths("COPY d f /x") == ["x", "x/f", "x/g"]
    with pytest.raises(StepError, match="cannot copy to non-directory: /x"):
        accounts.run("COPY f d /x")


@pytest.mark.parametrize("instruction", ["COPY f /old/", "COPY f /old/f", "COPY d /old"])
def test_C11_a_file_is_no_directory(accounts: Any, instruction: str) -> None:
    accounts.stage = (accounts.file("old"),)
    with pytest.raises(StepError, match="cannot copy to non-directory: /old"):
        accounts.run(instruction)


def test_C12_new_directories(accounts: Any) -> None:
    def new(flags: str) -> tuple[int, int, int]:
        entry = accounts.run(f"COPY {flags} f /n/m/f")["n/m"]
        return entry.uid, entry.gid, entry.mode

    assert new("") == (0, 0, 0o755)
    assert new("--chown=ann") == (7, 8, 0o755)
    assert new("--chmod=640") == (0, 0, 0o640)
    assert new("--chmod=4755") == (0, 0, 0o755), "special bits are for what is copied"
    assert new("--chmod=u=rwx,go=") == (0, 0, 0o755), "symbolic modes are for what is copied"


def test_C13_what_becomes_of_directories(accounts: Any) -> None:
    (accounts.context / "d/both").mkdir()
    (accounts.context / "d/both/f").write_text("")
    (accounts.context / "d/both").chmod(0o711)
    (accounts.context / "d").chmod(0o700)
    os.utime(accounts.context / "d", ns=(1, 1))
    existing = accounts.directory(
        "x/both", mode=0o777, uid=5, gid=6, mtime=7, xattrs=(("user.a", b"1"),)
    )
    accounts.stage = (accounts.directory("x", mode=0o750, uid=5, mtime=7), existing)
    made = accounts.run("COPY d /x")
    assert "x" not in made, "the destination itself stays as it is"
    both = made["x/both"]
    assert (both.mode, both.uid, both.gid) == (0o711, 0, 0), "below it the source counts"
    assert both.xattrs == (("user.a", b"1"),), "attributes are added, not taken away"
    new = accounts.run("COPY d /new")["new"]
    assert (new.mode, new.uid, new.mtime) == (0o755, 0, NOW)


def test_C14_a_file_replaces_what_is_no_directory(accounts: Any) -> None:
    accounts.stage = (accounts.file("x", b"old", mode=0o4755, uid=3),)
    entry = accounts.run("COPY f /x")["x"]
    assert (accounts.text_of(entry), entry.mode, entry.uid) == ("f", 0o644, 0)


def test_C14_files_and_directories_do_not_replace_each_other(accounts: Any) -> None:
    accounts.stage = (accounts.directory("x/f"), accounts.link("y/g", "/x"))
    with pytest.raises(StepError, match="cannot replace to directory /x/f with file") as caught:
        accounts.run("COPY f /x")
    assert caught.value.span is not None
    (accounts.context / "d/g").unlink()
    (accounts.context / "d/g").mkdir()
    with pytest.raises(StepError, match="cannot copy to non-directory: /y/g"):
        accounts.run("COPY d /y")


def test_C15_the_later_of_two_files_of_a_name_wins(accounts: Any) -> None:
    (accounts.context / "e").mkdir()
    (accounts.context / "e/g").write_text("later")
    (accounts.context / "e/g").chmod(0o600)
    for instruction in ("COPY d e /x/", "COPY [de] /x/", "COPY d e/g /x/"):
        entry = accounts.run(instruction)["x/g"]
        assert (accounts.text_of(entry), entry.mode) == ("later", 0o600)


def test_C15_replacing_one_name_of_a_file_leaves_its_other_names(accounts: Any) -> None:
    os.link(accounts.context / "d/g", accounts.context / "d/h")
    os.link(accounts.context / "d/g", accounts.context / "d/i")
    (accounts.context / "e").mkdir()
    (accounts.context / "e/g").write_text("later")
    made = accounts.run("COPY d e /x/")
    assert accounts.text_of(made["x/g"]) == "later"
    assert accounts.text_of(made["x/h"]) == "d/g"
    assert (made["x/i"].kind, made["x/i"].link) == (Kind.HARDLINK, "x/h")


def test_C16_files_of_a_context_belong_to_root(accounts: Any) -> None:
    if os.getuid() == 0:
        os.chown(accounts.context / "d/g", 33, 33)
    made = accounts.run("COPY . /x")
    assert {(one.uid, one.gid) for one in made.values()} == {(0, 0)}


def test_C16_files_of_a_stage_keep_their_owner(accounts: Any) -> None:
    accounts.st = (accounts.directory("d", uid=1, gid=2), accounts.file("d/f", uid=3, gid=4))
    made = accounts.run("COPY --from=st / /x/")
    assert [(one.uid, one.gid) for one in (made["x/d"], made["x/d/f"])] == [(1, 2), (3, 4)]
    made = accounts.run("COPY --from=st --chown=5:6 / /x/")
    assert {(one.uid, one.gid) for one in made.values()} == {(5, 6)}


@pytest.mark.parametrize(
    ("chown", "owner"),
    [
        ("5", (5, 5)),
        ("5:6", (5, 6)),
        ("ann", (7, 8)),
        ("ann:", (7, 8)),
        ("ann:staff", (7, 50)),
        ("ann:6", (7, 6)),
        ("5:staff", (5, 50)),
        (":staff", (0, 50)),
        (":6", (0, 6)),
        ("root", (0, 0)),
        ("4294967294", (4294967294, 4294967294)),
    ],
)
def test_C17_owners(accounts: Any, chown: str, owner: tuple[int, int]) -> None:
    made = accounts.run(f"COPY --chown={chown} f d /n/")
    assert {(entry.uid, entry.gid) for entry in made.values()} == {owner}


@pytest.mark.parametrize("chown", ["root", "root:root", "0:root"])
def test_C17_root_needs_no_account_files(accounts: Any, chown: str) -> None:
    accounts.stage = ()
    assert accounts.run(f"COPY --chown={chown} f /x")["x"].uid == 0


@pytest.mark.parametrize(
    ("chown", "message", "hint"),
    [
        ("an", "unknown user an: the stage's /etc/passwd does not name it", "did you mean ann?"),
        ("5:stuff", "unknown group stuff: the stage's /etc/group does not name it", "staff?"),
        ("nobody-here", "unknown user nobody-here", "add the user in an earlier RUN"),
        ("bob", "unknown user bob", "or use numbers"),
        ("²", "unknown user ²", "or use numbers"),
        ("4294967295", "4294967295 is no user or group id", "the largest is 4294967294"),
        ("9" * 5000, "is no user or group id", "the largest is"),
    ],
)
def test_C17_an_unknown_owner_is_an_error(
    accounts: Any, chown: str, message: str, hint: str
) -> None:
    with pytest.raises(StepError) as caught:
        accounts.run(f"COPY --chown={chown} f /x")
    assert message in caught.value.message and hint in caught.value.hint
    assert caught.value.span is not None and caught.value.span.word == chown


def test_C17_names_are_those_of_the_destination_stage(accounts: Any) -> None:
    accounts.st = (
        accounts.file("etc/passwd", b"ann:x:1:2:::\nonly:x:3:4:::\n"),
        accounts.file("f"),
    )
    assert accounts.run("COPY --from=st --chown=ann f /x")["x"].uid == 7
    with pytest.raises(StepError, match="unknown user only"):
        accounts.run("COPY --from=st --chown=only f /x")


def test_C17_accounts_may_come_from_any_layer_of_the_stage(accounts: Any, tmp_path: Path) -> None:
    base = ChangesetTree(accounts.stage)
    copied = ChangesetTree([accounts.directory("etc"), accounts.file("etc/group", b"late:x:60:\n")])
    upper = tmp_path / "upper"  # what a RUN of this very stage left
    (upper / "etc").mkdir(parents=True)
    (upper / "etc/passwd").write_text("carl:x:70:71:::\n")
    step = accounts.step("COPY --chown=carl:late f /x")
    tree = MergedTree((DirectoryTree(str(upper)), copied, base))
    (entry,) = copy.changeset(step, accounts.select(step), tree, now=NOW, spool="")
    assert (entry.uid, entry.gid) == (70, 60)


def test_C17_account_files_may_be_links_inside_the_root(accounts: Any) -> None:
    accounts.stage = (
        accounts.link("etc", "/usr/etc"),
        accounts.link("usr/etc/passwd", "../../../real"),
        accounts.file("real", b"dora:x:12:13:::\n"),
    )
    assert accounts.run("COPY --chown=dora f /x")["x"].gid == 13


@pytest.mark.parametrize("content", [b"", b"ann\n", b"ann:x:x:y\n", b"\xff\xfe\n" * 9, b":::\n"])
def test_C17_damaged_account_files_name_nobody(accounts: Any, content: bytes) -> None:
    accounts.stage = (accounts.file("etc/passwd", content),)
    with pytest.raises(StepError, match="unknown user ann"):
        accounts.run("COPY --chown=ann f /x")


def test_C18_octal_modes_are_for_files_and_directories_alike(accounts: Any) -> None:
    (accounts.context / "d/l").symlink_to("g")
    made = accounts.run("COPY --chmod=2750 d /x")
    assert {path: oct(one.mode) for path, one in made.items() if path != "x"} == {
        "x/g": "0o2750", "x/l": "0o777",
    }  # fmt: skip
    assert accounts.run("COPY --chmod=0000644 f /x")["x"].mode == 0o644


def test_C18_symbolic_modes_are_applied_to_each_entry(accounts: Any) -> None:
    (accounts.context / "d/s").mkdir()
    (accounts.context / "d/s").chmod(0o700)
    (accounts.context / "d/g").chmod(0o4750)
    made = accounts.run("COPY --chmod=g=u,o+X d /x")
    assert (made["x/s"].mode, made["x/g"].mode) == (0o771, 0o4771)


def test_C19_modification_times_are_kept(accounts: Any) -> None:
    (accounts.context / "d/s").mkdir()
    (accounts.context / "d/l").symlink_to("g")
    for name, time in (("d/g", 1_000_000_001), ("d/s", 2_000_000_002), ("d/l", 3_000_000_003)):
        os.utime(accounts.context / name, ns=(time, time), follow_symlinks=False)
    os.utime(accounts.context / "f", ns=(4, 4))
    made = accounts.run("COPY d f /new/x/")
    assert {path: one.mtime for path, one in made.items()} == {
        "new": NOW,
        "new/x": NOW,
        "new/x/f": 4,
        "new/x/g": 1_000_000_001,
        "new/x/l": 3_000_000_003,
        "new/x/s": 2_000_000_002,
    }


def test_C20_hard_links_of_one_source_stay_linked(accounts: Any) -> None:
    os.link(accounts.context / "d/g", accounts.context / "d/a")
    os.link(accounts.context / "d/g", accounts.context / "other")
    made = accounts.run("COPY --chown=5 --chmod=600 d other /x/")
    assert (made["x/g"].kind, made["x/g"].link) == (Kind.HARDLINK, "x/a")
    assert made["x/other"].kind is Kind.FILE, "sources are not linked with each other"
    assert {(one.uid, one.mode) for path, one in made.items() if path != "x"} == {(5, 0o600)}


def test_C20_pipes_devices_and_attributes_of_a_stage(accounts: Any) -> None:
    accounts.st = (
        Entry("d/fifo", Kind.FIFO, mode=0o600),
        Entry("d/null", Kind.CHARACTER, mode=0o666, device=(1, 3)),
        accounts.file("d/ping", xattrs=(("security.capability", b"\1"), ("user.a", b"2"))),
    )
    made = accounts.run("COPY --from=st d /x")
    assert [(one.kind, one.device) for one in (made["x/fifo"], made["x/null"])] == [
        (Kind.FIFO, (0, 0)), (Kind.CHARACTER, (1, 3)),
    ]  # fmt: skip
    assert made["x/ping"].xattrs == (("security.capability", b"\1"), ("user.a", b"2"))


def test_C20_pipes_of_a_context_are_copied_and_sockets_are_not(accounts: Any) -> None:
    os.mkfifo(accounts.context / "d/fifo", 0o600)
    os.mknod(accounts.context / "d/socket", stat.S_IFSOCK | 0o600)
    assert accounts.paths("COPY d /x") == ["x", "x/fifo", "x/g"]


def test_C20_a_sparse_file_is_an_ordinary_one(accounts: Any) -> None:
    with open(accounts.context / "d/sparse", "wb") as stream:
        stream.truncate(1 << 20)
        stream.seek(1 << 19)
        stream.write(b"x")
    entry = accounts.run("COPY d /x")["x/sparse"]
    assert entry.size == 1 << 20 and entry.source is not None
    with entry.source.open() as opened:
        assert opened.read() == bytes(1 << 19) + b"x" + bytes((1 << 19) - 1)


def test_C25_a_linked_copy_sees_nothing_below(accounts: Any) -> None:
    accounts.stage = (
        *accounts.stage,
        accounts.link("lnk", "/real"),
        accounts.directory("e", mode=0o700, uid=9),
    )
    assert accounts.paths("COPY --link f /lnk/f") == ["lnk", "lnk/f"]
    assert accounts.paths("COPY --link f /e") == ["e"], "a directory below is not known either"
    entry = accounts.run("COPY --link f /e/")["e"]
    assert (entry.kind, entry.mode, entry.uid) == (Kind.DIRECTORY, 0o755, 0)


def test_C25_a_relative_destination_is_in_the_workdir(accounts: Any) -> None:
    assert accounts.paths("COPY --link f x") == ["w", "w/x"]


def test_C25_names_need_account_files_in_the_new_layer(accounts: Any) -> None:
    assert accounts.run("COPY --link --chown=5:6 f /x")["x"].gid == 6
    with pytest.raises(StepError, match="--chown=ann with --link: names are looked up") as caught:
        accounts.run("COPY --link --chown=ann f /x")
    assert caught.value.hint == "use numbers, or leave out --link"


def test_C25_link_is_dropped_with_chmod(accounts: Any) -> None:
    accounts.stage = (accounts.link("lnk", "/real"), accounts.directory("real"))
    assert accounts.paths("COPY --link --chmod=600 f /lnk/f") == ["real/f"]


def archive(bench: Any, name: str, *members: Any, mode: str = "w") -> None:
    (bench.context / name).write_bytes(bench.tar(*members, mode=mode))


def member(
    name: str, kind: bytes = tarfile.DIRTYPE, link: str = "", **more: int
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, 0o755
    for field, value in more.items():
        setattr(info, field, value)
    return info


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_C26_archives_are_known_by_their_content(accounts: Any, mode: str) -> None:
    archive(accounts, "anything.txt", ("a/b", b"x"), mode=mode)
    (accounts.context / "l").symlink_to("anything.txt")
    for source in ("anything.txt", "l", "any*"):
        made = accounts.run(f"ADD {source} /x")
        assert sorted(made) == ["x", "x/a", "x/a/b"]
        assert (made["x/a/b"].mode, made["x/a/b"].uid) == (0o640, 33)
        assert (made["x/a"].mode, made["x/a"].uid, made["x"].mode) == (0o755, 0, 0o755)


def test_C26_zstd_archives_are_known_too(accounts: Any) -> None:
    content = accounts.tar(("a/b", b"x"))
    (accounts.context / "z").write_bytes(zstandard.ZstdCompressor().compress(content))
    assert accounts.paths("ADD z /x") == ["x", "x/a", "x/a/b"]


def test_C26_what_is_no_archive_is_copied(accounts: Any) -> None:
    (accounts.context / "x.tar").write_bytes(b"no archive")
    (accounts.context / "empty.tar").write_bytes(bytes(10240))
    assert accounts.paths("ADD x.tar /x") == ["x"]
    assert accounts.paths("ADD x.tar empty.tar f /x/") == ["x", "x/empty.tar", "x/f", "x/x.tar"]


def test_C26_archives_in_a_directory_are_copied(accounts: Any) -> None:
    archive(accounts, "d/a.tar", ("a", b""))
    assert accounts.paths("ADD d /x") == ["x", "x/a.tar", "x/g"]


def test_C26_several_archives_and_files(accounts: Any) -> None:
    archive(accounts, "1.tar", ("a", b"1"), ("b", b"1"))
    archive(accounts, "2.tar", ("b", b"2"))
    made = accounts.run("ADD *.tar f /x")
    assert sorted(made) == ["x", "x/a", "x/b", "x/f"] and accounts.text_of(made["x/b"]) == "2"


def test_C26_flags(accounts: Any) -> None:
    archive(accounts, "a.tar", member("d", uid=3), ("d/f", b""))
    made = accounts.run("ADD --chown=ann --chmod=600 --exclude=d a.tar /x")
    assert {path: (one.uid, one.mode) for path, one in made.items()} == {
        "x": (7, 0o755), "x/d": (7, 0o755), "x/d/f": (7, 0o640),
    }  # fmt: skip
    assert accounts.paths("ADD --unpack=false --chmod=600 a.tar /x") == ["x"]


def test_C26_the_destination_is_always_a_directory(accounts: Any) -> None:
    archive(accounts, "a.tar", ("a", b""))
    accounts.stage = (accounts.file("file"), accounts.link("lnk", "/real"))
    assert accounts.paths("ADD a.tar /lnk") == ["real", "real/a"]
    assert accounts.paths("ADD a.tar /") == ["a"]
    with pytest.raises(StepError, match="cannot copy to non-directory: /file"):
        accounts.run("ADD a.tar /file")


def test_C26_members_replace_what_is_there_and_merge_directories(accounts: Any) -> None:
    accounts.stage = (
        accounts.directory("x", mode=0o700, uid=5),
        accounts.directory("x/dir", mode=0o700),
        accounts.file("x/dir/kept"),
        accounts.directory("x/gone"),
        accounts.file("x/gone/f"),
        accounts.link("x/lib", "usr/lib"),
    )
    archive(
        accounts, "a.tar", member("./", mode=0o711), member("dir"), ("gone", b"now a file"),
        member("lib"),
    )  # fmt: skip
    made = accounts.run("ADD a.tar /x")
    assert {path: (one.kind, one.mode) for path, one in made.items()} == {
        "x/dir": (Kind.DIRECTORY, 0o755),
        "x/gone": (Kind.FILE, 0o640),
        "x/lib": (Kind.DIRECTORY, 0o755),
    }
    step = accounts.step("ADD a.tar /x")
    below = accounts.tree()
    whole = copy.changeset(step, accounts.select(step), below, now=NOW, spool=str(accounts.spool))
    merged = MergedTree((ChangesetTree(whole), below))
    assert merged.lookup("x/gone/f") is None and merged.lookup("x/dir/kept") is not None


def test_C26_nothing_leaves_the_destination(accounts: Any) -> None:
    accounts.stage = (accounts.link("x/there", "/etc"), accounts.file("etc/passwd", b"canary"))
    archive(
        accounts, "a.tar",
        ("../up", b""), ("/abs", b""), ("there/passwd", b"1"),
        member("out", tarfile.SYMTYPE, "../../.."), ("out/etc/shadow", b"2"),
    )  # fmt: skip
    made = accounts.run("ADD a.tar /x")
    assert sorted(made) == [
        "x/abs", "x/etc", "x/etc/passwd", "x/etc/shadow", "x/out", "x/up",
    ]  # fmt: skip


def test_C26_links_of_an_earlier_archive_are_followed(accounts: Any) -> None:
    archive(accounts, "1.tar", member("usr/lib"), member("lib", tarfile.SYMTYPE, "usr/lib"))
    archive(accounts, "2.tar", ("lib/a.so", b""))
    assert "x/usr/lib/a.so" in accounts.paths("ADD 1.tar 2.tar /x")


def test_C26_hard_links_inside_an_archive(accounts: Any) -> None:
    archive(accounts, "a.tar", ("z", b"data"), member("a", tarfile.LNKTYPE, "z"))
    archive(accounts, "b.tar", ("a", b"other"))
    made = accounts.run("ADD --chown=5 a.tar /x")
    assert accounts.text_of(made["x/a"]) == "data"
    assert (made["x/z"].kind, made["x/z"].link, made["x/z"].uid) == (Kind.HARDLINK, "x/a", 5)
    made = accounts.run("ADD a.tar b.tar /x")
    assert [accounts.text_of(made[path]) for path in ("x/a", "x/z")] == ["other", "data"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_C26_a_damaged_archive_is_an_error_that_names_it(accounts: Any, mode: str) -> None:
    content = accounts.tar(("a", os.urandom(2_000_000)), mode=mode)
    (accounts.context / "cut.tar").write_bytes(content[: len(content) // 2])
    with pytest.raises(StepError, match=r"cut\.tar cannot be unpacked: ") as caught:
        accounts.run("ADD cut.tar /x")
    assert caught.value.span is not None and caught.value.span.word == "cut.tar"
    assert caught.value.hint == "ADD --unpack=false copies it as it is"
    assert not list(accounts.spool.iterdir())


def test_C26_names_like_whiteouts_are_names(accounts: Any) -> None:
    archive(accounts, "a.tar", (".wh.f", b"text"))
    assert accounts.text_of(accounts.run("ADD a.tar /x")["x/.wh.f"]) == "text"


def test_C30_one_instruction_is_one_changeset(accounts: Any) -> None:
    archive(accounts, "a.tar", ("a", b""))
    assert accounts.paths("ADD f d a.tar <<h /x/\nh\n") == ["x", "x/a", "x/f", "x/g", "x/h"]


def test_H7_here_documents_take_the_flags(accounts: Any) -> None:
    made = accounts.run("COPY --chown=ann --chmod=4711 <<a <<b /n/\na\nb\n")
    assert {path: (one.uid, one.gid, one.mode) for path, one in made.items()} == {
        "n": (7, 8, 0o711), "n/a": (7, 8, 0o4711), "n/b": (7, 8, 0o4711),
    }  # fmt: skip
    with pytest.raises(AssemblerError, match="cannot replace to directory /x/a with file"):
        accounts.stage = (accounts.directory("x/a"),)
        accounts.run("COPY <<a /x/\na\n")

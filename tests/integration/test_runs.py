"""RUN as a user writes it: scripts, users, networks, privileges, mounts, output (rules R, M, N)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration

RUNTIMES = ("native", "podman", "crun", "runc")
every_runtime = pytest.mark.parametrize("runtime", RUNTIMES)
Context = Callable[..., Path]
USER = "RUN echo app:x:1000:1000::/home/app:/bin/sh >> /etc/passwd && echo extra:x:50:app >> /etc/group\n"


@pytest.fixture
def context(tmp_path: Path) -> Context:
    """Makes a context directory of a Dockerfile and of files, `_` in their names being a dot."""

    def make(dockerfile: str, name: str = "context", **files: str) -> Path:
        directory = tmp_path / name
        directory.mkdir()
        (directory / "Dockerfile").write_text(dockerfile)
        for file, text in files.items():
            (directory / file.replace("_", ".")).write_text(text)
        return directory

    return make


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What steps printed, without the numbers of vertexes and the times."""
    lines = (line.split(" ", 2) for line in done.stderr.splitlines() if line.startswith("#"))
    return [words[2] for words in lines if len(words) == 3 and words[1][0].isdigit()]


SCRIPTS = f"""\
FROM busybox
{USER}
RUN <<EOF
echo plain $0
false
echo "and on, since nobody said set -e"
EOF
RUN <<EOF
#!/bin/awk -f
BEGIN {{ print "by awk" }}
EOF
RUN <<-ONE cat - <<TWO
	ignored by cat
ONE
from two
TWO
USER app
RUN <<EOF
#!/bin/sh -e
echo "as $(id -un) $0"
EOF
SHELL ["/bin/sh", "-ec"]
RUN <<EOF
echo strict
EOF
"""


@every_runtime
def test_R1_scripts_with_and_without_a_program_named_in_them(
    assemble: Any, context: Context, runtime: str
) -> None:
    done = assemble("build", "--no-cache", "--runtime", runtime, context(SCRIPTS))
    assert said(done) == [
        "plain /bin/sh", "and on, since nobody said set -e", "by awk", "from two",
        "as app /dev/pipes/EOF", "strict",
    ]  # fmt: skip


AS_OTHERS = f"""\
FROM busybox
{USER}
WORKDIR /work/dir
RUN --mount=type=cache,target=/c/d --mount=type=tmpfs,target=/t/u --mount=type=bind,target=/b/v touch f
USER app
RUN --mount=type=secret,id=s,target=/s/key,uid=1000 cat /s/key /work/dir/f > /tmp/f && ls -ld / /work /work/dir | awk '{{ print $1 }}' > /tmp/ls
RUN <<EOF
#!/bin/sh
umask > /tmp/umask; ls -d /dev/shm /dev/pts/ptmx; echo x > /dev/shm/x
EOF
RUN --mount=type=cache,target=/c/d,uid=1000,id=own touch /c/d/x && rm -f /tmp/ls2
FROM busybox
COPY --from=0 /work /work
COPY --from=0 /tmp /tmp
"""


@every_runtime
def test_the_builders_mask_and_variables_do_not_show(
    assemble: Any, context: Context, runtime: str
) -> None:
    directory = context(AS_OTHERS)
    closed = ["sh", "-c", 'umask 077; exec "$@"', "sh"]
    digests = {
        assemble(
            "build", "--no-cache", "--runtime", runtime, "--secret", "id=s,env=S", directory,
            prefix=prefix, SOURCE_DATE_EPOCH="1700000000", S="hush", TZ="Asia/Tokyo", LEAK=name,
        ).stdout
        for name, prefix in (("open", []), ("closed", closed))
    }  # fmt: skip
    assert len(digests) == 1


@every_runtime
def test_N1_the_network_of_the_build_and_of_a_step(
    assemble: Any, context: Context, runtime: str
) -> None:
    dockerfile = (
        "FROM busybox\nRUN echo build: $(ls /sys/class/net)\n"
        "RUN --network=none echo none: $(ls /sys/class/net)\n"
        "RUN --network=default echo default: $(ls /sys/class/net)\n"
    )
    directory = context(dockerfile)
    host = " ".join(sorted(os.listdir("/sys/class/net")))
    options = ("build", "--no-cache", "--runtime", runtime, directory)
    assert said(assemble(*options)) == [f"build: {host}", "none: lo", f"default: {host}"]
    found = said(assemble(*options, "--network", "none"))
    assert found[:2] == ["build: lo", "none: lo"]


def test_N1_N2_what_needs_leave_is_refused_without_it(assemble: Any, context: Context) -> None:
    directory = context("FROM busybox\nRUN --security=insecure true\n")
    assert "security.insecure" in assemble("build", directory, code=1).stderr
    (directory / "Dockerfile").write_text("FROM busybox\nRUN --network=host true\n")
    assert "network.host" in assemble("build", directory, code=1).stderr
    assemble("build", directory, "--allow", "network.host")


@every_runtime
def test_N2_an_insecure_step_may_mount(assemble: Any, context: Context, runtime: str) -> None:
    dockerfile = (
        "FROM busybox\nRUN --security=insecure mount -t tmpfs x /mnt && echo mounted\n"
        "RUN mount -t tmpfs x /mnt || echo refused\n"
    ).replace("/mnt", "/tmp")
    allow = ("--allow", "security.insecure")
    done = assemble("build", "--no-cache", "--runtime", runtime, *allow, context(dockerfile))
    assert {"mounted", "refused"} <= set(said(done))


BOUND = """\
FROM busybox AS stage
RUN mkdir -p /out/deep && echo of the stage > /out/deep/f
FROM busybox
RUN --mount=type=bind,target=/c cat /c/file && test ! -e /c/left.out && ! touch /c/x 2> /dev/null
RUN --mount=type=bind,source=file,target=/one/file cat /one/file
RUN --mount=type=bind,from=stage,source=/out,target=/s,rw cat /s/deep/f && echo lost > /s/deep/f && rm /s/deep/f && touch /s/new
RUN --mount=type=bind,from=stage,source=/out,target=/s ls -d /s/* /s/deep/*
RUN --mount=type=bind,from=busybox,source=/etc,target=/i wc -l < /i/passwd
RUN --mount=type=bind,from=named,target=/n,rw cat /n/other && echo lost > /n/other
RUN --mount=type=bind,source=file,target=/w,rw echo lost > /w && cat /w
RUN --mount=type=bind,source=file,target=/w cat /w
RUN test ! -e /c && test ! -e /one && test ! -e /s && test ! -e /i && test ! -e /n && test ! -e /w
"""


@every_runtime
def test_M6_binds_of_everything_and_writes_are_thrown_away(
    assemble: Any, context: Context, tmp_path: Path, runtime: str
) -> None:
    directory = context(BOUND, file="of the context\n", left_out="x", _dockerignore="left.out\n")
    named = context("", name="named", other="of a named context\n")
    done = assemble(
        "build", "--no-cache", "--runtime", runtime, "--build-context", f"named={named}", directory
    )
    assert said(done) == [
        "of the context", "of the context", "of the stage", "/s/deep", "/s/deep/f", "2",
        "of a named context", "lost", "of the context",
    ]  # fmt: skip
    assert (directory / "file").read_text() == "of the context\n"
    assert (named / "other").read_text() == "of a named context\n"


def test_M6_a_source_that_is_not_there_names_its_line(assemble: Any, context: Context) -> None:
    done = assemble(
        "build", context("FROM busybox\nRUN --mount=source=nope,target=/x true\n"), code=1
    )
    assert '"/nope": not found' in done.stderr and ">>> RUN" in done.stderr


def together(assemble: Any, *directories: Path) -> list[subprocess.CompletedProcess[str]]:
    """Builds of all the contexts at once, each a process; all must end well."""
    started = [
        subprocess.Popen(
            assemble.command("build", "--no-cache", directory), env=assemble.env,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for directory in directories
    ]  # fmt: skip
    done = []
    for process in started:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        done.append(subprocess.CompletedProcess(process.args, 0, out, err))
    return done


MEETING = """\
FROM busybox
RUN --mount=type=cache,target=/c,sharing=SHARING touch /c/NAME; for n in $(seq 600); do test -e /c/OTHER && break; sleep 0.1; done; echo met $(ls /c)
"""


def test_M7_builds_at_once_share_a_shared_cache(assemble: Any, context: Context) -> None:
    """Each waits until it sees what the other wrote."""
    text = MEETING.replace("SHARING", "shared")
    done = together(
        assemble,
        context(text.replace("NAME", "a").replace("OTHER", "b"), name="one"),
        context(text.replace("NAME", "b").replace("OTHER", "a"), name="two"),
    )
    assert [said(one) for one in done] == [["met a b"]] * 2


def test_M7_builds_at_once_have_a_private_cache_each(assemble: Any, context: Context) -> None:
    dockerfile = (
        "FROM busybox\nRUN --mount=type=cache,target=/c,sharing=private"
        " --mount=type=cache,id=all,target=/all touch /c/NAME /all/NAME;"
        " for n in $(seq 600); do test -e /all/OTHER && break; sleep 0.1; done;"
        " echo $(ls /all) and $(ls /c)\n"
    )
    done = together(
        assemble,
        context(dockerfile.replace("NAME", "a").replace("OTHER", "b"), name="one"),
        context(dockerfile.replace("NAME", "b").replace("OTHER", "a"), name="two"),
    )
    assert [said(one) for one in done] == [["a b and a"], ["a b and b"]]
    again = "FROM busybox\nRUN --mount=type=cache,target=/c,sharing=private echo kept $(ls /c)\n"
    (found,) = said(assemble("build", context(again, name="three")))
    assert found in ("kept a", "kept b"), "a private cache that nobody uses is used again"


def test_M7_builds_at_once_wait_for_a_locked_cache(assemble: Any, context: Context) -> None:
    dockerfile = (
        "FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked"
        " echo NAME >> /c/log; sleep 1; echo NAME >> /c/log\n"
    )
    names = ("a", "b", "c")
    together(assemble, *(context(dockerfile.replace("NAME", name), name=name) for name in names))
    again = "FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked echo $(cat /c/log)\n"
    (log,) = said(assemble("build", context(again, name="again")))
    found = log.split()
    assert found[0::2] == found[1::2] and sorted(found[0::2]) == list(names), log


CACHES = f"""\
FROM busybox AS seed
RUN mkdir /seed && echo planted > /seed/f && chown 7:8 /seed/f
FROM busybox
{USER}
RUN --mount=type=cache,target=/c ls -ldn /c | awk '{{ print "plain", $1, $3, $4 }}'
RUN --mount=type=cache,target=/c,uid=1000,gid=50,mode=0710 ls -ldn /c | awk '{{ print "own", $1, $3, $4 }}'
RUN --mount=type=cache,target=/c,from=seed,source=/seed,id=grown cat /c/f && ls -n /c/f | awk '{{ print $3, $4 }}' && echo more > /c/f
RUN --mount=type=cache,target=/other,from=seed,source=/seed,id=grown cat /other/f
RUN --mount=type=cache,target=/c,id=grown,ro ! touch /c/x 2> /dev/null && cat /c/f
USER app
RUN --mount=type=cache,target=/c,uid=1000,gid=50,mode=0710 touch /c/mine && echo may
RUN --mount=type=cache,target=/c ! touch /c/x 2> /dev/null && echo may not
RUN test ! -e /c
"""


@every_runtime
def test_M7_owner_mode_and_seed_of_a_cache(assemble: Any, context: Context, runtime: str) -> None:
    done = assemble("build", "--no-cache", "--runtime", runtime, context(CACHES))
    assert said(done) == [
        "plain drwxr-xr-x 0 0", "own drwx--x--- 1000 50", "planted", "7 8", "more", "more", "may",
        "may not",
    ]  # fmt: skip


SECRETS = f"""\
FROM busybox
{USER}
RUN --mount=type=secret,id=file cat /run/secrets/file && ls -ln /run/secrets/file | awk '{{ print $1, $3, $4 }}'
RUN --mount=type=secret,id=file,target=/etc/deep/key,uid=1000,gid=50,mode=0440 ls -ln /etc/deep/key | awk '{{ print $1, $3, $4 }}'
RUN --mount=type=secret,id=variable,env=TOKEN test ${{#TOKEN}} = 18 && test ! -e /run/secrets/variable
RUN --mount=type=secret,id=variable,env=TOKEN,target=/k grep -q "$TOKEN" /k && echo both
RUN --mount=type=secret,id=missing test ! -e /run/secrets/missing && echo nothing
RUN --mount=type=secret,id=file ! rm /run/secrets/file 2> /dev/null; ! echo x 2> /dev/null > /run/secrets/file; echo kept
USER app
RUN --mount=type=secret,id=file ! cat /run/secrets/file 2> /dev/null && echo not yours
RUN --mount=type=secret,id=file,uid=1000 grep -q hush /run/secrets/file && echo yours
RUN test ! -e /etc/deep && test ! -e /run/secrets && test -z "$TOKEN"
"""


@every_runtime
def test_M9_secrets_are_seen_by_whom_they_are_for_and_never_on_a_disk(
    assemble: Any, context: Context, tmp_path: Path, runtime: str
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush-of-a-file\n")
    done = assemble(
        "build", "--no-cache", "--runtime", runtime, "--secret", f"id=file,src={secret}",
        "--secret", "id=variable,env=GIVEN", context(SECRETS), GIVEN="hush-of-a-variable",
    )  # fmt: skip
    lines = said(done)
    assert lines == [
        "***", "-r-------- 0 0", "-r--r----- 1000 50", "both", "nothing", "kept", "not yours", "yours"
    ]  # fmt: skip
    secret.unlink()
    assert files_with(b"hush-of-a", tmp_path) == []


def files_with(text: bytes, directory: Path) -> list[Path]:
    """Every regular file below `directory` that holds `text`."""
    found = []
    for above, _, names in os.walk(directory):
        for name in names:
            path = Path(above, name)
            if path.is_file() and os.access(path, os.R_OK) and text in path.read_bytes():
                found.append(path)
    return found


def test_M9_a_required_secret_that_is_not_given_names_its_line(
    assemble: Any, context: Context
) -> None:
    directory = context("FROM busybox\nRUN --mount=type=secret,id=s,required true\n")
    done = assemble("build", directory, code=1)
    assert done.stderr.splitlines()[-1].startswith("ERROR: secret s: not found")
    assert ">>> RUN" in done.stderr


def test_a_name_that_means_a_deletion_in_a_layer_is_refused(
    assemble: Any, context: Context
) -> None:
    done = assemble("build", context("FROM busybox\nRUN mkdir /d && touch /d/.wh.f\n"), code=1)
    assert "'d/.wh.f' cannot be in an image" in done.stderr
    assemble("build", context("FROM busybox\nRUN touch /.wh.f && rm /.wh.f\n", name="two"))


FLOOD = "FROM busybox\nRUN head -c 500000000 /dev/zero; yes | head -n 10000000; echo the last\n"
MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def test_500_megabytes_on_a_line_and_ten_million_lines(
    assemble: Any, context: Context, tmp_path: Path
) -> None:
    command = assemble.command("build", "--no-cache", context(FLOOD))
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *command], env=assemble.env, capture_output=True, text=True
    )
    status, kilobytes = map(int, done.stdout.split())
    assert status == 0 and kilobytes < 200_000, (kilobytes, time.monotonic() - started)
    (log,) = (path for path in Path(tmp_path).rglob("*.log") if path.stat().st_size > 1 << 20)
    assert log.stat().st_size == 500_000_000 + 20_000_000 + len("the last\n")
    log.unlink()

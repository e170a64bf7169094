"""What the records of builds cost: a cached build with and without one, interleaved in one run; the
steps that say why they run; and the listing of a large COPY.

    .venv/bin/python benchmarks/explain.py [ROUNDS]

Prints medians of CPU milliseconds (user + system of the child), of a build of 35 steps in 6 stages.
The budget of a cached build's record is 2 ms.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from assembler.plan.differences import File, changed_files
from assembler.store.listings import Listings

STAGES, COPIES, FILES = 5, 6, 100_000
RECORDED = "import sys\nfrom assembler.__main__ import main\nsys.exit(main())"
UNRECORDED = """\
import contextlib, sys
import assembler.builder, assembler.store.builds
from assembler.__main__ import main
assembler.builder.Builder.recorded = lambda *given: contextlib.nullcontext()
sys.exit(main())
"""


def cpu_milliseconds(code: str, context: Path, store: Path) -> float:
    """CPU time of one build by `code`."""
    argv = [sys.executable, "-c", code, "build", "-q", str(context)]
    pid = os.posix_spawn(
        argv[0],
        argv,
        {**os.environ, "ASSEMBLE_STORE": str(store)},
        file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
    )
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"a build ended with status {status}")
    return (usage.ru_utime + usage.ru_stime) * 1000


def builds(directory: Path, rounds: int) -> None:
    """Cached builds, and such of which every step is executed."""
    context, store = directory / "context", directory / "store"
    context.mkdir()
    lines: list[str] = []
    for stage in range(STAGES):
        lines += [f"FROM scratch AS s{stage}", "COPY every /every"]
        lines += [f"COPY d{number} /s{stage}/{number}" for number in range(COPIES - 1)]
    lines += ["FROM scratch", *(f"COPY --from=s{stage} / /{stage}" for stage in range(STAGES))]
    (context / "Dockerfile").write_text("\n".join(lines) + "\n")
    for number in range(COPIES - 1):
        (context / f"d{number}").mkdir()
        for name in range(20):
            (context / f"d{number}/{name}").write_text(f"{number} {name}")
    samples: dict[str, list[float]] = {}
    for round in range(rounds):
        for name, code in (("with a record", RECORDED), ("without", UNRECORDED)):
            (context / "every").write_text(f"{round} {name}")
            executed = cpu_milliseconds(code, context, store)
            samples.setdefault(f"all executed, {name}", []).append(executed)
            cached = cpu_milliseconds(code, context, store)
            samples.setdefault(f"all cached, {name}", []).append(cached)
    for name, values in sorted(samples.items()):
        print(f"{name:<30} {statistics.median(values):7.1f} ms CPU")


def listing(directory: Path) -> None:
    """The listing of a COPY of FILES files."""
    files = {}
    for number in range(FILES):
        digest = hashlib.sha256(str(number).encode()).hexdigest()[:32]
        path = f"node_modules/package{number // 50}/lib/{number % 7}/file{number}.js"
        files[path] = str(File("-", "644", "0:0", digest))
    listings, selection = Listings(str(directory / "listings")), f"sha256:{'0' * 64}"
    start = time.process_time()
    listings.save(selection, files)
    saved = time.process_time()
    again = listings.load(selection)
    loaded = time.process_time()
    assert again == files
    again[next(iter(again))] = ""
    compared = time.process_time()
    assert changed_files(files, again)[1] == 1
    end = time.process_time()
    size = sum(path.stat().st_size for path in (directory / "listings").iterdir())
    print(
        f"a listing of {FILES} files: {size / 1e6:.1f} MB, {(saved - start) * 1000:.0f} ms to save, "
        f"{(loaded - saved) * 1000:.0f} ms to load, {(end - compared) * 1000:.0f} ms to compare"
    )


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    directory = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="assembler-explain-"))
    try:
        builds(directory, rounds)
        listing(directory)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()

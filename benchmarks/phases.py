"""Where the CPU time of one command goes: interpreter, imports, and the parts of a build.

    .venv/bin/python benchmarks/phases.py RESULT build [OPTION…] CONTEXT

Runs the command in this process, and writes lines of a part's name, a tab and its milliseconds to
the file RESULT: each part without those within it. Nothing but sys is imported here before it.
"""

import sys
from time import process_time_ns as used

PARTS = {
    "assembler.cli.request": [
        ("store: open", "builder_for"),
        ("context: open", "read_inputs"),
        ("Dockerfile and plan", "request_of"),
    ],
    "assembler.builder": [
        ("Dockerfile and plan", "Builder.plan"),
        ("tag", "Builder.tag"),
        ("store: close", "Builder.__exit__"),
    ],
    "assembler.images": [("images of bases", "Images.resolve")],
    "assembler.cache.local": [("cache: open", "LocalCache.__init__")],
    "assembler.context.walk": [
        ("context: walk", "Walk.unread"),
        ("context: walk", "Walk.summary"),
        ("context: walk", "Walk.entries"),
    ],
    "assembler.engine.lookup": [("look-ups", "look_up")],
    "assembler.engine.assemble": [("image", "assemble")],
    "assembler.cli.display.plain": [("output", "Plain.__call__")],
}
marks = [["the rest", used()]]
spent = {"interpreter": marks[0][1]}


def enter(name):
    """What is spent from now on is spent on `name`."""
    _count()
    marks.append([name, used()])


def leave():
    """Go back to what was entered before."""
    _count()
    marks.pop()
    marks[-1][1] = used()


def _count():
    name, since = marks[-1]
    spent[name] = spent.get(name, 0) + used() - since


def timed(name, work):
    """`work`, its time counted as that of `name`."""

    def call(*words, **named):
        enter(name)
        try:
            return work(*words, **named)
        finally:
            leave()

    return call


def watch(module):
    """Have the parts that are functions of `module` counted."""
    for part, path in PARTS.get(module.__name__, ()):
        above, _, last = path.rpartition(".")
        owner = getattr(module, above) if above else module
        setattr(owner, last, timed(part, getattr(owner, last)))


def main():
    """See the module."""
    import _frozen_importlib

    load = _frozen_importlib._find_and_load

    def loaded(name, get):
        enter("imports")
        try:
            module = load(name, get)
        finally:
            leave()
        if name not in seen:
            seen.add(name)
            watch(module)
        return module

    seen = set(sys.modules)
    _frozen_importlib._find_and_load = loaded
    result = sys.argv[1]
    sys.argv[:2] = ["assemble"]
    from assembler.cli.main import run

    status = run()
    _count()
    with open(result, "w") as stream:
        stream.writelines(f"{part}\t{each / 1e6}\n" for part, each in spent.items())
    return status


if __name__ == "__main__":
    sys.exit(main())

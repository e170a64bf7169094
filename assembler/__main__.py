"""`assemble` and `python -m assembler`. `--version` answers before anything is imported."""

import sys


def main() -> int:
    """Run the command line; the exit status is returned."""
    if sys.argv[1:] == ["--version"]:
        from assembler.version import __version__

        sys.stdout.write(f"assemble {__version__}\n")
        return 0
    from assembler.cli.main import run

    return run()


def process() -> None:
    """Run the command line as this process, and end it."""
    status = main()
    if "assembler.cli.main" not in sys.modules:
        sys.exit(status)
    import os

    # All that was opened is closed, and all is said: the interpreter would only give back memory,
    # object by object, a tenth of the time of a build that finds all in the cache.
    os._exit(status)


if __name__ == "__main__":
    process()

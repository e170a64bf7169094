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


if __name__ == "__main__":
    sys.exit(main())

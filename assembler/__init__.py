"""assembler: multi-stage Dockerfiles to OCI images, without a daemon and without root."""

from assembler.version import __version__

__all__ = ["__version__"]

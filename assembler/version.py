"""The version, and nothing else: `assemble --version` imports only this."""

__version__ = "0.1.0"

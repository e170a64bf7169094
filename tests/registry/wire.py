"""The server's words, for tests of one request."""

from assembler.testing.server import Answer, Asked, Early, Exchange, HungUp

__all__ = ["Answer", "Asked", "Early", "Exchange", "HungUp"]

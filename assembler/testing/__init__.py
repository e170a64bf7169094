"""Fakes for tests, ours and users': a registry in this process, files that ADD fetches.

with MemoryRegistry() as registry:
    assemble("push", "app", f"{registry.host}/team/app:1")
    assert "team/app" in registry.repositories()
    assert registry.tags("team/app") == ["1"]

with MemoryRegistry(lambda asked: Answer(503) if asked.method == "PUT" else None) as registry:
    ...
"""

from assembler.testing.memory import Fault, MemoryRegistry
from assembler.testing.remote import MemoryRemote
from assembler.testing.server import Answer, Asked
from assembler.testing.tokens import Tokens

__all__ = ["Answer", "Asked", "Fault", "MemoryRegistry", "MemoryRemote", "Tokens"]

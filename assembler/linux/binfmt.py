"""What binfmt_misc says of the interpreters that are registered with it
(Documentation/admin-guide/binfmt-misc.rst). Pure: `linux.emulators` reads the files."""

from __future__ import annotations

from dataclasses import dataclass

from assembler.linux.elf import HEAD


@dataclass(frozen=True, slots=True)
class Emulator:
    """An enabled entry `name`: files with `magic` at `offset`, as far as `mask` has bits set, or with
    the extension `extension`, are given to the program `interpreter`.

    `fixed` is the flag F: the program was opened when it was registered. Without it its path means
    what it means to whoever executes such a file: in a step, a file of the stage.
    """

    name: str
    interpreter: str
    fixed: bool
    offset: int = 0
    magic: bytes = b""
    mask: bytes = b""
    extension: str = ""

    def matches(self, head: bytes, name: str = "") -> bool:
        """Whether a file that begins with `head`, and is executed as `name`, is one of these."""
        if self.extension:
            _, dot, extension = name.rpartition(".")
            return bool(dot) and extension == self.extension
        head = head[:HEAD].ljust(HEAD, b"\0")[self.offset :]
        found, wanted = head[: len(self.magic)], self.magic
        if len(found) < len(wanted):
            return False
        mask = self.mask or b"\xff" * len(wanted)
        return all((a ^ b) & bits == 0 for a, b, bits in zip(found, wanted, mask, strict=True))


def parse(name: str, text: str) -> Emulator | None:
    """The entry that the file `name` describes; None for one that is disabled, and for a text that
    describes none."""
    first, *lines = text.split("\n")
    if first != "enabled":
        return None
    fields = dict(line.partition(" ")[::2] for line in lines if line)
    interpreter, flags = fields.get("interpreter", ""), fields.get("flags:", "")
    if not interpreter:
        return None
    fixed = "F" in flags
    if "extension" in fields:
        extension = fields["extension"].removeprefix(".")
        return Emulator(name, interpreter, fixed, extension=extension) if extension else None
    try:
        magic = bytes.fromhex(fields.get("magic", ""))
        mask = bytes.fromhex(fields.get("mask", ""))
        offset = int(fields.get("offset", "0"))
    except ValueError:
        return None
    if not magic or offset < 0 or len(mask) not in (0, len(magic)):
        return None
    return Emulator(name, interpreter, fixed, offset, magic, mask)

"""What a registry knows somebody by. Never shown."""

from __future__ import annotations

from collections.abc import Iterator

from assembler.net.basic import encoded
from assembler.values import field, value


@value
class Credential:
    """A name and a password, an identity token (an OAuth2 refresh token), or the registry's own
    bearer token."""

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    def basic(self) -> str:
        """The value of a Basic Authorization header, empty without a name and a password."""
        if not (self.username and self.password):
            return ""
        return f"Basic {self.encoded()}"

    def encoded(self) -> str:
        """`auth` of an auth file: name and password in base64."""
        return encoded(f"{self.username}:{self.password}")

    def secrets(self) -> Iterator[str]:
        """Every text that must not be seen."""
        yield from (self.password, self.identity_token, self.registry_token)
        if self.password:
            yield self.encoded()


@value
class Found:
    """What was found for a repository, where (as users know it), and where else was looked."""

    credential: Credential | None = None
    source: str = ""
    looked: tuple[str, ...] = ()

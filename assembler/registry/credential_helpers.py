"""Programs that keep credentials: `docker-credential-NAME get|store|erase` (the protocol of
docker-credential-helpers). What is secret goes by stdin and stdout, nothing by argv."""

from __future__ import annotations

import json
import os

from assembler.cancellation import Cancellation
from assembler.environment import Environment
from assembler.errors import RegistryError
from assembler.registry.credential import Credential
from assembler.values import value

DEADLINE = 30.0  # seconds
_LONGEST_ANSWER = 1 << 20
_TOKEN_USER = "<token>"
_ABSENT = "credentials not found in native keychain"
_INCOMPLETE = ("no credentials server URL", "no credentials username")


@value
class CredentialHelper:
    """The helper called `name` in a configuration file."""

    name: str
    environment: Environment
    cancellation: Cancellation

    @property
    def program(self) -> str:
        """The program's name; never a path, whatever the file says."""
        return f"docker-credential-{os.path.basename(self.name)}"

    def get(self, server: str) -> Credential | None:
        """The credential for `server`, None when it has none. Raises RegistryError."""
        answer = self._run("get", server.encode(), server)
        if answer is None:
            return None
        try:
            document = json.loads(answer)
            username, secret = document["Username"], document["Secret"]
        except (ValueError, KeyError, TypeError, RecursionError):
            username = secret = None
        if not isinstance(username, str) or not isinstance(secret, str):
            raise RegistryError(
                f"the credential helper {self.program} gave no valid answer for {server}",
                registry=server,
                operation="a credential",
                hint=f"its answer to `{self.program} get` must be JSON with Username and Secret",
            ) from None  # the answer may hold the secret
        if username == _TOKEN_USER:
            return Credential(identity_token=secret)
        return Credential(username, secret) if username or secret else None

    def store(self, server: str, credential: Credential) -> None:
        """Keep `credential` for `server`. Raises RegistryError."""
        username = _TOKEN_USER if credential.identity_token else credential.username
        secret = credential.identity_token or credential.password
        document = {"ServerURL": server, "Username": username, "Secret": secret}
        self._run("store", json.dumps(document).encode(), server)

    def erase(self, server: str) -> bool:
        """Forget `server`; False when nothing was kept for it. Raises RegistryError."""
        return self._run("erase", server.encode(), server) is not None

    def _run(self, verb: str, content: bytes, server: str) -> bytes | None:
        """What the helper prints; None when it says that it has nothing for the server."""
        from assembler.linux import programs

        try:
            ended = programs.run(
                [self.program, verb],
                env=self.environment.variables,
                content=content,
                cancellation=self.cancellation,
                seconds=DEADLINE,
                most=_LONGEST_ANSWER,
            )
        except FileNotFoundError:
            raise self._failed(
                server, "is not installed", "install it, or take it out of the configuration"
            ) from None
        except TimeoutError:
            raise self._failed(
                server, f"did not answer within {DEADLINE:.0f} seconds", "is its keychain locked?"
            ) from None
        except OverflowError:
            raise self._failed(
                server, f"printed more than {_LONGEST_ANSWER} bytes", "is it the right program?"
            ) from None
        except OSError as error:
            raise self._failed(
                server, f"cannot be started: {error.strerror}", "is it executable?"
            ) from error
        if ended.status == 0:
            return ended.output
        said = (ended.output + ended.said).decode("utf-8", "replace")
        if _ABSENT in said or any(one in said for one in _INCOMPLETE):
            return None
        # What it prints may hold what it was given: it is not shown.
        raise self._failed(
            server, f"ended with status {ended.status}", f"run `{self.program} list` to see why"
        )

    def _failed(self, server: str, what: str, hint: str) -> RegistryError:
        return RegistryError(
            f"the credential helper {self.program}, asked about {server}, {what}",
            registry=server,
            operation="a credential",
            hint=hint,
        )

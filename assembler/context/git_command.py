"""The git command: cut off from every configuration, watched while it runs, stopped for good.

git asks nothing, runs no hook, follows no redirect with a secret, and takes no repository's word for
an option. Credentials reach it in its environment only: arguments can be read by every user.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from assembler.cancellation import Cancellation
from assembler.dockerfile.remote import GitReference
from assembler.environment import PROXY_NAMES
from assembler.errors import ProtocolViolation, RegistryError, RuntimeMissing, Unreachable
from assembler.linux import programs
from assembler.net.basic import encoded
from assembler.source import printable, redacted

MAX_OUTPUT = 16 << 20  # of git itself: a list of references, a commit
PATIENCE = 120.0  # seconds without a byte or a word of progress, after which a server has hung
TRIES = 3
_PASSING = re.compile(
    r"early EOF|unexpected disconnect|hung up unexpectedly|RPC failed|reset by peer|timed out"
    r"|Could not resolve host|Temporary failure in name resolution|Empty reply from server"
    r"|returned error: (?:408|425|429|5\d\d)"
)
_PASSED = {*PROXY_NAMES, *map(str.lower, PROXY_NAMES), "GIT_SSL_CAINFO", "GIT_SSL_CAPATH"}


@dataclass(frozen=True, slots=True)
class GitCommand:
    """Runs git. `secrets` authenticate: GIT_AUTH_TOKEN[.host] and GIT_AUTH_HEADER[.host]; `agent`
    is the socket of an ssh agent; `variables` is the environment that proxies are taken from."""

    cancellation: Cancellation
    secrets: Mapping[str, Callable[[], bytes]]
    variables: Mapping[str, str]
    home: str
    agent: str = ""
    patience: float = PATIENCE
    pause: float = field(default=1.0, compare=False)
    """Seconds before a second try."""

    def here(self, *arguments: str) -> str:
        """What git says to `arguments`, which reach no server. Raises Unreachable."""
        return self._run(GitReference(""), arguments, None)

    def there(self, wanted: GitReference, *arguments: str) -> str:
        """What git says to `arguments`, which ask the server of `wanted`; tried again when the
        connection breaks. Raises Unreachable when it stays broken, silent, or is refused."""
        for attempt in range(1, TRIES):
            try:
                return self._run(wanted, arguments, self.patience)
            except Unreachable as error:
                if not _PASSING.search(error.message):
                    raise
                self.cancellation.wait(self.pause * attempt)
                self.cancellation.check()
        return self._run(wanted, arguments, self.patience)

    def _run(self, wanted: GitReference, arguments: tuple[str, ...], patience: float | None) -> str:
        try:
            done = programs.run(
                ["git", *arguments],
                env=self._environment(wanted),
                cancellation=self.cancellation,
                silence=patience,
                most=MAX_OUTPUT,
            )
        except FileNotFoundError as error:
            raise RuntimeMissing(
                "git is not installed", "git", hint="apt-get install git"
            ) from error
        except TimeoutError as error:
            raise Unreachable(
                f"the server of {wanted.remote} sent nothing for {patience:.0f} seconds",
                operation=wanted.remote,
            ) from error
        except OverflowError as error:
            raise ProtocolViolation(
                f"{wanted.remote} lists more references than anyone has", operation=wanted.remote
            ) from error
        if done.status != 0:
            raise _failed(wanted, arguments, done.said.decode("utf-8", "replace"))
        return done.output.decode("utf-8", "surrogateescape")

    def _environment(self, wanted: GitReference) -> dict[str, str]:
        environment = {
            **{name: value for name, value in self.variables.items() if name in _PASSED},
            "PATH": self.variables.get("PATH") or os.defpath,
            "HOME": os.devnull,  # else curl finds a .netrc there: passwords that nobody gave us
            "LC_ALL": "C.UTF-8",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TEMPLATE_DIR": "",  # a submodule gets none of this machine's
            "GIT_SSH_COMMAND": _ssh(self.home),
            "GIT_SSH_VARIANT": "ssh",
        }
        if authorities := self.variables.get("SSL_CERT_FILE"):
            environment.setdefault("GIT_SSL_CAINFO", authorities)
        if self.agent:
            environment["SSH_AUTH_SOCK"] = self.agent
        settings = [*_policy(wanted), *_authorization(wanted, self.secrets)]
        environment["GIT_CONFIG_COUNT"] = str(len(settings))
        for number, (key, value) in enumerate(settings):
            environment[f"GIT_CONFIG_KEY_{number}"] = key
            environment[f"GIT_CONFIG_VALUE_{number}"] = value
        return environment


def _policy(wanted: GitReference) -> list[tuple[str, str]]:
    """What git may do (reliability B7)."""
    # Our own fetches may read files; what a repository names as submodule may not (CVE-2022-39253).
    settings = [("protocol.allow", "never"), ("protocol.file.allow", "user")]
    settings += [(f"protocol.{name}.allow", "always") for name in ("https", "git", "ssh")]
    # A repository at https redirects to no http, nor names it as submodule.
    cautious = wanted.remote.startswith("https://")
    settings.append(("protocol.http.allow", "user" if cautious else "always"))
    return [
        *settings,
        ("core.hooksPath", os.devnull),
        ("core.attributesFile", os.devnull),  # the one in the home directory
        ("core.fsmonitor", "false"),
        ("core.logAllRefUpdates", "false"),  # a log names the user and this host
        ("init.defaultBranch", "master"),
        ("gc.auto", "0"),
        ("maintenance.auto", "false"),
        ("http.lowSpeedLimit", "1024"),
        ("http.lowSpeedTime", "60"),
    ]


def _authorization(
    wanted: GitReference, secrets: Mapping[str, Callable[[], bytes]]
) -> list[tuple[str, str]]:
    """The header that authenticates (rule C29). A secret for a host goes to that host; one for any
    goes to the repository alone, at github.com to every repository, as under BuildKit."""
    from urllib.parse import urlsplit

    if not wanted.remote.startswith(("http://", "https://")):
        return []
    parts = urlsplit(wanted.remote)
    everywhere = f"{parts.scheme}://{parts.netloc}/"
    alone = everywhere if everywhere == "https://github.com/" else wanted.remote
    value, place = "", alone
    if wanted.credentials:
        value = f"basic {encoded(wanted.credentials)}"
    for id, where in (
        ("GIT_AUTH_TOKEN", alone),
        ("GIT_AUTH_HEADER", alone),
        (f"GIT_AUTH_TOKEN.{parts.netloc}", everywhere),
        (f"GIT_AUTH_HEADER.{parts.netloc}", everywhere),
    ):
        if id in secrets:
            value, place = secrets[id]().decode("utf-8", "surrogateescape").strip(), where
            if id.startswith("GIT_AUTH_TOKEN"):
                value = f"basic {encoded(f'x-access-token:{value}')}"
    if not value:
        return []
    # git sends the header wherever a redirect led it, to another origin too.
    header = f"Authorization: {value}"
    return [(f"http.{place}.extraheader", header), ("http.followRedirects", "false")]


def _ssh(home: str) -> str:
    """ssh asks nothing and reads the user's own files, whoever the user is in a namespace."""
    words = ["env", f"HOME={home}", "ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
    words += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
    words += ["-o", "ControlMaster=no"]  # a connection that others may share would outlive us
    known = os.path.join(home, ".ssh", "known_hosts")
    words += ["-o", f'UserKnownHostsFile="{known}"']
    if os.path.isfile(configuration := os.path.join(home, ".ssh", "config")):
        words += ["-F", configuration]
    return shlex.join(words)


def _failed(wanted: GitReference, arguments: tuple[str, ...], said: str) -> RegistryError:
    lines = [line for line in re.split(r"[\r\n]", said) if line.strip()]
    told = [line for line in lines if line.startswith(("fatal:", "error:", "ERROR:"))]
    lines = told or lines
    reason = printable(redacted(lines[0] if lines else "no message"))[:300]
    words = arguments[2:] if arguments[0] == "-C" else arguments
    verb = next(word for word in words if not word.startswith("-"))
    return Unreachable(
        f"git {verb} of {wanted.remote or 'a repository'} failed: {reason}",
        operation=wanted.remote,
        hint=_hint(wanted, said),
    )


def _hint(wanted: GitReference, said: str) -> str:
    if "could not read Username" in said or "Authentication failed" in said:
        return "give --secret id=GIT_AUTH_TOKEN,src=FILE"
    if "returned error: 30" in said:
        return "the server redirects, and a secret goes nowhere else: name the new address"
    if "Host key verification failed" in said:
        host = wanted.remote.rpartition("@")[2].removeprefix("ssh://").partition("/")[0]
        return f"ssh-keyscan {host.partition(':')[0]} >> ~/.ssh/known_hosts, once you trust the key"
    if "Permission denied (publickey" in said:
        return "add the key to your agent (ssh-add), and give --ssh default"
    return ""

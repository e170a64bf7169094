"""`assemble login`: a credential is verified and kept; docker's and podman's names and messages."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from assembler.access import Access
from assembler.cli.main import cancellable
from assembler.cli.options import network_options, timeout_option
from assembler.environment import Environment
from assembler.errors import RegistryError, UsageError

if TYPE_CHECKING:
    from assembler.net.trace import Exchanged
    from assembler.registry.client import RegistryClient

_LONGEST = 64 << 10  # bytes; identity tokens are some thousand


@click.command("login")
@click.option("-u", "--username", metavar="USER", default="", help="The user name.")
@click.option(
    "-p", "--password", metavar="PASSWORD", default="", help="The password; others can see it."
)
@click.option("--password-stdin", "from_stdin", is_flag=True, help="Read the password from stdin.")
@click.option("--get-login", is_flag=True, help="Print who is logged in, and do nothing.")
@network_options
@timeout_option
@click.argument("registry", metavar="[REGISTRY[/NAMESPACE]]", default="docker.io")
@click.pass_context
def command(
    context: click.Context,
    registry: str,
    username: str,
    password: str,
    from_stdin: bool,
    get_login: bool,
    access: Access,
    timeout: str,
) -> None:
    """Log in to REGISTRY, Docker Hub without one.

    The registry verifies the login. It is kept by the credential helper that is configured for the
    registry, else in --authfile, else in podman's auth.json.
    """
    from assembler.cli.durations import timeout_of

    environment = Environment.read()
    with cancellable(timeout_of(timeout), "login") as cancellation:
        from assembler.registry.client import RegistryClient
        from assembler.registry.configuration import RegistryConfiguration
        from assembler.registry.credential import Credential
        from assembler.registry.login import Subject, keep, verify

        subject = Subject.parse(registry)
        insecure = frozenset(access.insecure)
        configuration = RegistryConfiguration.read(environment, insecure, access.tls_verify)
        with RegistryClient(
            environment,
            configuration,
            access=access,
            cancellation=cancellation,
            trace=_told if access.debug else None,
        ) as client:
            if get_login:
                click.echo(_logged_in(client, subject.registry, subject.namespace))
                return
            if access.creds and not username:
                username, _, password = access.creds.partition(":")
            if password and context.get_parameter_source("password") is _COMMAND_LINE:
                click.echo(
                    "WARNING! Using --password via the CLI is insecure. Use --password-stdin.",
                    err=True,
                )
            username, password = _asked_for(username, password, from_stdin)
            credential = Credential(username, password)
            server = verify(client, subject, credential)
            place = keep(client.credentials, subject, credential, server)
    if server:
        click.echo(f"The token server of {subject.registry} is {server}.", err=True)
    if place.helper is None:
        click.echo(f"Your credentials are stored unencrypted in '{place.path}'.", err=True)
    click.echo("Login Succeeded")


_COMMAND_LINE = click.core.ParameterSource.COMMANDLINE


def _logged_in(client: RegistryClient, registry: str, namespace: str) -> str:
    found = client.credentials.find(registry, namespace).credential
    if found is None:
        raise RegistryError(
            f"not logged in to {registry}",
            registry=registry,
            hint=f"`assemble login {registry}`",
        )
    return found.username or "<token>"


def _told(request: Exchanged) -> None:
    click.echo(f"DEBUG: {request}", err=True)


def _asked_for(username: str, password: str, from_stdin: bool) -> tuple[str, str]:
    """The name and the password, asked for on a terminal where they were not given."""
    if from_stdin:
        if password:
            raise UsageError("--password and --password-stdin exclude each other")
        if not username:
            raise UsageError("Must provide --username with --password-stdin")
        text = sys.stdin.buffer.read(_LONGEST + 1).decode("utf-8", "surrogateescape")
        password = text.removesuffix("\n").removesuffix("\r")
        if not password or len(text) > _LONGEST:
            raise UsageError("--password-stdin: stdin holds no password")
    if not (username and password) and not sys.stdin.isatty():
        raise UsageError(
            "Cannot perform an interactive login from a non TTY device",
            hint="--username USER --password-stdin",
        )
    username = username or click.prompt("Username", err=True)
    password = password or click.prompt("Password", hide_input=True, err=True)
    if ":" in username:
        raise UsageError("a user name holds no colon")
    return username, password

"""`assemble logout`: logins are forgotten, in files and by credential helpers."""

from __future__ import annotations

import click

from assembler.access import Access
from assembler.cli.main import cancellable
from assembler.environment import Environment
from assembler.errors import UsageError


@click.command("logout")
@click.option("--all", "-a", "everything", is_flag=True, help="Forget every login of the file.")
@click.option("--authfile", metavar="FILE", default="", help="Look for credentials here only.")
@click.argument("registry", metavar="[REGISTRY[/NAMESPACE]]", default="")
def command(registry: str, everything: bool, authfile: str) -> None:
    """Log out of REGISTRY, of Docker Hub without one."""
    environment, access = Environment.read(), Access(authfile=authfile)
    if registry and everything:
        raise UsageError("--all and a registry exclude each other")
    with cancellable() as cancellation:
        from assembler.registry.credentials import Credentials
        from assembler.registry.login import Subject, remove, remove_all

        if everything:
            path = remove_all(environment, access, cancellation)
            click.echo(f"Removed all login credentials of {path}")
            return
        subject = Subject.parse(registry or "docker.io")
        if remove(Credentials(environment, access, cancellation), subject):
            click.echo(f"Removing login credentials for {subject}")
        else:
            click.echo(f"Not logged in to {subject}")

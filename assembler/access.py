"""What the command line says about registries: one value for every command that speaks to one."""

from __future__ import annotations

from assembler.values import field, replace, value


@value
class Access:
    """The values of `network_options`; what is empty or None was not given.

    `insecure` are HOST[:PORT] or CIDR, as dockerd has them. `creds` is USER:PASSWORD and goes to
    the registries `creds_for` only: a base image's registry must not see the target's password.
    `retries` is how often a request is tried again, `tls_verify` False what `insecure` is for one;
    with `debug` every request is told.
    """

    insecure: tuple[str, ...] = ()
    tls_verify: bool | None = None
    authfile: str = ""
    cert_dir: str = ""
    creds: str = field(default="", repr=False)
    creds_for: frozenset[str] = frozenset()
    retries: int | None = None
    debug: bool = False

    def creds_to(self, *registries: str) -> Access:
        """The same, with `creds` for `registries`."""
        return replace(self, creds_for=frozenset(registries))

    def insecure_for(self, *registries: str) -> Access:
        """The same, with `registries` among the insecure ones."""
        return replace(self, insecure=(*self.insecure, *registries))

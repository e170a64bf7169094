"""Manifests and indexes into a repository (distribution-spec "Pushing manifests"): by digest first,
read back, and then the tags."""

from __future__ import annotations

from collections.abc import Callable

from assembler.errors import ProtocolViolation, RegistryError, Unauthorized
from assembler.net.client import Request, Response
from assembler.net.retry import RETRYABLE
from assembler.oci.digest import Digest
from assembler.oci.manifest import Document, Manifest
from assembler.registry.client import PULL, PUSH, refused
from assembler.registry.destination import Destination
from assembler.registry.messages import NOT_ALLOWED, codes
from assembler.registry.referring import add_referrer
from assembler.values import value

_AGAIN = 3  # times that missing blobs are sent anew (reliability R11)
_MISSING = frozenset(("BLOB_UNKNOWN", "MANIFEST_BLOB_UNKNOWN", "MANIFEST_UNKNOWN"))


@value
class Publication:
    """`document` on its way into a repository, under `digest`, of whatever algorithm: whoever names it
    does so by that. `complete` sends what it needs, as far as that is not there."""

    destination: Destination
    document: Document
    digest: Digest
    complete: Callable[[], None]

    def publish(self) -> None:
        """Have it there under its digest, byte for byte. Raises RegistryError."""
        answer = self._put(str(self.digest))
        self._read_back(answer)
        subject = self.document.subject if isinstance(self.document, Manifest) else None
        if subject is not None and answer.header("oci-subject") != str(subject.digest):
            add_referrer(self.destination, self.document, subject)

    def tag(self, name: str) -> None:
        """Have the tag `name` mean it. Raises RegistryError.

        Registries whose tags are immutable refuse one that means it already, too: ECR and Artifact
        Registry by 400, Docker Hub by 403, Harbor by 412. ECR has changed the words of that
        (kaniko#3481), so the tag is looked at. The manifest itself was taken, so it is not the right
        to write that is missing.
        """
        try:
            self._put(name)
        except RegistryError as error:
            passing = error.status in RETRYABLE or not 400 <= error.status < 500
            meant = None if passing else self._meant(name)
            if meant is None:
                raise
            if meant != self.document.content:
                error.hint = NOT_ALLOWED
                raise

    def _meant(self, tag: str) -> bytes | None:
        """The manifest that `tag` means in the registry, None where there is none to be seen."""
        operation = f"the check of the tag {tag}"
        try:
            answer = self._get(tag, operation)
        except RegistryError:  # the refusal is what is told
            return None
        return answer.body if answer.status == 200 else None

    def _put(self, name: str) -> Response:
        """Where blobs are said to be missing, their registry is late to know what it took, or has
        thrown them away: they are looked for again (reliability R11)."""
        operation, http = f"the manifest {name}", self.destination.client.http
        attempts = http.attempts()
        for attempt in range(_AGAIN + 1):
            answer = self._once(name, operation)
            if answer.status in (200, 201, 202, 204):
                self._check(answer, operation)
                return answer
            missing = answer.status in (400, 404) and codes(answer) & _MISSING
            if not missing or attempt == _AGAIN:
                break
            self.complete()
            why = f"{self._where}: {operation} was refused, for it lacks blobs that it had"
            if not http.pause(attempts, why=why):
                break
        raise refused(answer, self.destination.repository, operation)

    def _once(self, name: str, operation: str) -> Response:
        repository = self.destination.repository
        request = Request(
            "PUT",
            f"{repository.url}/manifests/{name}",
            repository.registry,
            operation,
            headers={"Content-Type": self.document.media_type},
            body=self.document.content,
            length=len(self.document.content),
        )
        return self.destination.client.send(repository, request, PUSH)

    def _check(self, answer: Response, operation: str) -> None:
        said = answer.header("docker-content-digest")
        if said and said not in (str(self.digest), str(self.document.descriptor.digest)):
            raise self._violation(operation, f"{operation} was stored under another digest")

    def _read_back(self, put: Response) -> None:
        """Success means that the registry gives back what it was given, be it a little later; to who
        may only write, that it says so (`put`)."""
        repository, digest = self.destination.repository, self.digest
        operation = f"the check of manifest {digest}"
        http = self.destination.client.http
        attempts = http.attempts()
        while True:
            try:
                answer = self._get(str(digest), operation)
            except Unauthorized:  # by the token server
                if put.status != 201:
                    raise
                return
            why = f"{self._where} does not have the manifest {digest} yet that it took"
            if answer.status != 404 or not http.pause(attempts, why=why):
                break
        if answer.status in (401, 403) and put.status == 201:
            return
        if answer.status != 200:
            raise refused(answer, repository, operation)
        if answer.body != self.document.content:
            raise self._violation(operation, f"gives back other bytes for {operation}")

    def _get(self, name: str, operation: str) -> Response:
        repository = self.destination.repository
        request = Request(
            "GET",
            f"{repository.url}/manifests/{name}",
            repository.registry,
            operation,
            headers={"Accept": self.document.media_type},
        )
        return self.destination.client.send(repository, request, PULL)

    @property
    def _where(self) -> str:
        return f"{self.destination.repository.registry}/{self.destination.repository.name}"

    def _violation(self, operation: str, what: str) -> RegistryError:
        return ProtocolViolation(
            f"{self._where}: {what}",
            registry=self.destination.repository.registry,
            operation=operation,
            hint="a proxy in between changes content, or the registry does",
        )

"""A repository that blobs go to."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from assembler.errors import RegistryError
from assembler.net.client import Request
from assembler.oci.descriptor import Descriptor
from assembler.registry.client import PULL, PUSH, RegistryClient, Repository, refused
from assembler.store.uploads import Uploads
from assembler.values import replace, value

CHUNK = 32 << 20  # bytes of the first requests of a blob: what a broken connection may cost
LARGEST = 512 << 20
_ASKED = 8  # other repositories that are asked whether they have a blob


@value
class Destination:
    """Blobs go to `repository` by requests of `chunk` bytes, later of as many as have arrived, at most
    `largest`: registries sync their files at the end of each. `uploads` remembers those that are not
    finished."""

    client: RegistryClient
    repository: Repository
    uploads: Uploads | None = None
    chunk: int = CHUNK
    largest: int = LARGEST

    def has(self, blob: Descriptor, actions: str = PUSH) -> bool | None:
        """Whether the blob is there, asked as one who may do `actions`: whoever is about to push
        needs no other token for it. None where one may not ask: who may only write can push all the
        same, and who may not is told so by the upload. Raises RegistryError."""
        operation = f"the check for blob {blob.digest}"
        url = f"{self.repository.url}/blobs/{blob.digest}"
        request = Request("HEAD", url, self.repository.registry, operation)
        response = self.client.send(self.repository, request, actions)
        if response.status in (401, 403):
            return None
        if response.status not in (200, 404):
            raise refused(response, self.repository, operation)
        return response.status == 200

    def holders(self, blob: Descriptor, names: Sequence[str]) -> Sequence[str]:
        """Those of the repositories `names` of the same registry that are worth asking to mount the
        blob from. What cannot be mounted becomes an upload, so that a second one costs an upload
        that nobody finishes: of several only one that has the blob will do."""
        if len(names) < 2:
            return names
        for name in names[:_ASKED]:
            url = f"{self.repository.url.removesuffix(self.repository.name)}{name}"
            beside = replace(self, repository=replace(self.repository, url=url, name=name))
            with suppress(RegistryError):  # it may be anything but ours to read
                if beside.has(blob, PULL):
                    return (name,)
        return ()

"""Blobs of one registry: asked for, whole or from some place on."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from ..auth.scope import repository as scope
from ..cancel import Cancellation
from ..capabilities import CapabilityTable
from ..digest import Digest
from ..errors import DoesNotExistError, ProtocolError, show_url
from ..transport import Response
from .answers import absent, is_encoded, is_whole, number
from .blob import RemoteBlob, range_start
from .sender import Sender

__all__ = ["Blobs"]


class Blobs:
    """The blobs of one client's registry; thread-safe. ``base`` is its root."""

    def __init__(self, sender: Sender, base: str, *, capabilities: CapabilityTable) -> None:
        self._sender = sender
        self._endpoint = sender.endpoint
        self._base = base
        self._capabilities = capabilities

    def size(self, repository: str, digest: Digest) -> int | None:
        """The size of a blob in bytes, None where there is none."""
        url = self._url(repository, digest)
        with self._sender.send("HEAD", url, scopes=(scope(repository, "pull"),)) as response:
            if response.status == 404:
                return None
            if response.status == 200 and not is_encoded(response):
                size = number(response.headers.get("Content-Length"))
                if size is not None:
                    return size
        try:
            with self.open(repository, digest) as blob:
                if blob.length is None:
                    raise ProtocolError(f"{show_url(url)}: the registry does not say the size")
                return blob.length
        except DoesNotExistError:
            return None

    def open(
        self,
        repository: str,
        digest: Digest,
        offset: int = 0,
        *,
        hasty: bool = False,
        cancel: Cancellation | None = None,
    ) -> RemoteBlob:
        """The bytes of a blob, from ``offset`` on or from 0, as the result's own says.

        They are not verified. With ``hasty``, a server that asks for a pause is not waited for:
        its answer is the error that is raised. Raises `DoesNotExistError`, and
        `RegistryHTTPError` with the status 416 where the blob has no byte there.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = self._open(repository, digest, headers, cancel, hasty)
        if offset and response.status in (200, 206):
            self._capabilities.learn(self._endpoint.host, ranges=response.status == 206)
        if response.status == 206:
            start = range_start(response.headers.get("Content-Range"))
            # Of content that is encoded, the places are those of other bytes.
            right = start == offset and not is_encoded(response)
            if right and (offset or is_whole(response)):
                return RemoteBlob(response, offset)
            # A part, and not the one that was asked for: then rather the whole.
            response.close()
            response = self._open(repository, digest, {}, cancel, hasty)
        if response.status == 200:
            return RemoteBlob(response, 0)
        if response.status == 404:
            raise absent(response, f"blob {self._endpoint.host}/{repository}@{digest}")
        raise response.error()

    def _open(
        self,
        repository: str,
        digest: Digest,
        headers: Mapping[str, str],
        cancel: Cancellation | None,
        hasty: bool,
    ) -> Response:
        return self._sender.send(
            "GET",
            self._url(repository, digest),
            scopes=(scope(repository, "pull"),),
            headers=headers,
            hasty=hasty,
            cancel=cancel,
        )

    def _url(self, repository: str, digest: Digest) -> str:
        return f"{self._base}{quote(repository)}/blobs/{quote(str(digest), safe=':')}"

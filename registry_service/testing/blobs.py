"""The endpoints of blobs and of their uploads."""

from __future__ import annotations

import dataclasses
import urllib.parse

from .exchange import Exchange
from .message import ApiError, Request, Response
from .names import content_range, is_digest
from .ranges import RangeOutsideError, ranged
from .storage import Storage
from .uploads import Upload, Uploads

__all__ = ["BlobEndpoints"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BlobEndpoints:
    """Blobs of a repository: looked at, taken, removed, uploaded.

    With ``absolute_locations`` Location headers are full addresses, else paths.
    """

    storage: Storage
    uploads: Uploads
    absolute_locations: bool

    def get(self, exchange: Exchange, repository: str, digest: str) -> Response:
        """GET and HEAD of a blob, with a single range for GET."""
        content = self.storage.blob(repository, _checked(digest))
        if content is None:
            raise _unknown_blob(self.storage, repository, digest)
        headers = (
            ("Content-Type", "application/octet-stream"),
            ("Docker-Content-Digest", digest),
            ("ETag", f'"{digest}"'),
        )
        try:
            return ranged(exchange, content, headers, etag=f'"{digest}"')
        except RangeOutsideError as error:
            raise ApiError("RANGE_INVALID", str(error), headers=error.headers) from None

    def delete(self, exchange: Exchange, repository: str, digest: str) -> Response:
        if not self.storage.delete_blob(repository, _checked(digest)):
            raise _unknown_blob(self.storage, repository, digest)
        return Response(status=202)

    def start(self, exchange: Exchange, repository: str, mountable: bool) -> Response:
        """POST: mount a blob, take one whole, or open an upload."""
        request = exchange.request
        mount, source = request.argument("mount"), request.argument("from")
        if mount is not None:
            _checked(mount)
            if source and mountable and self.storage.link_blob(source, repository, mount):
                return self._created(request, repository, mount)
        digest = request.argument("digest")
        if digest is None:
            return self._accepted(request, self.uploads.start(repository))
        _checked(digest)
        upload = self.uploads.start(repository)
        try:
            with upload.writing():
                upload.receive(exchange.body)
                upload.commit(digest)
        finally:
            self.uploads.end(upload)
        return self._created(request, repository, digest)

    def progress(self, exchange: Exchange, repository: str, upload_id: str) -> Response:
        """GET: how far an upload is."""
        upload = self.uploads.get(repository, upload_id)
        return dataclasses.replace(self._accepted(exchange.request, upload), status=204)

    def append(self, exchange: Exchange, repository: str, upload_id: str) -> Response:
        """PATCH: add the body, a chunk of a known place or a stream."""
        upload = self.uploads.get(repository, upload_id)
        with upload.writing():
            upload.receive(exchange.body, self._chunk(exchange.request, upload))
        return self._accepted(exchange.request, upload)

    def finish(self, exchange: Exchange, repository: str, upload_id: str) -> Response:
        """PUT: add the last bytes, if any, and make it a blob."""
        request = exchange.request
        upload = self.uploads.get(repository, upload_id)
        digest = request.argument("digest")
        if digest is None:
            raise ApiError("DIGEST_INVALID", "the digest argument is missing")
        _checked(digest)
        with upload.writing():
            upload.receive(exchange.body, self._chunk(request, upload))
            try:
                upload.commit(digest)
            finally:
                self.uploads.end(upload)
        return self._created(request, repository, digest)

    def cancel(self, exchange: Exchange, repository: str, upload_id: str) -> Response:
        upload = self.uploads.get(repository, upload_id)
        with upload.writing():
            self.uploads.end(upload)
        return Response(status=204)

    def _chunk(self, request: Request, upload: Upload) -> int | None:
        """The length that Content-Range gives, once the place has been checked."""
        state = request.argument("_state")
        if state is None:
            message = "the address is not the Location that the last answer gave"
            raise ApiError("BLOB_UPLOAD_INVALID", message)
        header = request.headers.get("content-range")
        if header is None:
            offset, length = upload.offset, None
        else:
            try:
                offset, length = content_range(header)
            except ValueError as error:
                raise ApiError("RANGE_INVALID", str(error), status=400) from None
        if state != upload.state or offset != upload.offset:
            raise ApiError(
                "RANGE_INVALID",
                f"the upload is at {upload.offset}: ask for its status and go on from there",
                headers=self._accepted(request, upload).headers,
            )
        return length

    def _accepted(self, request: Request, upload: Upload) -> Response:
        path = f"/v2/{upload.repository}/blobs/uploads/{upload.id}"
        return Response(
            status=202,
            headers=(
                ("Location", self._location(request, path) + f"?_state={upload.state}"),
                ("Range", upload.range),
                ("Docker-Upload-UUID", upload.id),
            ),
        )

    def _created(self, request: Request, repository: str, digest: str) -> Response:
        path = f"/v2/{repository}/blobs/{digest}"
        return Response(
            status=201,
            headers=(
                ("Location", self._location(request, path)),
                ("Docker-Content-Digest", digest),
            ),
        )

    def _location(self, request: Request, path: str) -> str:
        quoted = urllib.parse.quote(path, safe="/:")
        return request.base + quoted if self.absolute_locations else quoted


def _checked(digest: str) -> str:
    if not is_digest(digest):
        raise ApiError("DIGEST_INVALID", f"{digest!r} is no sha256 or sha512 digest")
    return digest


def _unknown_blob(storage: Storage, repository: str, digest: str) -> ApiError:
    if not storage.has_repository(repository):
        return ApiError("NAME_UNKNOWN", f"no repository {repository}")
    return ApiError("BLOB_UNKNOWN", f"no blob {digest} in {repository}")

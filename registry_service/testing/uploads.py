"""Uploads under way: their bytes, how far they are, and who may write to one."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import threading
import uuid
from collections.abc import Iterator
from typing import Final

from .exchange import Body
from .message import ApiError
from .storage import Storage

__all__ = ["Upload", "Uploads"]

# A writer whose client is gone notices soon; a second one waits that long for it.
_WRITER_WAIT: Final = 10.0


class Upload:
    """The bytes of one blob on its way in.

    Written by the one thread that is inside ``writing``; ``offset`` and ``state`` may be read
    by any. ``state`` changes whenever bytes were added: an address from before is stale.
    """

    def __init__(self, storage: Storage, repository: str) -> None:
        self.id = str(uuid.uuid4())
        self.repository = repository
        self.offset = 0
        self.state = _fresh_state()
        self._file = storage.new_upload()
        self._sha256 = hashlib.sha256()
        self._writer = threading.Lock()

    @property
    def range(self) -> str:
        """The Range header: inclusive, so that nothing and one byte look alike."""
        return f"0-{max(self.offset - 1, 0)}"

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one that writes. Raises `ApiError` (409) where another stays too long."""
        if not self._writer.acquire(timeout=_WRITER_WAIT):
            message = "another request is writing to this upload"
            raise ApiError("BLOB_UPLOAD_INVALID", message, status=409)
        try:
            yield
        finally:
            self._writer.release()

    def receive(self, body: Body, length: int | None = None) -> None:
        """Add a body, of ``length`` bytes if given. What came before an error is kept."""
        if length is not None and body.length not in (None, length):
            message = f"the range is of {length} bytes and the body of {body.length}"
            raise ApiError("SIZE_INVALID", message)
        before = self.offset
        try:
            for chunk in body.chunks():
                if length is not None and self.offset + len(chunk) - before > length:
                    raise ApiError("SIZE_INVALID", f"the body is over the range's {length} bytes")
                self._file.append(chunk)
                self._sha256.update(chunk)
                self.offset += len(chunk)
        finally:
            if self.offset != before:
                self.state = _fresh_state()
        if length is not None and self.offset - before != length:
            message = f"the body ended after {self.offset - before} of {length} bytes"
            raise ApiError("SIZE_INVALID", message)

    def commit(self, digest: str) -> None:
        """Make it the blob ``digest``. Raises `ApiError` (DIGEST_INVALID) if it is another."""
        if digest.startswith("sha256:"):
            found = f"sha256:{self._sha256.hexdigest()}"
        else:
            found = self._file.digest(digest.partition(":")[0])
        if found != digest:
            message = "the uploaded bytes do not have this digest"
            raise ApiError("DIGEST_INVALID", message, detail={"given": digest, "found": found})
        self._file.commit(self.repository, digest)

    def discard(self) -> None:
        self._file.discard()


class Uploads:
    """The uploads under way, by their ids. One lock guards the table."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._uploads: dict[str, Upload] = {}

    def __len__(self) -> int:
        with self._lock:
            return len(self._uploads)

    def sizes(self) -> list[int]:
        with self._lock:
            return [upload.offset for upload in self._uploads.values()]

    def start(self, repository: str) -> Upload:
        upload = Upload(self._storage, repository)
        with self._lock:
            self._uploads[upload.id] = upload
        return upload

    def get(self, repository: str, upload_id: str) -> Upload:
        """Raises `ApiError` (BLOB_UPLOAD_UNKNOWN)."""
        with self._lock:
            upload = self._uploads.get(upload_id)
        if upload is None or upload.repository != repository:
            raise ApiError("BLOB_UPLOAD_UNKNOWN", f"no upload {upload_id!r} in {repository}")
        return upload

    def end(self, upload: Upload) -> None:
        """Forget an upload, committed or not."""
        with self._lock:
            self._uploads.pop(upload.id, None)
        upload.discard()

    def close(self) -> None:
        with self._lock:
            uploads = list(self._uploads.values())
            self._uploads.clear()
        for upload in uploads:
            upload.discard()


def _fresh_state() -> str:
    return secrets.token_urlsafe(12)

"""Uploads that were begun: where each is, so that it can go on after a crash.

What is kept is no secret of a person, but it is an address that a registry handed to one caller:
the files are for their owner only.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Final, Protocol

__all__ = ["DiskLedger", "Ledger", "MemoryLedger", "UploadKey"]

_SUFFIX: Final = ".upload"
#: Registries throw away what nobody went on with, most of them after a week.
_KEPT_SECONDS: Final = 7 * 86_400.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UploadKey:
    """``registry`` is the URL of its root, ``digest`` the blob that is sent."""

    registry: str
    repository: str
    digest: str


class Ledger(Protocol):
    """Where the uploads under way are noted. Thread-safe.

    An upload is claimed by one sender at a time: another that sends the same blob to the same
    repository begins one of its own, which is not noted.
    """

    def claim(self, key: UploadKey) -> bool:
        """Whether this sender is the one that may note; it must `release` then."""

    def recall(self, key: UploadKey) -> str | None:
        """The address where the upload was last."""

    def note(self, key: UploadKey, location: str) -> None: ...

    def drop(self, key: UploadKey) -> None:
        """It is done, or came to nothing."""

    def release(self, key: UploadKey) -> None: ...


class MemoryLedger:
    """A ledger for as long as the process lives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._claimed: set[UploadKey] = set()
        self._known: dict[UploadKey, str] = {}

    def claim(self, key: UploadKey) -> bool:
        with self._lock:
            if key in self._claimed:
                return False
            self._claimed.add(key)
            return True

    def recall(self, key: UploadKey) -> str | None:
        with self._lock:
            return self._known.get(key)

    def note(self, key: UploadKey, location: str) -> None:
        with self._lock:
            self._known[key] = location

    def drop(self, key: UploadKey) -> None:
        with self._lock:
            self._known.pop(key, None)

    def release(self, key: UploadKey) -> None:
        with self._lock:
            self._claimed.discard(key)


class DiskLedger(MemoryLedger):
    """A ledger that outlives the process: a small file for each upload in ``directory``,
    which is one process's own.

    A file is replaced, never changed, and is not synced: one that is lost costs an upload that
    begins anew. A directory that cannot be written costs the same, and no push.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        with contextlib.suppress(OSError):
            self._sweep()

    def recall(self, key: UploadKey) -> str | None:
        known = super().recall(key)
        if known is not None:
            return known
        try:
            document = json.loads(self._path(key).read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(document, dict) or document.get("key") != dataclasses.asdict(key):
            return None
        location = document.get("location")
        return location if isinstance(location, str) else None

    def note(self, key: UploadKey, location: str) -> None:
        super().note(key, location)
        content = json.dumps({"key": dataclasses.asdict(key), "location": location}).encode()
        path = self._path(key)
        beside = path.with_suffix(f".{threading.get_ident()}.tmp")
        with contextlib.suppress(OSError):
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
            beside.replace(path)

    def drop(self, key: UploadKey) -> None:
        super().drop(key)
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def _path(self, key: UploadKey) -> Path:
        text = "\n".join((key.registry, key.repository, key.digest))
        return self._directory / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}{_SUFFIX}"

    def _sweep(self) -> None:
        oldest = time.time() - _KEPT_SECONDS
        for path in self._directory.iterdir():
            if path.suffix in (_SUFFIX, ".tmp") and path.stat().st_mtime < oldest:
                path.unlink()

"""Where content comes from: which repositories have shown that they have it.

The store is shared, and a digest is no secret. A registry or a repository that somebody set up for
it could name another one's private blob in a manifest; that the store has the blob must not
be enough to hand it out. So the store keeps, for each registry, which of its repositories have
a blob, and a pull from a repository that is not among them has to see proof first:

- Another repository *of the same registry* has the blob: the registry is asked whether this one
  has it, with the credentials of who pulls (`Claim.probe`). An honest registry says so only to
  who may have it; and one that lies gives away what it has itself.
- Only *other registries* are known to have it: this one has to send the bytes, as if the store had
  nothing. To say 'yes' would cost a hostile registry nothing.

::

    ingest/origins/HOST      a line a fact: DIGEST REPOSITORY . (see `facts`)
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, TypeAlias

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import InvalidDigestError
from .facts import FactFile, file_of

__all__ = ["Claim", "Origins", "Probe", "Unrecorded"]

#: Whether the repository has what the descriptor names, for who asks; raises as a source does.
Probe: TypeAlias = Callable[[Descriptor, Cancellation], bool]


class _Host(FactFile):
    """What is known of one registry: its file, as far as it was read."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.known: dict[str, set[str]] = {}

    def _take(self, words: Sequence[str]) -> None:
        match words:
            case [digest, repository]:
                self.known.setdefault(digest, set()).add(repository)

    def _forget(self) -> None:
        self.known = {}


class Origins:
    """The record. Thread-safe; one lock guards what was read, and is held while a file is.

    ``lasting``: whether a host is the same one tomorrow, so that it may go on with the partial
    file that it began.
    """

    lasting: ClassVar[bool] = True

    def __init__(self, ingest: Path) -> None:
        self._directory = ingest / "origins"
        self._ingest = ingest
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}

    def has(self, host: str, repository: str, digest: Digest) -> bool:
        """Whether that repository is known to have it."""
        return repository in self._of(host, digest)

    def host_has(self, host: str, digest: Digest) -> bool:
        """Whether any repository of that registry is."""
        return bool(self._of(host, digest))

    def record(self, host: str, repository: str, digest: Digest) -> None:
        """Keep that the repository has it. The registry of ``host`` must have had the bytes:
        it sent them, or took them."""
        if repository not in self._of(host, digest):
            with self._lock:
                self._hosts[host].append(str(digest), repository)

    def tidy(self, here: Callable[[Digest], bool]) -> None:
        """Forget what is known of content that is not ``here``."""

        def stays(text: str) -> bool:
            with contextlib.suppress(InvalidDigestError):
                return here(Digest.parse(text))
            return False

        with contextlib.suppress(FileNotFoundError):
            for path in list(self._directory.iterdir()):
                host = _Host(path)
                host.refresh()
                kept = [
                    (text, name)
                    for text, names in host.known.items()
                    for name in sorted(names)
                    if stays(text)
                ]
                if len(kept) < sum(map(len, host.known.values())):
                    host.rewrite(kept, self._ingest)

    def _of(self, host: str, digest: Digest) -> set[str]:
        with self._lock:
            found = self._hosts.get(host)
            if found is None:
                found = self._hosts[host] = _Host(file_of(self._directory, host))
            found.refresh()
            return found.known.get(str(digest), set())


class Unrecorded(Origins):
    """The record of what no registry vouches for, such as a file: it begins with nothing, and
    nothing of it is kept. What the store has is compared with what is brought."""

    lasting = False

    def __init__(self) -> None:
        self._shown: set[Digest] = set()

    def has(self, host: str, repository: str, digest: Digest) -> bool:
        return digest in self._shown

    def host_has(self, host: str, digest: Digest) -> bool:
        return digest in self._shown

    def record(self, host: str, repository: str, digest: Digest) -> None:
        self._shown.add(digest)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """In whose name content is asked of the store: a repository of a registry. ``probe`` asks
    the registry."""

    origins: Origins
    host: str
    repository: str
    probe: Probe

    def holds(self, digest: Digest) -> bool:
        """Whether the repository is known to have it."""
        return self.origins.has(self.host, self.repository, digest)

    def near(self, digest: Digest) -> bool:
        """Whether its registry is, so that the registry's word is enough."""
        return self.origins.host_has(self.host, digest)

    def record(self, digest: Digest) -> None:
        """Keep that the repository has it, by the bytes that its registry sent or took."""
        self.origins.record(self.host, self.repository, digest)

    def confirm(self, digest: Digest) -> None:
        """Keep that the repository has it, by its registry's word, where that is enough."""
        if self.near(digest):
            self.record(digest)

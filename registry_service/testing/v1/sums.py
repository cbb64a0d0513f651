"""The checksums of V1: of an image's JSON and its layer's bytes, and the TarSum, version 0.

Written apart from the library's own code, so that the one can be held against the other.
"""

from __future__ import annotations

import hashlib
import io
import math
import tarfile
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Final, Self, cast

from ..content import Content, Reader, pieces

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["NoTarError", "may_be_tarsum", "payload_hasher", "payload_sum", "tarsum"]

_PIECE: Final = 1 << 20


class NoTarError(ValueError):
    """The layer is no tar archive, or a broken one."""


def payload_hasher(raw: bytes) -> _Hash:
    """What is to be fed the layer's bytes: it has the JSON and a newline already."""
    return hashlib.sha256(raw + b"\n")


def payload_sum(raw: bytes, layer: Content) -> str:
    """``sha256:`` over the image's JSON, a newline and the layer's bytes as they were sent."""
    digest = payload_hasher(raw)
    for data in pieces(layer):
        digest.update(data)
    return f"sha256:{digest.hexdigest()}"


def tarsum(raw: bytes, layer: Content) -> str:
    """``tarsum+sha256:`` over the image's JSON and the sorted sums of the layer's files.

    The layer is a tar archive, as it is or compressed. Raises `NoTarError`.
    """
    return _total(raw, [one for _, one in _members(layer)[0]])


def may_be_tarsum(stated: str, raw: bytes, layer: Content) -> bool:
    """Whether it is the layer's TarSum. Clients do not agree on the order of the sums where a name
    is in the archive twice, nor on whether a header for all files is one of them, so that then any
    will do. Raises `NoTarError`."""
    members, shared = _members(layer)
    names = {name for name, _ in members}
    disputed = shared or len(names) < len(members)
    return disputed or _total(raw, [one for _, one in members]) == stated


def _members(layer: Content) -> tuple[list[tuple[str, str]], bool]:
    """The names, without a slash at their ends, and the sums; whether there is a header for all
    files."""
    if not layer.size:
        return [], False
    with layer.open() as reader, io.BufferedReader(_ContentFile(layer, reader), _PIECE) as file:
        try:
            with tarfile.open(
                fileobj=cast("IO[bytes]", file),
                mode="r|*",
                tarinfo=_Member,
                encoding="utf-8",
                errors="surrogateescape",
            ) as tar:
                return list(_member_sums(tar)), bool(tar.pax_headers)
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise NoTarError(f"the layer is no tar archive: {error}") from None


def _total(raw: bytes, sums: Sequence[str]) -> str:
    total = hashlib.sha256(raw)
    for one in sorted(sums):
        total.update(one.encode())
    return f"tarsum+sha256:{total.hexdigest()}"


class _Member(tarfile.TarInfo):
    """A header that remembers what `tarfile` tidies away: the type's byte, and a last slash."""

    flag = b"0"
    slash = False

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        found = super().frombuf(buf, encoding, errors)
        found.flag = bytes(buf[156:157])
        found.slash = bytes(buf[:100]).partition(b"\0")[0].endswith(b"/")
        return found

    @property
    def full(self) -> str:
        """The name as it stands in the archive. One over 100 bytes is taken to end in a slash."""
        if "path" in self.pax_headers:
            return self.pax_headers["path"]
        long = len(_encoded(self.name)) >= tarfile.LENGTH_NAME
        return f"{self.name}/" if self.isdir() and (self.slash or long) else self.name


def _member_sums(tar: tarfile.TarFile) -> Iterator[tuple[str, str]]:
    for member in tar:
        digest = hashlib.sha256(_header(cast("_Member", member)))
        body = tar.extractfile(member) if member.isreg() else None
        while body is not None and (data := body.read(_PIECE)):
            digest.update(data)
        yield member.name.removeprefix("./").rstrip("/"), digest.hexdigest()


def _header(member: _Member) -> bytes:
    fields: tuple[tuple[str, object], ...] = (
        ("name", member.full),
        ("mode", member.mode),
        ("uid", member.uid),
        ("gid", member.gid),
        ("size", member.size),
        ("mtime", math.floor(member.mtime)),
        ("typeflag", member.flag.decode("latin-1")),
        ("linkname", member.linkname),
        ("uname", member.uname),
        ("gname", member.gname),
        ("devmajor", member.devmajor),
        ("devminor", member.devminor),
    )
    return b"".join(name.encode() + _encoded(str(value)) for name, value in fields)


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class _ContentFile(io.RawIOBase):
    """Content as a file that is read from the front."""

    def __init__(self, content: Content, reader: Reader) -> None:
        self._size = content.size
        self._reader = reader
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer)).cast("B")
        wanted = min(len(view), self._size - self._position)
        if wanted == 0:
            return 0
        data = self._reader.read_at(self._position, wanted)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

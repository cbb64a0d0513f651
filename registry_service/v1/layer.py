"""A layer of V1, looked into while it comes: it has no digest that says what it should be.

What a registry says of it stands beside the image's JSON: how many bytes it has, a sum of the bytes
that were sent, or the TarSum of the archive. Whatever of that is there has to be so, and the layer
has to be a tar archive. Where the sum of the bytes is right, nothing is left to say for the TarSum,
and it is not looked at: servers computed it in several ways.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from typing import Final

from ..cancel import Cancellation
from ..compression import LONGEST_MAGIC, Unpacker, compression_of
from ..digest import Digest
from ..errors import ArchiveError, DigestMismatchError, InvalidTarSumError, LayerError
from ..tarsums import TarSum, TarSummer
from .image import check_image_id
from .tarcheck import TarCheck

__all__ = ["CheckedLayer", "LayerCheck", "StatedLayer"]

_PAYLOAD: Final = re.compile(r"sha256:[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StatedLayer:
    """What a registry says of the layer of an image: ``json`` is the image's own, to the byte,
    ``size`` the layer's bytes (-1: it does not say), ``checksum_payload`` a ``sha256:`` over the
    JSON, a newline and those bytes, ``checksum`` the layer's TarSum; both may be empty. Raises
    `ManifestError` for an id that is none."""

    image_id: str
    json: bytes = dataclasses.field(repr=False)
    size: int = -1
    checksum_payload: str = ""
    checksum: str = ""

    def __post_init__(self) -> None:
        check_image_id(self.image_id)

    @property
    def stated_size(self) -> int | None:
        """The size, where one is stated. Some say 0 where they do not know it: no layer is."""
        return self.size if self.size > 0 else None

    def other_size(self, length: int | None) -> str:
        """Says that ``length`` bytes come in the place of those that are stated, None: more."""
        come = "more" if length is None else str(length)
        return f"{come} bytes come; the registry says that it has {self.size}"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CheckedLayer:
    """What was found out of a layer: the digest of its bytes as they came, their number, the digest
    of the archive itself, and how that was compressed: empty, or a word of `compression_of`."""

    digest: Digest
    size: int
    diff_id: Digest
    compression: str


class LayerCheck:
    """Takes the bytes of a layer from the first to the last. Belongs to one thread."""

    def __init__(self, stated: StatedLayer) -> None:
        self._stated = stated
        self._raw = hashlib.sha256()
        self._payload = hashlib.sha256(stated.json + b"\n")
        self._payload_wanted = _PAYLOAD.fullmatch(stated.checksum_payload) is not None
        self._diff = hashlib.sha256()
        self._tar = TarCheck()
        self._head: bytes | None = b""  # until it is known how it is compressed
        self._compression = ""
        self._unpacker: Unpacker | None = None
        self._tarsum: TarSummer | None = None
        self._size = 0

    def update(self, data: bytes | memoryview, cancel: Cancellation) -> None:
        """Look at the next bytes. Raises `LayerError` where it cannot be a layer any more, and
        `CancelledError`: a little that comes may be very much that is in it."""
        self._raw.update(data)
        if self._payload_wanted:
            self._payload.update(data)
        self._size += len(data)
        if self._head is not None:
            data = self._head + data
            if len(data) < LONGEST_MAGIC:
                self._head = data
                return
            self._begin(data, cancel)
        self._pass(data, cancel)

    def finish(self, cancel: Cancellation) -> CheckedLayer:
        """That was all. Raises `LayerError`, `DigestMismatchError`, `CancelledError`."""
        if self._head is not None:
            rest = self._head
            self._begin(rest, cancel)
            self._pass(rest, cancel)
        self._check_stated()
        try:
            if self._unpacker is not None:
                self._unpacker.end()
        except ArchiveError as error:
            raise self._bad(str(error)) from None
        try:
            self._tar.end()
            self._check_tarsum()
        except ArchiveError as error:
            raise self._bad(str(error)) from None
        return CheckedLayer(
            digest=Digest(algorithm="sha256", hex=self._raw.hexdigest()),
            size=self._size,
            diff_id=Digest(algorithm="sha256", hex=self._diff.hexdigest()),
            compression=self._compression,
        )

    def _begin(self, head: bytes, cancel: Cancellation) -> None:
        self._head = None
        if self._stated.checksum and not self._payload_wanted:
            with contextlib.suppress(InvalidTarSumError):  # what nobody can compute says nothing
                stated = TarSum.parse(self._stated.checksum)
                self._tarsum = TarSummer(stated.version, stated.algorithm, cancel=cancel)
        self._compression = compression_of(head)
        if self._compression:
            self._unpacker = Unpacker(self._compression)

    def _pass(self, data: bytes | memoryview, cancel: Cancellation) -> None:
        try:
            for piece in (data,) if self._unpacker is None else self._unpacker.feed(data):
                cancel.check()
                self._diff.update(piece)
                self._tar.feed(piece)
                if self._tarsum is not None:
                    self._tarsum.update(piece)
        except ArchiveError as error:
            raise self._bad(str(error)) from None

    def _check_stated(self) -> None:
        stated, actual = self._stated, f"sha256:{self._payload.hexdigest()}"
        size = stated.stated_size
        if size is not None and size != self._size:
            raise DigestMismatchError(
                f"the layer of image {stated.image_id}: {self._size} bytes came, and the registry "
                f"says that it has {size}",
                size=self._size,
            )
        if self._payload_wanted and actual != stated.checksum_payload:
            raise DigestMismatchError(
                f"the layer of image {stated.image_id}: the {self._size} bytes that came have, "
                f"with the image's JSON, the checksum {actual}; the registry says that it is "
                f"{stated.checksum_payload}",
                expected=stated.checksum_payload,
                actual=actual,
                size=self._size,
            )

    def _check_tarsum(self) -> None:
        if self._tarsum is None:
            return
        actual = self._tarsum.sum(self._stated.json)
        if actual != self._stated.checksum:
            raise DigestMismatchError(
                f"the layer of image {self._stated.image_id}: its TarSum is {actual}; the registry "
                f"says that it is {self._stated.checksum}",
                expected=self._stated.checksum,
                actual=actual,
                size=self._size,
            )

    def _bad(self, text: str) -> LayerError:
        return LayerError(f"the layer of image {self._stated.image_id}: {text}")

"""Images on their way out: JSON, layers, checksums, tags."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ...cancel import Cancellation
from ...compression import CHUNK, compression_of
from ...errors import ProtocolError
from ...pieces import Pieces
from ...tarsums import LayerSummer
from ...transport import Body, BodyError, Readable, Response
from ...v1.image import JSON_LIMIT
from ...v1.values import ImgData
from ..answers import absent
from .answers import failure
from .names import image_url, tag_url
from .sender import Sender

__all__ = ["LayerSums", "Outgoing", "Pushing"]

_JSON: Final = {"Content-Type": "application/json", "Accept": "application/json"}
_LAYER: Final = {"Content-Type": "application/octet-stream"}
_START: Final = 512  # bytes, the header of the first entry, that tell what a layer is
_GZIP_FILE: Final = 31  # zlib's word for a gzip header, which has no time and no name then


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LayerSums:
    """What is said of a layer that was sent. ``checksum``: its TarSum of version 0 with the
    image's JSON, ``tarsum+sha256:…``; ``checksum_payload``: the sha256 over the JSON, a newline
    and the bytes as they were sent, ``sha256:…``."""

    checksum: str
    checksum_payload: str


class Pushing:
    """What is sent to the registries of one client; thread-safe."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def json(self, image: ImgData, raw: bytes, registry: str, token: Sequence[str]) -> None:
        url = image_url(registry, image.id, "json")
        self._put(url, token, headers=_JSON, body=raw)

    def checksum(self, image: ImgData, registry: str, token: Sequence[str]) -> None:
        sums = {
            "X-Docker-Checksum": image.checksum,
            "X-Docker-Checksum-Payload": image.checksum_payload,
        }
        url = image_url(registry, image.id, "checksum")
        self._put(url, token, headers=sums, body=b"")

    def tag(
        self, repository: str, image_id: str, tag: str, registry: str, token: Sequence[str]
    ) -> None:
        image_url(registry, image_id, "json")  # that it is an id, and the registry one
        url = tag_url(registry, repository, tag)
        self._put(url, token, headers=_JSON, body=json.dumps(image_id).encode())

    def delete_tag(self, repository: str, tag: str, registry: str, token: Sequence[str]) -> None:
        url = tag_url(registry, repository, tag)
        with self._sender.send(
            "DELETE", url, token=token, idempotent=True, whole=JSON_LIMIT
        ) as response:
            if response.status == 404:
                raise absent(response, f"tag {repository}:{tag}")
            if response.status not in (200, 204):
                raise response.error()

    def layer(
        self,
        image_id: str,
        opener: Callable[[], Readable],
        registry: str,
        token: Sequence[str],
        json_raw: bytes,
        *,
        again: bool,
    ) -> LayerSums:
        cancel = self._sender.cancel
        with contextlib.ExitStack() as unused:
            # Looked at before anything is sent; read on when it is.
            first = Outgoing(_opened(opener), json_raw, cancel)
            unused.callback(first.close)
            first.begin()
            opened: list[Outgoing] = []

            def source() -> Outgoing:
                unused.pop_all()
                opened.append(Outgoing(opener(), json_raw, cancel) if opened else first)
                return opened[-1]

            self._put(
                image_url(registry, image_id, "layer"),
                token,
                headers=_LAYER,
                body=Body(opener=source, length=None),
                patient=True,
                again=again,
            )
            return opened[-1].sums

    def _put(
        self,
        url: str,
        token: Sequence[str],
        *,
        headers: dict[str, str],
        body: Body | bytes,
        patient: bool = False,
        again: bool = True,
    ) -> None:
        """Raises `AlreadyExistsError` where the registry says so, or what else it says."""
        with self._sender.send(
            "PUT",
            url,
            token=token,
            headers=headers,
            body=body,
            idempotent=again,
            retries=None if again else 0,
            patient=patient,
            whole=JSON_LIMIT,
        ) as response:
            _check(response)


def _check(response: Response) -> None:
    if response.status not in (200, 201, 204):
        raise failure(response)


def _opened(opener: Callable[[], Readable]) -> Readable:
    try:
        return opener()
    except OSError as error:
        raise BodyError(f"what is to be sent cannot be opened: {error}") from error


class Outgoing:
    """A layer as it is sent, with gzip: what is compressed so stays as it is, a plain archive is
    compressed on the way, which gives the same bytes each time. Used by one thread.

    `readinto` raises `BodyError` for what is compressed otherwise, `TarError` for what is no tar
    archive, and `ArchiveError` for a damaged stream, all before the end is told.
    """

    def __init__(self, source: Readable, json_raw: bytes, cancel: Cancellation) -> None:
        self._source = source
        self._json = json_raw
        self._summer = LayerSummer(cancel=cancel)
        self._payload = hashlib.sha256(json_raw + b"\n", usedforsecurity=False)
        self._checksum = ""
        self._pieces = Pieces(self._gzipped())

    @property
    def sums(self) -> LayerSums:
        """What was sent, once it was to its end."""
        if not self._checksum:
            raise ProtocolError("the registry took the layer before all of it was sent")
        return LayerSums(
            checksum=self._checksum, checksum_payload=f"sha256:{self._payload.hexdigest()}"
        )

    def begin(self) -> None:
        """Read as much as tells whether it can be sent. Raises what `readinto` raises."""
        try:
            self._pieces.begin()
        except OSError as error:
            raise BodyError(f"what is to be sent cannot be read: {error}") from error

    def readinto(self, buffer: memoryview, /) -> int:
        count = self._pieces.readinto(buffer)
        self._payload.update(buffer[:count])
        return count

    def close(self) -> None:
        self._source.close()

    def _gzipped(self) -> Iterator[bytes]:
        packer: zlib._Compress | None = None
        for number, piece in enumerate(self._read()):
            if not number and not self._is_gzip(piece):
                packer = zlib.compressobj(wbits=_GZIP_FILE)
            self._summer.update(piece)
            yield piece if packer is None else packer.compress(piece)
        self._checksum = self._summer.sum(self._json)
        if packer is not None:
            yield packer.flush()

    def _is_gzip(self, start: bytes) -> bool:
        kind = compression_of(start)
        if kind not in ("", "gzip"):
            raise BodyError(
                f"the layer is compressed with {kind}: V1 registries take gzip, and plain tar "
                "archives are compressed on the way"
            )
        return bool(kind)

    def _read(self) -> Iterator[bytes]:
        """The source in pieces, of which the first tells what it is."""
        buffer = memoryview(bytearray(CHUNK))
        filled, told = 0, False
        while count := self._source.readinto(buffer[filled:]) or 0:
            filled += count
            if told or filled >= _START:
                yield bytes(buffer[:filled])
                filled, told = 0, True
        if filled:
            yield bytes(buffer[:filled])
        elif not told:
            raise BodyError("the layer is empty: not even a tar archive without entries is")

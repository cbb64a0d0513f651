"""What was learned of V1 layers: which blob a registry sent as the layer of an image.

V1 names a layer by its image, and an image's id says nothing of its bytes. So a layer that came is
written down with all that its registry had said of it: the image's id and JSON, the sum and the
size. Whoever is told the same by the same registry gets the same layer, and nobody has to send it
again.

The book is asked only when the registry has given the image's JSON to the very caller who asks:
that is what shows that he may have it.

::

    ingest/layers/HOST      a line a fact: IMAGE KEY DIGEST SIZE DIFF-ID MEDIA-TYPE . (see `facts`)
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from ..digest import Digest
from ..errors import RegistryError
from ..upgrade import Layer
from ..v1.layer import StatedLayer
from .facts import FactFile, file_of

__all__ = ["LayerBook", "MemoryLayerBook", "layer_key"]


def layer_key(stated: StatedLayer) -> str:
    """What two layers of one registry have in common that are one: all that it says of them."""
    parts = (
        stated.image_id.encode(),
        hashlib.sha256(stated.json).digest(),
        stated.checksum_payload.encode(),
        stated.checksum.encode(),
        str(stated.size).encode(),
    )
    key = hashlib.sha256()
    for part in parts:
        key.update(b"%d:%b" % (len(part), part))
    return key.hexdigest()


class _Host(FactFile):
    """What is known of the layers of one registry."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.known: dict[str, tuple[str, Layer]] = {}  # by key: the image, and its layer

    def _take(self, words: Sequence[str]) -> None:
        match words:
            case [image_id, key, digest, size, diff_id, media_type]:
                with contextlib.suppress(ValueError, RegistryError):
                    self.known[key] = (
                        image_id,
                        Layer(
                            digest=Digest.parse(digest),
                            size=int(size),
                            diff_id=Digest.parse(diff_id),
                            media_type=media_type,
                        ),
                    )

    def _forget(self) -> None:
        self.known = {}


class LayerBook:
    """The book of one store. Thread-safe; one lock guards what was read, and is held while a file
    is."""

    def __init__(self, ingest: Path) -> None:
        self._directory = ingest / "layers"
        self._ingest = ingest
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}

    def find(self, host: str, stated: StatedLayer) -> Layer | None:
        """The layer that came when the registry of ``host`` last said this of one. Whether its
        blob is (still) in the store is not looked at. Raises `StoreError`."""
        with self._lock:
            found = self._of(host).known.get(layer_key(stated))
        return None if found is None else found[1]

    def record(self, host: str, stated: StatedLayer, layer: Layer) -> None:
        """Keep that this layer came, and was found right. Raises `StoreError`."""
        key = layer_key(stated)
        with self._lock:
            book = self._of(host)
            if book.known.get(key) != (stated.image_id, layer):
                book.append(*_words(stated.image_id, key, layer))

    def tidy(self, here: Callable[[Digest], bool]) -> None:
        """Forget the layers of which the blob is not ``here``."""
        with contextlib.suppress(FileNotFoundError):
            for path in list(self._directory.iterdir()):
                book = _Host(path)
                book.refresh()
                kept = [
                    _words(image_id, key, layer)
                    for key, (image_id, layer) in book.known.items()
                    if here(layer.digest)
                ]
                if len(kept) < len(book.known):
                    book.rewrite(kept, self._ingest)

    def _of(self, host: str) -> _Host:
        """What is known now. The lock is held."""
        found = self._hosts.get(host)
        if found is None:
            found = self._hosts[host] = _Host(file_of(self._directory, host))
        found.refresh()
        return found


class MemoryLayerBook(LayerBook):
    """The book of who has no store: it knows what came since it was made."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._layers: dict[tuple[str, str], Layer] = {}

    def find(self, host: str, stated: StatedLayer) -> Layer | None:
        with self._lock:
            return self._layers.get((host, layer_key(stated)))

    def record(self, host: str, stated: StatedLayer, layer: Layer) -> None:
        with self._lock:
            self._layers[host, layer_key(stated)] = layer

    def tidy(self, here: Callable[[Digest], bool]) -> None:
        with self._lock:
            gone = [key for key, layer in self._layers.items() if not here(layer.digest)]
            for key in gone:
                del self._layers[key]


def _words(image_id: str, key: str, layer: Layer) -> tuple[str, ...]:
    return (
        image_id,
        key,
        str(layer.digest),
        str(layer.size),
        str(layer.diff_id),
        layer.media_type,
    )

"""The TarSum of a stream, from its pieces as they pass by."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, BinaryIO, Final

from ..cancel import Cancellation
from ..compression import LONGEST_MAGIC, Unpacker, compression_of
from ..errors import RegistryError, TarError
from .headers import Entry
from .order import ordered
from .parser import Piece, entries
from .value import ALGORITHMS, TarSum, TarSumVersion, check_algorithm

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["ENTRY_LIMIT", "LayerSummer", "TarSummer", "tarsum"]

#: The entries that an archive may have. Of each 64 bytes or less are kept.
ENTRY_LIMIT: Final = 1024 * 1024

_NAME: Final = 16  # bytes of a name's digest
_CHUNK: Final = 256 * 1024


class TarSummer:
    """The TarSum of a plain tar archive that passes by: `update` it with the bytes, then ask
    for the `sum`. `LayerSummer` takes compressed ones.

    Of each entry its sum and a digest of its name are kept, of the archive nothing. Every error
    of the archive is a `TarError`, which comes again with each further call. Belongs to one
    thread.
    """

    def __init__(
        self,
        version: TarSumVersion | str = TarSumVersion.V0,
        algorithm: str = "sha256",
        *,
        cancel: Cancellation | None = None,
    ) -> None:
        """Raises `InvalidTarSumError` for a version or an algorithm that is not known."""
        if not isinstance(version, TarSumVersion):
            version = TarSumVersion.parse(version)
        check_algorithm(algorithm)
        self.version = version
        self.algorithm = algorithm
        self._sums = _Sums(version, algorithm, cancel)
        self._parser: Generator[int, Piece, None] | None = entries(self._sums, cancel)
        self._wanted = next(self._parser)
        self._error: RegistryError | None = None

    def update(self, data: Piece) -> None:
        """The next bytes, as many as there are. Raises `TarError`."""
        if self._error is not None:
            raise self._error
        if self._parser is None:
            raise ValueError("the sum was asked for: nothing can follow")
        place = 0
        with memoryview(data) as view:
            while place < len(view):
                with view[place : place + self._wanted] as piece:
                    place += len(piece)
                    self._send(piece)

    def sum(self, json: bytes = b"") -> str:
        """The sum of what came, as it is written, with ``json`` before it; the archive ends
        here. Raises `TarError` where it is cut off, `CancelledError`."""
        return str(self.value(json))

    def value(self, json: bytes = b"") -> TarSum:
        """The same as a value."""
        if self._error is not None:
            raise self._error
        while self._parser is not None:
            self._send(b"")
        return TarSum(version=self.version, algorithm=self.algorithm, hex=self._sums.sum(json))

    def _send(self, piece: Piece) -> None:
        assert self._parser is not None
        try:
            self._wanted = self._parser.send(piece)
        except StopIteration:
            self._parser = None
        except RegistryError as error:
            self._error = error
            raise


class LayerSummer:
    """The TarSum of a layer that passes by as registries keep it: compressed with gzip, bzip2, xz
    or zstd, or plain. The sum is that of the tar archive in it.

    ``plain`` is given the bytes of the archive as they come out, for instance for a digest.
    Raises as `TarSummer` does, and `ArchiveError` for a compressed stream that is damaged.
    """

    def __init__(
        self,
        version: TarSumVersion | str = TarSumVersion.V0,
        algorithm: str = "sha256",
        *,
        cancel: Cancellation | None = None,
        plain: Callable[[Piece], object] = lambda piece: None,
    ) -> None:
        self._inner = TarSummer(version, algorithm, cancel=cancel)
        self._cancel = cancel
        self._plain = plain
        self._head: bytes | None = b""  # as long as it does not tell what follows
        self._unpacker: Unpacker | None = None
        self._error: RegistryError | None = None

    @property
    def version(self) -> TarSumVersion:
        return self._inner.version

    @property
    def algorithm(self) -> str:
        return self._inner.algorithm

    def update(self, data: Piece) -> None:
        """The next bytes, as many as there are."""
        if self._head is not None:
            self._head += data
            if len(self._head) < LONGEST_MAGIC:
                return
            data = self._begin()
        self._take(data)

    def sum(self, json: bytes = b"") -> str:
        """The sum of what came, as it is written, with ``json`` before it; the layer ends here."""
        return str(self.value(json))

    def value(self, json: bytes = b"") -> TarSum:
        """The same as a value."""
        if self._head is not None:
            self._take(self._begin())
        if self._error is not None:
            raise self._error
        if self._unpacker is not None:
            self._unpacker.end()
        return self._inner.value(json)

    def _begin(self) -> bytes:
        """The first bytes, which tell what follows."""
        assert self._head is not None
        head, self._head = self._head, None
        kind = compression_of(head)
        if kind:
            self._unpacker = Unpacker(kind)
        return head

    def _take(self, data: Piece) -> None:
        if self._error is not None:
            raise self._error
        try:
            if self._unpacker is None:
                self._pass(data)
                return
            for piece in self._unpacker.feed(bytes(data)):
                if self._cancel is not None:
                    self._cancel.check()
                self._pass(piece)
        except RegistryError as error:
            self._error = error
            raise

    def _pass(self, piece: Piece) -> None:
        self._plain(piece)
        self._inner.update(piece)


class _Sums:
    """The sums of the entries, in two rows of bytes."""

    def __init__(self, version: TarSumVersion, algorithm: str, cancel: Cancellation | None) -> None:
        self._check: Callable[[], object] = _nothing if cancel is None else cancel.check
        self._version = version
        self._algorithm = algorithm
        self._size = ALGORITHMS[algorithm]
        self._sums = bytearray()
        self._names = bytearray()
        self._hash = self._new()

    def begin(self, entry: Entry) -> None:
        name = entry.name.removeprefix(b"./").removesuffix(b"/")
        self._names += hashlib.blake2b(name, digest_size=_NAME, usedforsecurity=False).digest()
        self._hash = self._new()
        self._hash.update(_header(entry, self._version))

    def content(self, piece: Piece) -> None:
        self._hash.update(piece)

    def end(self) -> None:
        self._sums += self._hash.digest()
        if len(self._sums) > ENTRY_LIMIT * self._size:
            raise TarError(f"the archive has more than {ENTRY_LIMIT} entries")

    def sum(self, json: bytes) -> str:
        total = self._new()
        total.update(json)
        self._check()
        sums, names = _split(self._sums, self._size), _split(self._names, _NAME)
        for each in ordered(sums, names, self._check):
            total.update(each.hex().encode())
        return total.hexdigest()

    def _new(self) -> _Hash:
        return hashlib.new(self._algorithm, usedforsecurity=False)


def _nothing() -> None:
    return None


def _split(row: bytearray, size: int) -> list[bytes]:
    return [bytes(row[place : place + size]) for place in range(0, len(row), size)]


def _header(entry: Entry, version: TarSumVersion) -> bytes:
    """What of an entry's header goes into its sum."""
    fields = [
        (b"name", entry.name),
        (b"mode", b"%d" % entry.mode),
        (b"uid", b"%d" % entry.uid),
        (b"gid", b"%d" % entry.gid),
        (b"size", b"%d" % entry.size),
        (b"mtime", b"%d" % entry.mtime),
        (b"typeflag", entry.typeflag),
        (b"linkname", entry.linkname),
        (b"uname", entry.uname),
        (b"gname", entry.gname),
        (b"devmajor", b"%d" % entry.devmajor),
        (b"devminor", b"%d" % entry.devminor),
    ]
    if version is not TarSumVersion.V0:
        fields.remove((b"mtime", b"%d" % entry.mtime))
        # a slip of the reference: one without a name counts once more for each attribute
        unnamed = (b"", entry.xattrs.get(b"", b""))
        fields += [unnamed] * len(entry.xattrs) + sorted(entry.xattrs.items())
    return b"".join(key + value for key, value in fields)


def tarsum(
    source: Piece | BinaryIO,
    *,
    version: TarSumVersion | str = TarSumVersion.V0,
    json: bytes = b"",
    algorithm: str = "sha256",
    cancel: Cancellation | None = None,
) -> str:
    """The TarSum of a tar archive, ``json`` (an image's JSON) before it.

    ``source`` is its bytes, or a binary file that is read from where it is; either may be
    compressed, as `LayerSummer` says. Raises `TarError`, `ArchiveError`, `InvalidTarSumError`,
    `CancelledError`.

    >>> tarsum(bytes(1024))[:22]
    'tarsum+sha256:e3b0c442'
    """
    summer = LayerSummer(version, algorithm, cancel=cancel)
    if isinstance(source, bytes | bytearray | memoryview):
        summer.update(source)
        return summer.sum(json)
    while chunk := source.read(_CHUNK):
        if cancel is not None:
            cancel.check()
        summer.update(chunk)
    return summer.sum(json)

"""Digests: the name of content, made of its bytes.

The grammar is that of the OCI image specification, section 'Digests'. Any registered algorithm
can be parsed; content can be verified with those of `HASHABLE`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from typing import TYPE_CHECKING, Final

from .errors import InvalidDigestError

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["HASHABLE", "Digest", "hasher_of"]

#: The algorithms that content can be verified with.
HASHABLE: Final = frozenset({"sha256", "sha512"})

# The number of hexadecimal digits that each registered algorithm gives.
_LENGTHS: Final = {"sha256": 64, "sha384": 96, "sha512": 128, "blake3": 64}
_ALGORITHM: Final = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*")
_ENCODED: Final = re.compile(r"[a-zA-Z0-9=_-]+")
_HEX: Final = re.compile(r"[0-9a-f]+")
_LONGEST: Final = 250  # an encoded part becomes a file name


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Digest:
    """An algorithm and what it gave for some content, such as ``sha256:6c3c…``.

    ``hex`` is lower case hexadecimal for each registered algorithm. Raises `InvalidDigestError`
    when it is constructed of something else.

    >>> str(Digest.of(b""))[:19]
    'sha256:e3b0c44298fc'
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        problem = _problem(self.algorithm, self.hex)
        if problem:
            raise InvalidDigestError(f"{_shown(f'{self.algorithm}:{self.hex}')}: {problem}")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """The digest that ``algorithm:hex`` stands for. Raises `InvalidDigestError`."""
        if not isinstance(text, str):
            raise InvalidDigestError(f"a digest is text, not {type(text).__name__}")
        algorithm, colon, encoded = text.partition(":")
        if not colon:
            raise InvalidDigestError(
                f"{_shown(text)} is no digest: it is written ALGORITHM:HEX, such as sha256:6c3c…"
            )
        return cls(algorithm=algorithm, hex=encoded)

    @classmethod
    def of(cls, content: bytes | bytearray | memoryview, algorithm: str = "sha256") -> Digest:
        """The digest of bytes at hand. Raises `InvalidDigestError` for another algorithm."""
        hasher = hasher_of(algorithm)
        hasher.update(content)
        return cls(algorithm=algorithm, hex=hasher.hexdigest())

    def hasher(self) -> _Hash:
        """A new hashlib object of this digest's algorithm.

        Raises `InvalidDigestError` where content cannot be verified with it.
        """
        return hasher_of(self.algorithm)

    def matches(self, hasher: _Hash) -> bool:
        """Whether what went through ``hasher`` is the content that this digest names."""
        return hasher.name == self.algorithm and hasher.hexdigest() == self.hex

    @property
    def short(self) -> str:
        """The first twelve digits, for people."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def hasher_of(algorithm: str) -> _Hash:
    """A new hashlib object. Raises `InvalidDigestError` where content cannot be verified with
    that algorithm."""
    if algorithm not in HASHABLE:
        known = ", ".join(sorted(HASHABLE))
        raise InvalidDigestError(
            f"content cannot be verified with {_shown(algorithm)}; {known} can be used"
        )
    return hashlib.new(algorithm, usedforsecurity=False)


def _problem(algorithm: str, encoded: str) -> str:
    if not _ALGORITHM.fullmatch(algorithm):
        return "the algorithm is of lower case letters and digits, such as sha256"
    length = _LENGTHS.get(algorithm)
    if length is None:
        if not _ENCODED.fullmatch(encoded) or len(algorithm) + len(encoded) > _LONGEST:
            return f"the part after the colon is 1 to {_LONGEST} of a-z, A-Z, 0-9, =, _ and -"
    elif len(encoded) != length:
        return f"{algorithm} has {length} hexadecimal digits, here are {len(encoded)}"
    elif not _HEX.fullmatch(encoded):
        return f"{algorithm} has lower case hexadecimal digits only"
    return ""


def _shown(text: str) -> str:
    return repr(text if len(text) <= 160 else f"{text[:157]}…")

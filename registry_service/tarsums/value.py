"""A TarSum as it is written: `VERSION+ALGORITHM:HEX`."""

from __future__ import annotations

import dataclasses
import enum
import re
from typing import Final

from ..errors import InvalidTarSumError

__all__ = ["ALGORITHMS", "TarSum", "TarSumVersion", "check_algorithm"]

#: What can be summed with, and the bytes that each gives. md5 and sha1 are for comparing with
#: sums that somebody wrote down: neither withstands who means harm.
ALGORITHMS: Final = {"md5": 16, "sha1": 20, "sha224": 28, "sha256": 32, "sha384": 48, "sha512": 64}

_HEX: Final = re.compile(r"[0-9a-f]+")


class TarSumVersion(enum.Enum):
    """What goes into the sum. Times of change do with `V0` only; extended attributes do with
    `V1` and `DEV`, which are alike but for their names."""

    V0 = "tarsum"
    V1 = "tarsum.v1"
    DEV = "tarsum.dev"

    @classmethod
    def parse(cls, text: str) -> TarSumVersion:
        """The version of that name. Raises `InvalidTarSumError`."""
        try:
            return cls(text)
        except ValueError:
            known = ", ".join(version.value for version in cls)
            raise InvalidTarSumError(
                f"{_shown(text)} is no version of TarSum that is known; these are: {known}"
            ) from None

    def __str__(self) -> str:
        return self.value


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TarSum:
    """A sum, and how it was made. ``hex`` is of lower case digits, two for each byte that the
    algorithm gives. Raises `InvalidTarSumError` when it is constructed of something else.

    >>> TarSum.parse("tarsum.v1+sha256:" + "0" * 64).version
    <TarSumVersion.V1: 'tarsum.v1'>
    """

    version: TarSumVersion
    algorithm: str = "sha256"
    hex: str

    def __post_init__(self) -> None:
        check_algorithm(self.algorithm)
        digits = 2 * ALGORITHMS[self.algorithm]
        if len(self.hex) != digits or not _HEX.fullmatch(self.hex):
            raise InvalidTarSumError(
                f"{_shown(str(self))}: {self.algorithm} gives {digits} hexadecimal digits in lower "
                f"case, here are {_shown(self.hex)}"
            )

    @classmethod
    def parse(cls, text: str) -> TarSum:
        """The sum that is written so. Raises `InvalidTarSumError`."""
        label, colon, encoded = text.partition(":")
        version, plus, algorithm = label.partition("+")
        if not colon or not plus:
            raise InvalidTarSumError(
                f"{_shown(text)} is no TarSum: it is written VERSION+ALGORITHM:HEX, such as "
                "tarsum+sha256:6c3c…"
            )
        return cls(version=TarSumVersion.parse(version), algorithm=algorithm, hex=encoded)

    def __str__(self) -> str:
        return f"{self.version}+{self.algorithm}:{self.hex}"


def check_algorithm(algorithm: str) -> None:
    """Raises `InvalidTarSumError` where nothing can be summed with that algorithm."""
    if algorithm not in ALGORITHMS:
        raise InvalidTarSumError(
            f"nothing can be summed with {_shown(algorithm)}; these can be used: "
            + ", ".join(ALGORITHMS)
        )


def _shown(text: str) -> str:
    return repr(text if len(text) <= 160 else f"{text[:157]}…")

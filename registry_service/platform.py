"""Platforms: what an image runs on, and which image of an index fits a wish.

The names are those that Go gives (GOOS, GOARCH), as the OCI image index wants them. The
architecture never changes in a match: an amd64 machine could run 386 images, but who gets one
should have asked for it.
"""

from __future__ import annotations

import dataclasses
import platform as _platform
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .errors import InvalidPlatformError, PlatformError

__all__ = ["Platform"]

# What kernels and distributions call an architecture -> its name and variant here.
_ARCHITECTURES: Final[Mapping[str, tuple[str, str]]] = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "x64": ("amd64", ""),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86": ("386", ""),
    "aarch64": ("arm64", "v8"),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv5tel": ("arm", "v5"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "powerpc64le": ("ppc64le", ""),
    "ppc64el": ("ppc64le", ""),
    "mips64el": ("mips64le", ""),
    "mipsel": ("mipsle", ""),
    "loongarch64": ("loong64", ""),
}
_KNOWN: Final = frozenset(
    {
        "386",
        "amd64",
        "arm",
        "arm64",
        "loong64",
        "mips",
        "mips64",
        "mips64le",
        "mipsle",
        "ppc64",
        "ppc64le",
        "riscv64",
        "s390x",
        "wasm",
    }
)
_SYSTEMS: Final[Mapping[str, str]] = {"macos": "darwin"}
# What an absent variant means, for the architectures whose variants are ordered.
_VARIANTS: Final[Mapping[str, str]] = {"amd64": "v1", "arm": "v7", "arm64": "v8"}

_WORD: Final = re.compile(r"[a-z0-9][a-z0-9_.-]*")
_SYSTEM: Final = re.compile(r"([^()]*)(?:\((?!\))([A-Za-z0-9_.-]*)((?:\+[A-Za-z0-9_.-]+)*)\))?")
_VARIANT: Final = re.compile(r"v?([0-9]+)(?:\.([0-9]+))?")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """An operating system and an architecture, and what else an index says of it.

    The fields hold what a document said, so that it can be written again unchanged; the
    comparison of `matches` and `choose` is of normalised names.
    """

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Platform:
        """The platform that ``OS/ARCH[/VARIANT]`` stands for, with normalised names.

        A known architecture alone means linux on it; a version and features may follow the
        system in brackets, as in ``windows(10.0.17763+win32k)/amd64``. Raises
        `InvalidPlatformError`.

        >>> str(Platform.parse("linux/x86_64")), str(Platform.parse("armhf"))
        ('linux/amd64', 'linux/arm/v7')
        """
        parts = text.strip().split("/") if isinstance(text, str) else []
        if len(parts) == 1 and _normal_architecture(parts[0].lower(), "")[0] in _KNOWN:
            parts.insert(0, "linux")
        system = _SYSTEM.fullmatch(parts[0]) if len(parts) in (2, 3) else None
        if not system:
            raise InvalidPlatformError(
                f"{_shown(text)} is no platform: it is written OS/ARCH[/VARIANT], "
                "such as linux/amd64 or linux/arm/v7"
            )
        words = [system.group(1).lower(), *(part.lower() for part in parts[1:])]
        for word, what in zip(words, ("operating system", "architecture", "variant"), strict=False):
            if not _WORD.fullmatch(word):
                raise InvalidPlatformError(
                    f"platform {_shown(text)}: the {what} {_shown(word)} is not of letters, "
                    "digits, '_', '.' and '-'"
                )
        name, version = words[0], system.group(2) or ""
        features = tuple(filter(None, (system.group(3) or "").split("+")))
        return cls(
            os=name,
            architecture=words[1],
            variant="".join(words[2:]),
            os_version=version,
            os_features=features,
        ).normalised()

    @classmethod
    def here(cls) -> Platform:
        """The platform of the images that this machine runs: linux, except on Windows."""
        system = "windows" if sys.platform == "win32" else "linux"
        return cls(os=system, architecture=_platform.machine().lower()).normalised()

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Platform | None:
        """The platform of a descriptor; None where it names neither system nor architecture.

        Raises `PlatformError`, which names the field.
        """
        texts = {}
        for field in ("os", "architecture", "variant", "os.version"):
            texts[field] = value.get(field) or ""
            if not isinstance(texts[field], str):
                raise PlatformError(f"{field}: text is expected, not {_kind(texts[field])}")
        features = value.get("os.features") or []
        if not isinstance(features, list) or not all(isinstance(item, str) for item in features):
            raise PlatformError("os.features: a list of texts is expected")
        if not texts["os"] and not texts["architecture"]:
            return None
        return cls(
            os=texts["os"],
            architecture=texts["architecture"],
            variant=texts["variant"],
            os_version=texts["os.version"],
            os_features=tuple(features),
        )

    def to_json(self) -> dict[str, Any]:
        """The JSON object of a descriptor's ``platform``."""
        value: dict[str, Any] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            value["os.version"] = self.os_version
        if self.os_features:
            value["os.features"] = list(self.os_features)
        if self.variant:
            value["variant"] = self.variant
        return value

    def normalised(self) -> Platform:
        """The same platform by its usual names; an absent variant stays absent."""
        architecture, variant = _normal_architecture(
            self.architecture.lower(), self.variant.lower()
        )
        system = self.os.lower()
        return dataclasses.replace(
            self, os=_SYSTEMS.get(system, system), architecture=architecture, variant=variant
        )

    def matches(self, other: Platform) -> bool:
        """Whether an image for ``other`` serves who asked for this platform."""
        return _fitness(self.normalised(), other.normalised()) is not None

    @staticmethod
    def choose(wanted: Platform, candidates: Sequence[Platform | None]) -> int | None:
        """The index of the candidate that serves best, the first of equals; None: none does.

        The best has the highest variant that ``wanted`` accepts, and needs the fewest special
        features. A candidate without a platform is taken only when it is the only one.
        """
        if len(candidates) == 1 and candidates[0] is None:
            return 0
        wish = wanted.normalised()
        best: tuple[tuple[int, ...], int] | None = None
        for place, candidate in enumerate(candidates):
            fitness = None if candidate is None else _fitness(wish, candidate.normalised())
            if fitness is not None and (best is None or fitness > best[0]):
                best = (fitness, place)
        return None if best is None else best[1]

    def __str__(self) -> str:
        more = "+".join((self.os_version, *self.os_features))
        system = f"{self.os}({more})" if more else self.os
        return "/".join(filter(None, (system, self.architecture, self.variant)))


def _normal_architecture(architecture: str, variant: str) -> tuple[str, str]:
    architecture, implied = _ARCHITECTURES.get(architecture, (architecture, ""))
    variant = variant or implied
    if architecture in _VARIANTS:
        number = _VARIANT.fullmatch(variant)
        if number:
            minor = number.group(2)
            variant = f"v{number.group(1)}" + (f".{minor}" if minor and minor != "0" else "")
        if architecture == "amd64" and variant == "v1":
            variant = ""
    return architecture, variant


def _fitness(wanted: Platform, offered: Platform) -> tuple[int, ...] | None:
    """How well ``offered`` serves, greater being better; None: not at all. Both normalised."""
    if (wanted.os, wanted.architecture) != (offered.os, offered.architecture):
        return None
    variant = _variant_fitness(wanted, offered)
    if variant is None or not _version_fits(wanted.os_version, offered.os_version):
        return None
    has, needs = set(wanted.os_features), set(offered.os_features)
    if has and not needs <= has:  # who names some has no others
        return None
    return (*variant, -len(needs - has), len(needs & has))


def _variant_fitness(wanted: Platform, offered: Platform) -> tuple[int, int] | None:
    implied = _VARIANTS.get(wanted.architecture)
    if implied is None:
        if offered.variant == wanted.variant:
            return (1, 0)
        # Unordered variants: without a wish any will do, and one that says nothing may do.
        return (0, 0) if not (wanted.variant and offered.variant) else None
    most = _level(wanted.variant or implied)
    level = _level(offered.variant or implied)
    if most is None or level is None:
        return (0, 0) if wanted.variant == offered.variant else None
    if level <= most:
        return level
    # It names no variant and the usual one is too high: perhaps it was built lower.
    return (-1, 0) if not offered.variant else None


def _level(variant: str) -> tuple[int, int] | None:
    number = _VARIANT.fullmatch(variant)
    return (int(number.group(1)), int(number.group(2) or 0)) if number else None


def _version_fits(wanted: str, offered: str) -> bool:
    """Windows wants the same build (three numbers); the revision after it may differ."""
    if not wanted or not offered:
        return True
    return wanted.split(".")[:3] == offered.split(".")[:3]


def _kind(value: object) -> str:
    return type(value).__name__


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"

"""``WWW-Authenticate``: what a server asks for (RFC 9110, sections 11.2 to 11.6).

The parser takes what servers really send: several challenges in one header, several headers,
commas and escapes inside quotes, token68 data, a realm that is not quoted (``realm=/``). What
it cannot read it leaves out; it never raises, for the request has failed already and the
other challenges may be good.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

__all__ = ["Challenge", "parse_challenges"]

_TOKEN_CHARACTERS = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TOKEN = re.compile(_TOKEN_CHARACTERS)
_PARAMETER = re.compile(
    rf"({_TOKEN_CHARACTERS})[ \t]*=[ \t]*(?:\"((?:[^\"\\]|\\.)*)(?:\"|\\?$)|([^\s,\"]*))"
)
_TOKEN68 = re.compile(r"([A-Za-z0-9\-._~+/]+=*)[ \t]*(?=,|$)")
_ESCAPE = re.compile(r"\\(.)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """One challenge. ``scheme`` and the names of ``parameters`` are in lower case; of a
    parameter that stands twice the first counts. ``token68`` is empty where there is none."""

    scheme: str
    parameters: Mapping[str, str] = dataclasses.field(default_factory=dict)
    token68: str = ""

    @property
    def realm(self) -> str:
        return self.parameters.get("realm", "")

    @property
    def service(self) -> str:
        return self.parameters.get("service", "")

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes asked for, which the ``scope`` parameter separates by spaces."""
        return tuple(self.parameters.get("scope", "").split())

    @property
    def error(self) -> str:
        """Such as ``invalid_token`` or ``insufficient_scope`` (RFC 6750, section 3.1)."""
        return self.parameters.get("error", "")


def parse_challenges(headers: Iterable[str]) -> tuple[Challenge, ...]:
    """The challenges in the values of all ``WWW-Authenticate`` headers, in their order."""
    return tuple(challenge for header in headers for challenge in _parse(header))


def _parse(text: str) -> list[Challenge]:
    found: list[Challenge] = []
    parameters: dict[str, str] = {}
    place = 0
    while place < len(text):
        parameter = _PARAMETER.match(text, place)
        if parameter is not None:
            if found:
                name, quoted, plain = parameter.groups()
                value = plain if quoted is None else _ESCAPE.sub(r"\1", quoted)
                parameters.setdefault(name.lower(), value)
            place = parameter.end()
            continue
        scheme = _TOKEN.match(text, place)
        if scheme is None:
            place += 1
            continue
        place = scheme.end()
        token68 = ""
        if text[place : place + 1] in (" ", "\t"):
            while text[place : place + 1] in (" ", "\t"):
                place += 1
            data = _TOKEN68.match(text, place)
            if data is not None:
                token68 = data[1]
                place = data.end()
        parameters = {}
        found.append(Challenge(scheme=scheme[0].lower(), parameters=parameters, token68=token68))
    return found

"""Faults that can be switched on: what they are, how they are written, when they strike.

A `Fault` is a value, parsed from ``KIND:key=value,key=value``. `FaultSet` holds those that are
switched on and is shared by all connections: one lock guards its list and all counters.
"""

from __future__ import annotations

import dataclasses
import enum
import fnmatch
import random
import threading
from collections.abc import Callable, Iterable
from typing import Any, Final

from .message import Request

__all__ = ["Fault", "FaultKind", "FaultSet", "FaultSwitch", "RequestFaults", "path_matches"]


class FaultKind(enum.Enum):
    """What goes wrong. The value is the word in a specification."""

    DROP = "drop"
    STALL = "stall"
    SLOW = "slow"
    STATUS = "status"
    REDIRECT = "redirect"
    CORRUPT = "corrupt"
    SHORT = "short"
    NO_RANGE = "no-range"
    WRONG_RANGE = "wrong-range"
    LOST_ANSWER = "lost-answer"


_COMMON: Final = ("path", "method", "times", "skip", "probability", "seed")
_KEYS: Final = {
    FaultKind.DROP: ("after", "reset"),
    FaultKind.STALL: ("seconds", "after"),
    FaultKind.SLOW: ("rate", "after"),
    FaultKind.STATUS: ("code", "retry-after", "form"),
    FaultKind.REDIRECT: ("to", "code"),
    FaultKind.CORRUPT: ("offset",),
    FaultKind.SHORT: ("after",),
    FaultKind.NO_RANGE: (),
    FaultKind.WRONG_RANGE: (),
    FaultKind.LOST_ANSWER: (),
}
_REQUIRED: Final = {
    FaultKind.STALL: ("seconds",),
    FaultKind.SLOW: ("rate",),
    FaultKind.STATUS: ("code",),
    FaultKind.REDIRECT: ("to",),
}
_REDIRECTS: Final = (301, 302, 303, 307, 308)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("a whole number, 0 or more, is wanted")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("a number is wanted") from None


def _flag(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError("yes or no is wanted")
    return text == "yes"


_READ: Final[dict[str, Callable[[str], Any]]] = {
    "path": str,
    "method": str.upper,
    "times": _count,
    "skip": _count,
    "probability": _number,
    "seed": _count,
    "after": _count,
    "reset": _flag,
    "seconds": _number,
    "rate": _count,
    "code": _count,
    "retry-after": _count,
    "form": str,
    "to": str,
    "offset": _count,
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault. What is None was not given; a key that the kind does not have is refused.

    Common to all kinds:

    - ``path``: part of the request's path, or a pattern if it has one of ``*?[``;
    - ``method``: an HTTP method;
    - ``times``: how often the fault strikes; without it, always;
    - ``skip``: how often it lets pass first what it could strike;
    - ``probability``: of striking, above 0 and at most 1, drawn from ``seed`` (default 0).

    ``after`` counts the bytes of the body on the way: of the request's where it has one, else
    of the answer's. A body that is no longer than that is not struck.

    - drop: closes the connection ``after`` so many bytes; without ``after``, before anything is
      done or answered. ``reset`` ends it with a TCP reset.
    - stall: pauses ``seconds``, ``after`` so many bytes; without ``after``, before anything is
      done.
    - slow: at most ``rate`` bytes a second, once ``after`` bytes have passed.
    - status: answers ``code`` and does nothing; ``retry-after`` in seconds, written as seconds or,
      with ``form`` ``date``, as a date.
    - redirect: answers ``code`` (default 307) with the same target at the address ``to``.
    - corrupt: one byte of the content is changed, at ``offset`` (default 0) in the content.
    - short: the answer says and has ``after`` bytes (default: half) and ends in order.
    - no-range: the Range header is ignored: 200, and everything.
    - wrong-range: a range that starts past 0 is answered with 206 from 0.
    - lost-answer: does what was asked, then closes the connection without an answer.

    Raises ValueError, in words that name the fault and the key.
    """

    kind: FaultKind
    path: str | None = None
    method: str | None = None
    times: int | None = None
    skip: int = 0
    probability: float = 1.0
    seed: int = 0
    after: int | None = None
    reset: bool = False
    seconds: float | None = None
    rate: int | None = None
    code: int | None = None
    retry_after: int | None = None
    form: str | None = None
    to: str | None = None
    offset: int | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self)[1:]:
            key = field.name.replace("_", "-")
            given = getattr(self, field.name) != field.default
            if given and key not in _COMMON and key not in _KEYS[self.kind]:
                raise ValueError(_unknown_key(self.kind, key))
            if not given and key in _REQUIRED.get(self.kind, ()):
                raise ValueError(f"fault {self.kind.value}: {key}= is missing")
        for key, bad, rule in self._rules():
            if bad:
                raise ValueError(f"fault {self.kind.value}: {key}= is to be {rule}")

    def _rules(self) -> Iterable[tuple[str, bool, str]]:
        codes = _REDIRECTS if self.kind is FaultKind.REDIRECT else range(400, 600)
        yield "times", self.times is not None and self.times < 1, "1 or more"
        yield "skip", self.skip < 0, "0 or more"
        yield "probability", not 0 < self.probability <= 1, "above 0 and at most 1"
        yield "after", self.after is not None and self.after < 0, "0 or more"
        yield "offset", self.offset is not None and self.offset < 0, "0 or more"
        seconds = 0.0 if self.seconds is None else self.seconds
        yield "seconds", not 0 <= seconds <= 86400, "between 0 and 86400"
        yield "rate", self.rate is not None and self.rate < 1, "1 or more bytes a second"
        what = "one of 301 302 303 307 308" if codes is _REDIRECTS else "between 400 and 599"
        yield "code", self.code is not None and self.code not in codes, what
        late = self.retry_after is not None and self.retry_after < 0
        yield "retry-after", late, "0 or more seconds"
        yield "form", self.form not in (None, "seconds", "date"), "seconds or date"
        lone = self.form is not None and self.retry_after is None
        yield "form", lone, "given together with retry-after="
        http = self.to is None or self.to.startswith(("http://", "https://"))
        yield "to", not http, "an address http://… or https://…"

    @classmethod
    def parse(cls, spec: str) -> Fault:
        """Read ``KIND`` or ``KIND:key=value,key=value``.

        Raises ValueError that says what was wrong and what is allowed.
        """
        word, _, rest = spec.partition(":")
        kinds = {kind.value: kind for kind in FaultKind}
        if word not in kinds:
            raise ValueError(f"fault {spec!r}: no fault {word!r}; there are {', '.join(kinds)}")
        kind = kinds[word]
        values: dict[str, Any] = {}
        for item in rest.split(",") if rest else ():
            key, equals, text = item.partition("=")
            if not equals or not text:
                raise ValueError(f"fault {spec!r}: {item!r} is not of the form key=value")
            if key not in (*_COMMON, *_KEYS[kind]):
                raise ValueError(f"fault {spec!r}: {_unknown_key(kind, key)}")
            name = key.replace("-", "_")
            if name in values:
                raise ValueError(f"fault {spec!r}: {key}= is given twice")
            try:
                values[name] = _READ[key](text)
            except ValueError as error:
                raise ValueError(f"fault {spec!r}: {key}={text}: {error}") from None
        try:
            return cls(kind=kind, **values)
        except ValueError as error:
            raise ValueError(f"{error} (in {spec!r})") from None


def _unknown_key(kind: FaultKind, key: str) -> str:
    allowed = ", ".join((*_KEYS[kind], *_COMMON))
    return f"fault {kind.value} has no key {key!r}; it takes {allowed}"


def path_matches(pattern: str | None, path: str) -> bool:
    """Whether a path is meant by a pattern (with ``*?[``) or by a part of it (without)."""
    if pattern is None:
        return True
    if any(mark in pattern for mark in "*?["):
        return fnmatch.fnmatchcase(path, pattern)
    return pattern in path


class FaultSwitch:
    """A fault that is switched on. Made by `FaultSet.add`; thread-safe by the set's lock."""

    __slots__ = ("_hits", "_lock", "_random", "_remove", "_skip", "fault")

    def __init__(
        self, fault: Fault, lock: threading.Lock, remove: Callable[[FaultSwitch], None]
    ) -> None:
        self.fault = fault
        self._lock = lock
        self._remove = remove
        self._random = random.Random(fault.seed)
        self._skip = fault.skip
        self._hits = 0

    @property
    def hits(self) -> int:
        """How often it has struck."""
        with self._lock:
            return self._hits

    def remove(self) -> None:
        """Switch it off. A second call does nothing."""
        self._remove(self)

    def matches(self, request: Request) -> bool:
        fault = self.fault
        if fault.method is not None and fault.method.upper() != request.method:
            return False
        return path_matches(fault.path, request.path)

    def claim(self) -> bool:
        """Whether it strikes now; counts when it does."""
        with self._lock:
            if self.fault.times is not None and self._hits >= self.fault.times:
                return False
            if self.fault.probability < 1 and self._random.random() >= self.fault.probability:
                return False
            if self._skip > 0:
                self._skip -= 1
                return False
            self._hits += 1
            return True


class FaultSet:
    """The faults that are switched on. Thread-safe."""

    def __init__(self, faults: Iterable[Fault | str] = ()) -> None:
        self._lock = threading.Lock()
        self._switches: list[FaultSwitch] = []
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault | str) -> FaultSwitch:
        """Switch a fault on, given as a value or in writing."""
        value = Fault.parse(fault) if isinstance(fault, str) else fault
        switch = FaultSwitch(value, self._lock, self._discard)
        with self._lock:
            self._switches.append(switch)
        return switch

    def clear(self) -> None:
        """Switch all faults off."""
        with self._lock:
            self._switches.clear()

    def of(self, request: Request) -> RequestFaults:
        """Those that may strike this request."""
        with self._lock:
            switches = tuple(self._switches)
        return RequestFaults(switch for switch in switches if switch.matches(request))

    def _discard(self, switch: FaultSwitch) -> None:
        with self._lock:
            if switch in self._switches:
                self._switches.remove(switch)


class RequestFaults:
    """The faults of one request, and which of them struck. Owned by the connection's thread."""

    def __init__(self, switches: Iterable[FaultSwitch] = ()) -> None:
        self._switches = tuple(switches)
        self.struck: list[str] = []

    def strikes(self, kind: FaultKind, *, at_once: bool = False) -> Fault | None:
        """The first fault of this kind that strikes now, or None.

        ``at_once`` leaves out those that wait for a number of bytes.
        """
        for switch in self._switches:
            if switch.fault.kind is not kind or (at_once and switch.fault.after is not None):
                continue
            if self.claim(switch):
                return switch.fault
        return None

    def claim(self, switch: FaultSwitch) -> bool:
        """Let this one strike if it is its turn, and note it."""
        if not switch.claim():
            return False
        self.struck.append(switch.fault.kind.value)
        return True

    def of_kind(self, *kinds: FaultKind) -> tuple[FaultSwitch, ...]:
        return tuple(switch for switch in self._switches if switch.fault.kind in kinds)

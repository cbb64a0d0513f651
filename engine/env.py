"""The environment of a job: an ordered map of string to string with typed access."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, overload

from .errors import EnvError

__all__ = ["Env"]

_TRUE = frozenset({"1", "yes", "true"})
_FALSE = frozenset({"", "0", "no", "false", "none"})


class Env(MutableMapping[str, str]):
    """An ordered map of string to string.

    Values that are not strings are kept as their JSON text, so nothing is lost on the way
    (``1.0`` stays a float, a nested map stays a map); None means 'not set'. Of a repeated key
    the last value counts. A typed getter raises `EnvError`, which names the key, when the
    content is not of the type; it shows the content only where ``secrets`` does not name the
    key.

    >>> env = Env({"limit": 25, "quiet": False})
    >>> env["limit"], env.get_int("limit"), env.get_bool("quiet")
    ('25', 25, False)
    """

    __slots__ = ("_values", "secrets")

    def __init__(
        self,
        values: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        *,
        secrets: Iterable[str] = (),
    ) -> None:
        self._values: dict[str, str] = {}
        self.secrets = frozenset(secrets)
        for key, value in values.items() if isinstance(values, Mapping) else values:
            self.set(key, value)

    # the map

    def __getitem__(self, key: str) -> str:
        return self._values[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self.set(key, value)

    def __delitem__(self, key: str) -> None:
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        shown = {k: "***" if k in self.secrets else v for k, v in self._values.items()}
        return f"Env({shown!r})"

    def copy(self) -> Env:
        return Env(self._values, secrets=self.secrets)

    # setters

    def set(self, key: str, value: Any) -> None:
        """Set ``key``. A string is kept as it is, None unsets, anything else is kept as JSON.

        Raises `EnvError` for a key that is none and for a value that JSON cannot hold.
        """
        if not isinstance(key, str) or not key or "=" in key or "\0" in key:
            raise EnvError(str(key), "no environment key: a word without '=' is")
        if value is None:
            self._values.pop(key, None)
            return
        text = value if isinstance(value, str) else _to_json(key, value)
        self._values.pop(key, None)  # the last value counts, and it counts as the newest
        self._values[key] = text

    def set_bool(self, key: str, value: bool) -> None:
        self.set(key, "true" if value else "false")

    def set_int(self, key: str, value: int) -> None:
        self.set(key, int(value))

    def set_list(self, key: str, value: Iterable[str]) -> None:
        self.set(key, list(value))

    def set_json(self, key: str, value: Any) -> None:
        """Set ``key`` to the JSON text of ``value``, strings too (they get their quotes)."""
        self.set(key, None if value is None else _to_json(key, value))

    def set_sub_env(self, key: str, value: Env) -> None:
        self.set(key, dict(value))

    # typed getters

    def get_bool(self, key: str, default: bool = False) -> bool:
        """False for 0, no, false, none and the empty string, whatever the case; else true."""
        text = self._values.get(key)
        return default if text is None else text.strip().lower() not in _FALSE

    def check_bool(self, key: str) -> None:
        """Raise for a word that says neither true nor false: `get_bool` would take it for true."""
        text = self._values.get(key)
        if text is not None and text.strip().lower() not in _TRUE | _FALSE:
            raise self._bad(key, "true or false")

    @overload
    def get_int(self, key: str) -> int | None: ...
    @overload
    def get_int(self, key: str, default: int) -> int: ...
    def get_int(self, key: str, default: int | None = None) -> int | None:
        """The integer, or ``default`` where it is not set. Text that is none raises."""
        text = self._values.get(key)
        if text is None:
            return default
        try:
            return int(text.strip())
        except ValueError:
            raise self._bad(key, "an integer") from None

    @overload
    def get_float(self, key: str) -> float | None: ...
    @overload
    def get_float(self, key: str, default: float) -> float: ...
    def get_float(self, key: str, default: float | None = None) -> float | None:
        text = self._values.get(key)
        if text is None:
            return default
        try:
            return float(text.strip())
        except ValueError:
            raise self._bad(key, "a number") from None

    def get_list(self, key: str) -> list[str]:
        """A list of strings, kept as a JSON list or as words separated by commas."""
        text = self._values.get(key, "")
        if not text.lstrip().startswith("["):
            return [word for part in text.split(",") if (word := part.strip())]
        value = self.get_json(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._bad(key, "a list of strings")
        return value

    def get_json(self, key: str, default: Any = None) -> Any:
        """The value that the JSON text stands for; ``default`` where it is not set."""
        text = self._values.get(key)
        if text is None:
            return default
        try:
            return json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            raise self._bad(key, "JSON") from None

    def get_sub_env(self, key: str) -> Env:
        """An environment of its own, kept as a JSON map; empty where it is not set. All that a
        secret one holds is secret."""
        value = self.get_json(key, {})
        if not isinstance(value, dict):
            raise self._bad(key, "a JSON map")
        if key not in self.secrets:
            return Env(value)
        try:
            return Env(value, secrets=value)
        except EnvError:  # which shows a key of the content
            raise self._bad(key, "a map of environment keys") from None

    # the whole

    @classmethod
    def from_json(cls, text: str | bytes) -> Env:
        """The environment that a JSON map stands for. Raises `EnvError`."""
        try:
            value = json.loads(text, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            raise EnvError("environment", f"not JSON: {error}") from None
        if not isinstance(value, dict):
            raise EnvError("environment", "not a JSON map")
        return cls(value)

    def to_json(self) -> str:
        return json.dumps(self._values, ensure_ascii=False)

    def _bad(self, key: str, wanted: str) -> EnvError:
        if key in self.secrets:
            return EnvError(key, f"not {wanted}")
        text = self._values[key]
        shown = text if len(text) <= 40 else f"{text[:40]}…"
        return EnvError(key, f"{shown!r} is not {wanted}")


def _to_json(key: str, value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise EnvError(key, f"a value of type {type(value).__name__} has no JSON form") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")

"""Tokens that are still good, each fetched once for all who need it."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable

from ..cancel import Cancellation
from ..credentials import AuthConfig
from ..errors import CancelledError, RegistryError
from .flow import Token

__all__ = ["TokenCache", "TokenKey"]

_LIMIT = 1024  # tokens
_MARGIN = 10.0  # seconds before its end at which a token counts as expired


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TokenKey:
    """Whose token it is and for what. ``scopes`` are kept in the order in which they are
    asked for; two keys that differ in the order only are the same."""

    realm: str
    service: str
    credentials: AuthConfig
    scopes: tuple[str, ...] = dataclasses.field(compare=False)
    _actions: frozenset[tuple[str, str]] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        actions = set()
        for scope in self.scopes:
            resource, _, names = scope.rpartition(":")
            actions |= {(resource, name) for name in names.split(",")}
        object.__setattr__(self, "_actions", frozenset(actions))

    def serves(self, wanted: TokenKey) -> bool:
        """Whether a token for this key does for ``wanted`` too."""
        return (
            self.realm == wanted.realm
            and self.service == wanted.service
            and self.credentials == wanted.credentials
            and self._actions >= wanted._actions
        )


class _Fetch:
    """A token that one thread is fetching. Fields are guarded by the cache's lock."""

    def __init__(self) -> None:
        self.takers: set[threading.Event] = set()
        self.done = False
        self.token: Token | None = None
        self.error: RegistryError | None = None


class TokenCache:
    """Shared by all the jobs of a process; thread-safe.

    One lock guards both tables; it is never held while a token is fetched. A fetch runs in
    the thread that asked first, under that thread's cancellation; should it be cancelled,
    the next that waits fetches in its place. ``clock`` gives seconds that never go back.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens: dict[TokenKey, tuple[Token, float]] = {}
        self._fetches: dict[TokenKey, _Fetch] = {}

    def get(self, key: TokenKey, fetch: Callable[[], Token], cancel: Cancellation) -> Token:
        """The token for ``key``, from the cache, from a fetch under way, or by ``fetch``.

        Raises what ``fetch`` raises, and `CancelledError`.
        """
        while True:
            wake = threading.Event()
            with self._lock:
                token = self._find(key)
                if token is not None:
                    return token
                running = self._fetches.get(key)
                if running is None:
                    mine = self._fetches[key] = _Fetch()
                    break
                running.takers.add(wake)
            with cancel.calling(wake.set):
                wake.wait()
            cancel.check()
            if running.token is not None:
                return running.token
            if running.error is not None:
                raise running.error
        return self._lead(key, mine, fetch)

    def forget(self, key: TokenKey, value: str) -> None:
        """The server takes the token ``value`` no more. Another one for the key is kept."""
        with self._lock:
            for known in [known for known in self._tokens if known.serves(key)]:
                if self._tokens[known][0].value == value:
                    del self._tokens[known]

    def _lead(self, key: TokenKey, mine: _Fetch, fetch: Callable[[], Token]) -> Token:
        try:
            mine.token = fetch()
            return mine.token
        except CancelledError:
            raise
        except RegistryError as error:
            mine.error = error
            raise
        finally:
            with self._lock:
                del self._fetches[key]
                mine.done = True
                takers = list(mine.takers)
                if mine.token is not None:
                    self._keep(key, mine.token)
            for taker in takers:
                taker.set()

    def _find(self, key: TokenKey) -> Token | None:
        now = self._clock()
        exact = self._tokens.get(key)
        if exact is not None and exact[1] > now:
            return exact[0]
        for known, (token, until) in self._tokens.items():
            if until > now and known.serves(key):
                return token
        return None

    def _keep(self, key: TokenKey, token: Token) -> None:
        now = self._clock()
        for known in [known for known, (_, until) in self._tokens.items() if until <= now]:
            del self._tokens[known]
        while len(self._tokens) >= _LIMIT:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[key] = (token, now + token.life - min(_MARGIN, token.life / 2))

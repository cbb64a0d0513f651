"""The V1 index as tests and demonstrations use it: accounts, repositories, and its registries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..exchange import Responder
from ..faults import Fault
from ..requestlog import LoggedRequest
from ..search import Described, SearchBook
from ..server import Server, TLSFiles
from ..tree import DirectoryTree, MemoryTree
from .accounts import Account, Accounts
from .indexapi import IndexApi
from .names import full_name, short_name
from .registry import V1Registry
from .storage import V1Storage
from .tokens import Token, TokenBook

__all__ = ["V1Index"]


class V1Index(Server):
    """An index that speaks V1. A context manager; `start` and `stop` do the same.

    - ``root``: the directory that holds the lists of images; None: they are held in memory.
      Accounts are always.
    - ``registries``: `V1Registry` of the role ``"registry"``, whose clients' tokens this index
      verifies, or hosts in writing (``"host:port"``). They are started and stopped apart, before
      or after. With none, there is no X-Docker-Endpoints.
    - ``accounts``: `Account`, or names and passwords. ``htpasswd``: a file of more.
    - ``protected``: nobody makes an account here: 401. ``activated``: one that is made is active
      at once, not only after `activate`.
    - ``token_lifetime``: seconds; ``one_use``: a token is good for one request, as the
      documentation has it; ``clock`` gives the Unix time by which tokens run out.
    - ``repeated``: each registry has an X-Docker-Endpoints header of its own.
    - ``standalone``: what the ping says; None: nothing.
    - ``host``, ``port``, ``allow_remote``, ``tls``, ``faults``, ``on_request``: as `Registry`.

    Thread-safe once started. Raises ValueError and OSError for what cannot be used.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        *,
        registries: Sequence[V1Registry | str] = (),
        accounts: Iterable[Account] | Mapping[str, str] = (),
        htpasswd: Path | str | None = None,
        protected: bool = False,
        activated: bool = False,
        token_lifetime: float = 300.0,
        one_use: bool = False,
        repeated: bool = False,
        standalone: str | None = "false",
        tls: TLSFiles | None = None,
        faults: Iterable[Fault | str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        allow_remote: bool = False,
        clock: Callable[[], float] = time.time,
        on_request: Callable[[LoggedRequest], object] | None = None,
    ) -> None:
        if token_lifetime <= 0:
            raise ValueError("token_lifetime is to be above 0 seconds")
        if isinstance(accounts, Mapping):
            accounts = [Account(name=key, password=value) for key, value in accounts.items()]
        self._accounts = Accounts(accounts)
        if htpasswd is not None:
            self._accounts.read_htpasswd(Path(htpasswd))
        super().__init__(
            tls=tls,
            faults=faults,
            host=host,
            port=port,
            allow_remote=allow_remote,
            on_request=on_request,
        )
        self._registries = tuple(registries)
        self._storage = V1Storage(MemoryTree() if root is None else DirectoryTree(Path(root)))
        self._tokens = TokenBook(lifetime=token_lifetime, one_use=one_use, clock=clock)
        self._book = SearchBook()
        self._api = IndexApi(
            storage=self._storage,
            accounts=self._accounts,
            tokens=self._tokens,
            book=self._book,
            endpoints=self._endpoints,
            repeated=repeated,
            protected=protected,
            activated=activated,
            standalone=standalone,
            deleted=set(),
        )
        for one in self._registries:
            if isinstance(one, V1Registry):
                one.attach(self)

    def _responder(self) -> Responder:
        return self._api

    def _release(self) -> None:
        self._storage.close()

    def _endpoints(self) -> list[str]:
        return [one if isinstance(one, str) else one.host for one in self._registries]

    @property
    def endpoint(self) -> str:
        """The address of V1, with the slash at its end."""
        return f"{self.url}/v1/"

    # what registries ask

    def use_token(self, authorization: str, repository: str | None) -> Token | None:
        """The token of an Authorization header, if it is good, and for that repository."""
        return self._tokens.use(authorization, repository)

    def ids(self, repository: str) -> list[str]:
        """The images in the list of a repository."""
        return [one["id"] for one in self.images(repository) or ()]

    def may_use(self, user: str, image_id: str) -> bool:
        """Whether an image is in a repository that this user sees; empty: anybody."""
        return self._api.may_use(user, image_id)

    # content, put and seen without going through HTTP

    def add_images(self, repository: str, images: Iterable[Mapping[str, Any]]) -> None:
        """Add images, as ``id`` and ``checksum``, to a repository's list."""
        repository = full_name(repository)
        self._storage.merge_index_images(repository, [dict(one) for one in images])

    def set_private(self, repository: str, private: bool = True) -> None:
        """Show a repository to those only whose accounts may pull it, or to all again."""
        self._storage.set_private(full_name(repository), private)

    def repositories(self) -> list[str]:
        """All, with their namespaces."""
        return self._storage.repositories()

    def images(self, repository: str) -> list[dict[str, Any]] | None:
        """A repository's images as id and checksum; None if it is not known."""
        return self._storage.index_images(full_name(repository))

    def account(self, name: str) -> Account | None:
        return self._accounts.get(name)

    def activate(self, name: str, active: bool = True) -> None:
        """Make an account active, or inactive. Raises KeyError if there is none."""
        self._accounts.change(name, active=active)

    def expire_tokens(self) -> None:
        """End all tokens given out so far. Sessions at registries go on."""
        self._tokens.expire_all()

    def describe(self, repository: str, **what: Any) -> None:
        """Say what the search shows of a repository; ``what`` is that of `Described`."""
        self._book.describe(short_name(full_name(repository)), Described(**what))

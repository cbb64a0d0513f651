"""The V1 registry as tests and demonstrations use it: started, filled, watched, disturbed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from ..content import BytesContent, Content, PatternContent
from ..exchange import Responder
from ..faults import Fault
from ..passwords import Passwords
from ..requestlog import LoggedRequest
from ..search import Described, SearchBook
from ..server import Server, TLSFiles
from ..tree import DirectoryTree, MemoryTree, Tree
from .api import RegistryApi
from .gates import BasicGate, Gate, OpenGate, TokenGate, Verifier
from .imageapi import ImageEndpoints, Membership, Ranges
from .names import full_name, is_image_id, is_tag
from .origin import LayerOrigin
from .standalone import StandaloneIndex
from .storage import StoredImage, V1Storage
from .sums import payload_sum
from .tagapi import TagEndpoints

__all__ = ["V1Registry"]

_SEARCH_FILE: Final = "search.json"
_REPOSITORIES: Final = "repositories"  # where the names are, in what docker-registry keeps


class _Index(Verifier, Membership, Protocol):
    """The index behind a registry."""

    def add_images(self, repository: str, images: Iterable[Mapping[str, Any]]) -> None:
        """Add images, as ``id`` and ``checksum``, to a repository's list."""


class V1Registry(Server):
    """A registry that speaks V1. A context manager; `start` and `stop` do the same.

    - ``root``: the directory that holds the content, laid out as the original's; None: it is
      held in memory. A file ``search.json`` in it describes repositories for the search.
    - ``read_only``: what is in the root is served, and nothing in it touched or changed. Where
      the list of an index is missing, since an index had it, one is made of the tags.
    - ``role``: ``"standalone"``: it answers in the place of an index too, as the original does.
      ``"registry"``: it takes the tokens of the `V1Index` that it is given to.
    - ``users``: names and passwords; ``htpasswd``: a file of more, bcrypt or {SHA}. With either,
      everything but the ping takes basic authentication; ``anonymous_pull``: reading does not.
    - ``ranges``: how a part of a layer is given: ``"exact"``, ``"original"`` (a Content-Range
      without its unit; one that is open at the end, or goes past it, says too many bytes, and
      breaks off; less than two bytes are refused), or ``"none"``: always the whole.
    - ``redirect_layers``: layers are sent to be fetched from another origin, `origin`.
    - ``cookies``: a token opens a session; ``strict_access``: one to write does not read, and
      there is none for HEAD, as in the original. Both for the role ``"registry"``.
    - ``standalone``: what the ping says in X-Docker-Registry-Standalone; ``"auto"``: what is so;
      None: nothing.
    - ``endpoints``: what X-Docker-Endpoints names; empty: the host that was asked.
    - ``search``: whether one that stands alone can be searched.
    - ``version``: what X-Docker-Registry-Version says.
    - ``listed_checksums``: X-Docker-Checksum-Payload has a JSON list in it.
    - ``host``, ``port``, ``allow_remote``, ``tls``, ``faults``, ``on_request``: as `Registry`.

    Thread-safe once started. Raises ValueError and OSError for what cannot be used.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        *,
        read_only: bool = False,
        role: Literal["standalone", "registry"] = "standalone",
        users: Mapping[str, str] | None = None,
        htpasswd: Path | str | None = None,
        anonymous_pull: bool = False,
        ranges: Ranges = "exact",
        redirect_layers: bool = False,
        cookies: bool = True,
        strict_access: bool = False,
        standalone: str | None = "auto",
        endpoints: Sequence[str] = (),
        listed_checksums: bool = False,
        search: bool = True,
        version: str = "0.9.1",
        tls: TLSFiles | None = None,
        faults: Iterable[Fault | str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        allow_remote: bool = False,
        on_request: Callable[[LoggedRequest], object] | None = None,
    ) -> None:
        if ranges not in ("exact", "original", "none"):
            raise ValueError(f"ranges is 'exact', 'original' or 'none', not {ranges!r}")
        if role not in ("standalone", "registry"):
            raise ValueError(f"role is 'standalone' or 'registry', not {role!r}")
        passwords = Passwords(users)
        if htpasswd is not None:
            passwords.read_htpasswd(Path(htpasswd))
        if anonymous_pull and not passwords.names:
            raise ValueError("anonymous_pull needs users or an htpasswd file")
        if read_only and root is None:
            raise ValueError("read_only needs a root")
        if read_only and Path(root or "").is_dir() and not Path(root or "", _REPOSITORIES).is_dir():
            raise ValueError(
                f"{root} has no directory {_REPOSITORIES!r}, and so is not what docker-registry "
                "left: that is the one in which 'images' and 'repositories' are"
            )
        if passwords.names and role == "registry":
            raise ValueError("a registry of an index has no users: the index has the accounts")
        super().__init__(
            tls=tls,
            faults=faults,
            host=host,
            port=port,
            allow_remote=allow_remote,
            on_request=on_request,
        )
        self._book = SearchBook()
        tree: Tree = MemoryTree()
        if root is not None:
            if (Path(root) / _SEARCH_FILE).exists():
                self._book.read(Path(root) / _SEARCH_FILE)
            # The last thing that can fail: from here on the directory is locked.
            tree = DirectoryTree(Path(root), read_only=read_only)
        self._storage = V1Storage(tree)
        self._index: _Index | None = None
        self._tokens = TokenGate(cookies=cookies, strict=strict_access)
        self._role = role
        self._origin: LayerOrigin | None = None
        if redirect_layers:
            self._origin = LayerOrigin(
                self._storage, tls=tls, host=host, allow_remote=allow_remote, on_request=on_request
            )
        gate: Gate = self._tokens if role == "registry" else OpenGate()
        if passwords.names:
            gate = BasicGate(
                passwords=passwords, anonymous_pull=anonymous_pull, realm="registry.test"
            )
        index = StandaloneIndex(
            storage=self._storage, endpoints=tuple(endpoints), derived=read_only
        )
        if standalone == "auto":
            standalone = "true" if role == "standalone" else "false"
        self._api = RegistryApi(
            storage=self._storage,
            gate=gate,
            images=ImageEndpoints(
                storage=self._storage,
                ranges=ranges,
                membership=lambda: self._index,
                redirect=self._origin.address if self._origin is not None else None,
                listed_checksums=listed_checksums,
            ),
            tags=TagEndpoints(storage=self._storage),
            index=index if role == "standalone" else None,
            book=self._book,
            version=version,
            standalone=standalone,
            read_only=read_only,
            search=search and role == "standalone",
        )

    def _responder(self) -> Responder:
        return self._api

    def _release(self) -> None:
        self._storage.close()

    def start(self) -> None:
        if self._origin is not None:
            self._origin.start()
        super().start()

    def stop(self, grace: float = 0.0) -> None:
        try:
            if self._origin is not None:
                self._origin.stop(grace)
        finally:
            super().stop(grace)

    @property
    def origin(self) -> Server:
        """The server that layers are fetched from. Raises ValueError if there is none."""
        if self._origin is None:
            raise ValueError("this registry sends its layers itself: see redirect_layers")
        return self._origin

    def attach(self, index: _Index) -> None:
        """Let in those whom ``index`` sends. Raises ValueError for one that stands alone."""
        if self._role != "registry":
            raise ValueError("a standalone registry has no index: give it the role 'registry'")
        self._index = self._tokens.verifier = index

    def end_sessions(self) -> None:
        """Forget all sessions: clients need their tokens again."""
        self._tokens.end_sessions()

    @property
    def endpoint(self) -> str:
        """The address of V1, with the slash at its end."""
        return f"{self.url}/v1/"

    # content, put and seen without going through HTTP

    def put_image(
        self,
        raw: bytes | Mapping[str, Any],
        layer: bytes | Content | None,
        *,
        image_id: str | None = None,
        ancestry: bytes | Sequence[str] | None = None,
        checksums: Sequence[str] | None = None,
        complete: bool = True,
        said: Mapping[str, str | None] | None = None,
    ) -> str:
        """Add an image as it is; returns its id. Nothing is checked, so that it may be broken.

        - ``raw``: its JSON, whose ``id`` it has unless ``image_id`` gives another.
        - ``layer``: any bytes; None: it has none.
        - ``ancestry``: ids, or the very bytes; else this id, and those of its parent.
        - ``checksums``: what its payload is said to have; else what it has.
        - ``complete``: False leaves it as a push that broke off does.
        - ``said``: headers that come with the JSON in place of what is so, such as X-Docker-Size
          or X-Docker-Checksum (which the original does not send); None: no such header.
        """
        data = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
        value = _object(data)
        name = image_id or value.get("id", "")
        if not is_image_id(name):
            raise ValueError(f"{name!r} is no id of an image: give image_id")
        content = BytesContent(layer) if isinstance(layer, bytes) else layer
        if ancestry is None:
            ancestry = [name, *self._above(value.get("parent"))]
        if not isinstance(ancestry, bytes):
            ancestry = json.dumps(list(ancestry)).encode()
        if checksums is None:
            checksums = () if content is None else (payload_sum(data, content),)
        image = StoredImage(
            id=name,
            raw=data,
            ancestry=ancestry,
            layer=content,
            checksums=tuple(checksums),
            complete=complete,
            said=said or {},
        )
        self._storage.put(image)
        return name

    def put_synthetic(
        self, raw: bytes | Mapping[str, Any], size: int, pattern: bytes = b"\0"
    ) -> str:
        """Add an image with a layer of ``size`` bytes of a repeated pattern, that takes no space.

        Its checksum is computed once, at about the speed of the hash. Also with a root, the
        layer is served only as long as this registry lives.
        """
        return self.put_image(raw, PatternContent(size, pattern))

    def put_layer(self, image_id: str, data: bytes) -> None:
        """Put other bytes in the place of an image's layer; what is said of it stays."""
        self._storage.put_layer(_checked_id(image_id), data)

    def put_tag(self, repository: str, tag: str, image_id: str) -> None:
        """Set a tag, and list the image's chain among those of the repository."""
        if not is_tag(tag):
            raise ValueError(f"{tag!r} is no tag")
        repository = full_name(repository)
        self._storage.put_tag(repository, tag, image_id)
        listed = [self._storage.listed(one) for one in self._storage.chain(image_id)]
        if self._index is not None:
            self._index.add_images(repository, listed)
        else:
            self._storage.merge_index_images(repository, listed)

    def repositories(self) -> list[str]:
        """All, with their namespaces."""
        return self._storage.repositories()

    def tags(self, repository: str) -> dict[str, str]:
        """The ids by the tags; empty if there is no such repository."""
        return self._storage.tags(full_name(repository))

    def image_ids(self) -> list[str]:
        return self._storage.image_ids()

    def image(self, image_id: str) -> StoredImage | None:
        """An image: its ``raw`` JSON, ``layer_bytes``, ``chain``, ``checksums``, ``complete``."""
        return self._storage.image(_checked_id(image_id))

    def delete_image(self, image_id: str) -> bool:
        """Take an image away, whatever is built on it. False if there was none."""
        return self._storage.delete(_checked_id(image_id))

    def index_images(self, repository: str) -> list[dict[str, Any]] | None:
        """What is listed of a repository's images, as id and checksum; None: no list."""
        return self._storage.index_images(full_name(repository))

    def describe(self, repository: str, **what: Any) -> None:
        """Say what the search shows of a repository; ``what`` is that of `Described`."""
        self._book.describe(full_name(repository), Described(**what))

    def _above(self, parent: object) -> list[str]:
        """The chain that a new image continues, as far as it is known."""
        known = isinstance(parent, str) and is_image_id(parent)
        return self._storage.chain(str(parent)) if known else []


def _object(raw: bytes) -> dict[str, Any]:
    """The JSON object in some bytes; an empty one where there is none."""
    try:
        data = json.loads(raw)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def _checked_id(image_id: str) -> str:
    if not is_image_id(image_id):
        raise ValueError(f"{image_id!r} is no id of an image")
    return image_id

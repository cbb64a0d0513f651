"""The registry as tests and demonstrations use it: started, filled, watched, disturbed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, Literal

from .access import ANONYMOUS, AccessPolicy, Grant
from .api import Api
from .blobs import BlobEndpoints
from .content import PatternContent, digest_content, read_all
from .directory import DirectoryStorage
from .exchange import Responder
from .faults import Fault
from .gate import AuthScheme, Gate
from .manifests import Deletes, ManifestEndpoints
from .memory import MemoryStorage
from .names import digest_of, is_digest, is_repository, is_tag
from .passwords import Passwords
from .requestlog import LoggedRequest
from .search import Described, SearchBook
from .server import Server, TLSFiles
from .storage import Storage, StoredManifest
from .tokens import TokenSigner
from .uploads import Uploads

__all__ = ["Registry", "TLSFiles"]

_SEARCH_FILE: Final = "search.json"


class Registry(Server):
    """A container registry on this machine. A context manager; `start` and `stop` do the same.

    - ``root``: the directory that holds the content; None: it is held in memory. A file
      ``search.json`` in it describes repositories for the search.
    - ``auth``: ``"basic"``, ``"token"`` (bearer tokens from ``/token``), or None: open. None
      with ``users`` or ``htpasswd`` means basic.
    - ``users``: names and passwords. ``htpasswd``: a file of more, bcrypt or {SHA}.
    - ``access``: what users may do, as `Grant` or in writing: ``"team/*"`` (everything) or
      ``"pull,push:team/*"``. A user who is not in it may do everything; ``""`` is anybody.
    - ``anonymous_pull``: nobody in particular may pull.
    - ``host``, ``port``: where to listen; 0: any free port. Only a loopback address, unless
      ``allow_remote``.
    - ``page_size``: the longest, and the usual, page of a list.
    - ``token_lifetime``: seconds; ``clock`` gives the Unix time by which tokens run out.
    - ``referrers``: whether there is the referrers API; ``referrer_filters``: whether it
      filters by artifact type.
    - ``deletes``: ``"all"``, ``"digests"`` (a tag alone cannot be deleted, as in Docker's
      registry before version 3) or ``"none"``.
    - ``conditions``: whether manifests have an ETag, and If-Match and If-None-Match are heeded.
    - ``any_type``: manifests of every media type are taken, those that are not known unseen.
    - ``absolute_locations``: Location headers are full addresses, not paths.
    - ``on_request``: called with each request that has ended, in its connection's thread.

    Thread-safe once started. Raises ValueError and OSError for what cannot be used.
    """

    def __init__(
        self,
        root: Path | str | None = None,
        *,
        auth: Literal["basic", "token"] | None = None,
        users: Mapping[str, str] | None = None,
        htpasswd: Path | str | None = None,
        access: Mapping[str, Iterable[Grant | str]] | None = None,
        anonymous_pull: bool = False,
        tls: TLSFiles | None = None,
        faults: Iterable[Fault | str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        allow_remote: bool = False,
        page_size: int = 1000,
        token_lifetime: float = 300.0,
        service: str = "registry.test",
        referrers: bool = True,
        referrer_filters: bool = True,
        deletes: Deletes = "all",
        conditions: bool = True,
        any_type: bool = False,
        absolute_locations: bool = False,
        clock: Callable[[], float] = time.time,
        on_request: Callable[[LoggedRequest], object] | None = None,
    ) -> None:
        if page_size < 1 or token_lifetime <= 0:
            raise ValueError("page_size is to be 1 or more, token_lifetime above 0 seconds")
        if deletes not in ("all", "digests", "none"):
            raise ValueError(f"deletes is 'all', 'digests' or 'none', not {deletes!r}")
        passwords = Passwords(users)
        if htpasswd is not None:
            passwords.read_htpasswd(Path(htpasswd))
        policy = AccessPolicy(access, anonymous_pull=anonymous_pull)
        scheme = _scheme(auth, passwords, policy)
        super().__init__(
            tls=tls,
            faults=faults,
            host=host,
            port=port,
            allow_remote=allow_remote,
            on_request=on_request,
        )
        self._book = SearchBook()
        self._signer = TokenSigner(clock)
        self._root = Path(root) if root is not None else None
        self._storage: Storage = MemoryStorage()
        if self._root is not None:
            if (self._root / _SEARCH_FILE).exists():
                self._book.read(self._root / _SEARCH_FILE)
            # The last thing that can fail: from here on the directory is locked.
            self._storage = DirectoryStorage(self._root)
        self._uploads = Uploads(self._storage)
        self._api = Api(
            storage=self._storage,
            gate=Gate(
                scheme=scheme,
                passwords=passwords,
                policy=policy,
                signer=self._signer,
                service=service,
                lifetime=token_lifetime,
            ),
            blobs=BlobEndpoints(
                storage=self._storage,
                uploads=self._uploads,
                absolute_locations=absolute_locations,
            ),
            manifests=ManifestEndpoints(
                storage=self._storage,
                referrers=referrers,
                filters=referrer_filters,
                deletes=deletes,
                conditions=conditions,
                page_size=page_size,
                any_type=any_type,
            ),
            book=self._book,
            page_size=page_size,
        )

    def _responder(self) -> Responder:
        return self._api

    def _release(self) -> None:
        self._uploads.close()
        self._storage.close()

    # content, put and seen without going through HTTP

    def put_blob(self, repository: str, data: bytes, *, algorithm: str = "sha256") -> str:
        """Add a blob. Returns its digest."""
        _check_repository(repository)
        digest = digest_of(data, algorithm)
        upload = self._storage.new_upload()
        try:
            upload.append(memoryview(data))
            upload.commit(repository, digest)
        finally:
            upload.discard()
        return digest

    def put_synthetic(self, repository: str, size: int, pattern: bytes = b"\0") -> str:
        """Add a blob of ``size`` bytes of a repeated pattern, which takes up no space.

        Its digest, which is returned, is computed once, at about the speed of the hash. Also
        with a root, the blob is served only as long as this registry lives.
        """
        _check_repository(repository)
        content = PatternContent(size, pattern)
        digest = digest_content(content)
        self._storage.put_content(repository, digest, content)
        return digest

    def put_manifest(
        self,
        repository: str,
        tag: str | None,
        raw: bytes,
        media_type: str,
        *,
        algorithm: str = "sha256",
        digest: str | None = None,
    ) -> str:
        """Add a manifest as it is, under a tag if one is given. Returns its digest.

        Nothing is checked, so that tests can have manifests that are broken, incomplete or of
        any media type. With ``digest`` the registry calls it that, whatever its bytes are, as
        registries do with signed manifests of schema 1.
        """
        _check_repository(repository)
        if tag is not None and not is_tag(tag):
            raise ValueError(f"{tag!r} is no tag")
        if digest is not None and not is_digest(digest):
            raise ValueError(f"{digest!r} is no sha256 or sha512 digest")
        digest = digest or digest_of(raw, algorithm)
        manifest = StoredManifest(raw=raw, media_type=media_type, digest=digest)
        self._storage.put_manifest(repository, manifest)
        if tag is not None:
            self._storage.put_tag(repository, tag, digest)
        return digest

    def repositories(self) -> list[str]:
        return self._storage.repositories()

    def tags(self, repository: str) -> list[str]:
        return self._storage.tags(repository)

    def manifest(self, repository: str, reference: str) -> StoredManifest | None:
        """The manifest of a tag or digest: its ``raw`` bytes, ``media_type`` and ``digest``."""
        digest: str | None = reference
        if not is_digest(reference):
            digest = self._storage.tag(repository, reference)
        return self._storage.manifest(repository, digest) if digest else None

    def has_blob(self, repository: str, digest: str) -> bool:
        return self._storage.blob(repository, digest) is not None

    def blob(self, repository: str, digest: str) -> bytes:
        """A blob's bytes, in memory. Raises KeyError if there is none."""
        content = self._storage.blob(repository, digest)
        if content is None:
            raise KeyError(f"no blob {digest} in {repository}")
        return read_all(content)

    def delete_blob(self, repository: str, digest: str) -> bool:
        """Take a blob away. False if there was none."""
        return self._storage.delete_blob(repository, digest)

    def describe(
        self,
        repository: str,
        *,
        description: str = "",
        star_count: int = 0,
        is_official: bool = False,
        is_automated: bool = False,
    ) -> None:
        """Say what the search shows of a repository, which need not exist."""
        described = Described(
            description=description,
            star_count=star_count,
            is_official=is_official,
            is_automated=is_automated,
        )
        self._book.describe(repository, described)

    # watching and disturbing

    @property
    def open_uploads(self) -> int:
        """How many uploads were opened and neither finished nor cancelled."""
        return len(self._uploads)

    @property
    def upload_sizes(self) -> list[int]:
        """How many bytes each of these has."""
        return self._uploads.sizes()

    def expire_tokens(self, *, refresh: bool = False) -> None:
        """End all access tokens given out so far; with ``refresh`` the refresh tokens too."""
        self._signer.expire_all("access")
        if refresh:
            self._signer.expire_all("refresh")


def _scheme(auth: str | None, passwords: Passwords, policy: AccessPolicy) -> AuthScheme | None:
    if auth not in (None, "basic", "token"):
        raise ValueError(f"auth is 'basic', 'token' or None, not {auth!r}")
    unknown = policy.users - passwords.names - {ANONYMOUS}
    if unknown:
        raise ValueError(f"access names users that there are not: {', '.join(sorted(unknown))}")
    if ANONYMOUS in policy.users and not policy.anonymous_pull:
        raise ValueError("access for anybody ('') needs anonymous_pull")
    if auth is None:
        if passwords.names:
            return AuthScheme.BASIC
        if policy.anonymous_pull or policy.users:
            raise ValueError("access rules and anonymous_pull need users, or auth")
        return None
    if not passwords.names and not policy.anonymous_pull:
        raise ValueError(f"auth {auth!r} needs users, an htpasswd file, or anonymous_pull")
    return AuthScheme(auth)


def _check_repository(repository: str) -> None:
    if not is_repository(repository):
        raise ValueError(f"{repository!r} is no name of a repository")

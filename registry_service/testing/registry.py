"""The registry as tests and demonstrations use it: started, filled, watched, disturbed."""

from __future__ import annotations

import dataclasses
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from .access import ANONYMOUS, AccessPolicy, Grant
from .api import Api
from .blobs import BlobEndpoints
from .connection import Services
from .content import PatternContent, digest_content
from .directory import DirectoryStorage
from .faults import Fault, FaultSet, FaultSwitch
from .gate import AuthScheme, Gate
from .holds import Hold, HoldSet
from .listener import Listener
from .manifests import Deletes, ManifestEndpoints
from .memory import MemoryStorage
from .names import digest_of, is_digest, is_repository, is_tag
from .passwords import Passwords
from .requestlog import LoggedRequest, RequestLog
from .search import Described, SearchBook
from .storage import Storage, StoredManifest
from .tokens import TokenSigner
from .uploads import Uploads

__all__ = ["Registry", "TLSFiles"]

_SEARCH_FILE: Final = "search.json"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TLSFiles:
    """PEM files: the server's certificate chain and key, and the CA of client certificates.

    With ``client_ca`` every client must show a certificate that this CA signed.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Raises ValueError that names the files when they cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self.cert, self.key)
        except OSError as error:
            raise ValueError(f"certificate {self.cert} with key {self.key}: {error}") from None
        if self.client_ca is not None:
            try:
                context.load_verify_locations(self.client_ca)
            except OSError as error:
                raise ValueError(f"client CA {self.client_ca}: {error}") from None
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Registry:
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
        self._bind = (host, port, allow_remote)
        self._tls = tls.context() if tls is not None else None
        self._faults = FaultSet(faults)
        self._holds = HoldSet()
        self._log = RequestLog(on_request)
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
        self._listener: Listener | None = None
        self._stopped = False
        self.host = ""
        self.port = 0

    # starting and ending

    def start(self) -> None:
        """Listen. A registry is started once. Raises OSError if the address is taken."""
        if self._listener is not None or self._stopped:
            raise RuntimeError("a registry is started once")
        sock = _bound(*self._bind)
        address = sock.getsockname()
        self.port = address[1]
        name = f"[{address[0]}]" if sock.family == socket.AF_INET6 else address[0]
        self.host = f"{name}:{self.port}"
        services = Services(
            api=self._api,
            faults=self._faults,
            holds=self._holds,
            log=self._log,
            host=self.host,
            tls=self._tls,
            draining=threading.Event(),
            stopping=threading.Event(),
        )
        self._listener = Listener(sock, services)
        self._listener.start()

    def stop(self, grace: float = 0.0) -> None:
        """End: requests under way have ``grace`` seconds. A second call does nothing."""
        if self._stopped:
            return
        self._stopped = True
        try:
            if self._listener is not None:
                self._listener.close(grace)
        finally:
            self._uploads.close()
            self._storage.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """``http(s)://HOST:PORT``, without a slash at the end. ``host`` is HOST:PORT."""
        return f"{'https' if self._tls is not None else 'http'}://{self.host}"

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
        data = bytearray()
        with content.open() as reader:
            while len(data) < content.size:
                data += reader.read_at(len(data), content.size - len(data))
        return bytes(data)

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
    def requests(self) -> list[LoggedRequest]:
        """The requests so far, each from before its answer's first byte was sent."""
        return self._log.entries()

    def clear_requests(self) -> None:
        self._log.clear()

    def wait_for(
        self, predicate: Callable[[list[LoggedRequest]], object], timeout: float = 10.0
    ) -> list[LoggedRequest]:
        """Wait until ``predicate`` of the requests is true. Raises TimeoutError."""
        return self._log.wait_for(predicate, timeout)

    @property
    def open_uploads(self) -> int:
        """How many uploads were opened and neither finished nor cancelled."""
        return len(self._uploads)

    @property
    def upload_sizes(self) -> list[int]:
        """How many bytes each of these has."""
        return self._uploads.sizes()

    def add_fault(self, fault: Fault | str) -> FaultSwitch:
        """Switch a fault on: a `Fault`, or one in writing. The answer switches it off again."""
        return self._faults.add(fault)

    def clear_faults(self) -> None:
        self._faults.clear()

    def hold(
        self,
        *,
        path: str | None = None,
        method: str | None = None,
        after: int | None = None,
        times: int | None = None,
    ) -> Hold:
        """Hold requests until released; see `HoldSet.add`."""
        return self._holds.add(path=path, method=method, after=after, times=times)

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


def _bound(host: str, port: int, allow_remote: bool) -> socket.socket:
    """A socket bound to an address. Raises ValueError for one that is not on loopback."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback and not allow_remote:
        raise ValueError(f"{host} is not a loopback address; serving others is to be allowed first")
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError:
        sock.close()
        raise
    return sock


def _check_repository(repository: str) -> None:
    if not is_repository(repository):
        raise ValueError(f"{repository!r} is no name of a repository")

"""TLS: which certificates a host is trusted by, and what went wrong when one is not.

A directory ``<host[:port]>`` under each of the configured roots holds ``*.crt``, further CA
roots for that host, and ``NAME.cert`` with ``NAME.key``, a client certificate.
"""

from __future__ import annotations

import contextlib
import dataclasses
import ssl
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import certifi

from .errors import SettingsError, TLSError
from .hosts import join_host_port

__all__ = ["CertificatePlaces", "HostCertificates", "Showing", "TLSContexts", "tls_error"]

_SUFFIXES = frozenset({".crt", ".cert", ".key"})
_KEY_LIMIT = 64 * 1024
_PREPARED = 10.0  # seconds; it takes some hundredths of one
# X509_V_ERR_… of OpenSSL's x509_vfy.h
_EXPIRED = frozenset({9, 10})
_UNKNOWN_CA = frozenset({2, 18, 19, 20, 21, 27})
_NAME = frozenset({62, 63, 64})
_PLAIN_HTTP = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "UNKNOWN_PROTOCOL"}
)
_CLIENT_CERTIFICATE = frozenset(
    {
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSL/TLS_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_UNKNOWN_CA",
    }
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostCertificates:
    """The files that count for one host: CA roots, and client certificates with their keys.

    ``stamp`` changes when one of the files does.
    """

    roots: tuple[Path, ...] = ()
    clients: tuple[tuple[Path, Path], ...] = ()
    stamp: tuple[tuple[str, int], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CertificatePlaces:
    """Where certificates lie: in a directory ``<host[:port]>`` under each of ``roots``, and in
    those that ``own`` says are for a host alone."""

    roots: tuple[Path, ...] = ()
    own: Callable[[str, int], Sequence[Path]] = lambda host, port: ()

    def shown(self, host: str, port: int) -> str:
        """Where a certificate for ``host`` can be put, for a person."""
        name = join_host_port(host, None if port == 443 else port)
        places = [*self.own(host, port), *(root / name for root in self.roots)]
        return " or ".join(map(str, places)) or "a configured certs.d directory"

    def find(self, host: str, port: int) -> HostCertificates:
        """The certificates for ``host``.

        A directory with the port counts for that port, one without it for 443 only, as in
        references. Raises `SettingsError` for half a pair, and for what cannot be read.
        """
        names = [join_host_port(host, port)]
        if port == 443:
            names.append(join_host_port(host, None))
        found = HostCertificates()
        for directory in (
            *self.own(host, port),
            *(root / name for root in self.roots for name in names),
        ):
            try:
                files = sorted(directory.iterdir())
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise _unreadable(directory, error) from None
            found = _added(found, files)
        return found


def _added(found: HostCertificates, files: Sequence[Path]) -> HostCertificates:
    """``found``, and what the files of one directory are."""
    present = set(files)
    roots, clients, stamp = list(found.roots), list(found.clients), list(found.stamp)
    for file in files:
        if file.suffix not in _SUFFIXES:
            continue
        try:
            stamp.append((str(file), file.stat().st_mtime_ns))
        except OSError as error:  # a link to nothing, say
            raise _unreadable(file, error) from None
        if file.suffix == ".crt":
            roots.append(file)
            continue
        other = file.with_suffix(".key" if file.suffix == ".cert" else ".cert")
        if other not in present:
            raise SettingsError("certs_dirs", f"{file} is there but not {other}")
        if file.suffix == ".cert":
            clients.append((file, other))
    return HostCertificates(roots=tuple(roots), clients=tuple(clients), stamp=tuple(stamp))


def _unreadable(path: Path, error: OSError) -> SettingsError:
    return SettingsError("certs_dirs", f"{path} cannot be read: {error.strerror}")


@dataclasses.dataclass(slots=True)
class Showing:
    """Which of a host's client certificates one request shows, and which were refused before.

    Of several the next is shown where one is refused: by the end of the handshake, by 403, or by
    5xx as long as the server has taken none. A server that took one and fails has other troubles,
    as has one that asks for a pause; so had one that answers 5xx to one and 403 to all others, and
    that one is gone back to.
    """

    shown: Path | None = None
    taken: bool = False  # the server has answered well to the one that is shown
    others: bool = False  # there are others that were not refused
    refused: list[Path] = dataclasses.field(default_factory=list)
    failed: Path | None = None  # the first of them that was answered 5xx

    def next_after_error(self, error: Exception) -> bool:
        """Whether to show another, after a request that brought ``error``."""
        refused = isinstance(error, TLSError) and error.reason == "client-certificate"
        return refused and (self._next() or self._back())

    def next_after_status(self, status: int, *, paused: bool, idempotent: bool) -> bool:
        """Whether to show another, after an answer; ``paused`` where it asks for a pause."""
        if status == 403:
            return self._next() or self._back()
        if status < 500 or not idempotent or self.taken or paused:
            return False
        if self.others:
            self.failed = self.failed or self.shown
        return self._next()

    def _next(self) -> bool:
        if self.shown is not None and self.others:
            self.refused.append(self.shown)
            return True
        return False

    def _back(self) -> bool:
        """Show once more what was answered 5xx, now that all others are refused."""
        if self.shown is None or self.failed is None:
            return False
        self.refused = [one for one in (*self.refused, self.shown) if one != self.failed]
        self.failed = None
        return True


@dataclasses.dataclass(slots=True)
class _Made:
    """The contexts of one host, by the client certificate; the one of None shows none."""

    found: HostCertificates
    contexts: dict[Path | None, ssl.SSLContext]
    taken: Path | None = None

    @classmethod
    def of(cls, found: HostCertificates) -> _Made:
        # all of them now: one that cannot be used is to be known before it is needed
        contexts: dict[Path | None, ssl.SSLContext] = {
            client[0]: _context(found.roots, client) for client in found.clients
        }
        return cls(found=found, contexts=contexts or {None: _context(found.roots)})

    def choose(self, showing: Showing) -> ssl.SSLContext:
        left = [one for one in self.contexts if one not in showing.refused]
        of = left or list(self.contexts)
        showing.shown = self.taken if self.taken in of else of[0]
        showing.taken = showing.shown is not None and showing.shown == self.taken
        showing.others = len(left) > 1
        return self.contexts[showing.shown]


class TLSContexts:
    """The contexts for each host, made again when its certificate files change.

    Thread-safe: one lock guards the table. A context that is in use is never changed.
    """

    def __init__(self, places: CertificatePlaces) -> None:
        self._places = places
        self._lock = threading.Lock()
        self._preparing: threading.Thread | None = None
        self._common: ssl.SSLContext | None = None
        self._made: dict[tuple[str, int], _Made] = {}

    def prepare(self) -> None:
        """Load the system's roots now, in a thread that ends with that.

        They take longer than many a pull, and whoever needs them first would wait.
        """
        self._preparing = threading.Thread(target=self._prepare, name="tls-roots", daemon=True)
        self._preparing.start()

    def close(self) -> None:
        """Wait for what `prepare` began: a process that ended in the middle of it would take
        the library away from under it, and crash."""
        if self._preparing is not None:
            self._preparing.join(_PREPARED)

    def get(self, host: str, port: int, showing: Showing | None = None) -> ssl.SSLContext:
        """The context for ``host``, with the client certificate that it took last, else the first
        that ``showing`` has not as refused; ``showing`` says then which it is.

        Raises `SettingsError` for files that cannot be used.
        """
        found = self._places.find(host, port)
        with self._lock:
            if not found.stamp:
                return self._roots()
            made = self._made.get((host, port))
            if made is None or made.found != found:
                made = self._made[host, port] = _Made.of(found)
            return made.choose(showing or Showing())

    def answered(self, host: str, port: int, showing: Showing, status: int) -> None:
        """The server's answer came: a client certificate that it took is the first from now on."""
        if showing.shown is None or status == 403 or status >= 500:
            return
        with self._lock:
            made = self._made.get((host, port))
            if made is not None and showing.shown in made.contexts:
                made.taken = showing.shown

    def _prepare(self) -> None:
        with self._lock, contextlib.suppress(OSError):  # who needs them will see it too
            self._roots()

    def _roots(self) -> ssl.SSLContext:
        """The context of hosts without files of their own. The lock is held."""
        if self._common is None:
            self._common = _default_context()
        return self._common


def _default_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    if not (paths.cafile or paths.capath):
        # A system without a store of roots, as a small container is.
        context.load_verify_locations(certifi.where())
    return context


def _context(roots: Sequence[Path], client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    context = _default_context()
    for root in roots:
        try:
            context.load_verify_locations(root)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError("certs_dirs", f"{root} is no PEM certificate: {error}") from None
    if client is not None:
        certificate, key = client
        try:
            # The empty password keeps OpenSSL from asking for one at the terminal.
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                "certs_dirs",
                f"{certificate} with {key} is no client certificate that can be used: "
                f"{_unusable(key, error)}",
            ) from None
    return context


def _unusable(key: Path, error: OSError) -> str:
    if not isinstance(error, ssl.SSLError):
        return error.strerror or type(error).__name__
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key belongs to another certificate"
    with contextlib.suppress(OSError), key.open("rb") as file:
        if b"ENCRYPTED" in file.read(_KEY_LIMIT):
            return "the key is encrypted, and there is nobody to ask for its password"
    return f"PEM is expected in both ({_reason(error)})"


def tls_error(error: ssl.SSLError, host: str, port: int, places: CertificatePlaces) -> TLSError:
    """``error`` in words that say what was wrong and what to do."""
    where = join_host_port(host, port)
    said = (getattr(error, "verify_message", None) or _reason(error)).rstrip(".")
    code = getattr(error, "verify_code", None)
    kind = (error.reason or "").upper()
    reason, text = "handshake", f"the TLS handshake failed ({said})"
    if code in _UNKNOWN_CA:
        reason = "unknown-ca"
        text = (
            f"the server's certificate is signed by an unknown authority ({said}); put the "
            f"authority's certificate as ca.crt into {places.shown(host, port)}"
        )
    elif code in _NAME:
        reason = "name"
        text = (
            f"the server's certificate is for another name ({said}); use the name that it was "
            "issued for"
        )
    elif code in _EXPIRED:
        reason = "expired"
        text = (
            f"the server's certificate is not valid at this time ({said}); have it renewed, and "
            "see that this machine's clock is right"
        )
    elif kind in _PLAIN_HTTP:
        reason = "plain-http"
        text = (
            "the server does not speak TLS but, it seems, plain http; if that is wanted, add the "
            "host to insecure_hosts, or insecure = true to its section of registries.toml"
        )
    elif kind in _CLIENT_CERTIFICATE:
        reason = "client-certificate"
        text = _of_client(said, host, port, places)
    return TLSError(f"{where}: {text}", host=where, reason=reason)


def _of_client(said: str, host: str, port: int, places: CertificatePlaces) -> str:
    clients: Sequence[tuple[Path, Path]] = ()
    with contextlib.suppress(SettingsError):  # they have changed since
        clients = places.find(host, port).clients
    if clients:
        which = " and ".join(str(certificate) for certificate, _ in clients)
        one = "certificate" if len(clients) == 1 else "certificates"
        return (
            f"the server refused the client {one} {which} ({said}); see that it is still valid, "
            "and signed by an authority that the server trusts"
        )
    return (
        f"the server wants a client certificate, and there is none ({said}); put it as "
        f"client.cert, and its key as client.key, into {places.shown(host, port)}"
    )


def _reason(error: ssl.SSLError) -> str:
    if error.reason:
        return error.reason.replace("_", " ").lower()
    return error.strerror or type(error).__name__

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

__all__ = ["HostCertificates", "TLSContexts", "find_certificates", "tls_error"]

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


def find_certificates(
    dirs: Sequence[Path], host: str, port: int, own: Sequence[Path] = ()
) -> HostCertificates:
    """The certificates for ``host`` in the directories ``own``, and under the roots ``dirs``.

    A directory with the port counts for that port, one without it for 443 only, as in
    references. Raises `SettingsError` for half a pair and for a directory that cannot be read.
    """
    names = [join_host_port(host, port)]
    if port == 443:
        names.append(join_host_port(host, None))
    roots: list[Path] = []
    clients: list[tuple[Path, Path]] = []
    stamp: list[tuple[str, int]] = []
    for directory in (*own, *(root / name for root in dirs for name in names)):
        try:
            files = sorted(directory.iterdir())
            stamp.extend((str(file), file.stat().st_mtime_ns) for file in files)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise SettingsError(
                "certs_dirs", f"{directory} cannot be read: {error.strerror}"
            ) from None
        present = set(files)
        for file in files:
            if file.suffix == ".crt":
                roots.append(file)
            elif file.suffix == ".cert":
                key = file.with_suffix(".key")
                if key not in present:
                    raise SettingsError("certs_dirs", f"{file} is there but not {key}")
                clients.append((file, key))
            elif file.suffix == ".key" and file.with_suffix(".cert") not in present:
                raise SettingsError(
                    "certs_dirs", f"{file} is there but not {file.with_suffix('.cert')}"
                )
    return HostCertificates(roots=tuple(roots), clients=tuple(clients), stamp=tuple(stamp))


class TLSContexts:
    """One context for each host, made again when its certificate files change. ``own`` says
    which directories are for a host alone.

    Thread-safe: one lock guards the table. A context that is in use is never changed.
    """

    def __init__(
        self,
        dirs: Sequence[Path],
        *,
        own: Callable[[str, int], Sequence[Path]] = lambda host, port: (),
    ) -> None:
        self._dirs = tuple(dirs)
        self._own = own
        self._lock = threading.Lock()
        self._preparing: threading.Thread | None = None
        self._common: ssl.SSLContext | None = None
        self._made: dict[tuple[str, int], tuple[HostCertificates, ssl.SSLContext]] = {}

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

    def get(self, host: str, port: int) -> ssl.SSLContext:
        """The context for ``host``. Raises `SettingsError` for files that cannot be used."""
        found = find_certificates(self._dirs, host, port, self._own(host, port))
        with self._lock:
            if not found.stamp:
                return self._roots()
            kept = self._made.get((host, port))
            if kept is None or kept[0] != found:
                kept = (found, _context(found))
                self._made[host, port] = kept
            return kept[1]

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


def _context(certificates: HostCertificates) -> ssl.SSLContext:
    context = _default_context()
    for root in certificates.roots:
        try:
            context.load_verify_locations(root)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError("certs_dirs", f"{root} is no PEM certificate: {error}") from None
    for certificate, key in certificates.clients[:1]:
        try:
            # The empty password keeps OpenSSL from asking for one at the terminal.
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                "certs_dirs",
                f"{certificate} with {key} is no client certificate that can be used: {error}",
            ) from None
    return context


def tls_error(error: ssl.SSLError, *, host: str, port: int, dirs: Sequence[Path] = ()) -> TLSError:
    """``error`` in words that say what was wrong and what to do."""
    where = join_host_port(host, port)
    name = join_host_port(host, None if port == 443 else port)
    places = " or ".join(str(root / name) for root in dirs) or "a configured certs.d directory"
    code = getattr(error, "verify_code", None)
    said = getattr(error, "verify_message", None) or _reason(error)
    if code in _UNKNOWN_CA:
        return TLSError(
            f"{where}: the server's certificate is signed by an unknown authority ({said}); "
            f"put the authority's certificate as ca.crt into {places}",
            host=where,
            reason="unknown-ca",
        )
    if code in _NAME:
        return TLSError(
            f"{where}: the server's certificate is for another name ({said}); use the name "
            "that it was issued for",
            host=where,
            reason="name",
        )
    if code in _EXPIRED:
        return TLSError(
            f"{where}: the server's certificate is not valid at this time ({said}); have it "
            "renewed, and see that this machine's clock is right",
            host=where,
            reason="expired",
        )
    if (error.reason or "").upper() in _PLAIN_HTTP:
        return TLSError(
            f"{where}: the server does not speak TLS but, it seems, plain http; if that is "
            "wanted, add the host to insecure_hosts",
            host=where,
            reason="plain-http",
        )
    if (error.reason or "").upper() in _CLIENT_CERTIFICATE:
        return TLSError(
            f"{where}: the server wants a client certificate, or refused the one it got "
            f"({said}); put client.cert and client.key into {places}",
            host=where,
            reason="client-certificate",
        )
    return TLSError(f"{where}: the TLS handshake failed ({said})", host=where)


def _reason(error: ssl.SSLError) -> str:
    if error.reason:
        return error.reason.replace("_", " ").lower()
    return error.strerror or type(error).__name__

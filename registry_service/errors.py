"""Everything the registry library raises.

::

    RegistryError                        the root: code, status, retryable
    ├── InvalidReferenceError            a reference that breaks the grammar (2)
    │   └── InvalidRepositoryNameError   its repository name does, or it carries a scheme (2)
    ├── InvalidDigestError               a malformed digest, or one of an unknown algorithm
    │   └── InvalidTarSumError           a malformed TarSum, or one of an unknown version
    ├── PlatformError                    a platform that an image does not have
    │   └── InvalidPlatformError         one that is malformed (2)
    ├── ManifestError                    a document that is no manifest, or of a kind not supported
    ├── ArchiveError                     a file that is no image archive, or one that is refused
    │   ├── LayerError                   V1: a layer that is damaged, or no tar archive
    │   └── TarError                     a stream that is no tar, is cut off, or is refused
    ├── DigestMismatchError              bytes that are not the ones their digest names
    ├── StoreError                       the store cannot do what was asked
    │   ├── DiskFullError                no space is left for it
    │   └── GoneError                    what was relied on was removed meanwhile
    ├── SettingsError                    configuration or environment that cannot be used (2)
    ├── CredentialsError                 credentials in a form that cannot be read (2)
    │   └── ConfigFileMissingError       a credentials file was named and is not there (2)
    ├── CredentialStoreError             a credentials file or helper does not do what was asked
    ├── LoginRequiredError               401 after every way to authenticate was tried
    ├── RegistryHTTPError                an error answer: its status, method, URL, words
    │   ├── DoesNotExistError            404 for a manifest, tag list, blob or image
    │   └── AlreadyExistsError           V1: the server has the image already
    ├── ProtocolError                    an answer that breaks the registry protocol
    ├── ConnectionBrokenError            the connection ended before the answer did
    │   └── RegistryTimeoutError         the server was silent for longer than is allowed
    ├── UnreachableRegistryError         no registry answers at the host
    │   ├── ProxyError                   the proxy on the way to it does not let through
    │   └── TLSError                     the TLS connection cannot be made or trusted
    └── CancelledError                   the caller cancelled (130)

``code`` is a stable word, ``status`` an exit status (a plain number, as the engine's), and
``retryable`` says whether the same request can succeed later. No text of an error carries a
secret: URLs are shown without user information and with the values of secret query
parameters replaced (`show_url`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

__all__ = [
    "AlreadyExistsError",
    "ArchiveError",
    "CancelledError",
    "ConfigFileMissingError",
    "ConnectionBrokenError",
    "CredentialStoreError",
    "CredentialsError",
    "DigestMismatchError",
    "DiskFullError",
    "DoesNotExistError",
    "GoneError",
    "InvalidDigestError",
    "InvalidPlatformError",
    "InvalidReferenceError",
    "InvalidRepositoryNameError",
    "InvalidTarSumError",
    "LayerError",
    "LoginRequiredError",
    "ManifestError",
    "PlatformError",
    "ProtocolError",
    "ProxyError",
    "RegistryError",
    "RegistryHTTPError",
    "RegistryTimeoutError",
    "ServerError",
    "SettingsError",
    "StoreError",
    "TLSError",
    "TarError",
    "UnreachableRegistryError",
    "show_url",
]

_ERROR = 1
_USAGE = 2
_CANCELLED = 130

# What may stand readable in a query: names of content, never keys or signatures.
_OPEN_PARAMETERS = frozenset(
    {"digest", "from", "last", "mount", "n", "ns", "page", "q", "scope", "service", "tag"}
)


_SHOWN_URL = 1000  # characters


def show_url(url: str) -> str:
    """``url`` as it may be shown: no user information, no fragment, and of its query only
    the values that name content. A presigned URL keeps its parameters' names. What a terminal
    could obey is %-escaped, and what a server makes too long to read is cut off."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        query = "&".join(
            f"{name}={value}" if name in _OPEN_PARAMETERS else f"{name}=…"
            for name, value in parse_qsl(parts.query, keep_blank_values=True)
        )
    except ValueError:
        return "(a malformed URL)"
    shown = urlunsplit((parts.scheme, host, parts.path, query, ""))
    cut = shown[: _SHOWN_URL + 1]
    shown = "".join(one if one.isprintable() else quote(one, errors="replace") for one in cut)
    return shown if len(shown) <= _SHOWN_URL else f"{shown[:_SHOWN_URL]}…"


class RegistryError(Exception):
    """The root. ``code`` is a stable word, ``status`` an exit status, ``retryable`` a hint."""

    code = "registry"
    status = _ERROR
    retryable = False

    def __init__(
        self, message: str, *, code: str | None = None, retryable: bool | None = None
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        if retryable is not None:
            self.retryable = retryable


class InvalidReferenceError(RegistryError):
    code = "invalid-reference"
    status = _USAGE


class InvalidRepositoryNameError(InvalidReferenceError):
    code = "invalid-repository-name"


class InvalidDigestError(RegistryError):
    code = "invalid-digest"


class InvalidTarSumError(InvalidDigestError):
    code = "invalid-tarsum"


class PlatformError(RegistryError):
    code = "platform"


class InvalidPlatformError(PlatformError):
    code = "invalid-platform"
    status = _USAGE


class ManifestError(RegistryError):
    code = "manifest"


class ArchiveError(RegistryError):
    """A file that is no image archive, is damaged, or has what an archive must not have.
    ``status`` may be given: 2 for a wrong path, 126 for a place that is not allowed."""

    code = "archive"

    def __init__(self, message: str, *, code: str | None = None, status: int | None = None) -> None:
        super().__init__(message, code=code)
        if status is not None:
            self.status = status


class LayerError(ArchiveError):
    """A layer that is damaged, or no tar archive. A retry can help, as where a digest is another:
    nothing else tells what was spoiled on its way."""

    code = "layer"
    retryable = True


class TarError(ArchiveError):
    """A stream that is no tar archive, that is damaged or cut off, or that has more than is
    allowed. Places are bytes of the archive before compression."""

    code = "tar"


class DigestMismatchError(RegistryError):
    """Bytes that are not the ones their digest names. A retry can help: another fetch may
    bring the right ones. ``expected`` and ``actual`` are digests in text; ``size`` counts the
    bytes that were seen, where that is known."""

    code = "digest-mismatch"
    retryable = True

    def __init__(
        self, message: str, *, expected: str = "", actual: str = "", size: int | None = None
    ) -> None:
        super().__init__(message)
        self.expected = expected
        self.actual = actual
        self.size = size


class StoreError(RegistryError):
    code = "store"


class DiskFullError(StoreError):
    """No space is left. ``path`` is where it was needed, ``needed`` how many bytes were."""

    code = "disk-full"

    def __init__(self, message: str, *, path: str = "", needed: int | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.needed = needed


class GoneError(StoreError):
    """Content that was relied on was removed meanwhile; ``digests`` are in text. To bring it
    again helps."""

    code = "gone"
    retryable = True

    def __init__(self, message: str, *, digests: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.digests = tuple(digests)


class SettingsError(RegistryError):
    """A value of the configuration that cannot be used. ``key`` names it; ``file`` is the file
    that it stands in, where that is one of the library's own. The status is that of a program
    that is started with it; in a job it is that of an error."""

    code = "configuration"
    status = _USAGE

    def __init__(self, key: str, problem: str, *, file: str = "") -> None:
        super().__init__(": ".join(part for part in (file, key, problem) if part))
        self.key = key
        self.problem = problem
        self.file = file


class CredentialsError(RegistryError):
    code = "credentials"
    status = _USAGE


class ConfigFileMissingError(CredentialsError):
    code = "config-file-missing"


class CredentialStoreError(RegistryError):
    """A credentials file that cannot be read or written, or a helper program that is missing
    or fails. ``where`` is the file or the program."""

    code = "credential-store"

    def __init__(self, message: str, *, where: str = "") -> None:
        super().__init__(message)
        self.where = where


class LoginRequiredError(RegistryError):
    """401 after every way to authenticate was tried. ``host`` is the registry, ``username``
    the name that was refused, or empty where there were no credentials."""

    code = "login-required"

    def __init__(self, message: str, *, host: str = "", username: str = "") -> None:
        super().__init__(message)
        self.host = host
        self.username = username


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerError:
    """One entry of a server's error body: its code and message, as it gave them."""

    code: str = ""
    message: str = ""
    detail: str = ""

    def __str__(self) -> str:
        text = f"{self.code}: {self.message}" if self.code and self.message else ""
        text = text or self.code or self.message
        return f"{text} ({self.detail})" if self.detail else text


class RegistryHTTPError(RegistryError):
    """An answer that is an error.

    ``http_status`` is the answer's, ``method`` and ``url`` the request's (the URL as
    `show_url` gives it), ``errors`` what the server's body says, ``retry_after`` the seconds
    that it asks to wait, or None.
    """

    code = "http"

    def __init__(
        self,
        *,
        http_status: int,
        method: str,
        url: str,
        errors: Sequence[ServerError] = (),
        reason: str = "",
        retry_after: float | None = None,
        hint: str = "",
    ) -> None:
        shown = show_url(url)
        said = "; ".join(text for error in errors if (text := str(error)))
        answer = f"{http_status} {reason}".strip()
        super().__init__(
            f"{method} {shown}: the registry answered {answer}"
            + (f": {said}" if said else "")
            + (f" ({hint})" if hint else ""),
            code=f"http-{http_status}" if type(self) is RegistryHTTPError else None,
            retryable=http_status in (408, 425, 429, 500, 502, 503, 504),
        )
        self.http_status = http_status
        self.method = method
        self.url = shown
        self.errors = tuple(errors)
        self.retry_after = retry_after

    def has(self, *codes: str) -> bool:
        """Whether the server's body names one of these error codes."""
        return any(error.code in codes for error in self.errors)


class DoesNotExistError(RegistryHTTPError):
    """404 for a manifest, tag list, blob or image. ``what`` names it."""

    code = "does-not-exist"

    def __init__(
        self,
        what: str,
        *,
        http_status: int = 404,
        method: str = "GET",
        url: str = "",
        errors: Sequence[ServerError] = (),
    ) -> None:
        super().__init__(http_status=http_status, method=method, url=url, errors=errors)
        self.what = what
        said = "; ".join(text for error in errors if (text := str(error)))
        self.args = (f"{what} does not exist" + (f" ({said})" if said else ""),)
        self.retryable = False


class AlreadyExistsError(RegistryHTTPError):
    code = "already-exists"


class ProtocolError(RegistryError):
    code = "registry-protocol"


class ConnectionBrokenError(RegistryError):
    code = "connection-broken"
    retryable = True


class RegistryTimeoutError(ConnectionBrokenError):
    code = "timeout"


class UnreachableRegistryError(RegistryError):
    """No registry answers. ``host`` is where, ``tried`` each thing that was tried and what
    came of it."""

    code = "registry-unreachable"
    retryable = True

    def __init__(self, message: str, *, host: str = "", tried: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.host = host
        self.tried = tuple(tried)


class ProxyError(UnreachableRegistryError):
    """The proxy cannot be reached, or does not let the request through. No text shows its
    credentials."""

    code = "proxy"


class TLSError(UnreachableRegistryError):
    """The TLS connection cannot be made or trusted. ``reason`` is one word: ``unknown-ca``,
    ``name``, ``expired``, ``client-certificate``, ``plain-http`` (instead of TLS), ``plain-https``
    (TLS instead of plain http) or ``handshake``."""

    code = "tls"
    retryable = False

    def __init__(self, message: str, *, host: str = "", reason: str = "handshake") -> None:
        super().__init__(message, host=host)
        self.reason = reason


class CancelledError(RegistryError):
    code = "cancelled"
    status = _CANCELLED

    def __init__(self, message: str = "cancelled") -> None:
        super().__init__(message)

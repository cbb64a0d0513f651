"""Blobs that a registry need not have: fetched from the URLs that their descriptor names.

A manifest can name any URL, and whoever pulls it asks there. So nothing goes along that says who
asks: no credentials, no headers of the caller's. Refused are plain http to hosts that it is not
allowed with, and addresses behind this side's router where the registry is not there itself; a
redirect is held to the same. The bytes are verified by whoever reads them, as all are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from ..cancel import Cancellation
from ..descriptor import Descriptor
from ..errors import ProtocolError, RegistryError, show_url
from ..hosts import is_private_literal, origin
from ..observe import Observer
from ..settings import RegistrySettings
from ..transport import Response, Transport
from ..urls import follow
from .answers import is_whole
from .blob import RemoteBlob, range_start

__all__ = ["check_url", "open_foreign"]

_REDIRECTS: Final = 10
_MOST: Final = 16  # URLs of one descriptor that are asked


def check_url(url: str, registry: str, settings: RegistrySettings) -> str:
    """``url``, if a blob may be fetched from it for an image of ``registry`` (a URL too).

    Raises `ProtocolError`.
    """
    shown = show_url(url)
    try:
        scheme, host, port = origin(url)
    except ValueError as error:
        raise ProtocolError(f"{shown}: {error}") from None
    own = origin(registry)[1]
    if urlsplit(url).username is not None:
        raise ProtocolError(f"{shown}: a URL with credentials in it is refused")
    if scheme == "http" and not settings.may_be_insecure(host, port):
        raise ProtocolError(f"{shown}: plain http is refused; it is allowed by insecure_hosts")
    if is_private_literal(host) and host != own and not is_private_literal(own):
        raise ProtocolError(f"{shown}: an address of a private network is refused")
    return url


def open_foreign(
    descriptor: Descriptor,
    offset: int,
    *,
    transport: Transport,
    registry: str,
    cancel: Cancellation,
    observer: Observer,
) -> RemoteBlob:
    """The blob from ``offset`` on, or from 0 as the result's own says, from the first of its
    URLs that has it.

    Raises the failure of the only URL, or `RegistryError` that names each; `CancelledError`.
    """
    asking = _Asking(transport, registry, cancel, observer)
    failures: list[RegistryError] = []
    for url in descriptor.urls[:_MOST]:
        try:
            return asking.open(url, offset, descriptor.size)
        except RegistryError as error:
            cancel.check()
            observer.log("info", f"{descriptor.digest}: {error}")
            failures.append(error)
    if len(failures) == 1:
        raise failures[0]
    raise RegistryError(
        f"{descriptor.digest} is neither in the registry nor at the URLs of its descriptor: "
        + "; ".join(map(str, failures)),
        code="foreign",
        retryable=any(failure.retryable for failure in failures),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Asking:
    transport: Transport
    registry: str
    cancel: Cancellation
    observer: Observer

    def open(self, url: str, offset: int, size: int) -> RemoteBlob:
        part = {"Range": f"bytes={offset}-"} if 0 < offset < size else {}
        for headers in (part, {}) if part else ({},):
            response = self.get(url, headers)
            if response.status == 206:
                begin = offset if headers else 0
                start = range_start(response.headers.get("Content-Range"))
                if start == begin and (headers or is_whole(response)):
                    return RemoteBlob(response, begin)
            elif response.status == 200:
                return RemoteBlob(response, 0)
            elif response.status != 416:
                raise response.error()
            response.close()
        raise ProtocolError(f"{show_url(url)}: not the part of the blob came that was asked for")

    def get(self, url: str, headers: Mapping[str, str]) -> Response:
        """The answer, after redirects, each of which may lead where the URL itself might have."""
        settings = self.transport.settings
        for _ in range(_REDIRECTS + 1):
            check_url(url, self.registry, settings)
            response = self.transport.request(
                "GET",
                url,
                headers=headers,
                cancel=self.cancel,
                observer=self.observer,
                redirects=False,
            )
            location = response.headers.get("Location")
            if response.status not in (301, 302, 303, 307, 308) or not location:
                return response
            response.close()
            what = f"GET {show_url(url)}"
            url = follow(url, location, what, may_be_insecure=settings.may_be_insecure)
        raise ProtocolError(f"{show_url(url)}: more than {_REDIRECTS} redirects")

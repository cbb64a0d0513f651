"""Where layers are sent to be fetched: another server, as before a storage service."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from typing import Final

from ..exchange import Exchange, Responder
from ..faults import Fault
from ..message import Response
from ..ranges import RangeOutsideError, ranged
from ..requestlog import LoggedRequest
from ..server import Server, TLSFiles
from .message import V1Error
from .storage import V1Storage

__all__ = ["LayerOrigin"]

_PATH: Final = re.compile(r"/layers/([a-f0-9]+)")
_CREDENTIALS: Final = ("authorization", "cookie", "x-docker-token")


class LayerOrigin(Server):
    """Serves the layers of a registry at signed addresses. Who sends credentials is refused."""

    def __init__(
        self,
        storage: V1Storage,
        *,
        tls: TLSFiles | None,
        faults: Iterable[Fault | str] = (),
        host: str = "127.0.0.1",
        allow_remote: bool = False,
        on_request: Callable[[LoggedRequest], object] | None = None,
    ) -> None:
        super().__init__(
            tls=tls,
            faults=faults,
            host=host,
            port=0,
            allow_remote=allow_remote,
            on_request=on_request,
        )
        self._api = _OriginApi(storage)

    def _responder(self) -> Responder:
        return self._api

    def _release(self) -> None:
        """It holds nothing of its own."""

    def address(self, image_id: str) -> str:
        """Where a layer is to be had."""
        return f"{self.url}/layers/{image_id}?signature={self._api.sign(image_id)}"


class _OriginApi:
    def __init__(self, storage: V1Storage) -> None:
        self._storage = storage
        self._key = secrets.token_bytes(32)

    def sign(self, image_id: str) -> str:
        return hmac.digest(self._key, image_id.encode(), "sha256").hex()

    def respond(self, exchange: Exchange) -> Response:
        try:
            return self._layer(exchange)
        except V1Error as error:
            return error.response()

    def refusal(
        self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> Response:
        return V1Error(message, status, headers).response()

    def _layer(self, exchange: Exchange) -> Response:
        request = exchange.request
        given = [name for name in _CREDENTIALS if name in request.headers]
        if given:
            raise V1Error(f"Only one kind of credentials is taken here, and {given[0]} is another")
        match = _PATH.fullmatch(request.path)
        if match is None or request.method not in ("GET", "HEAD"):
            raise V1Error("Not found", 404)
        signature = request.argument("signature") or ""
        if not hmac.compare_digest(signature.encode(), self.sign(match[1]).encode()):
            raise V1Error("The signature does not match", 403)
        layer = self._storage.layer(match[1])
        if layer is None:
            raise V1Error("Not found", 404)
        try:
            return ranged(exchange, layer, (("Content-Type", "application/octet-stream"),))
        except RangeOutsideError as error:
            raise V1Error("Not satisfiable", 416, error.headers) from None

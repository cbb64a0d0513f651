"""What an index is asked for, and what it is told: the images of a repository, the registries
that have them, and the tokens for those."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Final

from ...constants import APIVersion
from ...errors import ProtocolError, show_url
from ...transport import Response
from ...v1.image import JSON_LIMIT
from ...v1.values import ImgData, RepositoryData
from ..answers import absent
from .answers import LIST_LIMIT, failure, read_images
from .names import checked, endpoints_of, repository_url
from .sender import Sender

__all__ = ["Index"]

_TOKEN: Final = {"X-Docker-Token": "true"}
_MOST_TOKENS: Final = 64
_LONGEST: Final = 8192  # characters of a token


class Index:
    """The index of one client; thread-safe."""

    def __init__(self, sender: Sender) -> None:
        self._sender = sender
        self._home = sender.endpoint.version_string(APIVersion.V1)

    def repository_data(self, repository: str) -> RepositoryData:
        """What the index says of a repository. Raises `DoesNotExistError`."""
        with self._sender.send(
            "GET",
            repository_url(self._home, repository, "images"),
            index=True,
            headers={"Accept": "application/json", **_TOKEN},
            whole=LIST_LIMIT,
        ) as response:
            if response.status == 404:
                raise absent(response, f"repository {self._sender.endpoint.host}/{repository}")
            if response.status != 200:
                raise response.error()
            # without any endpoint, the index has a registry beside it
            endpoints = self._endpoints(response) or (self._home,)
            return RepositoryData.of(read_images(response), endpoints, _tokens(response))

    def put(
        self,
        repository: str,
        images: Iterable[ImgData],
        validate: bool,
        registries: Sequence[str],
    ) -> RepositoryData:
        """Tell the index of a repository's images: first that they will come, then, to
        ``validate``, that they are at ``registries``, with their checksums. The first answer
        names registries and gives tokens, without which `ProtocolError` is raised."""
        listed = [one.to_json() for one in images if one.checksum or not validate]
        headers = {"Content-Type": "application/json", "Accept": "application/json", **_TOKEN}
        if validate:
            headers["X-Docker-Endpoints"] = ", ".join(map(checked, registries))
        with self._sender.send(
            "PUT",
            repository_url(self._home, repository, "images" if validate else ""),
            index=True,
            headers=headers,
            body=json.dumps(listed, separators=(",", ":")).encode(),
            idempotent=True,
            resend=True,
            whole=JSON_LIMIT,
        ) as response:
            if response.status not in ((204,) if validate else (200, 201)):
                raise failure(response)
            tokens, endpoints = _tokens(response), self._endpoints(response)
            for found, what in ((tokens, "token"), (endpoints, "registry")):
                if not validate and not found:
                    raise ProtocolError(
                        f"{response.method} {show_url(response.url)}: the index gives no {what} "
                        "to send the images with"
                    )
            return RepositoryData(endpoints=endpoints, tokens=tokens)

    def _endpoints(self, response: Response) -> tuple[str, ...]:
        settings = self._sender.transport.settings
        return endpoints_of(response, self._home, settings.may_be_insecure)


def _tokens(response: Response) -> tuple[str, ...]:
    found = tuple(filter(None, map(str.strip, response.header_values("X-Docker-Token"))))
    if len(found) > _MOST_TOKENS or any(len(one) > _LONGEST for one in found):
        raise ProtocolError(
            f"{show_url(response.url)}: the index gives too many tokens, or too long"
        )
    return found

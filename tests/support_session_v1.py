"""Sessions of V1, and an index with registries for them."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from registry_service import (
    AuthConfig,
    Endpoint,
    HTTPRequestFactory,
    ImgData,
    RegistrySettings,
    Session,
)
from registry_service.testing.v1 import V1Index, V1Registry, images

ANN = AuthConfig(username="ann", password="open sesame")
CHAIN = images.random_chain(seed=9, length=3, files=12, file_size=40_000)
BASE, MIDDLE, TOP = CHAIN.images
OTHER = images.random_id("nobody's")
FAST = RegistrySettings(retries=3, retry_wait_max=0.01)


@contextmanager
def session(
    host: str,
    auth: AuthConfig | None = None,
    *,
    settings: RegistrySettings = FAST,
    factory: HTTPRequestFactory | None = None,
    **options: Any,
) -> Iterator[Session]:
    with (
        Endpoint.discover(f"{host}/v1/", settings=settings) as endpoint,
        Session(auth, factory, endpoint, **options) as made,
    ):
        yield made


class Hub:
    """An index with two registries, of which the first is down."""

    def __init__(self, **options: Any) -> None:
        self.registry = V1Registry(role="registry", **options.pop("registry", {}))
        self._held = socket.socket()  # a port that refuses, and that nobody else gets
        self._held.bind(("127.0.0.1", 0))
        down = f"127.0.0.1:{self._held.getsockname()[1]}"
        self.down = f"http://{down}/v1/"
        self.index = V1Index(
            registries=[down, self.registry], accounts={"ann": "open sesame"}, **options
        )

    def __enter__(self) -> Hub:
        self.registry.start()
        self.index.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.index.stop()
        self.registry.stop()
        self._held.close()


def push(made: Session, repository: str, where: str | None = None) -> None:
    """The whole chain, in the order of the protocol, to one registry."""
    listed = [ImgData(id=image.id) for image in CHAIN.images]
    granted = made.push_image_json_index(repository, listed, False)
    registry, token = where or granted.endpoints[0], granted.tokens
    said = []
    for image in CHAIN.images:
        made.push_image_json_registry(ImgData(id=image.id), image.raw, registry, token)
        checksum, payload = made.push_image_layer_registry(
            image.id, io.BytesIO(image.layer), registry, token, image.raw
        )
        said.append(ImgData(id=image.id, checksum=checksum, checksum_payload=payload))
        made.push_image_checksum_registry(said[-1], registry, token)
    made.push_registry_tag(repository, TOP.id, "1.0", registry, token)
    made.push_image_json_index(repository, said, True, [registry])


def pull(made: Session, repository: str, where: str | None = None) -> list[bytes]:
    """The layers of the tag 1.0, the lowest first."""
    data = made.get_repository_data(repository)
    tags = made.get_remote_tags(data.endpoints, repository, data.tokens)
    registry, token = where or data.endpoints[0], data.tokens
    found = []
    for image_id in reversed(made.get_remote_history(tags["1.0"], registry, token)):
        _, size = made.get_remote_image_json(image_id, registry, token)
        with made.get_remote_image_layer(image_id, registry, token, size) as layer:
            found.append(layer.read())
    return found


LAYERS = [image.layer for image in CHAIN.images]

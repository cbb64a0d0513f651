"""A V1 client, and servers that answer it as a test says."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from scripted import Authority, Request, Scripted, scripted

from registry_service.constants import APIVersion
from registry_service.credentials import AuthConfig
from registry_service.endpoint import Endpoint, RegistryInfo
from registry_service.session.v1.client import V1Client
from registry_service.settings import RegistrySettings
from registry_service.transport import Transport

LAYER = random.Random(1).randbytes(600_000)
IDS = [f"{number:064x}" for number in range(1, 6)]
TOKEN = ('signature=abc,repository="library/app",access=read',)
ANN = AuthConfig(username="ann", password="open sesame")
FAST = RegistrySettings(retries=2, retry_wait_max=0.01)

Handler = Callable[[Request], None]
Answers = Mapping[str, Any]


@contextmanager
def client(
    url: str,
    auth: AuthConfig | None = None,
    *,
    standalone: bool = True,
    settings: RegistrySettings = FAST,
    sleeps: list[float] | None = None,
    **options: Any,
) -> Iterator[V1Client]:
    """A client of the server at ``url``, which writes down how long it would have slept."""
    waits = sleeps if sleeps is not None else []
    with Transport(settings, sleep=lambda seconds, cancel: waits.append(seconds)) as transport:
        endpoint = Endpoint(
            url=f"{url}/",
            version=APIVersion.V1,
            transport=transport,
            info=RegistryInfo(standalone=standalone),
        )
        with V1Client(endpoint, transport, auth, **options) as made:
            yield made


@contextmanager
def serving(answers: Answers, authority: Authority | None = None) -> Iterator[Scripted]:
    """A server with an answer for each path: a body, (status, body, headers), or a handler."""

    def handler(request: Request) -> None:
        answer = answers.get(request.path)
        if answer is None:
            request.answer(404, {"error": "Not found"})
        elif callable(answer):
            answer(request)
        else:
            status, body, headers = answer if isinstance(answer, tuple) else (200, answer, {})
            if isinstance(body, list):
                body = json.dumps(body)
            request.answer(status, body, headers)

    with scripted(handler, authority) as server:
        yield server


def headers_of(server: Scripted, path: str) -> list[dict[str, str]]:
    return [headers for _, where, headers in server.requests if where == path]


def v1(server: Scripted) -> str:
    return f"{server.url}/v1/"


def image(which: int = 0, **more: Any) -> dict[str, Any]:
    return {"id": IDS[which], **more}


LIST = "/v1/repositories/library/app/images"
TAGS = "/v1/repositories/library/app/tags"
JSON = f"/v1/images/{IDS[0]}/json"
ANCESTRY = f"/v1/images/{IDS[0]}/ancestry"
LAYER_PATH = f"/v1/images/{IDS[0]}/layer"
GRANTED = {"X-Docker-Token": list(TOKEN), "X-Docker-Endpoints": "127.0.0.1:5"}

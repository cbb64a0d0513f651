"""Servers that say back what they were told: nobody else gets to read it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import Request, scripted
from support_v1_client import IDS, client, v1

from registry_service.auth import Authenticator
from registry_service.credentials import AuthConfig
from registry_service.endpoint import Endpoint
from registry_service.errors import RegistryError
from registry_service.headers import HTTPRequestFactory
from registry_service.observe import Observer
from registry_service.session.v2 import V2Client
from registry_service.settings import RegistrySettings
from registry_service.transport import Transport
from registry_service.transport.veil import Veil
from registry_service.v1.values import ImgData

V2 = {"Docker-Distribution-Api-Version": "registry/2.0"}
PASSWORD, TOKEN, META = "pl4nted-passw0rd", "pl4nted-t0ken", "pl4nted-m3ta"
IDENTITY = "pl4nted-1dentity"


@pytest.fixture
def transport() -> Iterator[Transport]:
    with Transport(RegistrySettings(retries=1, retry_wait_max=0.1)) as transport:
        yield transport


def echo(request: Request, status: int, **headers: str) -> None:
    """Everything that came, in each form in which an answer can say something."""
    given = " ".join([*request.headers.values(), request.read_body().decode(), PASSWORD])
    error = {"code": given[:300], "message": given, "detail": {"said": given}}
    request.answer(
        status,
        {"errors": [error], "details": given},
        {**V2, "Warning": f'299 - "{given}"', **headers},
    )


def told(transport: Transport, url: str, auth: AuthConfig) -> str:
    lines: list[str] = []

    def log(level: str, text: str, /, **fields: Any) -> None:
        lines.append(f"{level} {text} {fields}")

    observer = Observer(log=log)
    endpoint = Endpoint.discover(url, transport=transport, observer=observer)
    client = V2Client(
        endpoint,
        transport,
        Authenticator(endpoint, transport, auth),
        headers={"X-Meta-Key": (META,)},
        observer=observer,
    )
    with pytest.raises(RegistryError) as caught:
        client.get_manifest("a/b", "1")
    return "\n".join([str(caught.value), *lines])


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 503])
@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_a_registry_that_says_back_what_it_was_told(
    transport: Transport, status: int, scheme: str
) -> None:
    def handler(request: Request) -> None:
        if request.path.startswith("/token"):
            request.answer(body={"token": TOKEN})
        elif "Authorization" in request.headers:
            echo(request, status)
        else:
            echo(request, 401, **{"WWW-Authenticate": f'{scheme} realm="/token"'})

    auth = AuthConfig(username="ann", password=PASSWORD)
    with scripted(handler) as server:
        shown = told(transport, server.url, auth)
    # the password itself is not the registry's to know where there are tokens
    for secret in (TOKEN, META, auth.basic, *([PASSWORD] if scheme == "Basic" else [])):
        assert secret not in shown
    assert "***" in shown or (scheme, status) == ("Basic", 401)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
@pytest.mark.parametrize(
    "auth",
    [
        AuthConfig(username="ann", password=PASSWORD),
        AuthConfig(username="ann", identity_token=IDENTITY),
    ],
    ids=["password", "identity token"],
)
def test_a_token_server_that_says_back_what_it_was_told(
    transport: Transport, status: int, auth: AuthConfig
) -> None:
    def handler(request: Request) -> None:
        if request.path.startswith("/token"):
            given = f"{request.headers.get('Authorization')} {request.read_body().decode()}"
            body = parse_qs(given.partition(" ")[2])
            request.answer(status, {"details": f"bad {given} {body.get('refresh_token')}"})
        else:
            request.answer(401, headers={**V2, "WWW-Authenticate": 'Bearer realm="/token"'})

    with scripted(handler) as server:
        shown = told(transport, server.url, auth)
    assert AuthConfig(username="ann", password=PASSWORD).basic not in shown
    if auth.identity_token:
        assert IDENTITY not in shown
    assert "***" in shown or "bad" not in shown


@pytest.mark.parametrize(
    "body",
    [
        "%s",
        '{"id": "%s"}',
        '["%s"]',
        '{"%s": "x"}',
        '{"1.0": "%s"}',
        '[{"id": "%s"}]',
    ],
)
@pytest.mark.parametrize("secret", [META, TOKEN])
def test_a_v1_registry_whose_documents_say_back_what_it_was_told(body: str, secret: str) -> None:
    def handler(request: Request) -> None:
        request.answer(body=body % secret, headers={"X-Docker-Endpoints": f"{META}/no"})

    assert not told_of_v1(handler, secret)


@pytest.mark.parametrize(
    "raw",
    [
        b"%b\r\n\r\n",
        b"HTTP/1.1 %b\r\n\r\n",
        b"HTTP/1.1 400 %b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: %b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: %b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n%b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b\r\n",
        b"HTTP/1.1 200 OK\r\nX-Docker-Endpoints: %b\r\n\r\n[]",
        b"HTTP/1.1 307 Away\r\nLocation: ftp://%b/\r\n\r\n",
        b"HTTP/1.1 307 Away\r\nLocation: http://[%b]/\r\n\r\n",
    ],
)
def test_a_v1_registry_whose_answers_say_back_what_it_was_told(raw: bytes) -> None:
    def handler(request: Request) -> None:
        request.wfile.write(raw % META.encode())
        request.drop()

    assert not told_of_v1(handler, META)


def told_of_v1(handler: Callable[[Request], None], secret: str) -> list[str]:
    """Those errors and remarks that show the secret."""
    lines: list[str] = []

    def log(level: str, text: str, /, **fields: Any) -> None:
        lines.append(f"{level} {text} {fields}")

    factory = HTTPRequestFactory({"X-Meta-Key": [META]})
    with (
        scripted(handler) as server,
        client(server.url, factory=factory, observer=Observer(log=log)) as made,
    ):
        where, token, image = v1(server), (TOKEN,), IDS[0]
        verbs: list[Callable[[], object]] = [
            lambda: made.remote_tags([where], "app", token),
            lambda: made.ancestry(image, where, token),
            lambda: made.image_json(image, where, token),
            lambda: made.open_layer(image, where, token).close(),
            lambda: made.put_json(ImgData(id=image), b"{}", where, token),
        ]
        if secret == META:  # the token is not the index's to know
            verbs.append(lambda: made.repository_data("app"))
        for verb in verbs:
            try:
                verb()
            except RegistryError as error:
                lines.append(str(error))
    assert lines
    return [line for line in lines if secret in line]


@given(
    st.text(st.characters(blacklist_categories=["Cs"]), min_size=4, max_size=40),
    st.text(st.characters(blacklist_categories=["Cs"]), max_size=40),
)
def test_no_text_shows_a_password_or_its_header(password: str, around: str) -> None:
    auth = AuthConfig(username="ann", password=password)
    header = auth.basic
    veil = Veil(headers={"Authorization": header, "Accept": "application/json"})
    shown = veil.hide(f"{around} {password} {header} {header.partition(' ')[2]} {around}")
    assert header.partition(" ")[2] not in shown
    assert password not in shown.replace("***", "") or password in around or "*" in password
    assert repr(veil) == "Veil()"


def test_what_is_no_secret_stays() -> None:
    headers: dict[str, Any] = {"User-Agent": "me/1", "Range": "bytes=0-", "Accept": "text/plain"}
    text = "me/1 asks for bytes=0- as text/plain: repository:a:pull, ann"
    veil = Veil(headers=headers, form=b"scope=repository%3Aa%3Apull&username=ann&password=s3cr3t")
    assert veil.hide(f"{text} s3cr3t") == f"{text} ***"


@pytest.mark.parametrize("said", ['pl4nted-"passw0rd"', r"pl4nted-\"passw0rd\""])
def test_a_body_of_json_shows_its_password_in_no_form(said: str) -> None:
    account = {"username": "ann", "email": "ann@example.org", "password": 'pl4nted-"passw0rd"'}
    veil = Veil(form=json.dumps({**account, "age": 7}).encode())
    assert veil.hide(f"ann ann@example.org {said}") == "ann ann@example.org ***"


def test_a_flag_and_a_checksum_hide_no_word_of_an_answer() -> None:
    sums = {"X-Docker-Checksum": "tarsum+sha256:aa", "X-Docker-Checksum-Payload": "sha256:bb"}
    veil = Veil(headers={"X-Docker-Token": "true", "X-Docker-Endpoints": "r.example", **sums})
    text = "true: r.example wants tarsum+sha256:aa and sha256:bb"
    assert veil.hide(text) == text


def test_a_signature_and_the_value_of_a_cookie_are_hidden_where_they_stand_alone() -> None:
    token = 'Token signature=pl4nted1,repository="team/app",access=read,Token signature="pl4nted2"'
    veil = Veil(headers={"Authorization": token, "Cookie": "session=pl4nted3; theme=pl4nted4"})
    told = "pl4nted1 and pl4nted2 for team/app to read, of session pl4nted3 with pl4nted4"
    assert veil.hide(told) == "*** and *** for team/app to read, of session *** with ***"
    assert veil.hide(f"{token}!") == "***!"

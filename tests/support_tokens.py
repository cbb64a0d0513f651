"""A token server as Debian's docker-registry wants one, and a front that counts what passes.

The tokens are JSON Web Tokens (RFC 7519) signed with RS256, whose header holds the certificate
that the registry was told to trust.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import http.client
import http.server
import json
import math
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

__all__ = ["Asked", "Front", "Passed", "TokenServer", "counting_front", "token_server"]

ISSUER, SERVICE = "the test's own", "registry.test"
_LEEWAY = 60  # seconds for which docker-registry takes a token after its end


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request for a token, as the token server read it. ``status`` is what it answered."""

    method: str
    grant: str  # "password" by GET with basic too, "refresh_token", or "" for nobody
    user: str
    scopes: tuple[str, ...]
    status: int


class TokenServer:
    """``users`` are passwords by user; ``access`` what each may do: actions by repository, the
    user ``""`` being everybody. ``lives`` is for how many seconds docker-registry takes the next
    tokens, all others being good for long; ``told`` what is said of that (None: nothing).
    ``methods`` are those that it knows. With ``context`` it speaks TLS."""

    def __init__(
        self,
        place: Path,
        *,
        users: Mapping[str, str],
        access: Mapping[str, Mapping[str, str]],
        told: int | None = 300,
        methods: tuple[str, ...] = ("GET", "POST"),
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.users, self.access = dict(users), access
        self.lives: list[float] = []
        self.told, self.methods = told, methods
        self.identities = {f"identity-of-{user}-0123456789": user for user in users}
        self.bundle = place / "tokens.crt"
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._certificate = _self_signed(self._key)
        self.bundle.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))
        self._lock = threading.Lock()
        self._asked: list[Asked] = []
        self._server = _serve(_tokens(self), context)
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.realm = f"{'http' if context is None else 'https'}://{self.host}/token"

    @property
    def asked(self) -> list[Asked]:
        with self._lock:
            return list(self._asked)

    @property
    def settings(self) -> dict[str, Any]:
        """The section ``auth`` of docker-registry's configuration."""
        return {
            "token": {
                "realm": self.realm,
                "service": SERVICE,
                "issuer": ISSUER,
                "rootcertbundle": str(self.bundle),
            }
        }

    def note(self, asked: Asked) -> None:
        with self._lock:
            self._asked.append(asked)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def token(self, user: str, scopes: tuple[str, ...]) -> str:
        """A token for as much of ``scopes`` as ``user`` may."""
        access = []
        for scope in scopes:
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            may = {**self.access.get("", {}), **self.access.get(user, {})}.get(name, "").split(",")
            granted = [action for action in actions.split(",") if action in may]
            access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time())
        with self._lock:
            life = self.lives.pop(0) if self.lives else 3600
        certificate = self._certificate.public_bytes(serialization.Encoding.DER)
        head = {"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(certificate).decode()]}
        claims = {
            "iss": ISSUER,
            "sub": user,
            "aud": SERVICE,
            "iat": now,
            "nbf": now - 3600,
            "exp": math.ceil(time.time() + life) - _LEEWAY,
            "jti": f"{user}-{time.monotonic_ns()}",
            "access": access,
        }
        signed = f"{_base64(json.dumps(head).encode())}.{_base64(json.dumps(claims).encode())}"
        signature = self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64(signature)}"


def _tokens(owner: TokenServer) -> type[http.server.BaseHTTPRequestHandler]:
    class Tokens(_Handler):
        def do_GET(self) -> None:
            fields = parse_qsl(urlsplit(self.path).query)
            given = self.headers.get("Authorization", "")
            user = password = ""
            if given.startswith("Basic "):
                user, _, password = base64.b64decode(given[6:]).decode().partition(":")
            who = self._user(password, user) if given else ""
            self._answer("GET", "password" if given else "", who, fields)

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            fields = parse_qsl(self.rfile.read(length).decode())
            form = dict(fields)
            grant = form.get("grant_type", "")
            who = None
            if grant == "password":
                who = self._user(form.get("password", ""), form.get("username", ""))
            elif grant == "refresh_token":
                who = owner.identities.get(form.get("refresh_token", ""))
            self._answer("POST", grant, who, fields)

        def _user(self, password: str, user: str) -> str | None:
            known = owner.users.get(user) == password or owner.identities.get(password) == user
            return user if known else None

        def _answer(
            self, method: str, grant: str, user: str | None, fields: list[tuple[str, str]]
        ) -> None:
            scopes = tuple(
                scope for key, value in fields if key == "scope" for scope in value.split()
            )
            body: dict[str, Any] = {"details": "wrong user name or password"}
            status = 401
            if method not in owner.methods:
                status, body = 405, {"details": "no such method"}
            elif user is not None and ("service", SERVICE) in fields:
                status, body = 200, {"access_token": owner.token(user, scopes)}
                if method == "GET":
                    body["token"] = body["access_token"]
                if owner.told is not None:
                    body["expires_in"] = owner.told
                form = dict(fields)
                if "offline_token" in form or form.get("access_type") == "offline":
                    (body["refresh_token"],) = (k for k, v in owner.identities.items() if v == user)
            owner.note(
                Asked(method=method, grant=grant, user=user or "", scopes=scopes, status=status)
            )
            self.reply(status, json.dumps(body).encode(), {"Content-Type": "application/json"})

    return Tokens


@contextlib.contextmanager
def token_server(place: Path, **options: Any) -> Iterator[TokenServer]:
    """A token server; ``options`` are those of `TokenServer`."""
    made = TokenServer(place, **options)
    try:
        yield made
    finally:
        made.close()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """A request that went through a front: bytes ``sent`` in its body, bytes ``got`` in that of
    the answer."""

    method: str
    path: str
    status: int
    sent: int
    got: int
    authorization: str


class Front:
    """Stands before a registry at ``behind`` and lists what passes. ``before`` sees each request
    (method, path, Authorization) before the registry does, and may wait."""

    def __init__(self, behind: str) -> None:
        self.behind = behind
        self.before: Callable[[str, str, str], object] = lambda method, path, given: None
        self._lock = threading.Lock()
        self._passed: list[Passed] = []
        self._server = _serve(_passing(self))
        self.host = f"127.0.0.1:{self._server.server_port}"

    @property
    def passed(self) -> list[Passed]:
        with self._lock:
            return list(self._passed)

    def note(self, passed: Passed) -> None:
        with self._lock:
            self._passed.append(passed)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait_for_the_end_of(self, authorization: str) -> None:
        """Come back when the registry takes ``authorization`` no more."""
        pause = threading.Event()
        for _ in range(600):
            with contextlib.closing(self.connection()) as server:
                server.request("GET", "/v2/", headers={"Authorization": authorization})
                if server.getresponse().status == 401:
                    return
            pause.wait(0.1)
        raise AssertionError("the token does not end")

    def connection(self) -> http.client.HTTPConnection:
        host, _, port = self.behind.partition(":")
        return http.client.HTTPConnection(host, int(port), timeout=60)


def _passing(owner: Front) -> type[http.server.BaseHTTPRequestHandler]:
    class Passing(_Handler):
        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            given = self.headers.get("Authorization", "")
            owner.before(self.command, self.path, given)
            # Go's clients send Accept once for each type
            fields = {n: ", ".join(self.headers.get_all(n, [])) for n in self.headers}
            with contextlib.closing(owner.connection()) as server:
                server.request(self.command, self.path, body, fields)
                answer = server.getresponse()
                raw = answer.read()
            owner.note(
                Passed(
                    method=self.command,
                    path=self.path,
                    status=answer.status,
                    sent=len(body),
                    got=len(raw),
                    authorization=given,
                )
            )
            hop = ("connection", "content-length", "transfer-encoding", "date", "server")
            kept = {n: v for n, v in answer.getheaders() if n.lower() not in hop}
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.reply(answer.status, raw, kept, length=length)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("do_"):  # http.server looks one up for each method
                return self.pass_on
            raise AttributeError(name)

    return Passing


@contextlib.contextmanager
def counting_front(behind: str) -> Iterator[Front]:
    made = Front(behind)
    try:
        yield made
    finally:
        made.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are written apart

    def log_message(self, format: str, *args: Any) -> None:
        return None

    def reply(
        self, status: int, body: bytes, headers: Mapping[str, str], *, length: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        return None  # a client that went away


def _serve(
    handler: type[http.server.BaseHTTPRequestHandler], context: ssl.SSLContext | None = None
) -> _Server:
    server = _Server(("127.0.0.1", 0), handler)
    if context is not None:  # the handshake is for the thread of each connection
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def _self_signed(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tokens")])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

"""Login: whether a registry accepts credentials. Nothing is stored."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

from ..cancel import Cancellation
from ..credentials import AuthConfig
from ..errors import CancelledError, InvalidReferenceError, LoginRequiredError, RegistryError
from ..headers import HTTPRequestFactory
from ..hosts import PUBLIC_REGISTRY, registry_host
from ..observe import Observer
from .access import Access, Registries, host_of
from .v1.login import SUCCEEDED, login_v1
from .versions import Client, V1Client, needs_v2

__all__ = ["LoginResult", "login"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LoginResult:
    """``status`` is the line that tells a person; ``identity_token`` what the server handed
    out in place of the password, or empty."""

    status: str
    identity_token: str = dataclasses.field(default="", repr=False)


def login(
    auth_config: AuthConfig,
    request_factory: HTTPRequestFactory | None = None,
    *,
    registries: Registries | None = None,
    cancel: Cancellation | None = None,
    observer: Observer | None = None,
    offline: bool = False,
) -> LoginResult:
    """Check credentials against the registry that they name, or else the index. At a registry or
    index of V1, an account that is not there is made: `login_v1`.

    ``registries`` are the connections to use; without them, this call makes its own. With
    ``offline`` the registry's token server is asked for an identity token, to be kept in place
    of the password. It comes with the result only if the server takes it.

    Raises `LoginRequiredError` for credentials that are refused, or that are missing where
    the registry wants some (anonymous access is no login).
    """
    with contextlib.ExitStack() as leaving:
        if registries is None:
            registries = Registries()
            leaving.callback(registries.close)
        return _login(
            auth_config,
            registries,
            request_factory or HTTPRequestFactory(),
            cancel or Cancellation(),
            observer or Observer(),
            offline,
        )


def _login(
    auth: AuthConfig,
    registries: Registries,
    factory: HTTPRequestFactory,
    cancel: Cancellation,
    observer: Observer,
    offline: bool,
) -> LoginResult:
    address = auth.server_address or registries.settings.index_server
    host = host_of(address)

    def connect(auth: AuthConfig, offline: bool) -> Client:
        return registries.client(
            _where(address, host),
            Access(auth=auth, own=False, headers=factory.headers),
            cancel=cancel,
            observer=observer,
            fresh=True,
            offline=offline,
        )

    client = connect(auth, offline)
    if isinstance(client, V1Client):
        return LoginResult(status=login_v1(client.endpoint, auth, factory, cancel, observer))
    if auth.empty and client.endpoint.challenges:
        raise LoginRequiredError(
            f"{host} asks for a login: give a user name and a password", host=host
        )
    client.ping()
    if not client.endpoint.challenges:
        return LoginResult(status=f"{SUCCEEDED}: {host} asks for no credentials")
    identity = client.identity_token
    if identity and not _taken(lambda: _ping(connect(_by_token(auth, identity), False))):
        observer.log(
            "warning", f"{host} hands out an identity token that it refuses; it was dropped"
        )
        identity = ""
    return LoginResult(status=SUCCEEDED, identity_token=identity)


def _by_token(auth: AuthConfig, identity: str) -> AuthConfig:
    return dataclasses.replace(auth, auth="", password="", identity_token=identity)


def _ping(client: Client) -> None:
    needs_v2(client, "which has no identity tokens", "log in again").ping()


def _taken(attempt: Callable[[], object]) -> bool:
    """Whether what was handed out is good for anything; some servers' tokens are not."""
    try:
        attempt()
    except CancelledError:
        raise
    except RegistryError:
        return False
    return True


def _where(address: str, host: str) -> str:
    """``host``, with the scheme and the version of an address that has them. Of the public
    index's they are left out: what is kept of old logins is its address of V1.

    Raises `InvalidReferenceError` for an address with any other path.
    """
    scheme, mark, rest = address.strip().rpartition("://")
    version = rest.partition("/")[2].strip("/").lower()
    if version not in ("", "v1", "v2"):
        raise InvalidReferenceError(
            f"{host}: after the host of a registry's address comes nothing, /v1/ or /v2/"
        )
    if registry_host(host) == PUBLIC_REGISTRY:
        return host
    return f"{scheme}{mark}{host}" + (f"/{version}/" if version else "")

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.credentials import AuthConfig
from registry_service.errors import CredentialsError

SECRET = "s3cr3t-Passw0rd"


def _pair(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_json_names_and_native_maps_mean_the_same() -> None:
    document = {
        "username": "me",
        "password": SECRET,
        "email": "me@example.org",
        "serveraddress": "r.example",
        "identitytoken": "it",
        "registrytoken": "rt",
    }
    found = AuthConfig.from_json(json.dumps(document))
    assert found == AuthConfig.from_json(document)
    assert (found.username, found.password, found.server_address) == ("me", SECRET, "r.example")
    assert found.to_json() == document


def test_auth_stands_for_user_and_password() -> None:
    found = AuthConfig.from_json({"auth": _pair(f"me:{SECRET}:with:colons")})
    assert (found.username, found.password) == ("me", f"{SECRET}:with:colons")


def test_given_names_count_before_auth() -> None:
    found = AuthConfig(username="you", password="p", auth=_pair("me:x"))
    assert (found.username, found.password) == ("you", "p")


def test_the_token_user_means_an_identity_token() -> None:
    found = AuthConfig(username="<token>", password="it")
    assert (found.username, found.password, found.identity_token) == ("", "", "it")
    assert found.basic == ""


@pytest.mark.parametrize("nothing", [None, "", "  ", "{}", "null", {}])
def test_nothing_is_the_empty_config(nothing: object) -> None:
    assert AuthConfig.from_json(nothing).empty  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{not json", "not JSON"),
        ("[1]", "not a JSON map"),
        ({"password": 5}, "password: a string"),
        ({"auth": "***"}, "auth: not base64"),
        ({"auth": _pair("nocolon")}, "auth: .*no ':'"),
        ({"username": "a:b"}, "username"),
    ],
)
def test_errors_name_the_field(value: object, words: str) -> None:
    with pytest.raises(CredentialsError, match=words) as caught:
        AuthConfig.from_json(value)  # type: ignore[arg-type]
    assert caught.value.status == 2


def test_an_error_shows_nothing_of_what_was_given() -> None:
    for bad in (f'{{"password": "{SECRET}"', {"auth": SECRET}):
        with pytest.raises(CredentialsError) as caught:
            AuthConfig.from_json(bad)
        assert SECRET not in str(caught.value)


HEADER = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8)


@given(st.text(min_size=8), st.text(min_size=8), HEADER, st.text(min_size=8))
def test_no_repr_shows_a_secret(password: str, identity: str, registry: str, username: str) -> None:
    config = AuthConfig(
        username=username.replace(":", ""),
        password=f"pw-{password}",
        identity_token=f"it-{identity}",
        registry_token=f"rt-{registry}",
    )
    for shown in (repr(config), str(config)):
        assert "pw-" not in shown.replace(repr(config.username), "")
        assert "it-" not in shown.replace(repr(config.username), "")
        assert "rt-" not in shown.replace(repr(config.username), "")


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://ann:pl4nted@registry.example/v1/", "https://registry.example/v1/"),
        ("ann:pl4nted@registry.example:5000", "registry.example:5000"),
        ("registry.example", "registry.example"),
        ("https://index.docker.io/v1/", "https://index.docker.io/v1/"),
    ],
)
def test_a_repr_shows_the_server_without_a_user(address: str, shown: str) -> None:
    config = AuthConfig(username="ann", server_address=address)
    assert repr(config) == f"AuthConfig(username='ann', server_address={shown!r})"


def test_basic_is_the_header() -> None:
    assert AuthConfig(username="Aladdin", password="open sesame").basic == (
        "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
    )
    assert AuthConfig().basic == ""


@given(
    st.text(st.characters(exclude_characters=":", exclude_categories=["Cs"]), min_size=1),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
)
def test_auth_round_trip(username: str, password: str) -> None:
    found = AuthConfig(auth=_pair(f"{username}:{password}"))
    if username != "<token>":
        assert (found.username, found.password) == (username, password)

"""Credentials files: their forms, what is kept of them, and how they are written."""

from __future__ import annotations

import base64
import dataclasses
import ipaddress
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.constants import INDEXSERVER
from registry_service.credentials import AuthConfig
from registry_service.errors import (
    ConfigFileMissingError,
    CredentialsError,
    CredentialStoreError,
)
from registry_service.hostrules import host_key
from registry_service.hosts import one_form
from registry_service.keychain import CONFIGFILE, ConfigFile, load_config, save_config
from registry_service.keychain.config_file import locked
from registry_service.keychain.forms import Content, Form, parse, render
from registry_service.keychain.keys import host_of_key, key_of, matches
from registry_service.operations.access import host_of
from registry_service.reference import Reference

SECRET = "s3cr3t-Passw0rd"

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
names = texts.filter(lambda text: ":" not in text and text != "<token>")
keys = st.from_regex(r"[a-z]{1,8}\.[a-z]{2,3}(:[1-9][0-9]{1,3})?(/[a-z]{1,5}){0,2}", fullmatch=True)
configs = st.builds(AuthConfig, username=names, password=texts, email=texts, identity_token=texts)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def pair(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write(path: Path, document: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    path.chmod(0o600)
    return path


# the forms


@given(st.dictionaries(keys, configs, max_size=4), st.sampled_from(Form))
def test_what_is_rendered_is_parsed_again(entries: dict[str, AuthConfig], form: Form) -> None:
    raw = render(Content(form=form, configs=entries), {})
    again = parse(raw, form)
    assert again.problems == {}
    assert again.configs == {
        key: dataclasses.replace(config, server_address=key) for key, config in entries.items()
    }
    assert (raw == b"") is (entries == {})


@given(
    st.dictionaries(st.text(), json_values, max_size=4).map(
        lambda d: {k: v for k, v in d.items() if k not in ("credsStore", "credHelpers")}
    ),
    st.dictionaries(keys, st.dictionaries(st.text(), json_values, max_size=2), max_size=3),
)
def test_what_is_not_understood_is_kept(unknown: Any, entries: Any) -> None:
    document = {**unknown, "auths": entries, "HttpHeaders": {"X-Meta-A": "b"}}
    content = parse(json.dumps(document).encode(), Form.DOCKER)
    content.configs["new.example"] = AuthConfig(username="ann", password="pw")
    loaded = {key: config for key, config in content.configs.items() if key != "new.example"}
    written = json.loads(render(content, loaded))
    assert written["auths"].pop("new.example") == {"auth": pair("ann:pw")}
    assert written == document


@given(st.binary(max_size=200), st.sampled_from(Form))
def test_any_bytes_give_content_or_a_clear_error(raw: bytes, form: Form) -> None:
    try:
        parse(raw, form)
    except CredentialsError as error:
        assert str(error)


def test_the_two_lines_of_the_oldest_form_are_for_the_index(tmp_path: Path) -> None:
    path = write(
        tmp_path / CONFIGFILE, f"auth = {pair(f'ann:{SECRET}')}\nemail = ann@example.org\n"
    )
    config = load_config(tmp_path)
    found = config.resolve_auth_config("")
    assert list(config.configs) == [INDEXSERVER]
    assert (found.username, found.password, found.email) == ("ann", SECRET, "ann@example.org")
    save_config(config)
    assert json.loads(path.read_text()) == {
        INDEXSERVER: {"auth": pair(f"ann:{SECRET}"), "email": "ann@example.org"}
    }


def test_the_legacy_map(tmp_path: Path) -> None:
    write(
        tmp_path / CONFIGFILE,
        {"https://r.example/v1/": {"auth": pair(f"ann:{SECRET}"), "email": "a@example.org"}},
    )
    found = load_config(tmp_path).resolve_auth_config("r.example")
    assert (found.username, found.password, found.email) == ("ann", SECRET, "a@example.org")
    assert found.server_address == "https://r.example/v1/"


def test_the_form_of_docker(tmp_path: Path) -> None:
    document = {
        "auths": {
            "r.example": {"auth": pair(f"ann:{SECRET}")},
            "t.example": {"auth": pair("bob:"), "identitytoken": "id-token"},
            "n.example": {"username": "cy", "password": "pw"},
            "empty.example": {},
        },
        "credsStore": "pass",
        "credHelpers": {"h.example": "ecr-login"},
        "HttpHeaders": {"X-Meta-A": "1", "X-Meta-B": ["2", "3"]},
    }
    write(tmp_path / ".docker" / "config.json", document)
    config = load_config(tmp_path)
    assert config.resolve_auth_config("r.example").password == SECRET
    token = config.resolve_auth_config("t.example")
    assert (token.username, token.identity_token, token.basic) == ("bob", "id-token", "")
    assert config.resolve_auth_config("n.example").username == "cy"
    assert config.resolve_auth_config("empty.example") == AuthConfig()
    assert config.creds_store == "pass"
    assert config.cred_helpers == {"h.example": "ecr-login"}
    assert config.http_headers == {"X-Meta-A": ("1",), "X-Meta-B": ("2", "3")}
    assert load_config(tmp_path / ".docker").configs == config.configs
    assert load_config(tmp_path / ".docker" / "config.json").configs == config.configs


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", r"config\.json: it is not JSON \(line 1\)"),
        ("[]", "it is not a JSON map"),
        ("[" * 100_000, "it nests too deep"),
        ('{"auths": []}', "auths: a map"),
        ('{"auths": {}, "credsStore": 1}', "credsStore"),
        ('{"credHelpers": {"a": 1}}', "credHelpers"),
        ('{"HttpHeaders": {"a": 1}}', "HttpHeaders: 'a'"),
    ],
)
def test_content_that_cannot_be_read_names_the_file(
    tmp_path: Path, content: str, words: str
) -> None:
    write(tmp_path / "config.json", content)
    with pytest.raises(CredentialsError, match=words) as caught:
        load_config(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_an_error_shows_nothing_of_the_content(tmp_path: Path) -> None:
    for content in (f'{{"auths": {{"a": {{"auth": "{SECRET}"', f"{SECRET} = {SECRET}"):
        write(tmp_path / "config.json", content)
        with pytest.raises(CredentialsError) as caught:
            load_config(tmp_path)
        assert SECRET not in str(caught.value)


def test_a_broken_entry_matters_to_who_needs_it_only(tmp_path: Path) -> None:
    path = write(
        tmp_path / "config.json",
        {"auths": {"bad.example": {"auth": "%%"}, "r.example": {"auth": pair("ann:pw")}}},
    )
    config = load_config(tmp_path)
    assert config.resolve_auth_config("r.example").username == "ann"
    with pytest.raises(CredentialsError, match=rf"{path}: bad\.example: auth: not base64"):
        config.resolve_auth_config("bad.example")
    del config.configs["r.example"]
    save_config(config)
    assert json.loads(path.read_text()) == {"auths": {"bad.example": {"auth": "%%"}}}


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ([], "a map"),
        ({"auth": 1}, "auth: a string"),
        ({"username": "a:b"}, "username"),
        ({"username": "a", "password": "\ud800"}, "password"),
    ],
)
def test_what_is_wrong_with_an_entry(tmp_path: Path, entry: Any, words: str) -> None:
    for path, document in (
        (tmp_path / "config.json", {"auths": {"r.example": entry}}),
        (tmp_path / CONFIGFILE, {"r.example": entry}),
    ):
        config = load_config(write(path, document))
        with pytest.raises(CredentialsError, match=rf"{path}: r\.example: .*{words}"):
            config.resolve_auth_config("r.example")


def test_null_is_nothing(tmp_path: Path) -> None:
    write(tmp_path / "config.json", {"auths": {"r.example": None}, "credHelpers": None})
    assert load_config(tmp_path).resolve_auth_config("r.example") == AuthConfig()


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "config.json", " " * (4 * 1024 * 1024 + 1))
    with pytest.raises(CredentialStoreError, match="larger than"):
        load_config(tmp_path)


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "below" / "config.json"
    with pytest.raises(CredentialStoreError, match="cannot be written"), locked(path):
        pytest.fail("it is not locked")


def test_no_repr_shows_a_secret(tmp_path: Path) -> None:
    write(
        tmp_path / "config.json",
        {
            "auths": {
                "r.example": {"auth": pair(f"ann:{SECRET}"), "identitytoken": SECRET},
                "bad.example": {"auth": SECRET},
            },
            "HttpHeaders": {"X-Meta-A": SECRET},
        },
    )
    shown = repr(load_config(tmp_path))
    assert SECRET not in shown
    assert pair(f"ann:{SECRET}") not in shown
    assert "r.example" in shown


# which entry


@pytest.mark.parametrize(
    ("there", "asked", "best"),
    [
        (["r.example"], "r.example", "r.example"),
        (["https://r.example/v1/", "r.example"], "r.example", "r.example"),
        (["https://r.example/v1/"], "r.example", "https://r.example/v1/"),
        (["https://r.example/v1/"], "R.EXAMPLE", "https://r.example/v1/"),
        (["https://r.example/some/where"], "r.example", "https://r.example/some/where"),
        (["r.example/v2"], "r.example/team/app", "r.example/v2"),
        (["r.example"], "https://r.example/v2/", "r.example"),
        (["r.example:5000"], "r.example", None),
        (["r.example"], "r.example:5000", None),
        (["r.example"], "r.example.evil", None),
        (["r.example"], "", None),
        ([INDEXSERVER], "", INDEXSERVER),
        ([INDEXSERVER], "docker.io/library/alpine", INDEXSERVER),
        ([INDEXSERVER], "registry-1.docker.io", INDEXSERVER),
        (["docker.io", INDEXSERVER], "index.docker.io", INDEXSERVER),
        (["docker.io"], "docker.io/library/alpine", "docker.io"),
        (["q.io", "q.io/team", "q.io/team/app"], "q.io/team/app", "q.io/team/app"),
        (["q.io", "q.io/team"], "q.io/team/app", "q.io/team"),
        (["q.io", "q.io/team"], "q.io/teammate/app", "q.io"),
        (["q.io/team"], "q.io/other", None),
        (["q.io/team"], "q.io", None),
        (["docker.io/me", INDEXSERVER], "docker.io/me/app", "docker.io/me"),
        (["[::1]:5000"], "[0:0:0:0:0:0:0:1]:5000", "[::1]:5000"),
        (["[0:0::1]:5000/team"], "[::1]:5000/team/app", "[0:0::1]:5000/team"),
        (["https://[FE80::A]/v1/"], "[fe80:0::a]", "https://[FE80::A]/v1/"),
        (["[0::1]:5000", "[::1]:5000"], "[0::1]:5000", "[0::1]:5000"),
        (["[0::1]:5000", "[::1]:5000"], "[0:0::1]:5000", "[::1]:5000"),
        (["[::1]:5000"], "[::2]:5000", None),
        (["[::1]"], "[::1]:5000", None),
        (["[no address]"], "[NO ADDRESS]", "[no address]"),
    ],
)
def test_the_key_that_serves(there: list[str], asked: str, best: str | None) -> None:
    found = matches(there, asked)
    assert (found[0].key if found else None) == best


def test_the_oldest_form_has_addresses_only() -> None:
    assert [one.key for one in matches(["r.example/x"], "r.example", namespaces=False)] == [
        "r.example/x"
    ]


@given(keys, keys)
def test_no_key_serves_another_host(key: str, asked: str) -> None:
    for match in matches([key], asked):
        assert match.key.partition("/")[0] == asked.partition("/")[0]


@given(
    st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address),
    st.integers(1, 65535).filter(lambda port: port != 443),
)
def test_whatever_compares_hosts_takes_the_forms_of_an_address_for_one(
    address: ipaddress.IPv6Address, port: int
) -> None:
    forms = [f"[{text}]:{port}" for text in (address.exploded, str(address).upper())]
    for same in (key_of, host_of_key, one_form, host_of, host_key):
        assert len({same(form) for form in forms}) == 1
    assert {Reference.parse(f"{form}/app").host for form in forms} == {key_of(forms[0])}
    assert [one.key for one in matches(forms[:1], f"{forms[1]}/app")] == forms[:1]


@pytest.mark.parametrize("name", ["", "docker.io", "index.docker.io", "registry-1.docker.io"])
def test_the_public_index_has_one_key(name: str) -> None:
    assert key_of(name) == INDEXSERVER
    assert key_of("R.example:5000") == "r.example:5000"


WAYS_TO_ASK = {
    "https://registry.example.com/v1/": [
        "https://registry.example.com/v1/",
        "http://registry.example.com/v1/",
        "https://registry.example.com",
        "registry.example.com",
        "registry.example.com/v1/",
        "registry.example.com/v1",
    ],
    "http://localhost:8000/v1/": [
        "https://localhost:8000/v1/",
        "http://localhost:8000/v1/",
        "http://localhost:8000",
        "localhost:8000",
        "localhost:8000/v1/",
    ],
    "registry.com": [
        "https://registry.com/v1/",
        "http://registry.com/v1/",
        "https://registry.com/v2/",
        "http://registry.com",
        "registry.com",
        "registry.com/v1/",
    ],
    "http://plain.example": ["plain.example", "http://plain.example", "https://plain.example/v1/"],
    "bare.example:5000/v1": ["bare.example:5000", "http://bare.example:5000/v1/"],
    "[::1]:5000": ["http://[::1]:5000/v1/", "[0:0::1]:5000"],
    "https://index.docker.io/v1/": [
        "",
        "https://index.docker.io/v1/",
        "index.docker.io",
        "docker.io",
        "registry-1.docker.io",
        "https://registry-1.docker.io/v1/",
    ],
}


@pytest.mark.parametrize("name", [CONFIGFILE, "config.json"])
@pytest.mark.parametrize(
    ("key", "asked"), [(k, a) for k, ways in WAYS_TO_ASK.items() for a in ways]
)
def test_a_server_is_found_however_it_is_written(
    tmp_path: Path, name: str, key: str, asked: str
) -> None:
    entries = {one: {"auth": pair(f"{number}:pw")} for number, one in enumerate(WAYS_TO_ASK)}
    write(tmp_path / name, entries if name == CONFIGFILE else {"auths": entries})
    config = load_config(tmp_path)
    assert config.resolve_auth_config(asked) == config.configs[key]
    assert config.resolve_auth_config(asked).username == str(list(WAYS_TO_ASK).index(key))


@pytest.mark.parametrize(
    "asked", ["registry.com:8000", "other.com", "com", "http://registry.com.evil/v1/", "localhost"]
)
def test_a_server_that_is_another_is_not_found(tmp_path: Path, asked: str) -> None:
    write(tmp_path / CONFIGFILE, {key: {"auth": pair("ann:pw")} for key in WAYS_TO_ASK})
    assert load_config(tmp_path).resolve_auth_config(asked) == AuthConfig()


def test_the_letter_of_a_key_comes_before_its_host(tmp_path: Path) -> None:
    keys = ["http://r.example/v1/", "https://r.example/v1/", "r.example"]
    write(tmp_path / CONFIGFILE, {key: {"auth": pair("ann:pw")} for key in keys})
    config = load_config(tmp_path)
    for key in keys:
        assert config.resolve_auth_config(key).server_address == key
    assert config.resolve_auth_config("r.example/v1/").server_address == "r.example"


@pytest.mark.parametrize("key", ["testIndex", INDEXSERVER])
def test_to_save_changes_nothing_of_what_is_saved(tmp_path: Path, key: str) -> None:
    config = load_config(tmp_path)
    saved = AuthConfig(username="ann", password=SECRET, email="ann@example.org")
    config.configs[key] = saved
    save_config(config)
    assert config.configs == {key: saved}
    assert load_config(tmp_path).configs == {key: dataclasses.replace(saved, server_address=key)}


@pytest.mark.parametrize(
    ("text", "email"),
    [
        ("auth = {}\nemail = ann@example.org\n", "ann@example.org"),
        ("auth = {}\nemail = ann@example.org", "ann@example.org"),
        ("auth = {}\r\nemail = ann@example.org\r\n", "ann@example.org"),
        ("email=ann@example.org\nauth={}\n", "ann@example.org"),
        ("auth = {}\nemail = \n", ""),
        ("\ufeffauth = {}\nemail = a = b\n", "a = b"),
    ],
)
def test_two_lines_as_they_were_written(tmp_path: Path, text: str, email: str) -> None:
    write(tmp_path / CONFIGFILE, text.format(pair("ken:te=st:")))
    found = load_config(tmp_path).resolve_auth_config("index.docker.io")
    assert found == AuthConfig(
        username="ken", password="te=st:", email=email, server_address=INDEXSERVER
    )


def test_no_match_is_the_empty_config(tmp_path: Path) -> None:
    assert load_config(tmp_path).resolve_auth_config("r.example") == AuthConfig()


# on the disk


def test_a_named_file_that_is_not_there_is_an_error_and_a_default_is_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileMissingError, match="none"):
        load_config(tmp_path / "none")
    assert load_config(tmp_path).configs == {}


@pytest.mark.parametrize("name", [CONFIGFILE, "config.json"])
def test_it_is_written_for_its_owner_alone_and_removed_when_it_is_empty(
    tmp_path: Path, name: str
) -> None:
    path = write(tmp_path / name, "{}")
    path.chmod(0o644)
    config = load_config(tmp_path)
    config.configs["r.example"] = AuthConfig(username="ann", password=SECRET)
    save_config(config)
    assert mode(path) == 0o600
    again = load_config(tmp_path)
    assert again.resolve_auth_config("r.example").password == SECRET
    again.configs.clear()
    save_config(again)
    assert list(tmp_path.iterdir()) == []


def test_without_any_file_the_legacy_one_is_written(tmp_path: Path) -> None:
    config = load_config(tmp_path)
    config.configs["r.example"] = AuthConfig(username="ann", password="pw", email="a@b.example")
    save_config(config)
    assert json.loads((tmp_path / CONFIGFILE).read_text()) == {
        "r.example": {"auth": pair("ann:pw"), "email": "a@b.example"}
    }


def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path: Path) -> None:
    target = write(tmp_path / "elsewhere" / "real.json", {"auths": {}, "detachKeys": "ctrl-e"})
    link = tmp_path / "config.json"
    link.symlink_to("elsewhere/real.json")
    config = load_config(tmp_path)
    config.configs["r.example"] = AuthConfig(username="ann", password="pw")
    save_config(config)
    assert link.is_symlink()
    assert json.loads(target.read_text()) == {
        "auths": {"r.example": {"auth": pair("ann:pw")}},
        "detachKeys": "ctrl-e",
    }


def test_a_write_that_fails_leaves_the_file_and_nothing_beside_it(tmp_path: Path) -> None:
    directory = tmp_path / "config.json"
    (directory / "in the way").mkdir(parents=True)
    config = ConfigFile(
        path=directory, configs={"r.example": AuthConfig(username="ann", password=SECRET)}
    )
    with pytest.raises(CredentialStoreError, match=r"config\.json: .*cannot be written") as caught:
        save_config(config)
    assert SECRET not in str(caught.value)
    assert list(tmp_path.iterdir()) == [directory]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CredentialStoreError, match="no regular file"):
        load_config(tmp_path / "config.json")


def test_a_file_that_others_may_read_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "config.json", {"auths": {"r.example": {"auth": pair("ann:pw")}}})
    assert not load_config(tmp_path).exposed
    path.chmod(0o640)
    assert load_config(tmp_path).exposed
    write(path, {"auths": {"r.example": {}}}).chmod(0o644)
    assert not load_config(tmp_path).exposed

"""registries.toml: the file as shipped, what it gives, and errors that name host and key."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.constants import APIVersion
from registry_service.errors import SettingsError
from registry_service.hostfile import load_hosts, own_credentials, parse_hosts
from registry_service.hostrules import HostLimits, HostRules, HostTable, Mirror, host_key
from registry_service.proxies import Proxy
from registry_service.settings import RegistrySettings

SHIPPED = Path(__file__).parent.parent / "conf" / "registries.toml"
HOST = '[host."r.example:5000"]\n'


def read(text: str, base: Path = Path("/etc/engine")) -> HostTable:
    return parse_hosts(text.encode(), source="registries.toml", base=base)


# the file as it is shipped


def test_the_shipped_file_says_nothing_but_the_defaults() -> None:
    assert load_hosts(SHIPPED) == HostTable()


def test_the_example_of_a_host_in_the_shipped_file_says_nothing_but_the_defaults() -> None:
    lines = SHIPPED.read_text().splitlines()
    example = "\n".join(line[1:] for line in lines if re.match(r"#(\[host|\w+ =)", line))
    assert read(example) == HostTable(hosts={"registry.example:5000": HostRules()})
    keys = set(tomllib.loads(example)["host"]["registry.example:5000"])
    own = {field.name for field in dataclasses.fields(HostRules)}
    assert keys == own - {"proxy", "limits"}


def test_the_shipped_file_names_every_key_that_has_a_default_for_all() -> None:
    keys = set(tomllib.loads(SHIPPED.read_text())["default"])
    assert keys == {"proxy", *(field.name for field in dataclasses.fields(HostLimits))}


def test_every_key_of_the_shipped_file_is_explained() -> None:
    lines = SHIPPED.read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if re.match(r"#?\w+ =", line):
            assert re.match(r"# |#?\w+ =", before), line


# what it gives


def test_a_host_has_what_its_section_says_and_the_default_s_for_the_rest() -> None:
    table = read(
        "[default]\nconcurrent = 3\nproxy = 'http://proxy.example:3128'\n"
        + HOST
        + "requests_per_second = 2\ninsecure = true\nmirrors = ['m.example/hub', 'http://n:1']\n"
        + "origin = 'never'\nusername = 'ann'\npassword_file = 'secrets/r'\n"
        + "certs_dirs = ['certs']\n"
    )
    assert table.of("r.example", 5000) == HostRules(
        insecure=True,
        mirrors=(Mirror(address="m.example", prefix="hub"), Mirror(address="http://n:1")),
        origin="never",
        username="ann",
        password_file=Path("/etc/engine/secrets/r"),
        proxy=Proxy(host="proxy.example", port=3128),
        certs_dirs=(Path("/etc/engine/certs"),),
        limits=HostLimits(concurrent=3, requests_per_second=2.0),
    )
    other = table.of("other.example")
    assert other == table.default
    assert (other.limits.concurrent, other.insecure, other.mirrors) == (3, False, ())


@pytest.mark.parametrize(
    ("section", "host", "port", "found"),
    [
        ("r.example", "r.example", None, True),
        ("r.example", "R.Example", 443, True),
        ("r.example:443", "r.example", None, True),
        ("r.example", "r.example", 80, True),
        ("r.example", "r.example", 5000, False),
        ("r.example:5000", "r.example", 5000, True),
        ("r.example:5000", "r.example", None, False),
        ("docker.io", "registry-1.docker.io", 443, True),
        ("docker.io", "index.docker.io", None, True),
        ("[::1]:5000", "::1", 5000, True),
        ("[0:0::1]:5000", "::1", 5000, True),
        ("[::1]:5000", "0:0:0:0:0:0:0:1", 5000, True),
        ("[FE80::1%eth0]", "fe80::1%eth0", 443, True),
    ],
)
def test_whom_a_section_is_for(section: str, host: str, port: int | None, found: bool) -> None:
    table = read(f'[host."{section}"]\nconcurrent = 1\n')
    assert (table.of(host, port).limits.concurrent == 1) is found


def test_the_rules_of_a_url_and_of_a_name() -> None:
    table = read('[host."r.example"]\nconcurrent = 1\n[host."s:5000"]\nconcurrent = 2\n')
    for address, limit in (
        ("r.example", 1),
        ("https://r.example/v2/", 1),
        ("http://s:5000", 2),
        ("s:5000", 2),
        ("s", 0),
    ):
        assert table.of_address(address).limits.concurrent == limit


@pytest.mark.parametrize(
    ("text", "version"), [("v1", APIVersion.V1), ("v2", APIVersion.V2), ("", None)]
)
def test_a_host_may_be_said_to_speak_one_version(text: str, version: APIVersion | None) -> None:
    assert read(HOST + f"version = '{text}'").of("r.example", 5000).version is version


def test_a_host_that_is_named_insecure_may_be_spoken_to_in_plain_http() -> None:
    settings = RegistrySettings(hosts=read(HOST + "insecure = true"))
    assert settings.may_be_insecure("r.example", 5000)
    assert not settings.may_be_insecure("r.example", None)


def test_there_need_be_no_file(tmp_path: Path) -> None:
    assert load_hosts(tmp_path / "registries.toml") == HostTable()


# errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[nope]", "nope: no such section; there are default, host"),
        ("[default]\nnope = 1", "default.nope: no such key; there are proxy, concurrent"),
        ("[default]\nmirrors = []", "default.mirrors: is said of one host, in its section"),
        ("[default]\ninsecure = true", "default.insecure: is said of one host"),
        ("[default]\nchunk = -1", "default.chunk: -1 is not between 0 (no limit) and"),
        ("[default]\nproxy = 'socks4://p'", "default.proxy: a proxy is spoken to over one of http"),
        ("host = 3", "host: a table is expected"),
        ("[host]\nx = 3", 'host."x": a table is expected'),
        ('[host."a/b"]', "host.\"a/b\": 'a/b' is no host; 'host' or 'host:port' is expected"),
        ('[host.a]\n[host."A:443"]', 'host."A:443": there is a section for a already'),
        (HOST + "nope = 1", 'host."r.example:5000".nope: no such key; there are insecure'),
        (
            HOST + "concurrent = 1.5",
            'registries.toml: host."r.example:5000".concurrent: an integer is',
        ),
        (
            HOST + "version = 1",
            "registries.toml: host.\"r.example:5000\".version: 'v1' or 'v2' is expected",
        ),
        (
            HOST + "version = 'v1'\nmirrors = ['m.example']",
            "registries.toml: host.\"r.example:5000\".version: 'v1' has no mirrors",
        ),
        (HOST + "chunk = -1", 'registries.toml: host."r.example:5000".chunk: -1 is not between'),
        ("[host.r.example]\nchunk = 1", 'put the name of the host in quotes: [host."NAME"]'),
        ('[host."*.example"]', "'*.example' is no host; no character stands for others"),
        ('[host."é.example"]', "'é.example' is no host"),
        (
            '[host."docker.io"]\nmirrors = ["index.docker.io"]',
            'host."docker.io".mirrors: a host is',
        ),
        (HOST + "insecure = 1", 'host."r.example:5000".insecure: true or false is expected'),
        (HOST + "mirrors = 'm'", 'host."r.example:5000".mirrors: a list of strings'),
        (HOST + "mirrors = ['m', 'x y']", 'host."r.example:5000".mirrors[1]: '),
        (HOST + "mirrors = ['m', ';/x']", "mirrors[1]: ';' is no host"),
        (HOST + "mirrors = ['*.m']", "mirrors[0]: '*.m' is no host; no character stands for"),
        (HOST + "mirrors = ['m', 'm']", 'host."r.example:5000".mirrors[1]: m stands there twice'),
        (HOST + "mirrors = ['u:p@m']", 'host."r.example:5000".mirrors[0]: a mirror is named w'),
        (HOST + "mirrors = ['m/UP']", "mirrors[0]: 'UP' is no beginning of a repository's name"),
        (HOST + "mirrors = ['ftp://m']", "mirrors[0]: 'ftp': a mirror speaks http or https"),
        (HOST + "mirrors = ['r.example:5000/x']", "mirrors: a host is no mirror of itself"),
        (HOST + "origin = 'first'", "origin: 'last' or 'never' is expected"),
        (HOST + "origin = 'never'", "origin: 'never' leaves nobody to ask"),
        (HOST + "username = 'ann'", "password_file: is missing; username is given"),
        (HOST + "password_file = 'x'", "username: is missing; password_file is given"),
        (HOST + "username = 'a:b'\npassword_file = 'x'", "username: a user name holds no ':'"),
        (
            HOST + "username = 'a'\npassword_file = 'x'\nidentity_token_file = 'y'",
            "identity_token_file: is given, and so is username",
        ),
        (HOST + "password = 'hunter2'", "password: a secret does not stand here; name its file"),
        (HOST + "proxy = 3", "proxy: a string is expected"),
        (HOST + "proxy = 'http://u:hunter2@'", "proxy: no URL of a proxy; http://HOST:PORT"),
        (HOST + "concurrent = 1.5", "concurrent: an integer is expected"),
        (HOST + "bytes_per_second = 10", "bytes_per_second: at least 1024, or 0 for no limit"),
        (HOST + "requests_per_second = nan", "requests_per_second: nan is not between"),
        (HOST + "certs_dirs = ['']", "certs_dirs: the path of a file is expected"),
        ("a = = 1", "not TOML: Invalid value (at line 1, column 5)"),
    ],
)
def test_an_error_names_the_file_the_host_and_the_key(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(text)
    said = str(caught.value)
    assert said.startswith("registries.toml: ")
    assert message in said
    assert "hunter2" not in said
    assert caught.value.status == 2


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load_hosts(tmp_path)


@given(st.binary(max_size=200))
def test_whatever_the_bytes_the_only_error_is_one_of_settings(content: bytes) -> None:
    try:
        parse_hosts(content, source="x", base=Path("/"))
    except SettingsError as error:
        assert str(error).startswith("x: ")


_KEYS = [
    "insecure", "mirrors", "origin", "username", "password_file", "identity_token_file", "proxy",
    "certs_dirs", "concurrent", "requests_per_second", "bytes_per_second", "chunk", "nope",
]  # fmt: skip
_TEXT = st.text(st.characters(exclude_characters="'", min_codepoint=32, max_codepoint=0x2FF))
_VALUES = st.one_of(
    st.booleans().map(lambda one: str(one).lower()),
    st.integers(-(2**63), 2**63 - 1).map(str),
    st.floats().map(repr),
    _TEXT.map(lambda one: f"'{one}'"),
    st.lists(_TEXT.map(lambda one: f"'{one}'"), max_size=3).map(lambda all: f"[{','.join(all)}]"),
)


@given(st.sampled_from(_KEYS), _VALUES, st.booleans())
def test_whatever_the_value_there_are_rules_or_an_error_of_settings(
    key: str, value: str, default: bool
) -> None:
    try:
        read(f"{'[default]' if default else HOST}\n{key} = {value}\n")
    except SettingsError as error:
        assert str(error).startswith("registries.toml: ")


_LABEL = st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True)
_ADDRESS = st.builds(
    lambda host, port: host if port is None else f"{host}:{port}",
    st.builds(".".join, st.lists(_LABEL, min_size=1, max_size=3)),
    st.none() | st.integers(1, 65535),
)


@given(_ADDRESS, st.sampled_from(["", "http://", "https://"]), st.lists(_LABEL, max_size=2))
def test_a_mirror_is_what_was_written(address: str, scheme: str, prefix: list[str]) -> None:
    text = "/".join([scheme + address, *prefix])
    mirror = Mirror.parse(text)
    assert (str(mirror), mirror.host) == (text, address)
    assert mirror.repository("a/b") == "/".join([*prefix, "a/b"])


@given(_ADDRESS)
def test_the_key_of_a_host_is_its_own_key(address: str) -> None:
    assert host_key(host_key(address)) == host_key(address)


# the daemon's own credentials


def rules_with(path: Path) -> HostRules:
    return HostRules(username="ann", password_file=path)


def test_the_secret_is_the_one_line_of_its_file_and_is_read_each_time(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(0o600)
    for secret in ("correct horse", "battery staple"):
        path.write_text(f"{secret}\n")
        auth = own_credentials(rules_with(path))
        assert (auth.username, auth.password) == ("ann", secret)
        assert secret not in repr(auth)
    token = own_credentials(HostRules(identity_token_file=path))
    assert (token.identity_token, token.username) == ("battery staple", "")
    assert own_credentials(HostRules()).empty


@pytest.mark.parametrize(
    ("mode", "content", "message"),
    [
        (0o604, b"x", "is open to others (mode 0604); chmod it to 0600"),
        (0o620, b"x", "is open to others (mode 0620)"),
        (0o600, b"", "one line with the secret is expected"),
        (0o600, b"hunter2\nhunter3\n", "one line with the secret is expected"),
        (0o600, b"\xff", "is not UTF-8"),
        (None, b"", "cannot be read: No such file or directory"),
    ],
)
def test_a_secret_s_file_that_cannot_be_used(
    tmp_path: Path, mode: int | None, content: bytes, message: str
) -> None:
    path = tmp_path / "secret"
    if mode is not None:
        path.write_bytes(content)
        path.chmod(mode)
    with pytest.raises(SettingsError) as caught:
        own_credentials(rules_with(path))
    said = str(caught.value)
    assert said.startswith(f"password_file: {path}") and message in said
    assert "hunter2" not in said


def test_a_pipe_in_the_place_of_a_secret_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    os.mkfifo(path, 0o600)
    with pytest.raises(SettingsError, match="is no plain file"):
        own_credentials(rules_with(path))

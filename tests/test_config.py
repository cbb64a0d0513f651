"""The configuration: the file as shipped, precedence, and errors that name the key."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import Config, load, parse
from engine.errors import ConfigError
from registry_service.service import CERTS_DIRS
from registry_service.settings import RegistrySettings

SHIPPED = Path(__file__).parent.parent / "conf" / "engined.toml"


def read(text: str) -> Config:
    return parse(text.encode(), source="engined.toml")


# the file as it is shipped


def test_the_shipped_file_equals_the_defaults() -> None:
    shipped = parse(SHIPPED.read_bytes(), source="shipped")
    assert msgspec.structs.replace(shipped, service={}) == Config()


def test_the_shipped_file_names_every_key() -> None:
    values = tomllib.loads(SHIPPED.read_text())
    for section in Config.__struct_fields__:
        assert section in values
        default = getattr(Config(), section)
        if isinstance(default, msgspec.Struct):
            assert set(values[section]) == set(default.__struct_fields__)


def test_the_shipped_settings_of_the_registry_are_its_defaults() -> None:
    section = tomllib.loads(SHIPPED.read_text())["service"]["registry"]
    assert section.pop("transfers") == 4
    assert (section.pop("load_dirs"), section.pop("save_dirs")) == (["/"], [])
    assert set(section) == set(RegistrySettings.__slots__) - {"hosts", "proxies"}
    assert tuple(section.pop("certs_dirs")) == CERTS_DIRS
    assert RegistrySettings.from_mapping(section) == RegistrySettings()


def test_every_key_of_the_shipped_file_is_explained() -> None:
    lines = SHIPPED.read_text().splitlines()
    groups = re.split(r"\n(?=#)", "\n".join(line for line in lines if line))
    unexplained = [group for group in groups if re.match(r"\w+ =", group)]
    assert unexplained == []


# precedence


def test_without_any_file_there_are_the_defaults(tmp_path: Path) -> None:
    config, file = load(environ={}, default_file=tmp_path / "missing.toml")
    assert (config, file) == (Config(), None)


def test_the_default_file_is_read_where_it_exists(tmp_path: Path) -> None:
    path = tmp_path / "engined.toml"
    path.write_text("[log]\nlevel = 'debug'\n")
    config, file = load(environ={}, default_file=path)
    assert (config.log.level, file) == ("debug", path)


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    with pytest.raises(ConfigError, match=r"missing\.toml: there is no such file"):
        load(file=str(missing), environ={})
    with pytest.raises(ConfigError, match=r"missing\.toml: there is no such file"):
        load(environ={"ENGINE_CONFIG": str(missing)})


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(file=str(tmp_path), environ={})


def test_command_line_before_environment_before_file_before_default(tmp_path: Path) -> None:
    path = tmp_path / "engined.toml"
    path.write_text("[engine]\nstate_dir = '/file'\nlisten = ['ipc:///file']\n")
    environ = {"ENGINE_CONFIG": str(path)}
    config, _ = load(environ=environ)
    assert (config.engine.state_dir, config.engine.listen) == ("/file", ("ipc:///file",))

    environ |= {"ENGINE_STATE_DIR": "/env", "ENGINE_LISTEN": "ipc:///a  tcp://[::1]:7"}
    config, _ = load(environ=environ)
    assert config.engine.state_dir == "/env"
    assert config.engine.listen == ("ipc:///a", "tcp://[::1]:7")

    config, _ = load(state_dir="/line", listen=["ipc:///line"], environ=environ)
    assert (config.engine.state_dir, config.engine.listen) == ("/line", ("ipc:///line",))


def test_the_state_directory_and_the_endpoint_follow_from_each_other() -> None:
    config = read("[engine]\nstate_dir = '/srv/engine'\n")
    state = config.state_dir({}, uid=0)
    assert config.listen(state) == ("ipc:///srv/engine/engine.sock",)
    assert Config().state_dir({}, uid=0) == Path("/var/lib/registry-engine")


# errors


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[limits]\nfoo = 1", "limits.foo: no such key; there are header, control"),
        ("[nope]", "nope: no such section; there are engine, limits"),
        ("[engine.x]\ny = 1", "engine.x: no such key; there are state_dir"),
        ("[log]\nlevel = 'loud'", "log.level: 'loud' is none of debug, info, warning, error"),
        ("[limits]\nheader = 'a'", "limits.header: expected an integer, got a string"),
        ("[limits]\nheader = 1", "limits.header: expected an integer >= 1024"),
        ("[limits]\ncontrol = 4096", "limits.control: expected an integer >= 65536"),
        ("[limits]\noutput = 65536", "limits.output: expected an integer >= 524288"),
        ("[security]\nopen_tcp = 1", "security.open_tcp: expected true or false, got an integer"),
        ("[engine]\nlisten = 'x'", "engine.listen: expected a list, got a string"),
        ("[engine]\nlisten = ['x']", "engine.listen[0]: 'x' is no endpoint"),
        ('[engine]\nstate_dir = "a\\u0000"', "engine.state_dir: a path has no NUL"),
        ("[queues]\nslow = 0", "queues.slow: 0 is not between 1 and 10000"),
        ("[queues]\nslow = 'x'", "queues.slow: an integer is expected"),
        ("[queues]\nslow = true", "queues.slow: an integer is expected"),
        ("[service]\nregistry = 1", "service.registry: a table is expected"),
        ("queues = 3", "queues: expected a table, got an integer"),
        ("[shutdown]\ngrace = -1", "shutdown.grace: expected a number >= 0"),
        ("a = = 1", "not TOML: Invalid value (at line 1, column 5)"),
    ],
)
def test_an_error_names_the_file_the_key_and_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value).startswith(f"engined.toml: {message}")
    assert int(caught.value.status) == 2


def test_text_that_is_not_utf_8_is_an_error() -> None:
    with pytest.raises(ConfigError, match="not UTF-8 at byte 2"):
        parse(b"a=\xff", source="x")


def test_a_queue_of_ones_own_leaves_the_default_queue() -> None:
    assert read("[queues]\ntransfer = 2").queues == {"default": 8, "transfer": 2}


def test_whole_numbers_do_for_times() -> None:
    assert read("[shutdown]\ngrace = 3").shutdown.grace == 3.0


@given(st.binary(max_size=200))
def test_whatever_the_bytes_the_only_error_is_one_of_configuration(content: bytes) -> None:
    try:
        found = parse(content, source="x")
    except ConfigError as error:
        assert str(error).startswith("x: ")
    else:
        assert isinstance(found, Config)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(Config.__struct_fields__),
    st.sampled_from(["state_dir", "listen", "level", "header", "grace", "default", "registry"]),
    _values,
)
def test_whatever_the_value_the_only_error_is_one_of_configuration(
    section: str, key: str, value: object
) -> None:
    text = f"[{section}]\n{key} = {_toml(value)}\n"
    try:
        read(text)
    except ConfigError as error:
        assert str(error).startswith("engined.toml: ")


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"k{i} = {_toml(v)}" for i, v in enumerate(value.values())) + "}"
    return repr(value) if isinstance(value, (int, float)) else '"text"'

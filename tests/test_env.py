"""The environment: typed access, nothing lost, bad content named."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import Env
from engine.errors import EnvError

KEYS = st.text(min_size=1).filter(lambda key: "=" not in key and "\0" not in key)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(KEYS, JSON.filter(lambda value: value is not None and not isinstance(value, str)))
def test_a_value_that_is_no_string_is_kept_without_loss(key: str, value: Any) -> None:
    env = Env({key: value})
    read = env.get_json(key)
    assert read == value
    assert type(read) is type(value)


@given(st.dictionaries(KEYS, st.text()))
def test_the_json_form_gives_the_same_environment_in_the_same_order(
    values: dict[str, str],
) -> None:
    env = Env(values)
    assert list(Env.from_json(env.to_json()).items()) == list(env.items())


@pytest.mark.parametrize("text", ["0", "no", "No", "FALSE", "none", "None", "", "  "])
def test_false_words(text: str) -> None:
    assert Env({"k": text}).get_bool("k", default=True) is False


@pytest.mark.parametrize("text", ["1", "yes", "true", "on", "anything", "00"])
def test_true_words(text: str) -> None:
    assert Env({"k": text}).get_bool("k") is True


def test_a_word_that_is_neither_true_nor_false_is_told_from_both() -> None:
    for text in ("1", "YES", "true", "0", "no", "None", ""):
        Env({"k": text}).check_bool("k")
    Env({}).check_bool("k")
    for text in ("off", "on", "maybe", "00"):
        with pytest.raises(EnvError, match=f"'{text}' is not true or false"):
            Env({"k": text}).check_bool("k")


def test_booleans_survive_as_booleans() -> None:
    env = Env({"yes": True, "no": False})
    assert (env.get_bool("yes"), env.get_bool("no")) == (True, False)


def test_an_integer_that_is_none_is_an_error_that_names_the_key_and_the_value() -> None:
    with pytest.raises(EnvError, match=r"limit: 'ten' is not an integer") as caught:
        Env({"limit": "ten"}).get_int("limit")
    assert caught.value.key == "limit"
    assert int(caught.value.status) == 2


def test_a_float_is_not_truncated_to_an_integer() -> None:
    env = Env({"rate": 1.0, "half": 0.5})
    assert env["rate"] == "1.0"
    assert env.get_float("half") == 0.5
    with pytest.raises(EnvError):
        env.get_int("rate")


def test_a_secret_value_stays_out_of_errors_and_of_the_repr() -> None:
    env = Env({"authConfig": "{hunter2"}, secrets=["authConfig"])
    with pytest.raises(EnvError) as caught:
        env.get_json("authConfig")
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(env)


def test_what_a_secret_environment_holds_stays_secret() -> None:
    env = Env({"a": {"password": "hunter2", "deep": {"more": "hunter2"}}}, secrets=["a"])
    inner = env.get_sub_env("a")
    assert "hunter2" not in repr(inner)
    with pytest.raises(EnvError) as caught:
        inner.get_int("password")
    assert str(caught.value) == "password: not an integer"
    assert "hunter2" not in repr(inner.get_sub_env("deep"))
    with pytest.raises(EnvError) as caught:
        Env({"a": {"hunter2=": "x"}}, secrets=["a"]).get_sub_env("a")
    assert str(caught.value) == "a: not a map of environment keys"


def test_null_is_not_set() -> None:
    assert "k" not in Env({"k": None})
    env = Env.from_json('{"a": null, "b": "x"}')
    assert list(env) == ["b"]
    env.set("b", None)
    assert len(env) == 0


def test_the_last_value_of_a_repeated_key_counts() -> None:
    env = Env([("a", "1"), ("b", "2"), ("a", "3")])
    assert env["a"] == "3"
    assert list(env) == ["b", "a"]


def test_lists_come_from_json_and_from_words() -> None:
    env = Env({"json": ["a,b", "c"], "words": "a, b ,c,", "mixed": "[1]"})
    assert env.get_list("json") == ["a,b", "c"]
    assert env.get_list("words") == ["a", "b", "c"]
    assert env.get_list("absent") == []
    with pytest.raises(EnvError, match="mixed"):
        env.get_list("mixed")


def test_a_sub_environment_goes_in_and_out() -> None:
    env = Env()
    env.set_sub_env("authConfig", Env({"username": "u", "port": 5000}))
    sub = env.get_sub_env("authConfig")
    assert (sub["username"], sub.get_int("port")) == ("u", 5000)
    assert len(env.get_sub_env("absent")) == 0
    env.set("authConfig", "[]")
    with pytest.raises(EnvError, match="authConfig"):
        env.get_sub_env("authConfig")


@pytest.mark.parametrize("key", ["", "a=b", "a\0b"])
def test_a_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(EnvError):
        Env().set(key, "x")


@pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
def test_a_value_that_json_cannot_hold_is_refused(value: Any) -> None:
    with pytest.raises(EnvError, match="k: "):
        Env({"k": value})


def test_the_setters_give_what_the_getters_read() -> None:
    env = Env()
    env.set_bool("b", False)
    env.set_int("i", -7)
    env.set_list("l", ["x", "y"])
    env.set_json("j", "text")
    assert env.get_bool("b", default=True) is False
    assert env.get_int("i") == -7
    assert env.get_list("l") == ["x", "y"]
    assert env["j"] == json.dumps("text")
    assert env.get_int("absent", 5) == 5


def test_deep_nesting_is_an_error_and_no_crash() -> None:
    with pytest.raises(EnvError):
        Env({"k": "[" * 100_000}).get_json("k")

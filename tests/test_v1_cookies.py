"""Cookies of a session."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.session.v1.cookies import CookieJar

HOME = "https://registry.example/v1/images/x/json"


@pytest.mark.parametrize(
    ("field", "url", "sent"),
    [
        ("a=b", HOME, "a=b"),
        ("a=b; Path=/", "https://registry.example/", "a=b"),
        ("a=b; Path=/v1", "https://registry.example/v1", "a=b"),
        ("a=b; Path=/v1", "https://registry.example/v1/x", "a=b"),
        ("a=b; Path=/v1", "https://registry.example/v10", ""),
        ("a=b", "https://registry.example/v1/repositories", ""),  # below the path that set it
        ("a=b; Path=/", "https://registry.example:443/", "a=b"),
        ("a=b; Path=/", "https://registry.example:444/", ""),
        ("a=b; Path=/", "http://registry.example/", ""),
        ("a=b; Path=/; Domain=example", "https://other.example/", ""),
        ('a="b c"; Path=/; Secure; HttpOnly', HOME, 'a="b c"'),
        ("a=b; Path=/; Max-Age=60", HOME, "a=b"),
        ("a=b; Path=/; Max-Age=0", HOME, ""),
        ("a=b; Path=/; Max-Age=-1", HOME, ""),
        ("a=b; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT", HOME, ""),
        ("a=b; Path=/; Expires=Thu, 01 Jan 2970 00:00:00 GMT", HOME, "a=b"),
        ("a=b; Path=/; Expires=whenever", HOME, "a=b"),
        ("a=; Path=/", HOME, "a="),
        ("no cookie", HOME, ""),
        ("=b", HOME, ""),
        ("a=\x01; Path=/", HOME, ""),
        (f"a={'b' * 5000}; Path=/", HOME, ""),
    ],
)
def test_where_a_cookie_goes(field: str, url: str, sent: str) -> None:
    jar = CookieJar()
    jar.take(HOME, [field])
    assert jar.header(url) == sent


def test_a_cookie_that_is_set_again_is_the_new_one() -> None:
    jar = CookieJar()
    jar.take(HOME, ["a=1; Path=/", "b=2; Path=/", "a=3; Path=/"])
    assert jar.header(HOME) == "b=2; a=3"
    jar.take(HOME, ["a=; Path=/; Max-Age=0"])
    assert jar.header(HOME) == "b=2"


def test_no_more_is_kept_than_a_server_may_need() -> None:
    jar = CookieJar()
    jar.take(HOME, [f"c{number}=1; Path=/" for number in range(100)])
    assert jar.header(HOME).split("; ")[0] == "c68=1"
    assert len(jar.header(HOME).split("; ")) == 32
    for number in range(64):
        jar.take(f"https://h{number}.example/", ["a=b"])
    assert jar.header(HOME) == ""
    assert jar.header("https://h0.example/") == "a=b"


def test_a_jar_shows_no_value() -> None:
    jar = CookieJar()
    jar.take(HOME, ["session=secret; Path=/"])
    assert "secret" not in repr(jar)


@given(st.lists(st.text(max_size=60), max_size=8))
def test_whatever_a_server_says_the_header_can_be_sent(fields: list[str]) -> None:
    jar = CookieJar()
    jar.take(HOME, fields)
    assert all(c == "\t" or " " <= c <= "~" for c in jar.header(HOME))

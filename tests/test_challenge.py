from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.challenge import Challenge, parse_challenges

_TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_.", min_size=1, max_size=12)
_VALUE = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"))


@st.composite
def _challenge(draw: st.DrawFn) -> Challenge:
    names = draw(st.lists(_TOKEN.map(str.lower), unique=True, max_size=4))
    return Challenge(scheme=draw(_TOKEN).lower(), parameters={name: draw(_VALUE) for name in names})


def _written(challenge: Challenge) -> str:
    def quoted(value: str) -> str:
        return value.replace("\\", "\\\\").replace('"', '\\"')

    parts = [f'{name}="{quoted(value)}"' for name, value in challenge.parameters.items()]
    return f"{challenge.scheme} {', '.join(parts)}".strip()


def test_a_bearer_challenge() -> None:
    (found,) = parse_challenges(
        ['Bearer realm="https://auth.example/token",service="r",scope="repository:a/b:pull,push"']
    )
    assert found.scheme == "bearer"
    assert found.realm == "https://auth.example/token"
    assert found.service == "r"
    assert found.scopes == ("repository:a/b:pull,push",)


@pytest.mark.parametrize(
    ("header", "schemes"),
    [
        ('Basic realm="a, b", charset="UTF-8", Bearer realm="c"', ["basic", "bearer"]),
        ("Negotiate, Basic realm=x", ["negotiate", "basic"]),
        ("NTLM TlRMTVNTUAAB==, Basic realm=x", ["ntlm", "basic"]),
        (", ,Basic realm=x,,", ["basic"]),
        ("BASIC  realm = x", ["basic"]),
        ("", []),
        ('realm="nobody\'s"', []),
    ],
)
def test_the_schemes_of_one_header(header: str, schemes: list[str]) -> None:
    assert [found.scheme for found in parse_challenges([header])] == schemes


def test_several_headers_count_in_their_order() -> None:
    found = parse_challenges(["Negotiate", 'Basic realm="r"'])
    assert [one.scheme for one in found] == ["negotiate", "basic"]


def test_token68_is_kept_apart_from_parameters() -> None:
    ntlm, basic = parse_challenges(["NTLM abc/+==, Basic realm=x"])
    assert (ntlm.token68, dict(ntlm.parameters)) == ("abc/+==", {})
    assert (basic.token68, basic.realm) == ("", "x")


@pytest.mark.parametrize(
    ("header", "realm"),
    [
        ("Basic realm=/", "/"),
        (r'Basic realm="a \"b\" \\c"', r'a "b" \c'),
        ('Basic realm="never closed', "never closed"),
        ('Basic realm=""', ""),
        ('Basic realm="first", realm="second"', "first"),
        ('Basic REALM="r"', "r"),
        ('Bearer realm="https://a/token?x=1,2"', "https://a/token?x=1,2"),
    ],
)
def test_realms_as_servers_write_them(header: str, realm: str) -> None:
    assert parse_challenges([header])[0].realm == realm


def test_the_error_of_a_refused_token() -> None:
    (found,) = parse_challenges(['Bearer realm="x",error="insufficient_scope"'])
    assert found.error == "insufficient_scope"


@given(st.lists(_challenge(), max_size=4))
def test_what_is_written_by_the_rules_is_read_back(challenges: list[Challenge]) -> None:
    header = ", ".join(_written(one) for one in challenges)
    assert parse_challenges([header]) == tuple(challenges)
    assert parse_challenges([_written(one) for one in challenges]) == tuple(challenges)


@given(st.text(max_size=200))
def test_no_text_makes_it_raise(text: str) -> None:
    for found in parse_challenges([text]):
        assert found.scheme == found.scheme.lower() != ""


@pytest.mark.timeout(30)  # where the work grew with the square, it would take minutes
def test_long_headers_do_not_keep_the_parser_busy() -> None:
    for piece in ("a ", "a=", 'a="', ", ", '\\"', "= "):
        found = parse_challenges([piece * 50_000])
        assert {one.scheme for one in found} == ({"a"} if piece == "a " else set())

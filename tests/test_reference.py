from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.digest import Digest
from registry_service.errors import InvalidReferenceError, InvalidRepositoryNameError
from registry_service.reference import Reference, split_host

DIGEST = "sha256:" + "0123456789abcdef" * 4

parts = st.from_regex(r"[a-z0-9]{1,6}((\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}", fullmatch=True)
tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,6}[a-z0-9])?", fullmatch=True)
domains = st.lists(labels, min_size=2, max_size=3).map(".".join)
addresses = st.ip_addresses(v=6).map(lambda address: f"[{address}]")
names = st.one_of(domains, addresses, st.just("localhost"))
ports = st.one_of(st.just(""), st.integers(1, 65535).map(lambda port: f":{port}"))
hosts = st.tuples(names, ports).map("".join)


@given(
    hosts,
    st.lists(parts, min_size=1, max_size=4).map("/".join),
    st.none() | tags,
    st.none() | st.binary(max_size=4).map(Digest.of),
)
def test_round_trip(host: str, repository: str, tag: str | None, digest: Digest | None) -> None:
    reference = Reference(host=host, repository=repository, tag=tag, digest=digest)
    assert Reference.parse(str(reference), default_tag=None) == reference
    assert reference.host == host
    assert reference.repository == repository


@given(st.text(max_size=60) | st.from_regex(r"[a-zA-Z0-9./:@_\[\]-]{1,60}", fullmatch=True))
def test_any_text_parses_to_a_stable_form_or_is_refused(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except InvalidReferenceError as error:
        assert error.status == 2
        return
    assert Reference.parse(str(reference)) == reference
    assert str(Reference.parse(str(reference))) == str(reference)


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("alpine", "docker.io/library/alpine:latest"),
        ("my.image", "docker.io/library/my.image:latest"),
        ("alpine:3.18", "docker.io/library/alpine:3.18"),
        ("localhost:5000", "docker.io/library/localhost:5000"),
        ("team/app", "docker.io/team/app:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
        ("INDEX.docker.io/a/b", "docker.io/a/b:latest"),
        ("docker.io/a/b/c", "docker.io/a/b/c:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x", "localhost:5000/x:latest"),
        ("host:5000/x:y", "host:5000/x:y"),
        ("a.example/x/y/z", "a.example/x/y/z:latest"),
        ("127.0.0.1:5000/test/app:1.0", "127.0.0.1:5000/test/app:1.0"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ("[::1]/x", "[::1]/x:latest"),
        ("[0:0::1]:5000/x", "[::1]:5000/x:latest"),
        ("Example.COM/x", "example.com/x:latest"),
        (f"x@{DIGEST}", f"docker.io/library/x@{DIGEST}"),
        (f"h.io/x:t@{DIGEST}", f"h.io/x:t@{DIGEST}"),
        ("xn--n3h.com/x", "xn--n3h.com/x:latest"),
        ("a--b/c__d.e_f", "docker.io/a--b/c__d.e_f:latest"),
        ("x:" + "t" * 128, "docker.io/library/x:" + "t" * 128),
        ("f" * 64 + ":1", "docker.io/library/" + "f" * 64 + ":1"),
    ],
)
def test_normal_form(text: str, normal: str) -> None:
    assert str(Reference.parse(text)) == normal


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        (" x", "white space"),
        ("x y", "white space"),
        ("https://h.io/x", "leave out 'https://'"),
        ("docker://x", "leave out 'docker://'"),
        (":tag", "repository is missing"),
        ("h.io/", "repository is missing"),
        ("h.io/:t", "repository is missing"),
        ("h.io//x", "between slashes is empty"),
        ("/x", "between slashes is empty"),
        ("x/", "between slashes is empty"),
        ("x//y", "between slashes is empty"),
        ("Alpine", "write 'alpine'"),
        ("Team/app", "'Team:PORT' if it is a host"),
        ("h.io/x/App", "write 'app'"),
        ("h.io/-x", "'-x' is not of"),
        ("h.io/x_", "'x_' is not of"),
        ("h.io/a..b", r"'a\.\.b' is not of"),
        ("h.io/a___b", "'a___b' is not of"),
        ("h.io/ümlaut", "is not of"),
        ("x:", "tag ''"),
        ("x:-a", "begins with a letter"),
        ("x:a:b", "tag 'a:b'"),
        ("x:" + "t" * 129, "1 to 128"),
        ("x:t/y", "host 'x:t': the port"),
        ("x@", "after the '@' a digest"),
        ("x@sha256:12", "here are 2"),
        ("h.io:0/x", "port is a number from 1 to 65535, not '0'"),
        ("h.io:65536/x", "port"),
        ("h.io:/x", "port is a number from 1 to 65535, not ''"),
        ("h.io:5:6/x", "port"),
        ("-h.io/x", "host '-h.io'"),
        ("h..io/x", "host 'h..io'"),
        ("under_score.io/x", "host name is of letters"),
        ("[::1/x", r"\[ADDRESS\]"),
        ("[::1]x:5/x", r"\[ADDRESS\]"),
        ("[1.2.3.4]:5/x", "IPv6 address is expected"),
        ("[fe80::1%eth0]:5/x", "IPv6 address is expected"),
        ("a" * 64, "64 hexadecimal digits"),
        ("h.io/" + "a" * 251, "256 characters; 255 are allowed"),
    ],
)
def test_what_is_wrong_is_said(text: str, said: str) -> None:
    with pytest.raises(InvalidReferenceError, match=said):
        Reference.parse(text)


def test_a_name_of_255_characters_is_allowed() -> None:
    assert len(Reference.parse("h.io/" + "a" * 250).name) == 255


def test_faults_of_the_name_are_of_their_own_kind() -> None:
    for text in ("https://x", "Alpine", "a" * 64):
        with pytest.raises(InvalidRepositoryNameError):
            Reference.parse(text)
    with pytest.raises(InvalidReferenceError) as caught:
        Reference.parse("x:-")
    assert not isinstance(caught.value, InvalidRepositoryNameError)


@pytest.mark.parametrize("text", ["https://me:hunter2@h.io/x", "me:hunter2@h.io/x"])
def test_no_password_is_shown(text: str) -> None:
    with pytest.raises(InvalidReferenceError) as caught:
        Reference.parse(text)
    assert "hunter2" not in str(caught.value)


def test_text_is_expected() -> None:
    with pytest.raises(InvalidReferenceError, match="not NoneType"):
        Reference.parse(None)  # type: ignore[arg-type]


def test_the_default_tag_is_the_callers() -> None:
    assert Reference.parse("x", default_tag=None).tag is None
    assert Reference.parse("x", default_tag="edge").tag == "edge"
    assert Reference.parse(f"x@{DIGEST}").tag is None


def test_locator_is_the_digest_before_the_tag() -> None:
    assert Reference.parse("x").locator == "latest"
    assert Reference.parse("x", default_tag=None).locator == "latest"
    both = Reference.parse(f"h.io/x:t@{DIGEST}")
    assert both.locator == DIGEST
    assert both.name == "h.io/x"
    assert str(both.with_tag("other")) == "h.io/x:other"
    assert str(both.with_digest(Digest.parse(DIGEST))) == f"h.io/x@{DIGEST}"
    with pytest.raises(InvalidReferenceError):
        both.with_tag("no tag")


def test_split_host() -> None:
    assert split_host("h.io/a/b") == ("h.io", "a/b")
    assert split_host("a/b") == (None, "a/b")
    assert split_host("h.io") == (None, "h.io")

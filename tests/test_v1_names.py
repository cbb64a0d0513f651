from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service import INDEXSERVER, resolve_repository_name
from registry_service.errors import InvalidRepositoryNameError
from registry_service.reference import Reference
from registry_service.v1.names import v1_repository_name

HEX = "1a3f5e7d9c1b3a5f" * 4

namespaces = st.from_regex(r"[a-z0-9_]{4,30}", fullmatch=True)
names = st.from_regex(r"[a-z0-9._-]{1,40}", fullmatch=True).filter(
    lambda name: not re.fullmatch("[0-9a-f]{64}", name)
)
hosts = st.sampled_from(["localhost", "h.example", "h:5000", "[::1]:5000", "docker.io", "h.a:80"])


@pytest.mark.parametrize(
    ("name", "host", "remote"),
    [
        ("ubuntu", INDEXSERVER, "ubuntu"),
        ("my.image", INDEXSERVER, "my.image"),
        ("ubuntu-12.04-base", INDEXSERVER, "ubuntu-12.04-base"),
        ("fooo/bar", INDEXSERVER, "fooo/bar"),
        ("a_b4/-..x", INDEXSERVER, "a_b4/-..x"),
        ("thisisthesongthatneverendsitgoesonandonandonthisisthesongthatnev", INDEXSERVER, None),
        (f"team/{HEX}", INDEXSERVER, f"team/{HEX}"),
        ("127.0.0.1:5000/private/moonbase", "127.0.0.1:5000", "private/moonbase"),
        ("localhost/app", "localhost", "app"),
        ("h.example/app", "h.example", "app"),
        ("docker.io/team/app", "docker.io", "team/app"),
        ("my-index.docker.io.example/app", "my-index.docker.io.example", "app"),
    ],
)
def test_where_a_name_belongs(name: str, host: str, remote: str | None) -> None:
    assert resolve_repository_name(name) == (host, remote or name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("https://github.com/docker/docker", "has no scheme"),
        ("index.docker.io/team/app", "have no host; write 'team/app'"),
        ("index.docker.io:443/team/app", "have no host; write 'team/app'"),
        ("www.INDEX.docker.io/ubuntu", "have no host; write 'ubuntu'"),
        (HEX, "is an image id"),
        (f"h.example/{HEX}", "is an image id"),
        ("docker/Docker", "'Docker' is not in lower case; write 'docker'"),
        ("docker///docker", "more parts than a namespace and a name"),
        ("h.example/a/b/c", "the namespace 'a' is not of 4 to 30"),
        ("h.example/team/b/c", "more parts than a namespace and a name"),
        ("abc/app", "the namespace 'abc' is not of 4 to 30"),
        ("a" * 31 + "/app", "is not of 4 to 30"),
        ("te-am/app", "the namespace 'te-am' is not of 4 to 30 of a-z, 0-9 and '_'"),
        ("Team/app", "the namespace 'Team'"),
        ("ubuntu:14.04", "a tag or digest is no part of a repository's name; write 'ubuntu'"),
        ("h:5000", "a tag or digest is no part"),
        ("h.example/team/app@sha256:00", "write 'app'"),
        ("team/a b", "'a b' is not of a-z, 0-9, '-', '_' and '.'"),
        ("team/a\n", "is not of a-z"),
        ("LOCALHOST/app", "the namespace 'LOCALHOST'"),
        ("", "the name is missing"),
        ("h.example/", "the name is missing"),
        ("team/", "the name is missing"),
        ("/app", "the namespace ''"),
    ],
)
def test_what_is_no_name_is_said(name: str, words: str) -> None:
    with pytest.raises(InvalidRepositoryNameError, match=re.escape(words)):
        resolve_repository_name(name)


def test_a_password_in_a_url_is_not_shown() -> None:
    with pytest.raises(InvalidRepositoryNameError) as caught:
        resolve_repository_name("https://ann:hunter22@h.example/team/app")
    assert "hunter22" not in str(caught.value)


def test_the_index_in_force_is_the_callers() -> None:
    assert resolve_repository_name("team/app", index="https://i.example/v1/") == (
        "https://i.example/v1/",
        "team/app",
    )


@given(st.none() | hosts, st.none() | namespaces, names)
def test_what_is_put_together_comes_apart(
    host: str | None, namespace: str | None, name: str
) -> None:
    remote = name if namespace is None else f"{namespace}/{name}"
    whole = remote if host is None else f"{host}/{remote}"
    assert resolve_repository_name(whole) == (host or INDEXSERVER, remote)


@given(st.text(max_size=60) | st.from_regex(r"[a-zA-Z0-9./:@_-]{1,60}", fullmatch=True))
def test_any_text_gives_a_name_of_v1_or_an_error(text: str) -> None:
    try:
        host, remote = resolve_repository_name(text)
    except InvalidRepositoryNameError as error:
        assert error.status == 2
        return
    assert text == (remote if host == INDEXSERVER else f"{host}/{remote}")
    assert re.fullmatch(r"([a-z0-9_]{4,30}/)?[a-z0-9._-]+", remote)


# from a reference of today


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("ubuntu:14.04", "library/ubuntu"),
        ("docker.io/team/app", "team/app"),
        ("h.example/app", "app"),
        ("h.example/team/app", "team/app"),
        ("h.example/ab/app", "ab/app"),
        ("h.example/a-b/app", "a-b/app"),
        ("h.example/" + "n" * 60 + "/app", "n" * 60 + "/app"),
        (f"h.example/{HEX}", HEX),
    ],
)
def test_the_name_on_v1_of_a_reference(reference: str, name: str) -> None:
    assert v1_repository_name(Reference.parse(reference)) == name


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("h.example/ab/c/d", "is NAMESPACE/NAME and has no further '/', such as 'ab/c-d'"),
        ("h.example/a/b/c", "is NAMESPACE/NAME and has no further '/', such as 'a-b/c'"),
        ("h.example/x/app", "of 2 characters and more of a-z, 0-9, '_' and '-', not 'x'"),
        ("h.example/my.team/app", "not 'my.team'"),
        ("docker.io/abc/app", "the index has namespaces of 4 to 30 of a-z, 0-9 and '_', not 'abc'"),
        ("docker.io/te-am/app", "not 'te-am'"),
    ],
)
def test_what_v1_has_no_name_for_is_said(reference: str, words: str) -> None:
    parsed = Reference.parse(reference)
    with pytest.raises(InvalidRepositoryNameError, match=re.escape(words)) as caught:
        v1_repository_name(parsed)
    assert str(caught.value).startswith(f"'{parsed.name}': {parsed.host} speaks")


@given(st.lists(st.from_regex(r"[a-z0-9]([._-]?[a-z0-9]){0,3}", fullmatch=True), min_size=3))
def test_the_name_that_is_proposed_is_one(parts: list[str]) -> None:
    with pytest.raises(InvalidRepositoryNameError) as caught:
        v1_repository_name(Reference.parse(f"h.example/{'/'.join(parts[:20])}"))
    proposed = re.search("such as '([^'…]*)'", str(caught.value))
    if proposed is not None:
        assert v1_repository_name(Reference.parse(f"h.example/{proposed[1]}")) == proposed[1]


@given(hosts.filter(lambda host: host != "docker.io"), st.none() | namespaces, names)
def test_what_the_rules_of_v1_allow_is_the_same_from_a_reference(
    host: str, namespace: str | None, name: str
) -> None:
    remote = name if namespace is None else f"{namespace}/{name}"
    try:
        reference = Reference.parse(f"{host}/{remote}")
    except InvalidRepositoryNameError:
        return  # the grammar of today is narrower within a part
    assert v1_repository_name(reference) == resolve_repository_name(f"{host}/{remote}")[1]

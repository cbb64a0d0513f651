"""Where a blob may be fetched from when its manifest names the place."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service.cancel import Cancellation
from registry_service.descriptor import Descriptor
from registry_service.digest import Digest
from registry_service.errors import CancelledError, ProtocolError, RegistryError
from registry_service.hosts import is_private_literal
from registry_service.observe import Observer
from registry_service.session.blob import RemoteBlob
from registry_service.session.foreign import check_url, open_foreign
from registry_service.settings import RegistrySettings
from registry_service.testing import Registry
from registry_service.transport import Transport

CONTENT = b"0123456789" * 10
SETTINGS = RegistrySettings(insecure_hosts=("plain.example",), retries=0)
PUBLIC, LOCAL = "https://registry.example/", "http://127.0.0.1:5000/"


@pytest.mark.parametrize(
    ("url", "registry", "said"),
    [
        ("https://cdn.example/x?sig=1", PUBLIC, None),
        ("http://plain.example/x", PUBLIC, None),
        ("http://127.0.0.1:1/x", LOCAL, None),
        ("https://10.0.0.1/x", LOCAL, None),
        ("https://10.0.0.1/x", "https://10.0.0.1/", None),
        ("http://cdn.example/x", PUBLIC, "plain http is refused"),
        ("http://cdn.example/x", LOCAL, "plain http is refused"),
        ("https://10.0.0.1/x", PUBLIC, "private network"),
        ("https://169.254.169.254/latest", PUBLIC, "private network"),
        ("http://localhost/x", PUBLIC, "private network"),
        ("https://[::1]/x", PUBLIC, "private network"),
        ("https://localhost./x", PUBLIC, "private network"),
        ("https://10.0.0.1./x", PUBLIC, "private network"),
        ("https://127.1/x", PUBLIC, "private network"),
        ("https://2130706433/x", PUBLIC, "private network"),
        ("https://0x7f000001/x", PUBLIC, "private network"),
        ("https://012.0.0.1/x", PUBLIC, "private network"),
        ("https://[::ffff:10.0.0.1]/x", PUBLIC, "private network"),
        ("https://u:p@cdn.example/x", PUBLIC, "with credentials"),
        ("ftp://cdn.example/x", PUBLIC, "http"),
        ("file:///etc/passwd", PUBLIC, "http"),
        ("/x", PUBLIC, "http"),
        ("https://cdn.example:x/", PUBLIC, "."),
    ],
)
def test_which_urls_are_asked(url: str, registry: str, said: str | None) -> None:
    if said is None:
        assert check_url(url, registry, SETTINGS) == url
        return
    with pytest.raises(ProtocolError, match=said) as caught:
        check_url(url, registry, SETTINGS)
    assert "u:p" not in str(caught.value)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


Opener = Callable[..., RemoteBlob]


@pytest.fixture
def opener() -> Iterator[Opener]:
    with Transport(SETTINGS) as transport:

        def opened(*urls: str, offset: int = 0, registry: str = LOCAL, **more: Any) -> RemoteBlob:
            descriptor = Descriptor(
                media_type="a/b", digest=Digest.of(CONTENT), size=len(CONTENT), urls=urls
            )
            return open_foreign(
                descriptor,
                offset,
                transport=transport,
                registry=registry,
                cancel=more.get("cancel") or Cancellation(),
                observer=Observer(),
            )

        yield opened


def rest(blob: RemoteBlob) -> bytes:
    found = bytearray()
    buffer = bytearray(1000)
    with blob:
        while count := blob.readinto(memoryview(buffer)):
            found += buffer[:count]
    return bytes(found)


def place(registry: Registry) -> str:
    return f"http://{registry.host}/v2/files/blobs/{registry.put_blob('files', CONTENT)}"


def test_a_part_is_asked_for_by_range(registry: Registry, opener: Opener) -> None:
    blob = opener(place(registry), offset=42)
    assert (blob.offset, rest(blob)) == (42, CONTENT[42:])
    assert rest(opener(place(registry))) == CONTENT


@pytest.mark.parametrize("fault", ["no-range", "wrong-range"])
def test_a_server_that_gives_another_part_gives_the_whole(
    registry: Registry, opener: Opener, fault: str
) -> None:
    url = place(registry)
    registry.add_fault(fault)
    blob = opener(url, offset=42)
    assert (blob.offset, rest(blob)) == (0, CONTENT)


def test_urls_are_asked_in_turn_and_each_failure_is_named(
    registry: Registry, opener: Opener
) -> None:
    lacking = f"http://{registry.host}/v2/files/blobs/{Digest.of(b'another')}"
    assert rest(opener("ftp://x/", lacking, place(registry))) == CONTENT
    with pytest.raises(RegistryError) as caught:
        opener(lacking, "https://u:p@cdn.example/")
    assert "404" in str(caught.value)
    assert "with credentials" in str(caught.value)


def test_a_redirect_is_held_to_the_same(registry: Registry, opener: Opener) -> None:
    url = place(registry)
    with Registry() as other:
        other.add_fault(f"redirect:to=http://{registry.host},path=/blobs/")
        assert rest(opener(url.replace(registry.host, other.host))) == CONTENT
        other.clear_faults()
        other.add_fault("redirect:to=http://cdn.example,path=/blobs/")
        with pytest.raises(ProtocolError, match=r"cdn\.example/.*: plain http is refused"):
            opener(url.replace(registry.host, other.host))


def test_a_cancel_ends_it(registry: Registry, opener: Opener) -> None:
    cancel = Cancellation()
    cancel.cancel()
    with pytest.raises(CancelledError):
        opener(place(registry), cancel=cancel)


@given(
    st.from_regex(
        r"(0[xX][0-9a-fA-F]{0,4}|[0-9]{1,5})(\.(0[xX][0-9a-fA-F]{0,3}|[0-9]{1,4})){0,3}",
        fullmatch=True,
    )
    | st.integers(0, 2**33).map(str)
)
def test_addresses_are_read_as_the_system_s_look_up_reads_them(host: str) -> None:
    try:
        address = ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return
    assert is_private_literal(host) is not address.is_global

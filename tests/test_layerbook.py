"""What was learned of V1 layers: found by all that was said of one, by whoever wrote it down."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support_v1_layers import HOST, stated

from registry_service.digest import Digest
from registry_service.errors import ManifestError
from registry_service.media import OCI_LAYER
from registry_service.store import LayerBook, MemoryLayerBook
from registry_service.store.layerbook import layer_key
from registry_service.upgrade import Layer
from registry_service.v1.layer import StatedLayer

LAYER = Layer(
    digest=Digest.of(b"blob"), size=4, diff_id=Digest.of(b"tar"), media_type=f"{OCI_LAYER}+gzip"
)
OTHER = dataclasses.replace(LAYER, digest=Digest.of(b"other"))
SAYS = stated(b"blob")


@pytest.fixture(params=[lambda path: LayerBook(path), lambda path: MemoryLayerBook()])
def book(request: pytest.FixtureRequest, tmp_path: Path) -> LayerBook:
    make: Callable[[Path], LayerBook] = request.param
    return make(tmp_path)


def test_a_layer_is_found_by_all_that_was_said_of_it(book: LayerBook) -> None:
    assert book.find(HOST, SAYS) is None
    book.record(HOST, SAYS, LAYER)
    assert book.find(HOST, SAYS) == LAYER
    assert book.find("other.test", SAYS) is None
    changes: list[dict[str, Any]] = [
        {"json": b"{}"},
        {"size": 5},
        {"checksum_payload": ""},
        {"checksum": "tarsum+sha256:00"},
        {"image_id": "ff" * 32},
    ]
    for change in changes:
        assert book.find(HOST, dataclasses.replace(SAYS, **change)) is None


def test_what_came_last_counts(book: LayerBook) -> None:
    for layer in (LAYER, OTHER, OTHER, LAYER):
        book.record(HOST, SAYS, layer)
    assert book.find(HOST, SAYS) == LAYER


def test_what_is_gone_is_forgotten(book: LayerBook) -> None:
    second = stated(b"other", seed=2)
    book.record(HOST, SAYS, LAYER)
    book.record(HOST, second, OTHER)
    book.tidy(lambda digest: digest == OTHER.digest)
    assert book.find(HOST, SAYS) is None
    assert book.find(HOST, second) == OTHER


def test_another_book_of_the_same_place_has_the_same(tmp_path: Path) -> None:
    one, other = LayerBook(tmp_path), LayerBook(tmp_path)
    assert other.find(HOST, SAYS) is None
    one.record(HOST, SAYS, LAYER)
    assert other.find(HOST, SAYS) == LAYER
    assert len((tmp_path / "layers" / HOST).read_text().split()) == 7
    other.record(HOST, SAYS, LAYER)  # it is known
    assert len((tmp_path / "layers" / HOST).read_text().split()) == 7


@given(st.integers(0, 300))
def test_a_line_that_was_torn_says_nothing(cut: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        book = LayerBook(Path(place))
        book.record(HOST, SAYS, LAYER)
        path = Path(place) / "layers" / HOST
        whole = path.read_bytes()
        path.write_bytes(whole[: min(cut, len(whole) - 2)])
        again = LayerBook(Path(place))
        assert again.find(HOST, SAYS) is None
        again.record(HOST, SAYS, LAYER)
        assert LayerBook(Path(place)).find(HOST, SAYS) == LAYER


@given(st.lists(st.tuples(st.binary(max_size=4), st.text(max_size=4)), max_size=2, unique=True))
def test_the_key_of_no_two_is_the_same(says: list[tuple[bytes, str]]) -> None:
    image_id = "ab" * 32
    keys = {
        layer_key(StatedLayer(image_id=image_id, json=json, checksum_payload=payload))
        for json, payload in says
    }
    assert len(keys) == len(says)


def test_what_is_no_id_gets_into_no_book() -> None:
    with pytest.raises(ManifestError, match="64 lower-case hex digits"):
        StatedLayer(image_id="../../../etc/passwd", json=b"{}")

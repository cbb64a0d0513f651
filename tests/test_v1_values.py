from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry_service import ImgData, RepositoryData
from registry_service.errors import ManifestError, ProtocolError

ONE, TWO = "1a3f" * 16, "2b3c" * 16
SUM = "tarsum+sha256:" + "ab" * 32
PAYLOAD = "sha256:" + "cd" * 32

ids = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
images = st.builds(ImgData, id=ids, checksum=st.text(), tag=st.text())


def test_the_names_in_json_are_those_of_the_first_clients() -> None:
    image = ImgData(id=ONE, checksum=SUM, checksum_payload=PAYLOAD, tag="latest")
    assert image.to_json() == {"id": ONE, "checksum": SUM, "Tag": "latest"}
    assert ImgData(id=ONE).to_json() == {"id": ONE}


@given(images)
def test_what_is_written_is_read_again(image: ImgData) -> None:
    assert ImgData.from_json(image.to_json()) == image


@given(images, st.text(min_size=1))
def test_the_payload_is_in_no_json(image: ImgData, payload: str) -> None:
    document = ImgData(id=image.id, checksum_payload=payload, tag=image.tag).to_json()
    assert document.keys() <= {"id", "Tag"}
    assert ImgData.from_json({**document, "ChecksumPayload": payload}).checksum_payload == ""


def test_null_other_names_and_a_tag_in_lower_case() -> None:
    given = {"id": ONE, "checksum": None, "Tag": None, "tag": "1.0", "size": 7}
    assert ImgData.from_json(given) == ImgData(id=ONE, tag="1.0")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "no JSON map"),
        ([ONE], "no JSON map"),
        ({}, "no id"),
        ({"id": ONE.upper()}, "no id"),
        ({"id": ONE[:12]}, "no id"),
        ({"id": f"{ONE}\n"}, "no id"),
        ({"id": 7}, "no id"),
        ({"id": ONE, "checksum": 7}, f"{ONE}: checksum: a text"),
        ({"id": ONE, "Tag": ["x"]}, f"{ONE}: Tag: a text"),
    ],
)
def test_an_entry_that_is_none_is_said(value: Any, words: str) -> None:
    with pytest.raises(ProtocolError, match=words):
        ImgData.from_json(value)


@pytest.mark.parametrize("image_id", ["", "../" + ONE[3:], ONE[1:], f"{ONE}\n"])
def test_an_id_that_is_none_is_refused(image_id: str) -> None:
    with pytest.raises(ManifestError, match="64 lower-case hex digits"):
        ImgData(id=image_id)


def test_an_image_with_several_tags_stands_several_times_in_a_list() -> None:
    data = RepositoryData.of(
        [
            ImgData(id=ONE, checksum=SUM, tag="1.0"),
            ImgData(id=TWO),
            ImgData(id=ONE, tag="latest"),
        ],
        ["https://r.example/v1/"],
        ["signature=x"],
    )
    assert data.img_list == {
        ONE: ImgData(id=ONE, checksum=SUM, tag="latest"),
        TWO: ImgData(id=TWO),
    }
    assert data.endpoints == ("https://r.example/v1/",)


def test_no_repr_shows_a_token() -> None:
    assert "hunter22" not in repr(RepositoryData(tokens=("hunter22",)))

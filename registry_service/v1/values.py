"""What an index of V1 says of a repository: which images it has, and where they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import ProtocolError
from .image import check_image_id, is_image_id

__all__ = ["ImgData", "RepositoryData"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImgData:
    """An image as an index lists it. Every field but ``id`` may be empty.

    ``checksum`` is the TarSum of its layer, ``checksum_payload`` that of the bytes that were
    sent, ``sha256:…``: it goes in a header, and is in no JSON. ``tag`` is one that the image
    has. Raises `ManifestError` for an id that is none.
    """

    id: str
    checksum: str = ""
    checksum_payload: str = ""
    tag: str = ""

    def __post_init__(self) -> None:
        check_image_id(self.id)

    @classmethod
    def from_json(cls, value: Any) -> ImgData:
        """From one entry of an index's list. Null is 'not given', other names are left alone.
        Raises `ProtocolError`, which says what is wrong."""
        if not isinstance(value, Mapping):
            raise ProtocolError("an entry of the index's list of images is no JSON map")
        image_id = value.get("id")
        if not isinstance(image_id, str) or not is_image_id(image_id):
            raise ProtocolError(
                "an entry of the index's list of images has no id of 64 lower-case hex digits"
            )
        # The first clients wrote 'Tag'; some servers answer in lower case throughout.
        tag = _text(value, image_id, "Tag") or _text(value, image_id, "tag")
        return cls(id=image_id, checksum=_text(value, image_id, "checksum"), tag=tag)

    def to_json(self) -> dict[str, str]:
        """The map with the JSON names; what is empty is left out, and so is the payload."""
        found = {"id": self.id, "checksum": self.checksum, "Tag": self.tag}
        return {name: value for name, value in found.items() if value}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryData:
    """A repository as an index knows it: ``img_list`` its images by their ids, ``endpoints`` the
    URLs of the registries that have them, each ending in ``/v1/``, and ``tokens`` what these let
    in for (values of ``X-Docker-Token``, secret)."""

    img_list: Mapping[str, ImgData] = dataclasses.field(default_factory=dict)
    endpoints: tuple[str, ...] = ()
    tokens: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    @classmethod
    def of(
        cls, images: Iterable[ImgData], endpoints: Iterable[str] = (), tokens: Iterable[str] = ()
    ) -> RepositoryData:
        """Of a list, in which an image with several tags stands several times: the last counts,
        but a checksum that one of its entries has is kept."""
        found: dict[str, ImgData] = {}
        for one in images:
            before = found.get(one.id)
            if before is not None and not one.checksum:
                one = dataclasses.replace(one, checksum=before.checksum)
            found[one.id] = one
        return cls(img_list=found, endpoints=tuple(endpoints), tokens=tuple(tokens))


def _text(value: Mapping[str, Any], image_id: str, name: str) -> str:
    text = value.get(name)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ProtocolError(f"the index's list of images: {image_id}: {name}: a text is expected")
    return text

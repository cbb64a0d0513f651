"""Images as V1 knows them: an id, the JSON that says what it is, and the image that it lies upon.

What a registry says of them is checked here: that an image's JSON is that of the image that was
asked for, and that an ancestry is what the images themselves say of their parents.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..documents import most_values
from ..errors import ManifestError

__all__ = [
    "ANCESTRY_LIMIT",
    "JSON_LIMIT",
    "VALUES_LIMIT",
    "V1Image",
    "check_ancestry",
    "check_chain",
    "check_image_id",
    "is_image_id",
]

#: The bytes that an image's JSON may have.
JSON_LIMIT: Final = 4 * 1024 * 1024
#: The values that may be in it.
VALUES_LIMIT: Final = 100_000
#: The images that may lie upon each other. Docker's own bound was 127.
ANCESTRY_LIMIT: Final = 10_000

_ID: Final = re.compile(r"[0-9a-f]{64}")


def is_image_id(text: object) -> bool:
    """Whether it is 64 lower-case hexadecimal digits."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def check_image_id(text: object, where: str = "the id of an image") -> str:
    """The id. Raises `ManifestError`, which says ``where`` another thing stood."""
    if not isinstance(text, str) or not is_image_id(text):
        raise ManifestError(f"{where}: 64 lower-case hex digits are expected, not {_shown(text)}")
    return text


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class V1Image:
    """An image: its ``id``, that of its ``parent`` (empty for the lowest), and its JSON, both as
    the bytes that came and as the object that they are, which is not to be changed."""

    id: str
    parent: str
    raw: bytes = dataclasses.field(repr=False)
    value: Mapping[str, Any] = dataclasses.field(repr=False, compare=False)

    @classmethod
    def parse(cls, raw: bytes, image_id: str) -> V1Image:
        """The image ``image_id``, whose JSON is said to be ``raw``.

        Raises `ManifestError`, which names the image, for what is no JSON object, for the JSON of
        another image, and for a parent that is no id or the image itself.
        """
        check_image_id(image_id)
        value = _load(raw, image_id)
        own, parent = value.get("id"), value.get("parent")
        if own != image_id:
            raise ManifestError(f"image {image_id}: its JSON is that of {_shown(own)}")
        if parent is None or parent == "":
            parent = ""
        else:
            check_image_id(parent, f"image {image_id}: its parent")
        if parent == image_id:
            raise ManifestError(f"image {image_id}: it is its own parent")
        return cls(id=image_id, parent=parent, raw=bytes(raw), value=value)

    @property
    def empty(self) -> bool:
        """Whether it says itself that it changed no file, so that its layer need not be read."""
        return self.value.get("throwaway") is True


def check_ancestry(ancestry: Sequence[object], image_id: str) -> tuple[str, ...]:
    """The ids of ``image_id`` and of all that it lies upon, as a registry gave them: the image
    itself first, the lowest last. Raises `ManifestError`, which names the id."""
    check_image_id(image_id)
    where = f"the ancestry of image {image_id}"
    if not ancestry:
        raise ManifestError(f"{where} is empty")
    if len(ancestry) > ANCESTRY_LIMIT:
        raise ManifestError(f"{where} has {len(ancestry)} images; {ANCESTRY_LIMIT} are allowed")
    seen: dict[str, None] = {}
    for place, one in enumerate(ancestry):
        found = check_image_id(one, f"{where}, entry {place}")
        if found in seen:
            raise ManifestError(f"{where} has the image {found} more than once")
        seen[found] = None
    if ancestry[0] != image_id:
        raise ManifestError(f"{where} begins with the image {ancestry[0]}")
    return tuple(seen)


def check_chain(images: Sequence[V1Image]) -> None:
    """That each of these images, in the order of an ancestry, has the next one as its parent.

    Raises `ManifestError`, which says of an image whether its parent is missing, stands elsewhere,
    lies above it or is one too many.
    """
    places = {image.id: place for place, image in enumerate(images)}
    if len(places) != len(images):
        twice = next(one.id for place, one in enumerate(images) if places[one.id] != place)
        raise ManifestError(f"the image {twice} is in its ancestry more than once")
    for place, image in enumerate(images):
        below = images[place + 1].id if place + 1 < len(images) else ""
        if image.parent == below:
            continue
        if not image.parent:
            raise ManifestError(
                f"image {image.id}: it has no parent, and its ancestry goes on with {below}"
            )
        where = places.get(image.parent)
        if where is None:
            raise ManifestError(
                f"image {image.id}: its parent {image.parent} is not in its ancestry"
            )
        if where < place:
            raise ManifestError(
                f"image {image.id}: its parent {image.parent} lies upon it; they are in a loop"
            )
        raise ManifestError(
            f"image {image.id}: its ancestry goes on with {below}, its parent {image.parent} "
            "comes later"
        )


def _load(raw: bytes, image_id: str) -> dict[str, Any]:
    where = f"image {image_id}: its JSON"
    if len(raw) > JSON_LIMIT:
        raise ManifestError(f"{where} has {len(raw)} bytes; {JSON_LIMIT} are allowed")
    if most_values(raw) > VALUES_LIMIT:
        raise ManifestError(f"{where} has more than {VALUES_LIMIT} values")
    try:
        value = json.loads(bytes(raw).decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        start = bytes(raw[:40]).decode("utf-8", "replace")
        raise ManifestError(f"{where} is none: {error}; it begins {start!r}") from None
    if not isinstance(value, dict):
        raise ManifestError(f"{where} is no object")
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _shown(value: object) -> str:
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else f"{value[:77]}…")
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"

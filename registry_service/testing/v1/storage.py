"""Where a V1 registry's content lies, in the places where the original registry has it.

    images/ID/json, layer, ancestry           an image
    images/ID/_checksum                       a JSON list of its payload checksums
    images/ID/_inprogress                     there while it is being uploaded
    images/ID/_said                         other headers for its JSON, a test's own
    repositories/NAMESPACE/NAME/tag_TAG       the id that the tag stands for
    repositories/NAMESPACE/NAME/tagTAG_json   who set it
    repositories/NAMESPACE/NAME/_index_images what the index says of its images
    repositories/NAMESPACE/NAME/_images_list  the ids that an index named
    repositories/NAMESPACE/NAME/_private      there for a private one

So a directory that the original left behind can be served. Thread-safe as the tree is; each
change is one file, and two clients that push one image at once are not kept apart; one lock
guards the lists of images, which are read and written again.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Mapping
from typing import Any

from ..content import Content, PatternContent, read_all
from ..tree import Tree, TreeUpload
from . import imagelists
from .names import is_image_id, is_repository

__all__ = ["StoredImage", "V1Storage"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """An image as it was put, byte for byte.

    ``ancestry`` is the JSON list of the ids, this one first. ``checksums`` are what its payload
    may be said to have. ``complete`` once the checksum has been put. ``said`` are headers that
    come with its JSON in place of what is so; None: there is no such header.
    """

    id: str
    raw: bytes
    ancestry: bytes
    layer: Content | None
    checksums: tuple[str, ...]
    complete: bool
    said: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    @property
    def chain(self) -> list[str]:
        """The ids of the ancestry. Raises ValueError where that is not JSON."""
        return list(json.loads(self.ancestry))

    @property
    def layer_bytes(self) -> bytes:
        """The layer, in memory. Raises KeyError if there is none."""
        if self.layer is None:
            raise KeyError(f"image {self.id} has no layer")
        return read_all(self.layer)


class V1Storage:
    """Images, and repositories with their tags. Names have been checked by the caller."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._lists = threading.Lock()

    # images

    def image_ids(self) -> list[str]:
        """Those that have JSON, sorted."""
        ids = filter(is_image_id, self._tree.names("images"))
        return [one for one in ids if self.raw(one) is not None]

    def raw(self, image_id: str) -> bytes | None:
        """An image's JSON, whole or being uploaded."""
        return self._tree.read(f"images/{image_id}/json")

    def is_pending(self, image_id: str) -> bool:
        return self._tree.content(f"images/{image_id}/_inprogress") is not None

    def layer(self, image_id: str) -> Content | None:
        return self._tree.content(f"images/{image_id}/layer")

    def ancestry(self, image_id: str) -> bytes | None:
        return self._tree.read(f"images/{image_id}/ancestry")

    def chain(self, image_id: str) -> list[str]:
        """The ids of an ancestry; the image alone where there is none, or none that can be read."""
        known = self.ancestry(image_id) if is_image_id(image_id) else None
        try:
            found = json.loads(known or b"")
        except ValueError:
            found = None
        return list(map(str, found)) if isinstance(found, list) else [image_id]

    def listed(self, image_id: str) -> dict[str, Any]:
        """An image as an index lists it: its id, and its checksum if it has one."""
        checksums = self.checksums(image_id) if is_image_id(image_id) else ()
        return {"id": image_id, **({"checksum": checksums[0]} if checksums else {})}

    def checksums(self, image_id: str) -> tuple[str, ...]:
        """What has been computed, or put, for an image; empty before."""
        data = self._tree.read(f"images/{image_id}/_checksum")
        if data is None:
            return ()
        try:
            return tuple(json.loads(data))
        except ValueError:
            # Old registries wrote the one checksum as it is.
            return (data.decode("utf-8", "replace"),)

    def said(self, image_id: str) -> Mapping[str, str | None]:
        """The headers that come with an image's JSON in place of what is so."""
        data = self._tree.read(f"images/{image_id}/_said")
        return {} if data is None else dict(json.loads(data))

    def image(self, image_id: str) -> StoredImage | None:
        raw = self.raw(image_id)
        if raw is None:
            return None
        return StoredImage(
            id=image_id,
            raw=raw,
            ancestry=self.ancestry(image_id) or b"",
            layer=self.layer(image_id),
            checksums=self.checksums(image_id),
            complete=not self.is_pending(image_id),
            said=self.said(image_id),
        )

    def begin(self, image_id: str, raw: bytes, ancestry: bytes) -> None:
        """Take an image's JSON. It is pending until `finish`."""
        self._tree.write(f"images/{image_id}/_inprogress", b"true")
        self._tree.remove(f"images/{image_id}/_checksum")
        self._tree.write(f"images/{image_id}/json", raw)
        self._tree.write(f"images/{image_id}/ancestry", ancestry)

    def new_upload(self) -> TreeUpload:
        return self._tree.new_upload()

    def take_layer(self, image_id: str, upload: TreeUpload, checksum: str) -> None:
        upload.move(f"images/{image_id}/layer")
        self._put_checksums(image_id, (checksum,))

    def finish(self, image_id: str) -> None:
        self._tree.remove(f"images/{image_id}/_inprogress")

    def put(self, image: StoredImage) -> None:
        """Take an image as it is, whatever is wrong with it."""
        self.delete(image.id)
        self.begin(image.id, image.raw, image.ancestry)
        if isinstance(image.layer, PatternContent):
            self._tree.put_content(f"images/{image.id}/layer", image.layer)
        elif image.layer is not None:
            self.put_layer(image.id, read_all(image.layer))
        if image.checksums:
            self._put_checksums(image.id, image.checksums)
        if image.said:
            self._tree.write(f"images/{image.id}/_said", json.dumps(dict(image.said)).encode())
        if image.complete:
            self.finish(image.id)

    def put_layer(self, image_id: str, data: bytes) -> None:
        """Put other bytes in the place of a layer; checksums stay what they were."""
        self._tree.write(f"images/{image_id}/layer", data)

    def delete(self, image_id: str) -> bool:
        found = self.raw(image_id) is not None
        self._tree.remove_folder(f"images/{image_id}")
        return found

    def _put_checksums(self, image_id: str, checksums: tuple[str, ...]) -> None:
        self._tree.write(f"images/{image_id}/_checksum", json.dumps(list(checksums)).encode())

    # repositories

    def repositories(self) -> list[str]:
        """All that can be asked for, as NAMESPACE/NAME, sorted."""
        found = [
            f"{namespace}/{name}"
            for namespace in self._tree.names("repositories")
            for name in self._tree.names(f"repositories/{namespace}")
        ]
        return [one for one in found if is_repository(one) and self.has_repository(one)]

    def has_repository(self, repository: str) -> bool:
        return bool(self._tree.names(f"repositories/{repository}"))

    def delete_repository(self, repository: str) -> bool:
        """Take it away with its tags; its images stay, others may have them."""
        found = self.has_repository(repository)
        self._tree.remove_folder(f"repositories/{repository}")
        return found

    def tags(self, repository: str) -> dict[str, str]:
        found = {}
        for name in self._tree.names(f"repositories/{repository}"):
            if name.startswith("tag_"):
                tag = name.removeprefix("tag_")
                image_id = self.tag(repository, tag)
                if image_id is not None:
                    found[tag] = image_id
        return found

    def tag(self, repository: str, tag: str) -> str | None:
        data = self._tree.read(f"repositories/{repository}/tag_{tag}")
        return None if data is None else data.decode("utf-8", "replace")

    def put_tag(self, repository: str, tag: str, image_id: str, properties: Any = None) -> None:
        base = f"repositories/{repository}"
        self._tree.write(f"{base}/tag_{tag}", image_id.encode())
        data = json.dumps(properties or {}).encode()
        self._tree.write(f"{base}/tag{tag}_json", data)
        if tag == "latest":
            self._tree.write(f"{base}/json", data)

    def delete_tag(self, repository: str, tag: str) -> bool:
        base = f"repositories/{repository}"
        self._tree.remove(f"{base}/tag{tag}_json")
        if tag == "latest":
            self._tree.remove(f"{base}/json")
        return self._tree.remove(f"{base}/tag_{tag}")

    def properties(self, repository: str, tag: str | None) -> bytes | None:
        """The JSON about a tag, or about the repository."""
        name = "json" if tag is None else f"tag{tag}_json"
        return self._tree.read(f"repositories/{repository}/{name}")

    def index_images(self, repository: str) -> list[dict[str, Any]] | None:
        """What the index says of a repository's images; None if it does not know it."""
        data = self._tree.read(f"repositories/{repository}/_index_images")
        return None if data is None else list(json.loads(data))

    def merge_index_images(self, repository: str, images: list[dict[str, Any]]) -> None:
        """Add images to a repository's list. The first is kept as it is, as by the original."""
        with self._lists:
            known = self.index_images(repository)
            whole = images if known is None else imagelists.merged(images, known)
            data = json.dumps(whole).encode()
            self._tree.write(f"repositories/{repository}/_index_images", data)

    def tagged_images(self, repository: str) -> list[dict[str, Any]] | None:
        """The images of a repository's tags, with all that they are built on, as far as what
        the files name are ids; None: no tags."""
        tags = self.tags(repository)
        found: dict[str, dict[str, Any]] = {}
        for image_id in filter(is_image_id, tags.values()):
            for one in filter(is_image_id, self.chain(image_id)):
                found[one] = self.listed(one)
        return list(found.values()) if tags else None

    def note_images(self, repository: str, ids: list[str]) -> None:
        """Keep the list of an index beside what its registry has: the repository is known then."""
        self._tree.write(f"repositories/{repository}/_images_list", json.dumps(ids).encode())

    def is_private(self, repository: str) -> bool:
        return self._tree.content(f"repositories/{repository}/_private") is not None

    def set_private(self, repository: str, private: bool) -> None:
        path = f"repositories/{repository}/_private"
        if private:
            self._tree.write(path, b"")
        else:
            self._tree.remove(path)

    def close(self) -> None:
        self._tree.close()

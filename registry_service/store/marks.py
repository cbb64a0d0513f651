"""What the names of a layout lead to: which content has to stay.

Documents are read with an open mind. What an index lists may be of a type that nobody here knows
and name content in turn; so whatever looks like a manifest is gone through as one. To keep too much
costs space, to keep too little costs an image.

What belongs to another manifest (its ``subject``) stays while that does, whether a name leads to
it or not. The other way round nothing follows: a signature does not keep its image.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from ..digest import HASHABLE, Digest
from ..errors import DoesNotExistError, RegistryError, StoreError
from ..manifest import MANIFEST_LIMIT
from .disk import disk_error
from .entries import subject_of
from .layout import Layout

__all__ = ["Document", "Marks"]

_LEAVES: Final = ("config", "layers", "blobs")
_SPACE: Final = b" \t\r\n"
_PIECE: Final = 1024 * 1024
_MENTION: Final = re.compile(rb"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_LONGEST: Final = len("sha512:") + 128 - 1  # as much of one as may lie before the end of a piece


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What a document names: ``parts`` may be documents too, ``leaves`` are not."""

    media_type: str = ""
    parts: tuple[Digest, ...] = ()
    leaves: tuple[Digest, ...] = ()
    subject: Digest | None = None

    @classmethod
    def parse(cls, raw: bytes) -> Document | None:
        """None for what is no JSON object. What is malformed in it names nothing."""
        if not _looks_like(raw):
            return None
        try:
            value = json.loads(raw)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict):
            return None
        media_type = value.get("mediaType")
        leaves = [one for field in _LEAVES for one in _digests(value.get(field))]
        leaves += _digests(value.get("fsLayers"), "blobSum")  # schema 1
        return cls(
            media_type=media_type if isinstance(media_type, str) else "",
            parts=tuple(_digests(value.get("manifests"))),
            leaves=tuple(leaves),
            subject=next(_digests(value.get("subject")), None),
        )


class Marks:
    """The content that entries of the index lead to, as far as it was looked at.

    It only grows: an entry that went away meanwhile keeps its content until the next time. Each
    document is read once. Belongs to one thread.

    With ``strict``, a document that is damaged or cannot be read raises `StoreError`, since what it
    names cannot be known; else it names nothing.
    """

    def __init__(self, layout: Layout, *, strict: bool = True) -> None:
        self.marked: set[Digest] = set()
        self._layout = layout
        self._strict = strict
        self._seen: list[Any] = []
        self._gone_through: set[Digest] = set()  # as documents; a leaf may be one elsewhere
        self._absent: set[Digest] = set()  # of these, what was not there
        self._referrers: dict[Digest, set[Digest]] = {}

    def add_entries(self, entries: list[Any], alive: Callable[[Digest], bool]) -> None:
        """Mark what these entries lead to. Those that belong to another manifest count while
        that is marked or ``alive``."""
        if entries == self._seen:
            return
        self._seen = list(entries)
        for entry in entries:
            digest = _digest(entry)
            subject = subject_of(entry)
            if digest is not None and subject is None:
                self.add(digest)
        for entry in entries:
            digest, subject = _digest(entry), subject_of(entry)
            if digest is None or subject is None:
                continue
            if alive(subject):
                self.add(digest)
            else:
                self._belongs(digest, subject)

    def add(self, *roots: Digest) -> None:
        """Mark these, what they lead to, and what belongs to any of it."""
        waiting = list(roots)
        while waiting:
            digest = waiting.pop()
            if digest in self._gone_through:
                continue
            self._gone_through.add(digest)
            document = self._document(digest)
            self.marked.add(digest)
            waiting.extend(self._referrers.get(digest, ()))
            if document is not None:
                waiting.extend(document.parts)
                for leaf in document.leaves:
                    self.marked.add(leaf)
                    waiting.extend(self._referrers.get(leaf, ()))

    def look_again(self) -> None:
        """Go through what is led to and was not there, as far as it has come meanwhile: content
        may have been there before it that nothing else leads to."""
        come = {digest for digest in self._absent if self._layout.size(digest) is not None}
        self._absent -= come
        self._gone_through -= come
        self.add(*come)

    def look_for_referrers(self, digests: Iterable[Digest]) -> None:
        """Of these, mark those that belong to what is marked; remember the others."""
        for digest in digests:
            if digest not in self.marked and (raw := self.peek(digest)):
                document = Document.parse(raw)
                if document is not None and document.subject is not None:
                    self._belongs(digest, document.subject)

    def peek(self, digest: Digest) -> bytes:
        """The content if it looks like a document, else nothing. It is not verified."""
        return self._read(digest, b"{") or b""

    def _document(self, digest: Digest) -> Document | None:
        """The document that the content is, or None. Raises `StoreError` for a damaged one,
        of which nobody can tell what it was."""
        raw = self._read(digest)
        if raw is None:
            self._absent.add(digest)
            return None
        if len(raw) > MANIFEST_LIMIT:
            return self._mentions(digest) if _looks_like(raw) else None
        if digest.algorithm not in HASHABLE or Digest.of(raw, digest.algorithm) == digest:
            return Document.parse(raw)
        if not self._strict:
            return None
        raise StoreError(
            f"the manifest {digest} is damaged, so that it is not known what belongs to its "
            "image; see 'verify', and pull the image again or remove it",
            code="damaged",
        )

    def _read(self, digest: Digest, start: bytes = b"") -> bytes | None:
        """The first bytes, one more than a manifest may have; nothing where it does not begin with
        ``start``, and None where the content is not here."""
        try:
            with self._layout.open(digest) as file:
                if not file.peek(64).lstrip(_SPACE).startswith(start):
                    return b""
                return file.read(MANIFEST_LIMIT + 1)
        except DoesNotExistError:
            return None
        except (OSError, StoreError) as error:
            if not self._strict:
                return b""
            if isinstance(error, StoreError):
                raise
            raise disk_error(error, self._layout.path(digest), "read") from error

    def _mentions(self, digest: Digest) -> Document:
        """A document that is too large to be parsed: every digest that occurs in it may name a
        part."""
        found: set[Digest] = set()
        rest = b""
        try:
            with self._layout.open(digest) as file:
                while piece := file.read(_PIECE):
                    text = rest + piece
                    found.update(Digest.parse(one.decode()) for one in _MENTION.findall(text))
                    rest = text[-_LONGEST:]
        except OSError as error:
            raise disk_error(error, self._layout.path(digest), "read") from error
        return Document(parts=tuple(found))

    def _belongs(self, digest: Digest, subject: Digest) -> None:
        self._referrers.setdefault(subject, set()).add(digest)
        if subject in self.marked:
            self.add(digest)


def _looks_like(raw: bytes) -> bool:
    """Whether it may be a document."""
    return raw.lstrip(_SPACE).startswith(b"{")


def _digests(value: Any, key: str = "digest") -> Iterator[Digest]:
    for one in value if isinstance(value, list) else [value]:
        found = _digest(one, key)
        if found is not None:
            yield found


def _digest(value: Any, key: str = "digest") -> Digest | None:
    try:
        return Digest.parse(value[key]) if isinstance(value, dict) else None
    except (KeyError, RegistryError):
        return None

"""What an entry of ``index.json`` says: a name, or what it belongs to. Pure.

Entries are JSON as it was read, of any tool: whatever is not understood is passed over, and kept.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Final

from ..descriptor import Descriptor
from ..digest import Digest
from ..errors import InvalidDigestError, ManifestError, RegistryError
from ..referrers import COSIGN_SUFFIXES, Companion

__all__ = [
    "REF_NAME",
    "SUBJECT",
    "SUFFIX",
    "belonging",
    "companion_of",
    "name_of",
    "named",
    "naming",
    "same_place",
    "subject_of",
    "without",
]

#: The annotation of an entry of ``index.json`` that holds its name.
REF_NAME: Final = "org.opencontainers.image.ref.name"
#: The annotations of an entry that has no name and belongs to another manifest: that one's
#: digest, and the suffix of its tag where it is the tag that says so.
SUBJECT: Final = "registry-engine.referrer.subject"
SUFFIX: Final = "registry-engine.referrer.suffix"


def named(entries: list[Any]) -> list[tuple[str, Descriptor]]:
    """The names and what they name, in order."""
    found = []
    for entry in entries:
        name = name_of(entry)
        if name is None:
            continue
        try:
            descriptor = Descriptor.from_json(entry)
        except ManifestError:
            continue
        rest = {key: text for key, text in descriptor.annotations.items() if key != REF_NAME}
        found.append((name, dataclasses.replace(descriptor, annotations=rest)))
    return found


def naming(name: str, descriptor: Descriptor) -> dict[str, Any]:
    """The entry by which ``name`` names ``descriptor``."""
    annotations = {**descriptor.annotations, REF_NAME: name}
    return dataclasses.replace(descriptor, annotations=annotations, data=None).to_json()


def without(entries: list[Any], name: str) -> tuple[list[Any], list[int]]:
    """The entries that do not have ``name``, and the places of those that do."""
    places = [place for place, entry in enumerate(entries) if name_of(entry) == name]
    return [entry for entry in entries if name_of(entry) != name], places


def name_of(entry: Any) -> str | None:
    """The name that an entry gives, if it gives one."""
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    name = annotations.get(REF_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else None


def belonging(companion: Companion) -> dict[str, Any]:
    """The entry of ``companion``, which has no name. What its descriptor notes of the kind is a
    registry's word, and left out."""
    descriptor = companion.descriptor
    own = (REF_NAME, SUBJECT, SUFFIX)
    notes = {key: text for key, text in descriptor.annotations.items() if key not in own}
    notes[SUBJECT] = str(companion.subject)
    if companion.suffix:
        notes[SUFFIX] = companion.suffix
    return dataclasses.replace(descriptor, annotations=notes, data=None).to_json()


def companion_of(entry: Any) -> Companion | None:
    """What an entry says that it belongs to; None for one that says nothing of the kind."""
    if name_of(entry) is not None:
        return None
    try:
        descriptor = Descriptor.from_json(entry)
        notes = dict(descriptor.annotations)
        subject = Digest.parse(notes.pop(SUBJECT, ""))
    except RegistryError:
        return None
    suffix = notes.pop(SUFFIX, "")
    if suffix and suffix not in COSIGN_SUFFIXES:
        return None
    descriptor = dataclasses.replace(descriptor, annotations=notes)
    return Companion(subject=subject, descriptor=descriptor, suffix=suffix)


def same_place(entry: Any, companion: Companion) -> bool:
    """Whether an entry goes when ``companion`` comes: it is the same, or has its tag."""
    other = companion_of(entry)
    return (
        other is not None
        and (other.subject, other.suffix) == (companion.subject, companion.suffix)
        and (bool(other.suffix) or other.descriptor.digest == companion.descriptor.digest)
    )


def subject_of(entry: Any) -> Digest | None:
    """What an entry of the index says that it belongs to."""
    notes = entry.get("annotations") if isinstance(entry, dict) else None
    if not isinstance(notes, dict) or REF_NAME in notes or not isinstance(notes.get(SUBJECT), str):
        return None
    try:
        return Digest.parse(notes[SUBJECT])
    except InvalidDigestError:
        return None

"""Every tag of a repository: which they are, and one thing done with each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Protocol

from ..cancel import Cancellation
from ..errors import (
    DigestMismatchError,
    InvalidDigestError,
    InvalidReferenceError,
    LayerError,
    ManifestError,
    PlatformError,
    RegistryError,
    RegistryHTTPError,
)
from ..observe import Observer
from ..reference import Reference

__all__ = ["TagLister", "each_tag", "references"]

_SHOWN: Final = 5


class TagLister(Protocol):
    """A registry, or mirrors before it."""

    def tags(self, repository: str, /) -> Iterator[str]: ...


def references(reference: Reference, client: TagLister, observer: Observer) -> Iterator[Reference]:
    """``reference`` with each tag of its repository. Some servers list names that are no tags,
    digests say: these are left out, and ``observer`` is told."""
    for tag in client.tags(reference.repository):
        try:
            yield reference.with_tag(tag)
        except InvalidReferenceError as error:
            observer.log("warning", f"{reference.name} lists what is no tag: {error}")


def each_tag(
    reference: Reference,
    client: TagLister,
    work: Callable[[Reference], bool],
    *,
    done: str,
    cancel: Cancellation,
    observer: Observer,
) -> list[str]:
    """Do ``work`` with each tag of a repository; returns the tags with which it was done.

    ``work`` returns False for a tag that is left out. One with which it fails does not keep the
    others back; at the end an error with the code ``incomplete`` names all of those. ``done`` is
    its word for what was not, such as ``pulled``.
    """
    worked: list[str] = []
    failed: list[tuple[str, RegistryError]] = []
    for one in references(reference, client, observer):
        cancel.check()
        tag = one.tag or ""
        try:
            if work(one):
                worked.append(tag)
        except RegistryError as error:
            if not _of_one_tag(error):
                raise
            observer.log("warning", f"{one}: {error}", tag=tag)
            failed.append((tag, error))
    if failed:
        told = "; ".join(f"{tag}: {error}" for tag, error in failed[:_SHOWN])
        more = f"; and {len(failed) - _SHOWN} more" if len(failed) > _SHOWN else ""
        raise RegistryError(
            f"{len(failed)} of {len(failed) + len(worked)} tags of {reference.name} "
            f"could not be {done}: {told}{more}",
            code="incomplete",
        )
    return worked


def _of_one_tag(error: RegistryError) -> bool:
    """Whether ``error`` says nothing of the other tags: what is there under this one is wrong,
    or may not be had."""
    if isinstance(error, RegistryHTTPError):
        return not error.retryable
    return isinstance(
        error,
        (DigestMismatchError, InvalidDigestError, LayerError, ManifestError, PlatformError),
    )

"""The store: keeping content, and moving it in. It touches no network: bytes come from a `Source`.

::

    store       Store: the face of all that follows
    transfers   one movement for each blob, however many want it; counted cancellation, retries
    workers     the threads that move bytes
    ingest      one partial file: resumed, verified, made a blob
    retry       when a failure is tried again
    layout      the OCI image layout: blobs, and the index with its lock
    disk        files written beside their place, synced, renamed; locks between processes
    source      the interface to where content comes from
    memory      a source in memory
"""

from __future__ import annotations

from .layout import REF_NAME
from .memory import MemorySource
from .retry import RetryPolicy
from .source import BlobStream, Content, Readable, Source
from .store import Store
from .transfers import Outcome, Transfer

__all__ = [
    "REF_NAME",
    "BlobStream",
    "Content",
    "MemorySource",
    "Outcome",
    "Readable",
    "RetryPolicy",
    "Source",
    "Store",
    "Transfer",
]

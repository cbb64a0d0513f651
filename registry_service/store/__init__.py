"""The store: keeping content, and moving it in. It touches no network: bytes come from a `Source`.

::

    store       Store: the face of all that follows
    upkeep      names that go, the sweep, damaged content: the face of these
    sweep       content that no name leads to is removed, beside running transfers
    marks       what the names lead to
    leases      what somebody relies on who has not named it yet
    transfers   one movement for each blob, however many want it; counted cancellation, retries
    flight      one such movement: its attempts, and what follows a failure
    facts       files of lines that every process may add to
    origins     which repositories have shown that they have content: whom it may serve
    proof       how they show it
    ticket      one taker's part in a movement
    workers     the threads that move bytes
    partial     a file for what is on its way: locked, resumed, appended to
    ingest      the partial file of one blob: verified, made a blob
    arrivals    layers of V1, whose digests nobody knows before they are here: each fetched once
    arriving    the partial file of one of these: looked into, compressed, made a blob
    layerbook   what was learned of these layers
    retry       when a failure is tried again
    layout      the OCI image layout: blobs, and the index with its lock
    entries     what an entry of the index says
    disk        files written beside their place, synced, renamed; locks between processes
    source      the interface to where content comes from
    memory      a source in memory
"""

from __future__ import annotations

from .arrivals import Arrival, Arrived, LayerSource
from .entries import REF_NAME
from .layerbook import LayerBook, MemoryLayerBook
from .leases import Lease
from .memory import MemorySource
from .origins import Claim, Origins, Unrecorded
from .retry import RetryPolicy
from .source import BlobStream, Content, Readable, Source
from .store import Store
from .sweep import Swept
from .ticket import Ticket
from .transfers import Outcome, Transfer
from .upkeep import Upkeep

__all__ = [
    "REF_NAME",
    "Arrival",
    "Arrived",
    "BlobStream",
    "Claim",
    "Content",
    "LayerBook",
    "LayerSource",
    "Lease",
    "MemoryLayerBook",
    "MemorySource",
    "Origins",
    "Outcome",
    "Readable",
    "RetryPolicy",
    "Source",
    "Store",
    "Swept",
    "Ticket",
    "Transfer",
    "Unrecorded",
    "Upkeep",
]

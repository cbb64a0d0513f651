"""TarSum: what is in a tar archive, whatever the order of its entries, as one sum.

::

    value     TarSum, TarSumVersion: a sum as it is written, `tarsum.v1+sha256:…`
    headers   a tar header's fields, as they go into the sum
    extended  pax records, and how they change a header; the maps of sparse files
    parser    a tar stream, a piece at a time: entries and their content
    order     the order in which the sums of the entries count
    summing   TarSummer, LayerSummer, tarsum

V1 registries are given one with each layer. What is summed is what Docker's published
specification says, and where that is silent, what Docker 1.3 to 1.6 did: those were the clients
that pushed. Others read some archives in another way (a later one takes a global pax header for
no entry, the first V1 server put a slash behind the name of each directory), so that a sum that
differs need not mean that the content does.
"""

from __future__ import annotations

from .summing import LayerSummer, TarSummer, tarsum
from .value import TarSum, TarSumVersion

__all__ = ["LayerSummer", "TarSum", "TarSumVersion", "TarSummer", "tarsum"]

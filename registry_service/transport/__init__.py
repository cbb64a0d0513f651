"""Requests to registries. Nothing else in the library touches the network.

resolver     names to addresses, in threads that nobody waits for longer than he wants
exchange     one request's hold on its socket, which a cancellation shuts down
floor        the least that a body has to come at
socks        to be connected on by a SOCKS proxy
heeding      to send, and to heed an answer that says no meanwhile
connection   the sockets under requests and urllib3
body         what is sent, as a stream that can be opened again
head         the status line and the fields of what comes back
response     what comes back, as a stream
request      what is asked, and where a redirect leads it
retry        when to try again: decisions only
pacing       how much one host is asked for at a time: decisions only
gate         one gate for each host, which all jobs go through
client       `Transport`, which puts them together
"""

from __future__ import annotations

from .body import Body, BodyError, Readable
from .client import Transport
from .request import same_origin
from .response import Response
from .retry import parse_retry_after

__all__ = [
    "Body",
    "BodyError",
    "Readable",
    "Response",
    "Transport",
    "parse_retry_after",
    "same_origin",
]

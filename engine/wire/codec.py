"""Messages to frames and back, within limits. No socket, no clock, no state.

A message is two or three frames: the prefix (``EJP1``, a type byte, a flags byte), a msgpack
map of at most 4 KiB, and for some types a body. Whatever arrives, `decode` gives a message or
raises `MessageError`; unknown header keys, spare frames and flags are passed over.
"""

from .decoder import MessageError, decode
from .encoder import PROGRESS_ITEMS, check_submit, encode, encode_progress, encode_record
from .framing import MAGIC

__all__ = [
    "MAGIC",
    "PROGRESS_ITEMS",
    "MessageError",
    "check_submit",
    "decode",
    "encode",
    "encode_progress",
    "encode_record",
]

"""The messages of the protocol: values, checked where they are constructed.

A field's annotation says what may stand in it, and the codec and the tests of
``docs/protocol.md`` read the same annotations. A message's header carries its fields by their
names, but for those that are named in ``BODY`` (a map in the body), ``TEXT`` (the body is that
text) or ``BYTES`` (the body is those bytes). A field that is None is left out.

What a job emits (`Output`) carries the record itself: its layout stands in the codec.
"""

# The annotations are read when a class is made, so they must not be strings here.

import dataclasses
import enum
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, TypeAlias, get_args, get_origin

from ..errors import ProtocolError
from ..records import Progress, Record

__all__ = [
    "Accepted",
    "Ack",
    "Attach",
    "Bye",
    "Cancel",
    "Credit",
    "Detach",
    "Drain",
    "Error",
    "Hello",
    "Incoming",
    "Input",
    "Kind",
    "Message",
    "Output",
    "Ping",
    "Pong",
    "ProgressReport",
    "Submit",
    "Supply",
    "Type",
    "Unknown",
    "Welcome",
    "layout",
]


class Type(enum.IntEnum):
    """The type byte. Below 0x40 from the client, below 0x70 from the engine, else both."""

    HELLO = 0x01
    SUBMIT = 0x02
    ATTACH = 0x03
    CREDIT = 0x04
    ACK = 0x05
    CANCEL = 0x06
    INPUT = 0x07
    SUPPLY = 0x08
    DETACH = 0x09
    BYE = 0x0F
    WELCOME = 0x41
    ACCEPTED = 0x42
    SCHEMA = 0x43
    ROWS = 0x44
    TEXT = 0x45
    DATA = 0x46
    LOG = 0x47
    PROGRESS = 0x48
    STATE = 0x49
    NEED = 0x4A
    END = 0x4B
    DRAIN = 0x4E
    ERROR = 0x4F
    PING = 0x70
    PONG = 0x71


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a field may hold: ``what`` in words, ``valid`` as a test of a value."""

    what: str
    valid: Callable[[Any], bool]


def _short(value: Any, most: int) -> bool:
    return type(value) is str and 0 < len(value) <= most


_COUNTS = range(2**63)
_INTEGERS = range(-(2**63), 2**63)

Id = Annotated[str, Kind(what="text, 1 to 64 characters", valid=lambda v: _short(v, 64))]
Word = Annotated[str, Kind(what="text, 1 to 256 characters", valid=lambda v: _short(v, 256))]
Words = Annotated[str, Kind(what="text", valid=lambda v: type(v) is str)]
Count = Annotated[
    int, Kind(what="integer, from 0", valid=lambda v: type(v) is int and v in _COUNTS)
]
Integer = Annotated[int, Kind(what="integer", valid=lambda v: type(v) is int and v in _INTEGERS)]
Number = Annotated[
    float, Kind(what="number", valid=lambda v: type(v) in (int, float) and math.isfinite(v))
]
Flag = Annotated[bool, Kind(what="boolean", valid=lambda v: type(v) is bool)]
Blob = Annotated[bytes, Kind(what="bytes", valid=lambda v: type(v) is bytes)]
Anything = Annotated[Any, Kind(what="any value", valid=lambda v: True)]
Texts = Annotated[
    tuple[str, ...],
    Kind(
        what="array of text",
        valid=lambda v: type(v) is tuple and all(type(item) is str for item in v),
    ),
]
TextMap = Annotated[
    Mapping[str, str],
    Kind(
        what="map of text to text",
        valid=lambda v: (
            isinstance(v, Mapping)
            and all(type(key) is str and type(item) is str for key, item in v.items())
        ),
    ),
]
Features = Annotated[
    tuple[str, ...],
    Kind(
        what="array of text, at most 64",
        valid=lambda v: type(v) is tuple and len(v) <= 64 and all(type(item) is str for item in v),
    ),
]
CountMap = Annotated[
    Mapping[str, int],
    Kind(
        what="map of text to integer",
        valid=lambda v: (
            isinstance(v, Mapping)
            and all(type(key) is str and type(item) is int for key, item in v.items())
        ),
    ),
]


def _version(value: Any) -> bool:
    return (
        type(value) is tuple
        and len(value) == 2
        and all(type(part) is int and 0 <= part < 2**16 for part in value)
    )


Version = Annotated[tuple[int, int], Kind(what="array [major, minor]", valid=_version)]
Versions = Annotated[
    tuple[tuple[int, int], ...],
    Kind(
        what="array of [major, minor], at most 16",
        valid=lambda v: type(v) is tuple and len(v) <= 16 and all(map(_version, v)),
    ),
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """The root: the checks and the places of the fields."""

    TYPE: ClassVar[Type]
    BODY: ClassVar[tuple[str, ...]] = ()
    TEXT: ClassVar[str] = ""
    BYTES: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, kind, required in layout(type(self)):
            value = getattr(self, name)
            if value is None and not required:
                continue
            if not kind.valid(value):
                raise ProtocolError(f"{self.TYPE.name}: {name!r} is wanted as {kind.what}")


_LAYOUTS: dict[type[Message], tuple[tuple[str, Kind, bool], ...]] = {}


def layout(cls: type[Message]) -> tuple[tuple[str, Kind, bool], ...]:
    """The fields of a message: name, kind, and whether it must be there."""
    known = _LAYOUTS.get(cls)
    if known is None:
        known = tuple(
            (field.name, kind, field.default is field.default_factory is dataclasses.MISSING)
            for field in dataclasses.fields(cls)
            if (kind := _kind(field.type)) is not None
        )
        _LAYOUTS[cls] = known
    return known


def _kind(annotation: Any) -> Kind | None:
    if get_origin(annotation) is Annotated:
        return next((one for one in get_args(annotation)[1:] if isinstance(one, Kind)), None)
    kinds = (_kind(part) for part in get_args(annotation))  # such as ``Word | None``
    return next((kind for kind in kinds if kind is not None), None)


# from the client


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Hello(Message):
    """Opens a session: the newest minor version of each major one that the client speaks."""

    TYPE = Type.HELLO
    versions: Versions
    features: Features = ()
    client: Word | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Submit(Message):
    """Asks for a job. ``request`` is the client's own number for it, and comes back."""

    TYPE = Type.SUBMIT
    BODY = ("args", "env")
    request: Count
    name: Word
    credit_messages: Count
    credit_bytes: Count
    priority: Integer = 0
    deadline: Number | None = None
    detach: Flag = True
    single_rows: Flag = False
    key: Word | None = None
    args: Texts = ()
    env: TextMap = dataclasses.field(default_factory=dict, repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attach(Message):
    """Asks for the output of a job after number ``after``, then for the live stream."""

    TYPE = Type.ATTACH
    request: Count
    job: Id
    credit_messages: Count
    credit_bytes: Count
    after: Count = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Credit(Message):
    """How much of a job's output may be sent, counted from the first message of the stream."""

    TYPE = Type.CREDIT
    job: Id
    messages: Count
    bytes: Count


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ack(Message):
    """The client keeps all up to ``seq`` safe, and will not ask for it again."""

    TYPE = Type.ACK
    job: Id
    seq: Count


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cancel(Message):
    TYPE = Type.CANCEL
    TEXT = "reason"
    job: Id
    reason: Words = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Input(Message):
    """Bytes for the job's standard input, from ``offset`` on; ``last`` closes it."""

    TYPE = Type.INPUT
    BYTES = "data"
    job: Id
    offset: Count
    last: Flag = False
    data: Blob = dataclasses.field(default=b"", repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Supply(Message):
    """The answer to the NEED of number ``need``; ``refused`` where there is none."""

    TYPE = Type.SUPPLY
    BODY = ("value",)
    job: Id
    need: Count
    refused: Flag = False
    value: Anything = dataclasses.field(default=None, repr=False)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Detach(Message):
    """The client wants no more output of the job; the job goes on."""

    TYPE = Type.DETACH
    job: Id


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bye(Message):
    TYPE = Type.BYE


# from the engine


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Welcome(Message):
    """The session is open. Times in seconds; ``epoch`` changes when the engine starts anew."""

    TYPE = Type.WELCOME
    version: Version
    engine: Word
    epoch: Id
    session: Id
    principal: Word
    heartbeat: Number
    lease: Number
    features: Features = ()
    limits: CountMap = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Accepted(Message):
    """The job of that request is this one; ``existed`` where its key was known before."""

    TYPE = Type.ACCEPTED
    request: Count
    job: Id
    existed: Flag = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Drain(Message):
    """The engine takes no new jobs, and ends in ``grace`` seconds at the latest."""

    TYPE = Type.DRAIN
    TEXT = "reason"
    grace: Number | None = None
    reason: Words = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Error(Message):
    """What could not be done: of a request or a job where one is named, else of the session."""

    TYPE = Type.ERROR
    TEXT = "message"
    code: Word
    status: Integer = 1
    retryable: Flag = False
    request: Count | None = None
    job: Id | None = None
    first: Count | None = None
    versions: Versions | None = None
    message: Words = ""


# both ways


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ping(Message):
    TYPE = Type.PING
    number: Count = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Pong(Message):
    """The answer to a PING, with its number."""

    TYPE = Type.PONG
    number: Count = 0


# output


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A numbered record of a job. ``size`` is the bytes of its frames, and what it costs.

    ``record`` is None where this version cannot tell what it means.
    """

    type: Type
    job: str
    seq: int
    record: Record | None
    size: int = 0

    @property
    def free(self) -> bool:
        """Whether it costs no credit."""
        return self.type not in COSTLY


#: The types that cost credit.
COSTLY = frozenset({Type.ROWS, Type.TEXT, Type.DATA, Type.LOG})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ProgressReport:
    """How far things have come, the newest of each key: neither numbered nor paid for."""

    job: str
    items: tuple[Progress, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """A message of a type that this version does not know."""

    code: int
    request: int | None = None
    job: str | None = None


#: What can come out of the decoder.
Incoming: TypeAlias = Message | Output | ProgressReport | Unknown

"""The bounds of what one peer accepts from the other.

The size of a frame is the bound that counts: a megabyte of empty arrays unpacks to some
seventy, so that no count of elements protects memory by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

__all__ = ["Limits"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes in bytes, of the header and, by the kind of message, of the body.

    ``frames`` bounds the frames of a message, ``nesting`` how deep arrays and maps lie in
    each other, ``elements`` the length of any one of them.
    """

    header: int = 4096
    control: int = 64 * 1024
    submit: int = 1024 * 1024
    output: int = 1024 * 1024
    frames: int = 4
    nesting: int = 16
    elements: int = 65_536

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < _LEAST[field.name]:
                raise ValueError(f"the limit {field.name} is at least {_LEAST[field.name]}")

    @property
    def frame(self) -> int:
        """The largest frame that any message may have."""
        return max(self.header, self.control, self.submit, self.output)

    def to_map(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @classmethod
    def from_map(cls, values: Mapping[str, object]) -> Limits:
        """The limits that a peer announced; what it left out, or what is none, has its default."""
        known = {
            name: value
            for name, least in _LEAST.items()
            if type(value := values.get(name)) is int and value >= least
        }
        return cls(**known)


#: What the messages of the protocol need at least. The engine cuts what it says of itself (the
#: end of a job, log lines, progress) to 64 KiB, and gathers rows and text to 64 Ki characters,
#: of up to four bytes, so that a job can always say how it ended, and one row more fits too.
_LEAST: Mapping[str, int] = {
    "header": 1024,
    "control": 64 * 1024,
    "submit": 4096,
    "output": 512 * 1024,
    "frames": 3,
    "nesting": 8,
    "elements": 256,
}

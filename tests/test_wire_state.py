"""The table of transitions, and the page that shows it."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ProtocolError
from engine.wire import messages
from engine.wire.codec import decode, encode
from engine.wire.messages import Message, Output, Type, Unknown, layout
from engine.wire.state import RECEIVE, SEND, TABLE, Happening, Machine, Phase, mermaid, step
from engine.wire.state import StreamState as S

PAGE = (Path(__file__).parent.parent / "docs" / "protocol.md").read_text()


@pytest.mark.parametrize("machine", Machine)
def test_the_page_shows_exactly_the_table(machine: Machine) -> None:
    assert f"```mermaid\n{mermaid(machine)}```\n" in PAGE


def test_the_page_lays_out_every_message_and_every_key() -> None:
    for type_ in Type:
        assert f"`{type_.name}`" in PAGE
        assert f"0x{type_:02x}" in PAGE
    for name in messages.__all__:
        cls = getattr(messages, name)
        if isinstance(cls, type) and issubclass(cls, Message) and cls is not Message:
            section = PAGE.split(f"#### `{cls.TYPE.name}`", 1)[1].split("####", 1)[0]
            for key, kind, required in layout(cls):
                line = next((x for x in section.splitlines() if x.startswith(f"| `{key}`")), "")
                assert kind.what in line, f"{cls.TYPE.name}.{key}"
                assert ("required" in line) is required, f"{cls.TYPE.name}.{key}"


def test_what_is_not_in_the_table_is_a_breach() -> None:
    with pytest.raises(ProtocolError, match="not legal while new"):
        step(Machine.CLIENT, Phase.NEW, SEND[Type.SUBMIT])
    with pytest.raises(ProtocolError):
        step(Machine.ENGINE, Phase.CLOSED, RECEIVE[Type.HELLO])


def test_a_stream_ends_once() -> None:
    for state in (S.ENDED, S.REFUSED, S.DETACHED, S.LOST):
        assert (Machine.STREAM, state) not in TABLE
    assert step(Machine.STREAM, S.FOLLOWING, RECEIVE[Type.END]) is S.ENDED
    assert step(Machine.STREAM, S.SUBMITTED, Happening.ABANDON) is S.ABANDONED


def test_every_state_can_be_reached_and_closed_states_are_final() -> None:
    for machine, first in (
        (Machine.CLIENT, Phase.NEW),
        (Machine.ENGINE, Phase.NEW),
        (Machine.STREAM, S.SUBMITTED),
    ):
        reached, front = {first}, [first]
        while front:
            for after in TABLE.get((machine, front.pop()), {}).values():
                if after not in reached:
                    reached.add(after)
                    front.append(after)
        assert {state for kind, state in TABLE if kind is machine} <= reached
        assert len(reached) > 3


def test_what_one_side_may_send_the_other_may_receive() -> None:
    """In step with each other, neither side is ever surprised."""
    for phase in (Phase.READY, Phase.DRAINING):
        client, engine = TABLE[Machine.CLIENT, phase], TABLE[Machine.ENGINE, phase]
        for here, there in ((client, engine), (engine, client)):
            sent = {name.removeprefix("send ") for name in here if name.startswith("send ")}
            taken = {name.removeprefix("receive ") for name in there if name.startswith("receive")}
            assert sent == taken


def test_the_example_of_the_page_is_what_the_codec_says() -> None:
    example = PAGE.split("## An example", 1)[1].split("\n## ", 1)[0]
    seen = []
    for block in example.split("```")[1::2]:
        frames: list[bytes] = []
        for line in block.strip().splitlines():
            if line.startswith(("prefix", "header", "body")):
                frames.append(b"")
            digits = line.replace("(empty)", "")
            for label in ("prefix", "header", "body"):
                digits = digits.removeprefix(label)
            frames[-1] += bytes.fromhex(digits)
        message = decode(frames)
        assert not isinstance(message, Unknown)
        assert encode(message) == tuple(frames)
        seen.append(message.type if isinstance(message, Output) else message.TYPE)  # type: ignore[union-attr]
    assert seen == [
        Type.HELLO,
        Type.SUBMIT,
        Type.ACCEPTED,
        Type.STATE,
        Type.SCHEMA,
        Type.ROWS,
        Type.END,
    ]

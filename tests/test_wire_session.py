"""Two peers joined in memory, and each of them alone: no socket and no clock."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConnectionLostError, ProtocolError, UnknownJobError
from engine.records import Data, End, Log, Progress, Rows, Schema, StateChange
from engine.spec import Column
from engine.status import State, Status
from engine.wire import session
from engine.wire.codec import MessageError, decode, encode
from engine.wire.limits import Limits
from engine.wire.messages import (
    Accepted,
    Ack,
    Attach,
    Bye,
    Cancel,
    Credit,
    Detach,
    Drain,
    Error,
    Hello,
    Input,
    Message,
    Output,
    Ping,
    Pong,
    ProgressReport,
    Submit,
    Supply,
    Type,
    Unknown,
    Welcome,
)
from engine.wire.session import (
    AcceptedEvent,
    Arrived,
    ClientConnection,
    Draining,
    Event,
    Failed,
    Lost,
    Progressed,
    Pulse,
    Ready,
    RemoteError,
    ServerConnection,
    Terms,
)
from engine.wire.state import Phase

TERMS = Terms(engine="test 1", epoch="e1", heartbeat=10.0, misses=3, jobs=4)


class Joined:
    """A client and an engine; what either sends goes through the codec to the other."""

    def __init__(self, terms: Terms = TERMS) -> None:
        self.now = 0.0
        self.client = ClientConnection(client="test", now=self.now)
        self.engine = ServerConnection(terms, token="t1", principal="uid:1", now=self.now)
        self.events: list[Event] = []
        self.asked: list[Message] = []

    def exchange(self) -> None:
        """Carry messages until neither side has any."""
        while self.client.outgoing or self.engine.outgoing:
            outgoing, self.client.outgoing = self.client.outgoing, []
            for message in outgoing:
                self.asked += self.engine.feed(decode(encode(message)), self.now)
            incoming, self.engine.outgoing = self.engine.outgoing, []
            for message in incoming:
                self.deliver(encode(message))

    def deliver(self, frames: Sequence[bytes]) -> None:
        self.events += self.client.feed(decode(frames), self.now)

    def greet(self) -> Joined:
        self.client.hello()
        self.exchange()
        return self

    def take(self) -> list[Event]:
        events, self.events = self.events, []
        return events


def submit(number: int = 1, messages: int = 4, size: int = 1000, name: str = "x") -> Submit:
    return Submit(request=number, name=name, credit_messages=messages, credit_bytes=size)


def following(messages: int = 4, size: int = 1000) -> Joined:
    """Joined, with job j1 submitted as request 1 and accepted."""
    joined = Joined().greet()
    joined.client.submit(submit(1, messages, size))
    joined.exchange()
    (asked,) = joined.asked
    assert isinstance(asked, Submit)
    assert joined.engine.accepted(asked, "j1", existed=False)
    joined.exchange()
    joined.take()
    joined.asked.clear()
    return joined


def output(seq: int, record: object, type_: Type, job: str = "j1") -> Output:
    return Output(type=type_, job=job, seq=seq, record=record, size=100)  # type: ignore[arg-type]


# the handshake


def test_the_handshake_tells_the_client_everything() -> None:
    joined = Joined().greet()
    (ready,) = joined.take()
    assert isinstance(ready, Ready)
    welcome = ready.welcome
    assert (welcome.version, welcome.epoch, welcome.session) == ((1, 0), "e1", "t1")
    assert (welcome.principal, welcome.heartbeat, welcome.lease) == ("uid:1", 10.0, 40.0)
    assert welcome.features == session.FEATURES
    assert welcome.limits["jobs"] == 4
    assert joined.client.limits == Limits()
    assert joined.client.open
    assert joined.engine.open


def test_the_newest_common_version_is_chosen() -> None:
    engine = ServerConnection(TERMS, token="t", principal="p", now=0)
    engine.feed(Hello(versions=((3, 1), (1, 7))), 0)
    (welcome,) = engine.outgoing
    assert isinstance(welcome, Welcome)
    assert welcome.version == (1, 0)


def test_without_a_common_version_the_engine_says_what_it_speaks() -> None:
    engine = ServerConnection(TERMS, token="t", principal="p", now=0)
    assert engine.feed(Hello(versions=((2, 0),)), 0) == []
    (error,) = engine.outgoing
    assert isinstance(error, Error)
    assert (error.code, error.versions) == ("version", ((1, 0),))
    assert not engine.open


def test_a_client_that_is_refused_knows_why() -> None:
    client = ClientConnection(client="t", now=0)
    client.hello()
    (lost,) = client.feed(Error(code="limit", message="too many clients", retryable=True), 0)
    assert isinstance(lost, Lost)
    assert str(lost.error) == "too many clients"
    assert lost.error.retryable


def test_a_version_that_was_not_offered_ends_the_handshake() -> None:
    joined = Joined()
    joined.client.hello()
    welcome = Welcome(
        version=(2, 0),
        engine="x",
        epoch="e",
        session="s",
        principal="p",
        heartbeat=1,
        lease=3,
    )
    (lost,) = joined.client.feed(welcome, 0)
    assert isinstance(lost, Lost)
    assert lost.error.code == "version"


@pytest.mark.parametrize("message", [submit(), Ping(), Credit(job="a", messages=1, bytes=1)])
def test_without_a_session_the_answer_is_no_session(message: Message) -> None:
    engine = ServerConnection(TERMS, token="t", principal="p", now=0)
    assert engine.feed(message, 0) == []
    (error,) = engine.outgoing
    assert isinstance(error, Error)
    assert (error.code, error.status) == ("no-session", Status.TRY_AGAIN)


def test_a_second_hello_is_a_breach() -> None:
    joined = Joined().greet()
    assert joined.engine.feed(Hello(versions=((1, 0),)), 0) == [Bye()]
    assert not joined.engine.open


# jobs


def test_a_job_from_submit_to_end() -> None:
    joined = Joined().greet()
    joined.take()
    joined.client.submit(submit())
    joined.exchange()
    (asked,) = joined.asked
    assert asked == submit()
    assert isinstance(asked, Submit)
    joined.engine.accepted(asked, "j1", existed=False)
    joined.exchange()
    assert joined.take() == [AcceptedEvent(request=1, job="j1", existed=False)]
    records = [
        StateChange(state=State.RUNNING),
        Schema(columns=(Column(name="a"),)),
        Rows(rows=(("x",),)),
        Data(data=b"d"),
        End(state=State.OK, status=0),
    ]
    types = [Type.STATE, Type.SCHEMA, Type.ROWS, Type.DATA, Type.END]
    for seq, (record, type_) in enumerate(zip(records, types, strict=True), 1):
        joined.deliver(encode(output(seq, record, type_)))
    arrived = joined.take()
    assert [event.record for event in arrived if isinstance(event, Arrived)] == records
    costs = [event.cost for event in arrived if isinstance(event, Arrived)]
    assert [cost > 0 for cost in costs] == [False, False, True, True, False]
    joined.client.cancel(1)
    joined.client.consumed(1, 1, 1)
    joined.client.detach(1)
    assert joined.client.outgoing == []  # it is over


def test_a_refusal_carries_code_status_and_message() -> None:
    joined = Joined().greet()
    joined.take()
    joined.client.submit(submit())
    joined.engine.refused(1, UnknownJobError("no such job: 'x'"))
    joined.exchange()
    (failed,) = joined.take()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, RemoteError)
    assert (failed.error.code, failed.error.status) == ("unknown-job", Status.UNKNOWN_JOB)
    assert joined.client.open


def test_jobs_of_a_session_are_bounded() -> None:
    joined = Joined().greet()
    joined.take()
    for number in range(1, 6):
        joined.client.submit(submit(number))
        joined.exchange()
        for asked in joined.asked:
            assert isinstance(asked, Submit)
            joined.engine.accepted(asked, f"j{asked.request}", existed=False)
        joined.asked.clear()
    joined.exchange()
    (failed,) = [event for event in joined.take() if isinstance(event, Failed)]
    assert (failed.request, failed.error.code, failed.error.retryable) == (5, "limit", True)
    joined.engine.finished("j1")
    joined.client.submit(submit(6))
    joined.exchange()
    assert joined.asked == [submit(6)]


def test_a_session_follows_a_job_once() -> None:
    joined = following()
    joined.client.submit(submit(2))
    joined.exchange()
    (asked,) = joined.asked
    assert isinstance(asked, Submit)
    assert not joined.engine.accepted(asked, "j1", existed=True)
    joined.exchange()
    (failed,) = joined.take()
    assert isinstance(failed, Failed)
    assert failed.error.code == "following"


def test_a_submit_without_credit_is_refused() -> None:
    joined = Joined().greet()
    joined.take()
    joined.client.submit(submit(messages=0))
    joined.exchange()
    assert joined.asked == []
    assert isinstance(joined.take()[0], Failed)


def test_an_error_about_a_job_reaches_its_reader_as_a_log_line() -> None:
    joined = following()
    joined.client.feed(Error(code="no-job", job="j1"), 0)
    (event,) = joined.client.feed(Error(code="not-allowed", job="j1", message="not yours"), 0)
    assert isinstance(event, Arrived)
    assert isinstance(event.record, Log)
    assert (event.record.level, event.record.text) == ("warning", "not yours")


# credit


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("send"), st.integers(1, 300)),
            st.tuples(st.just("read"), st.integers(1, 3)),
            st.tuples(st.just("credit again"), st.just(0)),
        ),
        max_size=40,
    )
)
def test_credit_is_kept_by_both_sides_whatever_happens(steps: list[tuple[str, int]]) -> None:
    """What may be sent never exceeds the window, and comes back as it is read."""
    joined = following(messages=4, size=1000)
    unread: list[int] = []
    seq = 0
    last: Credit | None = None
    for step, amount in steps:
        if step == "send":
            messages, size = joined.engine.allowance("j1")
            if messages > 0 and size > 0:
                seq += 1
                joined.engine.spent("j1", 1, amount)
                message = Output(
                    type=Type.DATA, job="j1", seq=seq, record=Data(data=b""), size=amount
                )
                (event,) = joined.client.feed(message, 0)
                assert isinstance(event, Arrived)
                unread.append(event.cost)
        elif step == "read" and unread:
            read, unread = unread[:amount], unread[amount:]
            joined.client.consumed(1, len(read), sum(read))
            last = joined.client.outgoing[-1]  # type: ignore[assignment]
            joined.exchange()
        elif last is not None:  # credit that comes twice changes nothing
            before = joined.engine.allowance("j1")
            joined.engine.feed(last, 0)
            assert joined.engine.allowance("j1") == before
        assert len(unread) <= 4
        assert sum(unread[:-1]) < 1000
        assert joined.engine.allowance("j1") == (4 - len(unread), 1000 - sum(unread))


def test_output_beyond_the_credit_is_a_breach() -> None:
    joined = following(messages=1)
    joined.client.feed(output(1, Data(data=b""), Type.DATA), 0)
    failed, lost = joined.client.feed(output(2, Data(data=b""), Type.DATA), 0)
    assert isinstance(failed, Failed)
    assert isinstance(lost, Lost)
    assert isinstance(lost.error, ProtocolError)


def test_free_output_needs_no_credit() -> None:
    joined = following(messages=1)
    joined.client.feed(output(1, Data(data=b""), Type.DATA), 0)
    state = StateChange(state=State.CANCELLING)
    (event,) = joined.client.feed(output(2, state, Type.STATE), 0)
    assert isinstance(event, Arrived)
    report = ProgressReport(job="j1", items=(Progress(key="k", phase="p", done=1),))
    assert joined.client.feed(report, 0) == [Progressed(request=1, items=report.items)]


# numbers


def test_output_that_came_before_is_passed_over() -> None:
    joined = following()
    assert joined.client.feed(output(1, Data(data=b"a"), Type.DATA), 0)
    assert joined.client.feed(output(1, Data(data=b"a"), Type.DATA), 0) == []


def test_a_gap_in_the_numbers_is_a_breach() -> None:
    joined = following()
    events = joined.client.feed(output(2, Data(data=b"a"), Type.DATA), 0)
    assert "missing" in str(events[-1].error)  # type: ignore[union-attr]


def test_a_record_that_is_not_understood_has_its_number() -> None:
    joined = following()
    assert joined.client.feed(output(1, None, Type.STATE), 0) == []
    assert joined.client.feed(output(2, Data(data=b"a"), Type.DATA), 0)


# cancel and detach


def test_a_cancel_before_the_acceptance_goes_out_with_it() -> None:
    joined = Joined().greet()
    joined.client.submit(submit())
    joined.client.cancel(1, "changed my mind")
    joined.client.detach(1)
    joined.exchange()
    (asked,) = joined.asked
    joined.asked.clear()
    assert isinstance(asked, Submit)
    joined.engine.accepted(asked, "j1", existed=False)
    joined.exchange()
    assert joined.asked == [Cancel(job="j1", reason="changed my mind"), Detach(job="j1")]
    assert joined.engine.jobs == ()


def test_a_detach_ends_the_stream_on_both_sides() -> None:
    joined = following()
    joined.client.detach(1)
    joined.exchange()
    assert joined.asked == [Detach(job="j1")]
    assert joined.engine.jobs == ()
    # what was under way is passed over
    assert joined.client.feed(output(1, Data(data=b""), Type.DATA), 0) == []
    assert joined.client.open


def test_credit_for_a_job_that_ended_is_passed_over() -> None:
    joined = following()
    joined.engine.finished("j1")
    assert joined.engine.feed(Credit(job="j1", messages=9, bytes=9), 0) == []
    assert joined.engine.outgoing == []


# what is not served, what is not known


@pytest.mark.parametrize(
    "message",
    [
        Attach(request=3, job="j1", credit_messages=1, credit_bytes=1),
        Ack(job="j1", seq=1),
        Input(job="j1", offset=0, data=b"x"),
        Supply(job="j1", need=1),
        Unknown(code=0x3E, job="j1"),
    ],
)
def test_what_is_not_served_is_answered_and_harms_nobody(message: Message) -> None:
    joined = following()
    assert joined.engine.feed(message, 0) == []
    (error,) = joined.engine.outgoing
    assert isinstance(error, Error)
    assert (error.code, error.job) == ("unsupported", "j1")
    joined.exchange()
    assert joined.client.open
    assert joined.engine.open


def test_a_client_passes_over_types_that_it_does_not_know() -> None:
    joined = following()
    assert joined.client.feed(Unknown(code=0x6E), 0) == []
    joined.engine.feed(Unknown(code=0x3E), 0)
    joined.exchange()
    assert joined.take() == []
    assert joined.client.open


# breaches


def test_output_from_a_client_ends_its_session() -> None:
    joined = following()
    assert joined.engine.feed(output(1, Data(data=b""), Type.DATA), 0) == [Bye()]
    (error,) = joined.engine.outgoing
    assert isinstance(error, Error)
    assert error.code == "protocol"
    joined.exchange()
    failed, lost = joined.take()
    assert isinstance(failed, Failed)
    assert isinstance(lost, Lost)


def test_what_cannot_be_read_ends_the_session_unless_only_its_size_was_wrong() -> None:
    joined = Joined().greet()
    joined.take()
    joined.client.submit(submit())
    joined.client.outgoing.clear()
    assert joined.engine.bad(MessageError("too large", code="limit", request=1), 0) == []
    joined.exchange()
    (failed,) = joined.take()
    assert isinstance(failed, Failed)
    assert joined.client.open
    assert joined.engine.bad(MessageError("nonsense"), 0) == [Bye()]
    assert not joined.engine.open


def test_an_engine_that_knows_no_session_loses_every_run() -> None:
    joined = following()
    failed, lost = joined.client.feed(Error(code="no-session"), 0)
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, ConnectionLostError)
    assert isinstance(lost, Lost)
    assert not joined.client.open
    assert joined.client.lost(ConnectionLostError("again")) == []


def test_an_acceptance_that_nobody_asked_for_is_a_breach() -> None:
    joined = Joined().greet()
    events = joined.client.feed(Accepted(request=7, job="j"), 0)
    assert isinstance(events[-1], Lost)


# drain, bye, signs of life


def test_drain_reaches_the_client_once() -> None:
    joined = following()
    joined.engine.drain("bye now", 10)
    joined.engine.drain("bye now", 10)
    assert joined.engine.outgoing == [Drain(reason="bye now", grace=10)]
    joined.exchange()
    assert joined.take() == [Draining(reason="bye now", grace=10)]
    joined.client.cancel(1)  # jobs that run are served on
    joined.exchange()
    assert joined.asked == [Cancel(job="j1")]


def test_bye_closes_both_sides() -> None:
    joined = following()
    joined.client.bye()
    joined.exchange()
    assert joined.asked == [Bye()]
    assert not joined.client.open
    assert joined.engine.phase is Phase.CLOSED


def test_silence_is_asked_about_and_then_ends_the_session() -> None:
    joined = following()
    for second in (10, 20, 30):
        joined.engine.tick(second)
        assert len(joined.engine.outgoing) == second // 10
    with pytest.raises(ConnectionLostError, match="silent for 30"):
        joined.engine.tick(40)
    events = [event for second in (10, 20, 30, 40) for event in joined.client.tick(second)]
    assert [type(event) for event in events] == [Failed, Lost]


def test_any_message_is_a_sign_of_life() -> None:
    joined = following()
    joined.now = 9.0
    joined.engine.feed(Ping(number=3), joined.now)
    assert joined.engine.outgoing == [Pong(number=3)]
    joined.engine.tick(18.9)
    assert joined.engine.outgoing == [Pong(number=3)]
    assert joined.engine.due == 19.0
    joined.engine.tick(19.0)
    assert joined.engine.outgoing[1:] == [Ping(number=1)]


def test_pings_are_answered_by_both_sides() -> None:
    joined = following()
    joined.now = 10.0
    joined.engine.tick(joined.now)
    joined.client.tick(joined.now)
    joined.exchange()
    assert joined.engine.due == joined.client.due == 20.0


def test_who_was_stopped_himself_buries_nobody() -> None:
    pulse = Pulse(10.0, 3, 0.0)
    assert pulse.tick(5.0) is None
    assert pulse.tick(1000.0) == Ping(number=1)
    assert pulse.tick(1000.0) is None
    pulse.heard(1001.0)
    assert pulse.due == 1011.0


def test_terms_are_checked() -> None:
    with pytest.raises(ValueError, match="heartbeat"):
        Terms(engine="x", epoch="e", heartbeat=0)
    with pytest.raises(ValueError, match="misses"):
        Terms(engine="x", epoch="e", misses=0)

"""The engine in the process: handlers, jobs, statuses, shutting down. No daemon."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import (
    Argument,
    Column,
    ColumnType,
    Engine,
    Job,
    JobSpec,
    Option,
    OptionType,
    State,
    Status,
)
from engine.errors import (
    CancelledError,
    DuplicateJobError,
    EngineError,
    InstallError,
    NeedError,
    UnknownJobError,
    UsageError,
)
from engine.output import OutputLog
from engine.records import End, Log, Need, Record
from engine.spec import RowMode
from engine.wire.codec import encode_record

SPEC = JobSpec(
    name="count",
    help="Count.",
    arguments=(Argument(name="TO"),),
    options=(
        Option(name="step", type=OptionType.INTEGER, default="1"),
        Option(name="password", secret=True, type=OptionType.JSON),
    ),
    columns=(Column(name="n", type=ColumnType.INTEGER),),
)


def count(job: Job) -> Status:
    for n in range(0, int(job.args[0]), job.env.get_int("step", 1)):
        job.row(n)
    return Status.OK


@pytest.fixture
def engine() -> Engine:
    made = Engine()
    made.register("count", count, SPEC)
    return made


def end_of(job: Job) -> End:
    assert job.end is not None
    return job.end


def test_a_job_runs_and_its_rows_are_a_table(engine: Engine) -> None:
    job = engine.job("count", "6", env={"step": 2})
    assert job.run() is Status.OK
    assert job.stdout.table().column("n") == [0, 2, 4]
    assert (job.status, job.state) == (Status.OK, State.OK)
    assert end_of(job).rows == 3


def test_a_job_without_rows_still_has_its_columns(engine: Engine) -> None:
    job = engine.job("count", "0")
    job.run()
    assert [column.name for column in job.stdout.table().columns] == ["n"]


def test_an_unknown_job_is_127_and_says_what_is_near(engine: Engine) -> None:
    job = engine.job("cuont")
    assert job.run() is Status.UNKNOWN_JOB
    assert "cuont" in job.stderr.text()
    with pytest.raises(UnknownJobError, match="did you mean 'count'"):
        engine.resolve("cuont")


@pytest.mark.parametrize("args", [(), ("1", "2")])
def test_wrong_arguments_are_2_with_the_usage_line(engine: Engine, args: tuple[str, ...]) -> None:
    job = engine.job("count", *args)
    assert job.run() is Status.USAGE
    assert "Usage: count TO" in job.stderr.text()


def test_wrong_environment_is_2_and_names_the_key(engine: Engine) -> None:
    job = engine.job("count", "1", env={"step": "x"})
    assert job.run() is Status.USAGE
    assert end_of(job).message == "step: 'x' is not an integer\nUsage: count TO"


def test_a_secret_that_is_malformed_is_not_shown(engine: Engine) -> None:
    job = engine.job("count", "1", env={"password": "{hunter2"})
    assert job.run() is Status.USAGE
    assert "password" in end_of(job).message
    assert "hunter2" not in end_of(job).message
    assert "hunter2" not in repr(job.env)


def test_an_error_that_speaks_for_itself_reaches_the_end(engine: Engine) -> None:
    class TeapotError(Exception):
        code, status, retryable = "teapot", 75, True

    def brew(job: Job) -> Status:
        raise TeapotError("short and stout")

    engine.register("brew", brew)
    job = engine.job("brew")
    assert job.run() is Status.TRY_AGAIN
    end = end_of(job)
    assert (end.code, end.message, end.retryable, end.state) == (
        "teapot",
        "short and stout",
        True,
        State.FAILED,
    )


def test_a_fault_of_the_handler_keeps_its_details_to_the_log(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(job: Job) -> Status:
        raise KeyError("hunter2")

    engine.register("broken", broken)
    job = engine.job("broken")
    assert job.run() is Status.ERROR
    assert end_of(job).code == "internal"
    assert "hunter2" not in end_of(job).message
    assert "KeyError" in end_of(job).message
    assert "hunter2" in caplog.text


@pytest.mark.parametrize("raised", [SystemExit(3), SystemExit(0), GeneratorExit()])
def test_a_handler_that_would_end_the_process_ends_its_job(
    engine: Engine, raised: BaseException
) -> None:
    def leave(job: Job) -> Status:
        raise raised

    engine.register("leave", leave)
    job = engine.job("leave")
    assert job.run() is Status.ERROR
    assert end_of(job).code == "internal"
    assert type(raised).__name__ in end_of(job).message


def test_an_interrupted_job_has_its_end_and_the_interrupt_goes_on(engine: Engine) -> None:
    def interrupted(job: Job) -> Status:
        raise KeyboardInterrupt

    engine.register("interrupted", interrupted)
    job = engine.job("interrupted")
    with pytest.raises(KeyboardInterrupt):
        job.run()
    assert end_of(job).status == Status.CANCELLED


def test_only_an_error_with_all_three_attributes_speaks_for_itself(engine: Engine) -> None:
    class ForeignError(Exception):
        code = 404
        status = 404

    def broken(job: Job) -> Status:
        raise ForeignError("https://user:hunter2@registry.example/")

    engine.register("broken", broken)
    job = engine.job("broken")
    assert job.run() is Status.ERROR
    assert end_of(job).code == "internal"
    assert "hunter2" not in end_of(job).message


def test_an_error_that_cannot_be_shown_still_ends_its_job(engine: Engine) -> None:
    class MuteError(EngineError):
        def __str__(self) -> str:
            raise ValueError("no words")

    def broken(job: Job) -> Status:
        raise MuteError("x")

    engine.register("broken", broken)
    job = engine.job("broken")
    assert job.run() is Status.ERROR
    assert "MuteError" in end_of(job).message


def test_a_row_that_cannot_be_sent_fails_the_job_and_not_its_end(engine: Engine) -> None:
    def rows(job: Job) -> Status:
        job.row({"small": 1})
        job.row({"large": 2**70})
        return Status.OK

    engine.register(
        "rows", rows, JobSpec(name="rows", columns=(Column(name="v", type=ColumnType.JSON),))
    )
    log = OutputLog(encode=encode_record_of("job"))
    job = engine.make("rows", (), None, id="job", log=log)
    assert job.run() is Status.ERROR
    assert (end_of(job).code, end_of(job).rows) == ("table", 1)
    assert job.state is State.FAILED


def test_columns_that_cannot_be_sent_fail_the_job_and_not_its_end(engine: Engine) -> None:
    columns = tuple(Column(name=str(number)) for number in range(70_000))
    engine.register("wide", lambda job: None, JobSpec(name="wide", columns=columns))
    job = engine.make("wide", (), None, id="job", log=OutputLog(encode=encode_record_of("job")))
    assert job.run() is Status.ERROR
    assert "'elements' is 65536" in end_of(job).message
    assert (end_of(job).code, job.state) == ("table", State.FAILED)


def encode_record_of(job: str) -> Callable[[int, Record], tuple[bytes, ...]]:
    return lambda seq, record: encode_record(job, seq, record)


def test_a_log_line_of_another_thread_never_waits_for_the_job_s_readers(engine: Engine) -> None:
    """What several jobs share may tell one of them something."""
    told: list[Log] = []

    def work(job: Job) -> Status:
        def shared() -> None:
            for n in range(100):
                job.log("info", f"{n:050}")

        thread = threading.Thread(target=shared, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
        return Status.OK

    engine.register("work", work)
    job = engine.make("work", (), None, log=OutputLog(quota=1000))
    job.on_log = told.append
    job.output.attach(lambda: None)  # and never reads
    assert job.run() is Status.OK
    assert len(told) == 100
    lines = [record for record in job.output.records() if isinstance(record, Log)]
    assert 2 <= len(lines) < 50
    assert f"{100 - len(lines) + 1} log lines" in lines[-1].text


def test_job_error_sets_the_end(engine: Engine) -> None:
    engine.register("e", lambda job: job.error("no more shelves", code="shelf", retryable=True))
    job = engine.job("e")
    assert job.run() is Status.ERROR
    assert (end_of(job).code, end_of(job).retryable) == ("shelf", True)
    assert job.stderr.text() == "no more shelves\n"


def test_a_line_makes_a_job(engine: Engine) -> None:
    job = engine.parse_job("step=2 count '5'")
    assert (job.name, job.args, job.env["step"]) == ("count", ("5",), "2")
    assert job.run() is Status.OK
    assert job.stdout.table().column("n") == [0, 2, 4]
    for bad in ("", "a=b", "count 'open"):
        with pytest.raises(UsageError):
            engine.parse_job(bad)


def test_a_second_handler_of_a_name_is_refused(engine: Engine) -> None:
    with pytest.raises(DuplicateJobError, match="count"):
        engine.register("count", count)
    with pytest.raises(DuplicateJobError):
        engine.register("info", count)


def test_a_catch_all_takes_what_nobody_else_does(engine: Engine) -> None:
    engine.register_catchall(lambda job: job.write(f"<{job.name}>"))
    job = engine.job("anything")
    assert job.run() is Status.OK
    assert job.stdout.text() == "<anything>"
    with pytest.raises(DuplicateJobError):
        engine.register_catchall(count)


def test_streams_carry_text_bytes_and_input(engine: Engine) -> None:
    def echo(job: Job) -> None:
        job.write(job.stdin.read())
        job.write("é" * 100_000)
        job.log("warning", "done", bytes=3)

    engine.register("echo", echo)
    job = engine.job("echo", stdin=io.BytesIO(b"\x00\xff!"))
    assert job.run() is Status.OK
    assert job.stdout.data() == b"\x00\xff!" + ("é" * 100_000).encode()
    assert job.stderr.text() == "warning: done\n"
    logs = [r for r in job.output.records() if isinstance(r, Log)]
    assert logs[0].fields == {"bytes": 3}


def test_cancel_stops_a_job_that_waits_and_runs_its_callbacks(engine: Engine) -> None:
    started, closed = threading.Event(), threading.Event()

    def wait(job: Job) -> Status:
        take_back = job.on_cancel(closed.set)
        started.set()
        assert closed.wait(10)
        take_back()
        job.check_cancelled()
        return Status.OK

    engine.register("wait", wait)
    job = engine.job("wait")
    runner = threading.Thread(target=job.run)
    runner.start()
    started.wait(10)
    assert job.cancel()
    assert not job.cancel()
    runner.join(10)
    assert (job.status, job.state) == (Status.CANCELLED, State.CANCELLED)
    assert end_of(job).code == "cancelled"


def test_a_job_that_is_done_before_the_cancel_reached_it_is_ok(engine: Engine) -> None:
    def finish(job: Job) -> Status:
        job.cancel()
        return Status.OK

    engine.register("finish", finish)
    job = engine.job("finish")
    assert job.run() is Status.OK
    assert job.state is State.OK


def test_a_callback_taken_back_is_not_called_and_a_late_one_is_at_once(engine: Engine) -> None:
    called: list[str] = []

    def handler(job: Job) -> Status:
        job.on_cancel(lambda: called.append("first"))()
        job.on_cancel(lambda: called.append("second"))
        job.cancel()
        job.on_cancel(lambda: called.append("late"))
        raise CancelledError("stopped")

    engine.register("h", handler)
    assert engine.job("h").run() is Status.CANCELLED
    assert called == ["second", "late"]


def test_a_deadline_ends_a_job_as_timed_out(engine: Engine) -> None:
    def wait(job: Job) -> Status:
        job.wait_cancelled(10)
        job.check_cancelled()
        return Status.OK

    engine.register("wait", wait)
    job = engine.job("wait", deadline=0.01)
    assert job.run() is Status.DEADLINE
    assert job.state is State.TIMED_OUT


def test_need_asks_the_supplier_and_says_that_it_waits(engine: Engine) -> None:
    asked: list[Need] = []

    def handler(job: Job) -> None:
        job.write(job.need("authConfig", host="r.example"))

    def supply(need: Need) -> str:
        asked.append(need)
        return "given"

    engine.register("h", handler)
    job = engine.job("h")
    job.supplier = supply
    assert job.run() is Status.OK
    assert job.stdout.text() == "given"
    assert (asked[0].what, asked[0].details) == ("authConfig", {"host": "r.example"})
    states = [r.state for r in job.output.records() if hasattr(r, "state")]
    assert states == [State.RUNNING, State.WAITING, State.RUNNING, State.OK]
    with pytest.raises(NeedError):
        engine.job("h").need("anything")


def test_a_service_sees_its_settings_and_the_state_directory(tmp_path: Path) -> None:
    class Service:
        def install(self, engine: Engine) -> None:
            engine.register(
                "where", lambda job: job.write(f"{job.settings['shelf']} {job.state_dir}")
            )

    engine = Engine(state_dir=tmp_path)
    engine.install(Service(), name="shelves", settings={"shelf": "top"})
    job = engine.job("where")
    job.run()
    assert job.stdout.text() == f"top {tmp_path}"


def test_a_service_that_fails_leaves_nothing_behind(engine: Engine) -> None:
    class Service:
        def install(self, engine: Engine) -> None:
            engine.register("half", count)
            engine.add_info(lambda: {"half": True})
            engine.on_reload(lambda: None)
            raise OSError("no shelf")

    with pytest.raises(InstallError, match="the service shelves could not be installed: no shelf"):
        engine.install(Service(), name="shelves")
    assert "half" not in [spec.name for spec in engine.commands()]
    assert "half" not in engine.information()
    assert engine.reload() == []


def test_every_service_that_wants_it_is_told_to_reload(engine: Engine) -> None:
    problem = OSError("no shelf")
    reloaded: list[str] = []

    class Service:
        def __init__(self, name: str) -> None:
            self.name = name

        def install(self, engine: Engine) -> None:
            engine.on_reload(self.reload)

        def reload(self) -> None:
            reloaded.append(self.name)
            if self.name == "broken":
                raise problem

    for name in ("shelves", "broken", "tables"):
        engine.install(Service(name), name=name)
    assert reloaded == []
    assert engine.reload() == [("shelves", None), ("broken", problem), ("tables", None)]
    assert reloaded == ["shelves", "broken", "tables"]


def test_a_source_of_information_that_fails_does_not_hide_the_others(engine: Engine) -> None:
    def broken() -> dict[str, object]:
        raise OSError("no shelf")

    engine.add_info(broken)
    engine.add_info(lambda: {"shelves": 3})
    shown = engine.information()
    assert shown["shelves"] == 3
    assert shown["errors"] == ["OSError: no shelf"]


def test_shutdown_lets_jobs_finish_then_cancels_and_calls_back(engine: Engine) -> None:
    started = threading.Event()
    order: list[str] = []

    def stubborn(job: Job) -> Status:
        started.set()
        job.wait_cancelled(30)
        order.append("cancelled")
        job.check_cancelled()
        return Status.OK

    engine.register("stubborn", stubborn)
    engine.on_shutdown(lambda: order.append("first registered"))
    engine.on_shutdown(lambda: order.append("last registered"))
    job = engine.job("stubborn")
    runner = threading.Thread(target=job.run)
    runner.start()
    started.wait(10)
    engine.shutdown(grace=0.01)
    runner.join(10)
    assert order == ["cancelled", "last registered", "first registered"]
    assert job.status is Status.TRY_AGAIN
    assert engine.job("count", "1").run() is Status.TRY_AGAIN


def test_the_engine_s_own_jobs(engine: Engine) -> None:
    commands = engine.job("commands")
    assert commands.run() is Status.OK
    names = commands.stdout.table().column("name")
    assert names == ["commands", "count", "describe", "info"]

    describe = engine.job("describe", "count")
    assert describe.run() is Status.OK
    rows = describe.stdout.table().to_dicts()
    assert [(row["kind"], row["name"]) for row in rows] == [
        ("job", "count"),
        ("argument", "TO"),
        ("option", "step"),
        ("option", "password"),
        ("column", "n"),
    ]
    assert [row["secret"] for row in rows if row["kind"] == "option"] == [False, True]
    assert engine.job("describe", "nothing").run() is Status.UNKNOWN_JOB

    engine.add_info(lambda: {"shelves": 3})
    info = engine.job("info")
    assert info.run() is Status.OK
    assert ("shelves", 3) in info.stdout.table().rows


def test_a_spec_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="job name"):
        JobSpec(name="a=b")
    with pytest.raises(ValueError, match="only the last"):
        JobSpec(name="x", arguments=(Argument(name="A", repeated=True), Argument(name="B")))
    with pytest.raises(ValueError, match="after an optional"):
        JobSpec(name="x", arguments=(Argument(name="A", required=False), Argument(name="B")))
    with pytest.raises(ValueError, match="twice"):
        JobSpec(name="x", columns=(Column(name="a"), Column(name="a")))
    for name in ("", "a b", "a\n", "a=b", "a\0"):
        with pytest.raises(ValueError, match="option name"):
            Option(name=name)
    with pytest.raises(ValueError, match="an option name stands twice"):
        JobSpec(name="x", options=(Option(name="a"), Option(name="a")))
    with pytest.raises(ValueError, match="pairs"):
        JobSpec(name="x", row_mode="pairs")  # type: ignore[arg-type]
    assert JobSpec(name="x", row_mode="single").row_mode is RowMode.SINGLE  # type: ignore[arg-type]
    assert (
        JobSpec(
            name="x",
            arguments=(Argument(name="A"), Argument(name="B", required=False, repeated=True)),
        ).usage
        == "x A [B…]"
    )


def test_a_job_runs_once(engine: Engine) -> None:
    job = engine.job("count", "1")
    job.run()
    with pytest.raises(RuntimeError):
        job.run()


def test_an_unknown_status_of_a_handler_is_an_error(engine: Engine) -> None:
    engine.register("odd", lambda job: 42)
    assert engine.job("odd").run() is Status.ERROR


def test_the_core_needs_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import engine, engine.dispatch, engine.executors;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before} - {'engine'};"
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert shown.stdout.strip() == "[]"


def test_engine_errors_carry_code_status_and_retryable() -> None:
    error = EngineError("x", code="c", retryable=True)
    assert (error.code, error.status, error.retryable) == ("c", Status.ERROR, True)

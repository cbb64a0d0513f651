"""The log: its two forms, its levels, the job on each line, and what must not be in it."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from engine import logs
from engine.dispatch import Dispatcher, Submission
from engine.engine import Engine
from engine.executors.local import LocalExecutor
from engine.job import Job
from engine.spec import JobSpec, Option


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def configured(format: str = "json", level: str = "info", terminal: bool = False) -> io.StringIO:
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    logs.configure(level=level, format=format, stream=stream)
    return stream


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def run(handler: Any, env: dict[str, str] | None = None) -> Job:
    engine = Engine()
    engine.register("work", handler, JobSpec(name="work", options=(Option(name="s", secret=True),)))
    executor = LocalExecutor()
    dispatcher = Dispatcher(engine, executor, on_event=logs.task_events)
    task = dispatcher.submit(Submission(name="work", env=env or {}))
    task.log.release()
    assert dispatcher.drain(10)
    assert executor.shutdown(10)
    return task.job


def test_every_line_of_a_job_has_its_id_and_none_has_its_secrets() -> None:
    stream = configured(level="debug")

    def handler(job: Job) -> None:
        job.log("warning", "100% %s odd", event="shadow", job="shadow", count=1)

    job = run(handler, {"s": "hunter2"})
    told = lines(stream)
    assert [one["message"] for one in told] == ["accepted", "started", "100% %s odd", "ended"]
    assert {one["job"] for one in told} == {job.id}
    assert {one["name"] for one in told} == {"work"}
    assert (told[2]["level"], told[2]["event_"], told[2]["count"]) == ("warning", "shadow", 1)
    assert "hunter2" not in stream.getvalue()


def test_a_job_that_fails_is_a_warning_and_a_fault_shows_its_traceback() -> None:
    stream = configured()
    job = run(lambda job: 1 / 0)
    told = lines(stream)
    fault = next(one for one in told if "exception" in one)
    assert "ZeroDivisionError" in fault["exception"]
    ended = next(one for one in told if one["message"] == "ended")
    assert (ended["level"], ended["status"], ended["job"]) == ("warning", 1, job.id)


def test_a_traceback_shows_no_local_variables() -> None:
    for format in ("json", "console"):
        stream = configured(format)

        def fail(password: str) -> None:
            raise ValueError("no")

        try:
            fail("hunter" + "2")
        except ValueError:
            logging.getLogger("engine").exception("it failed")
        assert "ValueError" in stream.getvalue()
        assert "hunter2" not in stream.getvalue()


def test_the_form_follows_the_stream() -> None:
    assert_json = configured("auto")
    logging.getLogger("engine").warning("hello %s", "you")
    assert lines(assert_json)[0]["message"] == "hello you"
    console = configured("auto", terminal=True)
    logging.getLogger("engine").warning("hello %s", "you")
    assert "hello you" in console.getvalue()
    assert not console.getvalue().startswith("{")


def test_nothing_logged_steers_the_terminal() -> None:
    stream = configured("console")
    logging.getLogger("engine").warning("a\x1b[2Jb\rc")
    assert "\x1b[2J" not in stream.getvalue()
    assert r"a\x1b[2Jb\rc" in stream.getvalue()


def test_the_level_can_be_changed_and_libraries_are_quieter() -> None:
    stream = configured(level="warning")
    log = logging.getLogger("engine")
    log.info("not yet")
    logs.set_level("debug")
    log.debug("now")
    logging.getLogger("urllib3").info("never")
    assert [one["message"] for one in lines(stream)] == ["now"]


def test_warnings_of_python_go_the_same_way() -> None:
    stream = configured()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("careful", stacklevel=1)
    assert "careful" in lines(stream)[0]["message"]

"""`enginectl` against a real daemon: what it prints where, and how it ends."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support_daemon import Daemon, Result, running_daemon

from engine.version import __version__
from registry_service.testing import Registry
from registry_service.testing.images import push_image, random_image


@pytest.fixture
def ctl(trial_daemon: Daemon) -> Any:
    return trial_daemon.run_ctl


# the formats


def test_columns_in_a_pipe(ctl: Any) -> None:
    assert ctl("echo", "one", "two words").stdout == ("PLACE  WORD\n0      one\n1      two words\n")


def test_a_table_without_rows_has_its_heading(ctl: Any) -> None:
    assert ctl("options").stdout == "NAME  VALUE\n"
    assert ctl("--output", "csv", "options").stdout == "name,value\n"
    assert ctl("--output", "json", "options").stdout == ""


def test_json_is_one_object_a_line(ctl: Any) -> None:
    rows = [json.loads(line) for line in ctl("--output", "json", "kinds").stdout.splitlines()]
    assert rows[0] == {
        "string": 'text, "quoted"\n\x1b[31m',
        "integer": 12,
        "float": 1.5,
        "boolean": True,
        "time": 0.0,
        "bytes": "AP8=",
        "json": {"a": [1]},
    }
    assert set(rows[1].values()) == {None}


def test_csv_has_a_heading_and_quotes(ctl: Any) -> None:
    heading, row, empty = csv.reader(io.StringIO(ctl("--output", "csv", "kinds").stdout))
    assert heading == ["string", "integer", "float", "boolean", "time", "bytes", "json"]
    assert row == ['text, "quoted"\n\x1b[31m', "12", "1.5", "true", "0.0", "AP8=", '{"a": [1]}']
    assert empty == [""] * 7


def test_a_row_of_a_table_stays_on_its_line(ctl: Any) -> None:
    lines = ctl("kinds").stdout.splitlines()
    assert len(lines) == 3
    assert lines[1].startswith(r'text, "quoted" \x1b[31m')


def test_text_and_bytes_go_to_the_output_and_the_rest_to_the_side(ctl: Any) -> None:
    done = ctl("say")
    assert (done.returncode, done.stdout) == (0, "to the output\n\x00\x01")
    assert done.stderr == "warning: something \\x1b[2J is odd\nto the side\n"
    lines = ctl("--output", "json", "say").stdout.splitlines()
    assert list(map(json.loads, lines)) == [{"text": "to the output\n"}, {"data": "AAE="}]


def test_rows_are_written_as_they_come(trial_daemon: Daemon) -> None:
    for output in ("table", "json", "csv"):
        with trial_daemon.start_ctl("--output", output, "hang") as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            if output != "json":
                first = process.stdout.readline()
            assert "here" in first
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 130


# statuses and errors


def failed(done: Result, status: int, *parts: str) -> None:
    assert done.returncode == status
    assert done.stdout == ""
    assert done.stderr.startswith("enginectl: ")
    for part in parts:
        assert part in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("status", [1, 2, 75, 124, 126])
def test_the_exit_status_is_that_of_the_job(ctl: Any, status: int) -> None:
    failed(ctl("fail", str(status)), status, r"it went wrong: \x1b[31mred")


def test_an_unknown_job(ctl: Any) -> None:
    failed(ctl("serch", "x"), 127, "no such job: 'serch'; did you mean 'search'?")
    failed(ctl("run", "serch"), 127, "no such job: 'serch'")
    failed(ctl("describe", "serch"), 127, "no such job: 'serch'")
    failed(ctl("serch", "--help"), 127, "no such job: 'serch'; did you mean 'search'?")


def test_wrong_usage_shows_the_usage_line(ctl: Any) -> None:
    failed(ctl("search"), 2, "Missing argument 'TERM'", "Usage: enginectl search [OPTIONS] TERM")
    failed(ctl("run", "search"), 2, "search: TERM is missing", "Usage: search TERM")
    failed(ctl("echo"), 2, "echo: WORD is missing", "Usage: echo WORD [MORE…]")
    failed(ctl("--nope"), 2, "No such option '--nope'", "Usage: enginectl [OPTIONS] COMMAND")
    failed(ctl("options", "--count", "many"), 2, "count: 'many' is not an integer")


def test_no_command_shows_the_help_and_is_wrong_usage(ctl: Any) -> None:
    done = ctl()
    assert (done.returncode, done.stdout) == (2, "")
    assert "Usage: enginectl" in done.stderr


def test_a_daemon_that_is_not_there(ctl: Any, tmp_path: Path) -> None:
    nobody = f"ipc://{tmp_path}/none.sock"
    failed(ctl("--connect", nobody, "images"), 69, nobody, "is engined running?")
    failed(ctl("--connect", nobody, "echo", "x"), 69, "is engined running?")
    failed(ctl("--connect", "http://x", "images"), 2, "is no endpoint")


def test_the_endpoint_comes_from_the_environment(trial_daemon: Daemon) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", "echo", "x"],
        capture_output=True,
        text=True,
        env={**trial_daemon.environ, "ENGINE_CONNECT": trial_daemon.endpoint},
    )
    assert (done.returncode, done.stdout) == (0, "PLACE  WORD\n0      x\n")


def test_a_deadline(ctl: Any) -> None:
    failed_fast = ctl("--output", "json", "hang", "--deadline", "0.2")
    assert failed_fast.returncode == 124
    assert "deadline" in failed_fast.stderr
    failed(ctl("echo", "x", "--deadline", "soon"), 2, "--deadline", "1.5m")


# the words of the command line


def test_the_environment_of_a_job(ctl: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the file\n")
    done = ctl(
        "--output", "json", "run", "options",
        "-e", "a=1", "-e", f"b=@{tmp_path}/file", "-e", "c=@-", "-e", "d=@@x", "-e", "e=x=y",
        stdin="from the input\n",
    )  # fmt: skip
    rows = {row["name"]: row["value"] for row in map(json.loads, done.stdout.splitlines())}
    assert rows == {"a": "1", "b": "from the file", "c": "from the input", "d": "@x", "e": "x=y"}
    failed(ctl("run", "options", "-e", "nothing"), 2, "-e: KEY=VALUE or KEY=@FILE is wanted")
    failed(ctl("run", "options", "-e", "a=@/none"), 2, "-e a: /none: No such file")


def test_the_options_of_a_job_come_from_its_description(ctl: Any, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("hunter2\n")
    done = ctl(
        "--output", "json", "options", "--some-text", "x y", "--count", "3", "--quiet",
        "--words", "a,b", "--words", "c", "--token", f"@{tmp_path}/token", "-e", "key=mine",
    )  # fmt: skip
    assert done.stderr == ""
    rows = {row["name"]: row["value"] for row in map(json.loads, done.stdout.splitlines())}
    assert rows == {
        "someText": "x y",
        "count": "3",
        "quiet": "true",
        "words": '["a", "b", "c"]',
        "token": "hunter2",
        "key": "mine",
    }


def test_options_without_a_flag_of_their_own_are_given_by_name(ctl: Any) -> None:
    pairs = ("some_text=1", "a/b=2", "no-quiet=3")
    given = [word for pair in pairs for word in ("-e", pair)]
    done = ctl("--output", "csv", "options", *given, "--some-text", "4", "--no-quiet")
    rows = sorted(done.stdout.splitlines()[1:])
    assert rows == ["a/b,2", "no-quiet,3", "quiet,false", "someText,4", "some_text,1"]


def test_a_secret_on_the_command_line_is_refused_and_not_repeated(ctl: Any) -> None:
    done = ctl("options", "--token", "hunter2")
    failed(done, 2, "--token is secret", "@FILE")
    assert "hunter2" not in done.stderr


def test_the_help_of_a_job_comes_from_its_description(ctl: Any) -> None:
    shown = ctl("options", "--help").stdout
    assert "Give the environment back." in shown
    assert "--some-text STRING" in shown
    assert "[default: plain]" in shown
    assert "--quiet / --no-quiet" in shown
    assert "Columns: name, value" in shown
    shown = ctl("echo", "--help").stdout
    assert "Usage: enginectl echo [OPTIONS] WORD [MORE...]" in shown
    assert "the first word" in shown


def test_a_job_that_says_nothing_of_itself_gets_its_words(ctl: Any) -> None:
    assert ctl("bare", "a", "b").stdout == "a b"
    assert ctl("run", "bare", "--", "--x", "-e").stdout == "--x -e"


def test_the_help_lists_the_jobs_of_the_daemon(ctl: Any, tmp_path: Path) -> None:
    shown = ctl("--help").stdout
    assert "Commands of services:" in shown
    others = shown.partition("Other jobs:")[2]
    assert "echo" in others
    assert "Give each word back." in others
    assert "search" not in others
    shown = ctl("--connect", f"ipc://{tmp_path}/none", "--help")
    assert shown.returncode == 0
    assert "not known: there is no socket" in shown.stdout


def test_version(ctl: Any) -> None:
    assert ctl("--version").stdout == f"enginectl {__version__}\n"


def test_commands_describe_and_info(trial_daemon: Daemon) -> None:
    names = [row["name"] for row in trial_daemon.ctl_json("commands")]
    assert {"auth", "search", "pull", "push", "echo", "info"} <= set(names)
    kinds = {row["kind"] for row in trial_daemon.ctl_json("describe", "search")}
    assert kinds == {"job", "argument", "option", "column"}
    rows = {row["name"]: row["value"] for row in trial_daemon.ctl_json("info")}
    assert rows["version"] == __version__
    assert rows["state_dir"] == str(trial_daemon.state_dir)


def test_detach_prints_the_id_and_a_key_makes_it_one_job(trial_daemon: Daemon) -> None:
    first = trial_daemon.ctl("echo", "x", "--key", "test-detach", "--detach")
    again = trial_daemon.ctl("echo", "x", "--key", "test-detach", "--detach")
    assert first == again
    assert len(first.strip()) > 8
    other = trial_daemon.run_ctl("echo", "y", "--key", "test-detach")
    failed(other, 1, "stands for other work")


def test_completion(trial_daemon: Daemon) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli"],
        capture_output=True,
        text=True,
        env={
            **trial_daemon.environ,
            "ENGINE_CONNECT": trial_daemon.endpoint,
            "_ENGINECTL_COMPLETE": "bash_complete",
            "COMP_WORDS": "enginectl e",
            "COMP_CWORD": "1",
        },
    )
    assert done.stdout.split() == ["plain,echo", "plain,endless"]


def test_a_package_whose_commands_cannot_be_loaded_harms_no_other(
    trial_daemon: Daemon, tmp_path: Path
) -> None:
    about = tmp_path / "broken-1.dist-info"
    about.mkdir()
    (about / "entry_points.txt").write_text("[engine.commands]\nbroken = no_such:commands\n")
    path = os.pathsep.join([str(tmp_path), trial_daemon.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "engine.cli", "--connect", trial_daemon.endpoint, "echo", "x"],
        capture_output=True,
        text=True,
        env={**trial_daemon.environ, "PYTHONPATH": path},
    )
    assert (done.returncode, done.stdout) == (0, "PLACE  WORD\n0      x\n")
    assert "the commands of broken (no_such:commands, of broken) cannot be loaded" in done.stderr


# interruption


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_without_a_terminal_a_signal_cancels(trial_daemon: Daemon, kind: signal.Signals) -> None:
    with trial_daemon.start_ctl("--output", "json", "hang") as process:
        assert process.stdout is not None
        process.stdout.readline()
        begun = time.monotonic()
        process.send_signal(kind)
        _, stderr = process.communicate(timeout=10)
        assert time.monotonic() - begun < 2
    assert process.returncode == 130
    assert stderr == "enginectl: the job was cancelled by its client\n"


def test_a_job_that_does_not_stop_keeps_nobody_waiting(
    trial_daemon: Daemon, tmp_path: Path
) -> None:
    release = tmp_path / "release"
    with trial_daemon.start_ctl("stubborn", release) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=10)
        assert time.monotonic() - begun < 4
    release.touch()
    assert process.returncode == 130
    assert "its end has not come yet" in stderr


def test_an_output_that_nobody_reads_any_more(trial_daemon: Daemon) -> None:
    for output in ("table", "json", "csv"):
        with trial_daemon.start_ctl("--output", output, "endless") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.wait(10) == 1
            assert process.stderr.read() == ""
        rows = {row["name"]: row["value"] for row in trial_daemon.ctl_json("info")}
        assert rows["jobs.in_flight"] == 1  # the question itself


def test_an_output_that_is_full_cancels_the_job(trial_daemon: Daemon) -> None:
    for output in ("table", "json", "csv"):
        done = shell(trial_daemon, f"--output {output} endless >/dev/full")
        assert (done.returncode, done.stderr) == (1, "enginectl: output: No space left on device\n")
        rows = {row["name"]: row["value"] for row in trial_daemon.ctl_json("info")}
        assert rows["jobs.in_flight"] == 1  # the question itself


def shell(daemon: Daemon, words: str) -> Result:
    """`enginectl` as a shell starts it."""
    started = (sys.executable, daemon.endpoint)
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -m engine.cli --connect "$1" {words}', *started],
        capture_output=True,
        text=True,
        timeout=30,
        env=dict(daemon.environ),
    )
    return Result(returncode=done.returncode, stdout=done.stdout, stderr=done.stderr)


def test_standard_streams_that_are_closed(trial_daemon: Daemon) -> None:
    assert shell(trial_daemon, "bare >&-") == Result(returncode=0, stdout="", stderr="")
    done = shell(trial_daemon, "fail 75 2>&-")
    assert (done.returncode, done.stderr) == (75, "")
    done = shell(trial_daemon, "fail 75 2>/dev/full")
    assert (done.returncode, done.stderr) == (75, "")
    done = shell(trial_daemon, "auth 127.0.0.1:1 -u ann --password-stdin <&-")
    assert done.returncode == 2
    assert "there is no password on standard input" in done.stderr


@pytest.mark.parametrize("output", ["table", "json", "csv"])
@pytest.mark.parametrize(
    "words", ["echo one", "endless", "--help", "--version", "run --detach bare"]
)
def test_an_output_that_is_closed_is_one_that_cannot_be_written(
    trial_daemon: Daemon, output: str, words: str
) -> None:
    done = shell(trial_daemon, f"--output {output} {words} >&-")
    assert (done.returncode, done.stderr) == (1, "enginectl: output: Bad file descriptor\n")


def test_an_encoding_that_has_not_every_character(trial_daemon: Daemon) -> None:
    environ = {**trial_daemon.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    daemon = dataclasses.replace(trial_daemon, environ=environ)
    assert daemon.ctl("bare", "é") == r"\xe9"
    assert daemon.ctl("echo", "é") == "PLACE  WORD\n0      \\xe9\n"
    assert daemon.ctl_json("echo", "é") == [{"place": 0, "word": "é"}]
    assert r"no such job: 'nosuch\xe9'" in daemon.run_ctl("run", "nosuché").stderr


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_job_is_followed_cancels_it(
    trial_daemon: Daemon, kind: signal.Signals
) -> None:
    # the presenter is what comes between the acceptance and the wait for signals
    program = (
        "import os, sys, engine.cli, engine.cli.presenter as presenter\n"
        "class Late:\n"
        "    def __init__(self, *args, **options):\n"
        f"        os.kill(os.getpid(), {int(kind)})\n"
        "presenter.Presenter = Late\n"
        "sys.exit(engine.cli.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "--connect", trial_daemon.endpoint, "hang"],
        capture_output=True,
        text=True,
        timeout=30,
        env=dict(trial_daemon.environ),
    )
    assert done.returncode == 130
    assert done.stderr == "enginectl: the job was cancelled by its client\n"
    rows = {row["name"]: row["value"] for row in trial_daemon.ctl_json("info")}
    assert rows["jobs.in_flight"] == 1  # the question itself


def test_a_daemon_that_dies_while_a_job_is_followed(tmp_path: Path, trial_path: str) -> None:
    with (
        running_daemon(tmp_path / "state", environ={"PYTHONPATH": trial_path}) as daemon,
        daemon.start_ctl("--output", "json", "hang") as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        daemon.process.kill()
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 75
        assert stderr.startswith("enginectl: ")


# the commands of the registry


@pytest.fixture
def registry() -> Any:
    with Registry(users={"ann": "correct horse"}) as made:
        push_image(made, "test/app", "1.0", random_image(seed=3))
        yield made


def test_credentials_come_from_standard_input(trial_daemon: Daemon, registry: Registry) -> None:
    login = ("auth", registry.host, "-u", "ann", "--password-stdin")
    assert "Login Succeeded" in trial_daemon.ctl(*login, stdin="correct horse\n")
    done = trial_daemon.run_ctl(*login, stdin="wrong horse\n")
    failed(done, 1, registry.host)
    assert "wrong horse" not in done.stderr
    assert "horse" not in trial_daemon.log()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--password-stdin"], "--password-stdin needs the user name: -u USER"),
        (["-u", "ann"], "there is no terminal to ask for the password"),
        (["-u", "ann", "--password-stdin"], "there is no password on standard input"),
        (["-u", "", "--password-stdin"], "-u: the user name is empty"),
        (["--header", "nothing"], "--header: KEY=VALUE or KEY=@FILE is wanted"),
    ],
)
def test_credentials_that_are_incomplete(
    ctl: Any, registry: Registry, words: list[str], message: str
) -> None:
    failed(ctl("pull", f"{registry.host}/test/app:1.0", *words), 2, message, "Usage: enginectl")


def test_a_password_that_is_no_text_is_not_sent(trial_daemon: Daemon, registry: Registry) -> None:
    done = shell(trial_daemon, f"auth {registry.host} -u ann --password-stdin < /proc/self/exe")
    assert done.returncode == 2
    assert "enginectl: --password-stdin: standard input: not UTF-8 text\n" in done.stderr


def test_a_header_that_is_none_is_not_repeated(trial_daemon: Daemon) -> None:
    done = trial_daemon.run_ctl("pull", "127.0.0.1:1/x", "--header", "Authorization: Bearer horse")
    assert done.returncode == 2
    assert "KEY=VALUE or KEY=@FILE is wanted, not 'Authorization'\n" in done.stderr
    assert "horse" not in done.stderr


def test_pull_tag_push_and_what_is_there(trial_daemon: Daemon, registry: Registry) -> None:
    image = f"{registry.host}/test/app:1.0"
    copy = f"{registry.host}/test/copy:2.0"
    ann = ("-u", "ann", "--password-stdin")
    word = "correct horse"
    rows = trial_daemon.ctl_json("pull", image, "--platform", "all", *ann, stdin=word)
    assert [row["state"] for row in rows] == ["fetched"] * len(rows)
    (tagged,) = trial_daemon.ctl_json("tag", image, copy)
    assert tagged["reference"] == copy
    pushed = trial_daemon.ctl_json("push", copy, *ann, stdin=word)
    assert pushed[-1]["digest"] == rows[-1]["digest"]
    references = [row["reference"] for row in trial_daemon.ctl_json("images")]
    assert {image, copy} <= set(references)
    tags = trial_daemon.ctl_json("tags", f"{registry.host}/test/copy", *ann, stdin=word)
    assert [row["tag"] for row in tags] == ["2.0"]
    local = trial_daemon.ctl_json("inspect", copy)
    remote = trial_daemon.ctl_json("inspect", "--remote", copy, *ann, stdin=word)
    assert (local[0]["source"], remote[0]["source"]) == ("store", "registry")
    assert local[0]["digest"] == remote[0]["digest"] == rows[-1]["digest"]
    everything = trial_daemon.ctl_json(
        "pull", "--all-tags", f"{registry.host}/test/copy", *ann, stdin=word
    )
    assert everything[-1]["reference"] == copy
    found = trial_daemon.ctl_json(
        "search", f"{registry.host}/test", "--limit", "1", *ann, stdin=word
    )
    assert len(found) == 1


def test_headers_reach_the_registry(trial_daemon: Daemon) -> None:
    with Registry() as registry:
        push_image(registry, "test/app", "1.0", random_image(seed=3))
        trial_daemon.ctl("tags", f"{registry.host}/test/app", "--header", "X-Trial=a=b")
        sent = [dict(one.headers) for one in registry.requests if "tags" in one.path]
        assert [one.get("X-Trial", one.get("x-trial")) for one in sent] == ["a=b"]


def test_a_signal_that_is_ignored_stays_so(trial_daemon: Daemon, tmp_path: Path) -> None:
    """As of a shell's background job: SIGINT for the shell's foreground is not for it."""
    release = tmp_path / "release"
    shell = 'trap "" INT; exec "$@"'
    program = [sys.executable, "-m", "engine.cli", "--connect", trial_daemon.endpoint]
    with subprocess.Popen(
        ["/bin/sh", "-c", shell, "sh", *program, "stubborn", str(release)],
        stdout=subprocess.PIPE,
        text=True,
        env=dict(trial_daemon.environ),
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        release.touch()
        assert process.wait(20) == 0

"""What registries.toml says of hosts, in force: credentials, limits, proxies, certificates."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from support_daemon import running_daemon
from support_hosts import HERE, HostBench, section, told
from support_proxy import forward_proxy
from support_store import eventually

from engine import State, Status
from registry_service.testing import LoggedRequest, Registry, TLSFiles
from registry_service.testing.images import push_image, random_image

SECRET, OTHER = "correct horse", "battery staple"


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry() as made:
        yield made


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_text(f"{SECRET}\n")
    return path


def fill(registry: Registry, *names: str, layers: int = 3, size: int = 20_000) -> None:
    for name in names or ("app",):
        image = random_image(sum(name.encode()), layers=layers, layer_size=size, platform=HERE)
        push_image(registry, name, "1", image)
    registry.clear_requests()


# credentials of the daemon's own


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_the_daemon_s_own_stand_in_for_a_client_that_has_none(
    tmp_path: Path, secret: Path, auth: Any
) -> None:
    with Registry(auth=auth, users={"ann": SECRET, "bob": OTHER}) as registry:
        fill(registry)
        rules = section(registry.host, username="ann", password_file=secret.name)
        with HostBench(tmp_path, rules) as bench:
            job = bench.done(bench.job("pull", f"{registry.host}/app:1"))
            assert {one.user for one in registry.requests if one.user} == {"ann"}
            assert f"debug: {registry.host}: credentials: those of the configuration" in told(job)
            assert SECRET not in str(told(job))

            registry.clear_requests()
            bob = {"username": "bob", "password": OTHER}
            job = bench.done(bench.job("pull", f"{registry.host}/app:1", authConfig=bob))
            assert {one.user for one in registry.requests if one.user} == {"bob"}
            assert f"debug: {registry.host}: credentials: the caller's" in told(job)

            bench.run("tags", f"{registry.host}/app")
            bench.run("tag", f"{registry.host}/app:1", f"{registry.host}/app:2")
            bench.run("push", f"{registry.host}/app:2")


def test_a_client_s_wrong_password_is_not_mended_by_the_daemon_s(
    tmp_path: Path, secret: Path
) -> None:
    with Registry(users={"ann": SECRET}) as registry:
        fill(registry)
        rules = section(registry.host, username="ann", password_file=secret)
        with HostBench(tmp_path, rules) as bench:
            wrong = {"username": "ann", "password": "wrong"}
            assert "ann" in bench.fail("pull", f"{registry.host}/app:1", authConfig=wrong)


@pytest.mark.parametrize("auth", ["basic", "token"])
def test_who_sends_none_learns_no_name_of_the_daemon_s_own_that_are_refused(
    tmp_path: Path, secret: Path, auth: Any
) -> None:
    with Registry(auth=auth, users={"annabel": OTHER}) as registry:
        rules = section(registry.host, username="annabel", password_file=secret)
        with HostBench(tmp_path, rules) as bench:
            for job in ("tags", "search"):
                message = bench.fail(job, f"{registry.host}/app")
                assert f"{registry.host}: the daemon's own credentials were refused" in message
                assert "annabel" not in message


def test_what_a_client_has_for_another_registry_is_not_sent_and_the_daemon_s_stand_in(
    tmp_path: Path, secret: Path
) -> None:
    with Registry(users={"ann": SECRET, "bob": OTHER}) as registry:
        fill(registry)
        rules = section(registry.host, username="ann", password_file=secret)
        with HostBench(tmp_path, rules) as bench:
            auth = {"username": "bob", "password": OTHER, "serveraddress": "other.example"}
            bench.run("pull", f"{registry.host}/app:1", authConfig=auth)
        assert {one.user for one in registry.requests if one.user} == {"ann"}


def test_a_login_is_not_checked_with_the_daemon_s_own(tmp_path: Path, secret: Path) -> None:
    with Registry(users={"ann": SECRET}) as registry:
        rules = section(registry.host, username="ann", password_file=secret)
        with HostBench(tmp_path, rules) as bench:
            auth = {"serveraddress": registry.host}
            assert "asks for a login" in bench.fail("auth", authConfig=auth)


def test_a_secret_that_cannot_be_read_is_said_and_not_where_it_is_not_needed(
    tmp_path: Path, secret: Path
) -> None:
    secret.chmod(0o644)
    with Registry(users={"bob": OTHER}) as registry:
        fill(registry)
        rules = section(registry.host, username="ann", password_file=secret)
        with HostBench(tmp_path, rules) as bench:
            message = bench.fail("pull", f"{registry.host}/app:1")
            assert message.startswith(f"{registry.host}: the daemon's own credentials: ")
            assert "open to others" in message
            bob = {"username": "bob", "password": OTHER}
            bench.run("pull", f"{registry.host}/app:1", authConfig=bob)


# limits


class Overlap:
    """The most requests for blobs that were under way at a time, as the server saw it.

    A request that is as good as over when the next begins does not count: it is looked at
    twice, in less time than a blob takes.
    """

    def __init__(self) -> None:
        self.registry: Registry | None = None
        self.most = 0

    def __call__(self, ended: LoggedRequest) -> None:
        if "/blobs/" in ended.path:
            first = self._under_way(ended)
            threading.Event().wait(0.05)
            self.most = max(self.most, len(first & self._under_way(ended)) + 1)

    def _under_way(self, ended: LoggedRequest) -> set[int]:
        seen = [] if self.registry is None else self.registry.requests
        return {
            one.number
            for one in seen
            if "/blobs/" in one.path and not one.done and one.number != ended.number
        }


@pytest.mark.parametrize("limit", [1, 2])
def test_no_more_blobs_move_at_a_time_than_is_allowed(tmp_path: Path, limit: int) -> None:
    overlap = Overlap()
    with Registry(on_request=overlap, faults=["slow:rate=300000,path=/blobs/"]) as registry:
        overlap.registry = registry
        fill(registry, "a", "b", size=60_000)
        with HostBench(tmp_path, section(registry.host, concurrent=limit)) as bench:
            jobs = [bench.job("pull", f"{registry.host}/{name}:1") for name in "ab"]
            threads = [threading.Thread(target=job.run) for job in jobs]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert [job.status for job in jobs] == [Status.OK] * 2
            assert bench.broken() == []
    assert 1 <= overlap.most <= limit


def test_one_slot_is_enough_where_a_blob_stands_still(tmp_path: Path, registry: Registry) -> None:
    fill(registry, "a", "b", layers=4)
    with HostBench(tmp_path, section(registry.host, concurrent=1)) as bench:
        stuck = bench.job("pull", f"{registry.host}/a:1")
        with registry.hold(path="/v2/a/blobs/", after=100, times=1) as hold:
            runner = threading.Thread(target=stuck.run)
            runner.start()
            assert hold.entered.wait(10)
            bench.run("pull", f"{registry.host}/b:1")
            assert runner.is_alive()
            hold.release()
            runner.join(20)
        assert stuck.status is Status.OK, stuck.stderr.text()
        bench.run("tag", f"{registry.host}/b:1", f"{registry.host}/c:1")
        bench.run("push", f"{registry.host}/c:1")
        assert bench.broken() == []


def test_a_cancel_ends_the_wait_for_a_slot(tmp_path: Path, registry: Registry) -> None:
    fill(registry, "a", "b")
    with HostBench(tmp_path, section(registry.host, concurrent=1)) as bench:
        jobs = [bench.job("pull", f"{registry.host}/{name}:1") for name in "ab"]
        with registry.hold(path="/manifests/") as hold:
            threads = [threading.Thread(target=job.run) for job in jobs]
            for thread in threads:
                thread.start()
            assert hold.entered.wait(10)
            begun = time.monotonic()
            for job in jobs:
                job.cancel()
            for thread in threads:
                thread.join(10)
            assert time.monotonic() - begun < 1
        assert [job.state for job in jobs] == [State.CANCELLED] * 2


def test_bytes_come_and_go_no_faster_than_is_allowed(tmp_path: Path, registry: Registry) -> None:
    fill(registry, layers=2, size=100_000)
    rate = 200_000
    with HostBench(tmp_path, section(registry.host, bytes_per_second=rate)) as bench:
        begun = time.monotonic()
        rows = bench.run("pull", f"{registry.host}/app:1")
        moved = sum(row["size"] for row in rows)
        least = (moved - rate / 8) / rate
        assert least > 0.5
        assert time.monotonic() - begun >= least
        with Registry() as target:
            rules = section(target.host, bytes_per_second=rate)
            with HostBench(tmp_path / "other", rules) as other:
                other.run("pull", f"{registry.host}/app:1")
                other.run("tag", f"{registry.host}/app:1", f"{target.host}/app:1")
                begun = time.monotonic()
                other.run("push", f"{target.host}/app:1")
                assert time.monotonic() - begun >= least
                assert other.broken() == []


def test_requests_go_no_faster_than_is_allowed(tmp_path: Path, registry: Registry) -> None:
    fill(registry, layers=24, size=1000)
    with HostBench(tmp_path, section(registry.host, requests_per_second=20)) as bench:
        begun = time.monotonic()
        bench.run("pull", f"{registry.host}/app:1")
        sent = len(registry.requests)
        assert sent >= 26
        assert time.monotonic() - begun >= (sent - 20 - 1) / 20


def test_uploads_go_in_parts_of_the_size_that_is_said_of_the_host(
    tmp_path: Path, registry: Registry
) -> None:
    fill(registry, layers=1, size=60_000)
    with Registry() as target:
        with HostBench(tmp_path, section(target.host, chunk=25_000)) as bench:
            bench.run("pull", f"{registry.host}/app:1")
            bench.run("tag", f"{registry.host}/app:1", f"{target.host}/app:1")
            bench.run("push", f"{target.host}/app:1")
        bodies = [one.received for one in target.requests if one.method in ("PATCH", "PUT")]
        assert 25_000 in bodies
        assert max(bodies) <= 25_000


@pytest.mark.parametrize(("form", "seconds"), [("seconds", 3), ("date", 4)])
def test_a_wish_to_be_left_alone_holds_for_all_jobs(
    tmp_path: Path, form: str, seconds: int
) -> None:
    ends: list[tuple[float, LoggedRequest]] = []
    with Registry(on_request=lambda one: ends.append((time.monotonic(), one))) as registry:
        fill(registry, "a", "b", layers=1)
        wish = f"retry-after={seconds},form={form}"
        registry.add_fault(f"status:code=429,{wish},path=/v2/a/manifests/,times=1")
        with HostBench(tmp_path, "", retry_wait_max=5.0) as bench:
            jobs = [bench.job("pull", f"{registry.host}/{name}:1") for name in "ab"]
            bench.run("tags", f"{registry.host}/a")  # so that it is known where the registry is
            threads = [threading.Thread(target=job.run) for job in jobs]
            threads[0].start()
            eventually(lambda: any("429" in line for line in told(jobs[0])))
            threads[1].start()
            for thread in threads:
                thread.join(30)
            assert [job.status for job in jobs] == [Status.OK] * 2
            assert any("asks to be left alone" in line for line in told(jobs[1]))
            assert any("429" in line for line in told(jobs[0]))
    (refused,) = (at for at, (_, one) in enumerate(ends) if one.status == 429)
    # a date is in whole seconds, and so up to one less; the rest is for a slow machine
    assert ends[refused + 1][0] - ends[refused][0] >= 1.5


def test_a_host_that_asks_for_a_pause_holds_up_no_thread_that_another_could_use(
    tmp_path: Path, registry: Registry
) -> None:
    with Registry() as other, HostBench(tmp_path, "", transfers=1, retry_wait_max=60.0) as bench:
        fill(registry, "a", layers=6)
        fill(other, "b")
        registry.add_fault("status:code=429,retry-after=2,path=/blobs/,times=1")
        first = bench.job("pull", f"{registry.host}/a:1")
        runner = threading.Thread(target=first.run)
        runner.start()
        eventually(lambda: any("429" in line for line in told(first)))
        bench.run("pull", f"{other.host}/b:1")
        assert runner.is_alive()
        runner.join(20)
        assert first.status is Status.OK, first.stderr.text()
        assert sum(one.status == 429 for one in registry.requests) == 1


def test_a_host_s_limit_holds_up_no_thread_that_another_could_use(
    tmp_path: Path, registry: Registry
) -> None:
    rules = section(registry.host, concurrent=1)
    with Registry() as other, HostBench(tmp_path, rules, transfers=3) as bench:
        fill(registry, "a", layers=6)
        fill(other, "b")
        first = bench.job("pull", f"{registry.host}/a:1")
        with registry.hold(path="/blobs/", after=100, times=1) as hold:
            runner = threading.Thread(target=first.run)
            runner.start()
            assert hold.entered.wait(10)
            bench.run("pull", f"{other.host}/b:1")
            assert runner.is_alive()
            hold.release()
            runner.join(20)
        assert first.status is Status.OK, first.stderr.text()


# proxies and certificates


def test_a_pull_and_a_push_through_the_proxy_that_the_environment_names(
    tmp_path: Path, registry: Registry
) -> None:
    fill(registry)
    with (
        forward_proxy(names={"registry.test": ("127.0.0.1", registry.port)}) as proxy,
        HostBench(
            tmp_path,
            section("registry.test", insecure=True),
            environ={"http_proxy": f"http://{proxy.host}"},
        ) as bench,
    ):
        bench.run("pull", "registry.test/app:1")
        bench.run("tag", "registry.test/app:1", "registry.test/other:1")
        bench.run("push", "registry.test/other:1")
        assert bench.broken() == []
        assert registry.tags("other") == ["1"]
        assert all(one.target.startswith("http://registry.test/v2/") for one in proxy.seen)


def test_a_pull_through_a_tunnel_with_certificates_of_the_host_s_own(tmp_path: Path) -> None:
    ca = trustme.CA()
    issued = ca.issue_cert("registry.test")
    files = TLSFiles(cert=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    issued.private_key_pem.write_to_path(files.key)
    files.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    (tmp_path / "trusted").mkdir()
    ca.cert_pem.write_to_path(tmp_path / "trusted" / "ca.crt")
    with (
        Registry(tls=files) as registry,
        forward_proxy(
            names={"registry.test": ("127.0.0.1", registry.port)}, login=f"ann:{SECRET}"
        ) as proxy,
    ):
        fill(registry)
        address = f"http://ann:{SECRET.replace(' ', '%20')}@{proxy.host}"
        rules = section("registry.test", proxy=address, certs_dirs=["trusted"])
        with HostBench(tmp_path, rules) as bench:
            job = bench.done(bench.job("pull", "registry.test/app:1"))
            assert SECRET not in str(told(job))
        assert {one.target for one in proxy.seen} == {"registry.test:443"}
        with HostBench(tmp_path / "wrong", section("registry.test", proxy=proxy.url)) as bench:
            assert "407" in bench.fail("pull", "registry.test/app:1")


# the daemon


def test_engined_reads_the_file_beside_its_configuration(
    tmp_path: Path, registry: Registry
) -> None:
    with Registry() as mirror:
        fill(mirror)
        config = tmp_path / "conf" / "engined.toml"
        config.parent.mkdir()
        config.write_text("")
        rules = section(registry.host, mirrors=[mirror.host], origin="never")
        (config.parent / "registries.toml").write_text(rules)
        with running_daemon(tmp_path / "state", config=config) as daemon:
            daemon.ctl("pull", f"{registry.host}/app:1")
        assert registry.requests == []


def test_engined_takes_the_proxy_from_its_environment(tmp_path: Path, registry: Registry) -> None:
    fill(registry)
    config = tmp_path / "engined.toml"
    config.write_text('[service.registry]\ninsecure_hosts = ["registry.test"]\n')
    with (
        forward_proxy(names={"registry.test": ("127.0.0.1", registry.port)}) as proxy,
        running_daemon(
            tmp_path / "state",
            config=config,
            environ={"HTTP_PROXY": proxy.url, "http_proxy": "", "NO_PROXY": "", "no_proxy": ""},
        ) as daemon,
    ):
        daemon.ctl("pull", "registry.test/app:1")
        assert proxy.targets("HEAD") or proxy.targets("GET")


@pytest.mark.parametrize(
    ("rules", "environ", "message"),
    [
        ("[host.x]\nnope = 1\n", {}, 'registries.toml: host."x".nope: no such key'),
        ("", {"HTTPS_PROXY": "ftp://u:hunter2@p"}, "environment: HTTPS_PROXY: a proxy is spoken"),
    ],
)
def test_engined_says_what_is_wrong_and_where(
    tmp_path: Path, rules: str, environ: dict[str, str], message: str
) -> None:
    config = tmp_path / "engined.toml"
    config.write_text("")
    (tmp_path / "registries.toml").write_text(rules)
    for more in ([], ["--check"]):
        done = subprocess.run(
            [
                sys.executable, "-m", "engine.daemon",
                "--config", str(config), "--state-dir", str(tmp_path / "state"), *more,
            ],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "https_proxy": "", **environ},
        )  # fmt: skip
        assert done.returncode == 2
        assert done.stderr.startswith("engined: ")
        assert message in done.stderr
        assert "hunter2" not in done.stderr

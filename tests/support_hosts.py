"""The registry jobs in the process, with a ``registries.toml`` of the test's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine import Engine, Job, Status
from engine.records import Log
from registry_service.digest import Digest
from registry_service.platform import Platform
from registry_service.service import Service

__all__ = ["HERE", "HostBench", "section"]

HERE = str(Platform.here())


def section(host: str, **values: Any) -> str:
    """The section of one host: what is given, as TOML."""
    lines = [f'[host."{host}"]']
    for key, value in values.items():
        if isinstance(value, (list, tuple)):
            shown = f"[{', '.join(repr(str(one)) for one in value)}]"
        elif isinstance(value, bool):
            shown = str(value).lower()
        else:
            shown = repr(str(value)) if isinstance(value, (str, Path)) else str(value)
        lines.append(f"{key} = {shown}")
    return "\n".join(lines) + "\n"


class HostBench:
    """An engine whose configuration lies in ``place``; ``hosts`` is its ``registries.toml``."""

    def __init__(
        self, place: Path, hosts: str, *, environ: Mapping[str, str] | None = None, **settings: Any
    ) -> None:
        place.mkdir(exist_ok=True)
        (place / "registries.toml").write_text(hosts)
        self.state = place / "state"
        self.engine = Engine(state_dir=self.state, config_dir=place, environ=environ)
        self.engine.install(
            Service(), name="registry", settings={"retries": 2, "retry_wait_max": 3.0, **settings}
        )

    def __enter__(self) -> HostBench:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.shutdown(grace=0)

    def job(self, name: str, *args: str, **env: Any) -> Job:
        return self.engine.job(name, *args, env=env)

    def run(self, name: str, *args: str, **env: Any) -> list[dict[str, Any]]:
        return rows(self.done(self.job(name, *args, **env)))

    def done(self, job: Job) -> Job:
        """The job, which ends well."""
        assert job.run() is Status.OK, job.stderr.text()
        return job

    def fail(self, name: str, *args: str, **env: Any) -> str:
        job = self.job(name, *args, **env)
        assert job.run() is Status.ERROR
        assert job.end is not None
        return job.end.message

    @property
    def names(self) -> list[str]:
        return [row["reference"] for row in self.run("images")]

    def broken(self) -> list[str]:
        """Blobs in the store that are not what their names say."""
        return [
            path.name
            for path in (self.state / "images" / "blobs").glob("*/*")
            if str(Digest.of(path.read_bytes(), path.parent.name)) != f"sha256:{path.name}"
        ]


def rows(job: Job) -> list[dict[str, Any]]:
    return job.stdout.table().to_dicts()


def told(job: Job) -> list[str]:
    """The job's log lines, each with its level in front."""
    return [f"{one.level}: {one.text}" for one in job.output.records() if isinstance(one, Log)]

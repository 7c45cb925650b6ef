"""Runs of the command line in a process of their own that can be killed, started in no time by forking this one."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PATIENCE = 180.0  # seconds after which a run hangs, however slow the machine is


class Process:
    """`nota ARGUMENTS` in a forked process; `prepare` runs in it first."""

    def __init__(self, arguments: list[object], log: Path, env: dict[str, str], prepare: Callable[[], None]) -> None:
        self.log = log
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._child(arguments, env, prepare)

    def _child(self, arguments: list[object], env: dict[str, str], prepare: Callable[[], None]) -> None:
        from nota_cli.cli import main

        code = 70
        try:
            os.setsid()
            sys.stdout = sys.stderr = self.log.open("w", buffering=1)
            os.environ.update(env)
            prepare()
            sys.argv = ["nota", *map(str, arguments)]
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> int:
        """Its exit status; minus the signal that ended it."""
        until = time.monotonic() + PATIENCE
        while self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                self.kill()
                pytest.fail(f"the run hangs:\n{self.said()}")
            else:
                time.sleep(0.005)
        return self._code

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something to be true while the process runs."""
        end = time.monotonic() + PATIENCE
        while not condition():
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
                pytest.fail(f"ended with {self._code} too early:\n{self.said()}")
            assert time.monotonic() < end, self.said()
            time.sleep(0.001)

    def until_stopped(self) -> None:
        """Wait until the process has sent itself SIGSTOP."""
        status = Path(f"/proc/{self.pid}/stat")
        self.until(lambda: status.read_text().rsplit(")", 1)[1].split()[0] == "T")

    def kill(self) -> None:
        """`kill -9`, this process alone; its workers notice by themselves."""
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def children(self) -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def orphans(self) -> list[int]:
        """Processes of its session that are still there."""
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = status.read_text().rsplit(")", 1)[1].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == self.pid and fields[0] != "Z":
                found.append(int(status.parent.name))
        return found

    def said(self) -> str:
        """What it printed, on one line."""
        return " ".join(self.log.read_text().split())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Start the command line in the background; what still runs when the test ends is killed."""
    started: list[Process] = []

    def begin(
        *arguments: object, env: dict[str, str] | None = None, prepare: Callable[[], None] = lambda: None
    ) -> Process:
        process = Process(list(arguments), tmp_path / f"log{len(started)}", env or {}, prepare)
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
    until = time.monotonic() + PATIENCE
    while left := [pid for process in started for pid in process.orphans()]:
        assert time.monotonic() < until, f"workers outlive a killed run: {left}"
        time.sleep(0.1)


@pytest.fixture
def many(clips: Path, tmp_path: Path) -> Callable[[int], Path]:
    """An annotation of so many rows over the few clips, in a folder of its own with links to the audio."""

    def write(count: int) -> Path:
        known = json.loads((clips / "all.json").read_text())["annotation"]
        folder = tmp_path / "data"
        (folder / "audio").mkdir(parents=True)
        rows = []
        for index in range(count):
            row = known[index % len(known)]
            name = f"audio/{index}.wav"
            os.link(clips / row["path"], folder / name)
            rows.append({**row, "path": name, "testset_id": f"test{100 + index:04d}"})
        (folder / "rows.json").write_text(json.dumps({"annotation": rows}))
        return folder / "rows.json"

    return write


@pytest.fixture
def port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])

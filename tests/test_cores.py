"""Threads that wait let others work, and a measurement on a busy machine says so."""

import os
import subprocess
import sys

import pytest

from nota_cli.cores import busy_cores, usable_cores


def test_the_command_line_lets_idle_threads_sleep_unless_told_otherwise() -> None:
    program = "import os, sys; sys.argv = ['nota', '--version']\nfrom nota_cli.cli import main\n"
    program += "try:\n    main()\nexcept SystemExit:\n    pass\nprint(os.environ['OMP_WAIT_POLICY'])"
    plain = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for environment, policy in ((plain, "PASSIVE"), ({**plain, "OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")):
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.split()[-1] == policy


@pytest.mark.parametrize(("each", "busy"), [(0.5, False), (1.4, False), (2.0, True)])
def test_a_load_above_the_cores_is_told(each: float, busy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (each * usable_cores(), 0.0, 0.0))
    message = busy_cores()
    assert (message is not None) == busy
    assert message is None or f"{2 * usable_cores()}.0 processes want one of {usable_cores()} cores" in message

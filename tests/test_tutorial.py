"""The commands of docs/tutorial.md, run as they stand there, in an empty folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from helpers.paths import REPOSITORY

BLOCK = re.compile(r"```(?P<kind>bash|text)\n(?P<body>.*?)```", re.DOTALL)
PATIENCE = 600  # seconds


def test_the_tutorial_from_start_to_end(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, arguments in (("nota", " -m nota_cli.cli"), ("python", "")):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{arguments} "$@"\n')
        program.chmod(0o755)
    folder = tmp_path / "empty"
    folder.mkdir()
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(REPOSITORY)}
    printed, ran = "", 0
    for block in BLOCK.finditer((REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")):
        if block["kind"] == "text":
            assert printed == block["body"]
        else:
            command = ["bash", "-euo", "pipefail", "-c", block["body"]]
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
            assert done.returncode == 0, f"{block['body']}\n{done.stdout}\n{done.stderr}"
            printed, ran = done.stdout, ran + 1
    assert ran >= 7
    assert {path.name for path in folder.glob("a*.csv")} == {"asr.csv", "aac.csv"}
    table = (folder / "leaderboard" / "compare.md").read_text()
    assert "| tiny |" in table
    assert "| eight-bit |" in table

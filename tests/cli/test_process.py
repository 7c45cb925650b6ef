"""What surrounds the app: terminals, streams, folders, limits and interrupts of every kind, and never a traceback."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from helpers.paths import REPOSITORY
from nota_cli.cli.process import refuse_empty
from nota_cli.errors import UsageError
from nota_cli.version import __version__

Nota = Callable[..., int]


def run(*arguments: object, prefix: str = "", options: tuple[str, ...] = (), cwd: Path | None = None, **env: str):
    """The command line in a process of its own, with `prefix` run by the shell before it."""
    command = [sys.executable, *options, "-m", "nota_cli.cli", *map(str, arguments)]
    known = {**os.environ, "PYTHONPATH": str(REPOSITORY), **env}
    known = {name: value for name, value in known.items() if value != "UNSET"}
    shell = ["bash", "-c", f'{prefix} "$@"', "bash", *command] if prefix else command
    done = subprocess.run(shell, capture_output=True, env=known, cwd=cwd, timeout=120)
    assert b"Traceback" not in done.stderr, done.stderr.decode("utf-8", "replace")
    return done


@pytest.fixture
def korean(tmp_path: Path) -> Path:
    path = tmp_path / "제출.csv"
    path.write_text("testset_id,text\ntest0000,개가 짖는다\ntest0001,null\n")
    return path


LC = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}  # names of files are surrogates then


@pytest.mark.parametrize("terminal", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, LC])
def test_a_terminal_that_lacks_characters_gets_escapes(terminal: dict[str, str], korean: Path, tmp_path: Path) -> None:
    assert run("compare", **terminal).returncode == 0
    assert run("--help", **terminal).returncode == 0
    done = run("validate-submission", korean, **terminal)
    assert done.returncode == 1
    assert rb".csv" in done.stdout
    values = json.loads(run("validate-submission", korean, "--json", **terminal).stdout)
    assert not values["valid"]
    if terminal is not LC:
        assert rb"\uc81c\ucd9c.csv" in done.stdout.replace(b"\n", b"")  # a long path is broken over lines
        assert values["file"] == str(korean)
    sent = run("submit", korean.with_name("없음.csv"), "--competition", "x", "-m", "한글", "--dry-run", **terminal)
    assert sent.returncode == 2  # no such file, and its name is printed


def test_a_recipe_on_an_ascii_terminal_is_the_same_recipe(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model:\n  llama_path: 무게/라마\n  whisper_path: openai/whisper-large-v2\n")
    imported = run("recipes", "import", tmp_path / "config.yaml", PYTHONIOENCODING="ascii")
    assert imported.returncode == 0
    assert yaml.safe_load(imported.stdout.decode("ascii"))["decoder"]["path"] == "무게/라마"


def test_a_report_in_any_encoding_is_the_same_json(korean: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = [
        json.loads(run("validate-submission", korean, "--json", PYTHONIOENCODING=encoding).stdout.decode(encoding))
        for encoding in ("utf-8", "ascii", "latin-1", "cp949")
    ]
    assert all(report == reports[0] for report in reports)


@pytest.mark.parametrize(
    "arguments",
    [
        ["infer", "--out", ""],
        ["infer", "--out="],
        ["infer", "--annotation", "", "--task", "asr"],
        ["infer", "--recipe", ""],
        ["infer", "--set="],
        ["train", ""],
        ["score", "", "--annotation", "x", "--task", "asr"],
        ["efficiency", "--checkpoint="],
        ["recipes", "show", ""],
        ["compare", ""],
        ["prune-vocabulary", "x", "--out", "y", "--keep", ""],
        ["chat", ""],
        [""],
    ],
)
def test_an_empty_argument_is_wrong_use(
    arguments: list[str],
    nota: Nota,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert nota(*arguments) == 2
    assert "is empty" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_only_what_is_empty_is_refused() -> None:
    refuse_empty(["infer", "--set", "a.b=", "-m", " ", "--out", "x=", "-=", "--"])
    with pytest.raises(UsageError, match="^--audio-root is empty"):
        refuse_empty(["infer", "--audio-root", ""])


def test_a_working_folder_that_is_gone_is_wrong_use(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    for command in ("compare", "--help"):
        done = run(command, prefix=f"mkdir -p {tmp_path}/gone; cd {tmp_path}/gone; rmdir ../gone;")
        assert done.returncode == 2
        assert b"working folder" in done.stderr


@pytest.mark.parametrize("columns", ["0", "1", "7", "-3", "x", ""])
def test_tables_are_there_on_any_width(columns: str) -> None:
    done = run("compare", COLUMNS=columns)
    assert done.returncode == 0
    assert b"salmonn" in done.stdout.lower()


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_lead_nowhere(closed: str, tmp_path: Path) -> None:
    done = run("compare", "--no-plot", "--out", tmp_path / "out", prefix=f"exec {closed};")
    assert done.returncode == 0
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert sorted(written) == ["compare.csv", "compare.md"]
    assert not any("wrote compare" in text for text in written.values())
    assert run("compare", "--json", prefix=f"exec {closed};").returncode == 0


@pytest.mark.parametrize(
    "env", [{"HOME": "UNSET"}, {"HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none"}, {"TMPDIR": "/proc/none"}]
)
def test_homes_and_caches_that_are_not_there(env: dict[str, str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert run("compare", "--out", tmp_path / "out", **env).returncode == 0
    assert (tmp_path / "out" / "compare.png").stat().st_size > 1000


@pytest.mark.parametrize("options", [(), ("-O",), ("-OO",)])
def test_without_assertions_the_message_is_the_same(options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(f"testset_id,text\ntest0000,{'7' * 5000}\n")
    row = {"path": "x.wav", "text": "one", "task": "asr"}
    (tmp_path / "a.json").write_text(json.dumps({"annotation": [row]}))
    arguments = ("score", tmp_path / "s.csv", "--annotation", tmp_path / "a.json", "--task", "asr")
    done = run(*arguments, options=options)
    assert done.returncode == 1
    assert b"normalizer cannot take the text" in done.stderr


def test_a_table_that_cannot_be_drawn_costs_nothing(
    nota: Nota, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: object) -> None:
        raise ValueError("no fonts")

    monkeypatch.setattr("nota_cli.leaderboard.plot.picture", broken)
    assert nota("compare", "--out", tmp_path / "out") == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.csv", "compare.md"]
    assert "compare.png cannot be drawn (ValueError: no fonts)" in " ".join(capsys.readouterr().err.split())


def test_a_second_interrupt_ends_at_once_without_a_traceback(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\nfrom nota_cli.cli import process\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # the suite may run where it is ignored
        # In short naps: Python sees a signal that comes just before a sleep begins only after the sleep.
        "def nap():\n    for _ in range(600):\n        time.sleep(0.1)\n"
        "def app():\n"
        "    try:\n        print('ready', flush=True)\n        nap()\n"
        "    finally:\n        print('cleaning', flush=True)\n        nap()\n"
        "process.run(app)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], env=env, **pipes) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == b"cleaning\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert b"Traceback" not in err


def test_a_library_that_sets_up_logging_doubles_no_message() -> None:
    script = "import logging, sys; logging.basicConfig(); sys.argv = ['nota', 'recipes', 'show', 'nothing']\n"
    script += "from nota_cli.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stderr.count("no recipe") == 1


@pytest.mark.parametrize("module", ["nota_cli", "nota_cli.cli"])
def test_the_package_runs_as_a_module(module: str, tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"nota {__version__}\n"), done.stderr

"""What reaches the screen: nota's own messages at once, libraries' errors, and nothing else of theirs."""

import io
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.paths import REPOSITORY
from nota_cli import console
from nota_cli.console import quiet_process, warn
from nota_cli.models.families.salmonn import Salmonn

LIBRARIES = ("torch", "transformers.modeling_utils", "peft", "torchao", "optimum", "pydub", "some_new_one")


def chatter() -> None:
    """What libraries say, each in a way of its own."""
    warnings.simplefilter("default")  # as libraries do when they are imported
    for kind in (DeprecationWarning, FutureWarning, UserWarning, RuntimeWarning):
        warnings.warn(f"chatter of kind {kind.__name__}", kind, stacklevel=1)
    for name in LIBRARIES:
        logger = logging.getLogger(name)
        logger.warning("chatter of a logger")
        logger.info("chatter of a logger")


@pytest.fixture
def screen() -> Iterator[io.StringIO]:
    """Where a library writes that brings a handler of its own, as transformers and torchao do."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logging.getLogger("some_new_one").addHandler(handler)
    yield stream
    logging.getLogger("some_new_one").removeHandler(handler)


def test_commands_keep_libraries_off_the_screen_but_not_errors(
    nota: Callable[..., int],
    tiny_checkpoint: Path,
    clips: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    screen: io.StringIO,
) -> None:
    encode = Salmonn.encode

    def noisy(*values: object) -> object:
        chatter()
        warn("a warning of our own")
        logging.getLogger("some_new_one").error("an error of a library")
        return encode(*values)

    monkeypatch.setattr(Salmonn, "encode", noisy)
    file = clips / "audio" / "c0.wav"
    commands = [
        ["transcribe", file],
        ["chat", file, "--prompt", "asr"],
        ["infer", file, "--task", "asr", "--out", tmp_path / "a.csv"],
        ["efficiency", "--rounds", 1, "--seconds", 0, "--warm-up", 0],
    ]
    for command in commands:
        assert nota(*command, "-r", tiny_checkpoint) == 0
        captured = capfd.readouterr()
        assert "chatter" not in captured.out + captured.err
        assert "warning: a warning of our own" in captured.err
        assert set(screen.getvalue().splitlines()) == {"an error of a library"}


def test_who_asks_for_warnings_gets_them(screen: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.warnoptions", ["default"])
    with warnings.catch_warnings(record=True) as seen, quiet_process():
        chatter()
    assert len(seen) == 4
    assert "chatter of a logger" in screen.getvalue()


def test_warnings_of_categories_of_our_own_are_passed_on() -> None:
    ours = [
        type(name, (UserWarning,), {"__module__": module})
        for name, module in (("A", "nota_cli.errors"), ("B", "nota_cli"))
    ]
    theirs = type("C", (UserWarning,), {"__module__": "nota_client"})
    shown: list[type[Warning]] = []
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, category, *where: shown.append(category)
        with quiet_process():
            for category in (*ours, theirs, UserWarning):
                warnings.warn("the first half is silent", category, stacklevel=1)
    assert shown == ours


def test_a_process_is_left_as_it_was(screen: io.StringIO) -> None:
    before = logging.root.manager.disable
    with pytest.raises(ZeroDivisionError), quiet_process():
        raise ZeroDivisionError
    assert logging.root.manager.disable == before
    with warnings.catch_warnings(record=True) as seen:
        chatter()
    assert len(seen) == 4
    assert "chatter of a logger" in screen.getvalue()


@pytest.mark.parametrize(
    "command",
    [
        ["transcribe", "c0.wav"],
        ["caption", "c0.wav"],
        ["chat", "c0.wav", "--prompt", "asr"],
        ["infer", "c0.wav", "--task", "asr"],
        ["infer", "--task", "aac"],
        ["efficiency"],
        ["train", "RECIPE"],
        ["quantize", "RECIPE", "--out", "q"],
        ["merge-lora", "RECIPE", "--out", "q"],
        ["prune-layers", "RECIPE", "--decoder", "1", "--out", "q"],
        ["prune-vocabulary", "RECIPE", "--out", "q"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_loading_is_announced_before_what_takes_long(command: list[str], clips: Path, tiny_checkpoint: Path) -> None:
    script = (
        "import sys\n"
        "from importlib.abc import MetaPathFinder\n"
        "class Stop(MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            sys.exit(7)\n"
        "sys.meta_path.insert(0, Stop())\n"
        f"sys.argv = ['nota', *{[str(tiny_checkpoint) if word == 'RECIPE' else word for word in command]!r}]\n"
        "from nota_cli.cli import main\n"
        "main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        capture_output=True,
        text=True,
        cwd=clips / "audio",
        env=environment,
    )
    assert done.returncode == 7, done.stderr
    assert done.stderr.splitlines()[0].startswith("loading ")
    assert done.stdout == ""


def test_messages_reach_who_listens_and_else_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[tuple[str, str]] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append((record.levelname, record.getMessage()))

    logger, listener = logging.getLogger("nota_cli"), Listener()
    logger.addHandler(listener)
    level = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        console.say("a note with [brackets]")
        console.warn("a warning")
        console.debug("a detail")
    finally:
        logger.removeHandler(listener)
        logger.setLevel(level)
    assert heard == [("INFO", "a note with [brackets]"), ("WARNING", "a warning"), ("DEBUG", "a detail")]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("flag", "kinds"), [("", "note warning"), ("--quiet", "warning"), ("-v", "note warning debug")]
)
def test_flags_choose_what_is_shown(
    flag: str, kinds: str, nota: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [flag] if flag else []
    try:
        assert nota(*flags, "--version") == 0
        capsys.readouterr()
        console.say("note")
        console.warn("warning")
        console.debug("debug")
        with console.progress() as bar:
            bar.add_task("bar", total=1, detail="")
        shown = capsys.readouterr().err
    finally:
        console.set_verbosity(logging.INFO)
    assert [word for word in ("note", "warning", "debug") if word in shown] == kinds.split()
    assert ("bar" in shown) is (flag != "--quiet")

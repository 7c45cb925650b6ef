"""`nota chat`: answers on stdout, everything else on stderr."""

import io
import os
import pty
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from helpers.paths import REPOSITORY
from nota_cli import AudioLM

SAMPLE = REPOSITORY / "checkpoints" / "tiny" / "samples" / "audio" / "digits-371.flac"

Nota = Callable[..., int]
Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize("prompt", ["/asr", "/caption", "what is it"])
def test_one_prompt_one_answer(prompt: str, nota: Nota, tiny_checkpoint: Path, clips: Path, capsys: Capture) -> None:
    file = clips / "audio" / "c3.wav"
    assert nota("chat", file, "--checkpoint", tiny_checkpoint, "--prompt", prompt) == 0
    captured = capsys.readouterr()
    model = AudioLM.from_pretrained(tiny_checkpoint)
    ask = {"/asr": model.transcribe, "/caption": model.caption}
    expected = ask[prompt](file) if prompt in ask else model.ask(file, prompt)
    assert captured.out == expected + "\n"
    assert "recipe random" in captured.err


@pytest.mark.parametrize("prompt", ["asr", "ASR", " transcribe ", "caption", "aac", "/Caption"])
def test_words_for_tasks_select_the_tasks_own_prompt(
    prompt: str, nota: Nota, tiny_checkpoint: Path, clips: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = clips / "audio" / "c2.wav"
    model = AudioLM.from_pretrained(tiny_checkpoint)
    expected = model.transcribe(file) if prompt.strip().lower() in ("asr", "transcribe") else model.caption(file)
    assert nota("chat", file, "--checkpoint", tiny_checkpoint, "--prompt", prompt) == 0
    assert capsys.readouterr().out == f"{expected}\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{prompt}\n"))
    assert nota("chat", file, "--checkpoint", tiny_checkpoint) == 0
    assert capsys.readouterr().out == f"{expected}\n"


def test_lines_of_stdin_are_answered_one_by_one(
    nota: Nota, tiny_checkpoint: Path, clips: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = clips / "audio" / "c3.wav"
    encoded = []
    from nota_cli.models.families.salmonn import Salmonn as Network

    encode = Network.encode
    monkeypatch.setattr(Network, "encode", lambda *values: encoded.append(1) or encode(*values))
    monkeypatch.setattr("sys.stdin", io.StringIO("/asr\n\n  what is it \n/help\n/caption\n/quit\nwhat is it\n"))
    assert nota("chat", file, "-r", tiny_checkpoint) == 0
    assert len(encoded) == 1
    captured = capsys.readouterr()
    model = AudioLM.from_pretrained(tiny_checkpoint)
    assert captured.out.splitlines() == [model.transcribe(file), model.ask(file, "what is it"), model.caption(file)]
    assert "/caption: what is heard" in captured.err


@pytest.mark.parametrize("stdin", [None, io.StringIO(), io.StringIO("\n \n")])
def test_without_input_nothing_is_said_but_why(
    stdin: io.StringIO | None,
    nota: Nota,
    tiny_checkpoint: Path,
    clips: Path,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", stdin)  # None is what a closed descriptor makes of it
    assert nota("chat", clips / "audio" / "c3.wav", "-r", tiny_checkpoint) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "nothing was asked" in captured.err
    assert "--prompt" in captured.err


def test_the_shipped_model_answers_with_no_other_flag(
    nota: Nota, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"/asr\nwhat\xff\n/caption"), encoding="utf-8"))
    assert nota("chat", SAMPLE) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0] == "three seven one"


def test_a_terminal_gets_a_prompt_and_may_err(
    nota: Nota, tiny_checkpoint: Path, clips: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    main, terminal = pty.openpty()
    os.write(main, b"/nothing\n/asr\n\x04")
    with os.fdopen(terminal) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert nota("chat", clips / "audio" / "c0.wav", "-r", tiny_checkpoint) == 0
    os.close(main)
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 1
    assert "no command /nothing" in captured.err
    assert captured.err.count("> ") == 3


def test_mistakes(
    nota: Nota, tiny_checkpoint: Path, clips: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = clips / "audio" / "c0.wav"
    assert nota("chat", tmp_path / "none.wav", "-r", tiny_checkpoint, "--prompt", "/asr") == 1
    assert "none.wav: no such file. Check the path." in capsys.readouterr().err.replace("\n", " ")
    assert nota("chat", good, "-r", tiny_checkpoint, "--prompt", " ") == 2
    assert nota("chat", good, "-r", tiny_checkpoint, "--prompt", "/as") == 2
    assert "no command /as" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.StringIO("/asr\n/oops\n/caption\n"))
    assert nota("chat", good, "-r", tiny_checkpoint) == 2
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_long_recording_is_said_to_be_cut(nota: Nota, tiny_checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "long.wav"
    soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, 31 * 8_000), 8_000)
    assert nota("chat", file, "-r", tiny_checkpoint, "--prompt", "/asr") == 0
    assert "31.0 s, of which the model hears the first 30" in capsys.readouterr().err

"""The Python API gives what the command line gives."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

from helpers.paths import SAMPLES
from nota_cli import AudioLM
from nota_cli.data.audio.clip import load_audio
from nota_cli.errors import DataError, NotaError, RecipeError, UsageError
from nota_cli.inference.long_audio import join
from nota_cli.prompts import Query


@pytest.fixture(scope="module")
def model() -> AudioLM:
    return AudioLM.from_pretrained()


@pytest.fixture(scope="module")
def small(tiny_checkpoint: Path) -> AudioLM:
    return AudioLM.from_pretrained(tiny_checkpoint, settings=["audio.max_seconds=1.5"], device="cpu")


@pytest.mark.parametrize("task", ["asr", "aac"])
def test_texts_are_those_of_the_command_line(
    task: str, model: AudioLM, nota: Callable[..., int], tmp_path: Path
) -> None:
    from nota_cli.data.annotation import read_annotation, row_id
    from nota_cli.submission import read_records

    assert nota("infer", "--task", task, "--out", tmp_path / "out.csv") == 0
    expected = {record.fields[0]: record.fields[1] for record in read_records(tmp_path / "out.csv")[0][1:]}
    rows = read_annotation(SAMPLES / f"{task}.json")
    files = [SAMPLES / row.path for row in rows]
    say = model.transcribe if task == "asr" else model.caption
    texts = say(files)
    assert [text.lower() for text in texts] == [expected[row_id(row)] for row in rows]
    assert say(str(files[0])) == texts[0]
    assert say(file for file in files[:2]) == texts[:2]
    assert say([]) == []


def test_a_checkpoint_folder_a_recipe_file_and_settings(
    tiny_checkpoint: Path, tiny_recipe: Path, clips: Path, small: AudioLM
) -> None:
    file = clips / "audio" / "c0.wav"
    whole = AudioLM.from_pretrained(tiny_checkpoint)
    brought = AudioLM.from_pretrained(str(tiny_recipe), checkpoint=tiny_checkpoint)
    assert whole.transcribe(file) == brought.transcribe(file) == small.transcribe(file)
    assert whole.max_seconds == 30
    assert small.max_seconds == 1.5


def test_answers_to_questions(small: AudioLM, clips: Path) -> None:
    files = [clips / "audio" / f"c{index}.wav" for index in range(3)]
    answers = small.ask(files, "what is it")
    assert len(answers) == 3
    assert small.ask(files[1], "what is it") == answers[1]
    recording = small.load_recording(files[1])
    assert recording.ask("what is it") == answers[1]
    assert recording.transcribe() == small.transcribe(files[1])
    assert recording.caption() == small.caption(files[1])
    streamed: list[str] = []
    assert recording.ask("what is it", streamed.append) == answers[1] == streamed[-1]
    assert len(streamed) > 1
    assert recording.seconds == pytest.approx(0.4)


def test_long_recordings_are_cut_or_heard_in_windows(small: AudioLM, clips: Path, tmp_path: Path) -> None:
    file = tmp_path / "long.wav"
    soundfile.write(file, 0.2 * np.random.default_rng(0).standard_normal(int(4.1 * 16_000)), 16_000)
    wave = load_audio(file)
    assert small.transcribe(file) == small.transcribe(file, long="cut")
    network = small.network
    parts = [wave[round(start * 16_000) :][:24_000] for start in (0.0, 1.25, 2.5, 3.75)]
    parts[-1] = np.pad(parts[-1], (0, 16_000 - len(parts[-1])))
    texts = [network.generate(small.features([part]), [Query("asr")])[0] for part in parts]
    assert small.transcribe(file, long="chunk") == join(texts)
    both = small.caption([file, clips / "audio" / "c1.wav"], long="chunk")
    assert both == [small.caption(file, long="chunk"), small.caption(clips / "audio" / "c1.wav")]


@pytest.mark.parametrize("seconds", [1.2, 4.1])
def test_a_flac_that_does_not_state_its_length(seconds: float, small: AudioLM, tmp_path: Path) -> None:
    whole, streamed = tmp_path / "whole" / "a.flac", tmp_path / "streamed" / "a.flac"
    for file in (whole, streamed):
        file.parent.mkdir()
    soundfile.write(whole, 0.2 * np.random.default_rng(0).standard_normal(int(seconds * 16_000)), 16_000)
    content = bytearray(whole.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    streamed.write_bytes(content)
    assert small.transcribe(streamed) == small.transcribe(whole)
    assert small.transcribe(streamed, long="chunk") == small.transcribe(whole, long="chunk")
    assert small.load_recording(streamed).seconds == pytest.approx(seconds)
    assert small.load_recording(streamed).caption() == small.caption(whole)


def test_threads_may_share_a_model(model: AudioLM) -> None:
    files = sorted((SAMPLES / "audio").iterdir())[:6]
    recording = model.load_recording(files[0])
    asked = [lambda file=file: model.transcribe(file) for file in files]
    asked += [lambda: model.caption(files[:3]), recording.transcribe, recording.caption]
    expected = [ask() for ask in asked]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda ask: ask(), asked * 3))
    assert found == expected * 3


def test_what_is_no_path_and_no_question(small: AudioLM, clips: Path) -> None:
    good = clips / "audio" / "c0.wav"
    for wrong in (np.zeros(16_000), [good, np.zeros(16_000)], 5, None, b"a.wav"):
        with pytest.raises(UsageError, match="path is wanted.*write samples to a file"):
            small.transcribe(wrong)
    with pytest.raises(UsageError, match="path is wanted"):
        small.load_recording(np.zeros(16_000))
    for ask in (lambda question: small.ask([good, good], question), small.load_recording(good).ask):
        with pytest.raises(UsageError, match="one text"):
            ask(["what is it", "who is it"])


def test_errors_name_the_file(small: AudioLM, clips: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.wav").write_text("no sound at all")
    good = clips / "audio" / "c0.wav"
    for bad in (tmp_path / "none.wav", tmp_path / "notes.wav", tmp_path):
        for ask in (small.transcribe, small.load_recording):
            with pytest.raises(DataError, match=bad.name):
                ask([good, bad] if ask == small.transcribe else bad)
    with pytest.raises(UsageError, match="question is empty"):
        small.ask(good, " ")
    with pytest.raises(UsageError, match="'cut' and 'chunk'"):
        small.caption(good, long="all")
    with pytest.raises(RecipeError, match="tiny"):
        AudioLM.from_pretrained("tinny")
    with pytest.raises(NotaError, match="cuda:77"):
        AudioLM.from_pretrained(device="cuda:77")


def test_loading_prints_nothing() -> None:
    script = "from nota_cli import AudioLM; AudioLM.from_pretrained(device='cpu')"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout + done.stderr == ""


def test_importing_the_package_is_quick() -> None:
    script = "import sys, nota_cli; assert 'torch' not in sys.modules; assert not hasattr(nota_cli, 'AudioLn')"
    subprocess.run([sys.executable, "-c", script], check=True)

"""Damaged sound files and odd annotations by the hundred: one clear error or a usable result, never anything else."""

import faulthandler
import io
import json
import os
import resource

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helpers.paths import SAMPLES
from nota_cli.data.annotation import Row, read_annotation, row_id
from nota_cli.data.audio.clip import SAMPLE_RATE, duration, load_clip
from nota_cli.data.audio.headers import describe, scan
from nota_cli.data.tasks import KNOWN_TASKS
from nota_cli.errors import DataError, NotaError

HUNG = 60  # seconds after which a test has hung: the run is broken off and shows where
MEMORY = 500e6  # bytes that no damaged file may cost
RECORDS = 60e3  # bytes of an example that hypothesis remembers

fuzz = settings(
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "150")),
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(autouse=True)
def _no_ffmpeg(monkeypatch):
    """It is another program, and to start it for each example takes longer than all the rest."""
    monkeypatch.setattr("nota_cli.data.audio.ffmpeg.PROGRAM", "ffmpeg-is-not-fuzzed-here")


@pytest.fixture(autouse=True)
def _bounded():
    faulthandler.dump_traceback_later(HUNG * max(1, fuzz.max_examples // 500), exit=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    faulthandler.cancel_dump_traceback_later()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MEMORY + RECORDS * fuzz.max_examples


def _encoded(rate, channels=1, **kwargs):
    """A third of a second of a tone, as a file's bytes."""
    times = np.arange(rate // 3) / rate
    tone = 0.3 * np.sin(2 * np.pi * 440 * times)[:, None].repeat(channels, axis=1)
    file = io.BytesIO()
    soundfile.write(file, tone, rate, **kwargs)
    return file.getvalue()


SOUNDS = {
    "wav": _encoded(16_000, format="WAV"),
    "float": _encoded(44_100, 2, format="WAV", subtype="FLOAT"),
    "extensible": _encoded(8_000, 3, format="WAVEX"),
    "adpcm": _encoded(8_000, format="WAV", subtype="MS_ADPCM"),
    "rf64": _encoded(8_000, format="RF64"),
    "flac": _encoded(22_050, format="FLAC"),
    "vorbis": _encoded(16_000, format="OGG"),
    "opus": _encoded(48_000, format="OGG", subtype="OPUS"),
    "mp3": _encoded(16_000, format="MP3"),
    "aiff": _encoded(8_000, format="AIFF"),
    "caf": _encoded(8_000, format="CAF"),
    "au": _encoded(8_000, format="AU"),
    **{path.name: path.read_bytes() for path in sorted((SAMPLES / "audio").iterdir())[::4]},
}

VALUES = st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 2, 0x7F, 0x80, 0xFF]))


@st.composite
def damaged(draw):
    """The bytes of a sound with some of its header's or body's bytes changed, taken out, put in or cut off."""
    content = bytearray(SOUNDS[draw(st.sampled_from(sorted(SOUNDS)))])
    ends = draw(st.sampled_from([44, 44, 128, len(content)]))
    for place, value in draw(st.lists(st.tuples(st.integers(0, ends - 1), VALUES), max_size=6)):
        content[place] = value
    if draw(st.booleans()):
        place = draw(st.integers(0, ends // 4 - 1)) * 4  # a length or rate is one of these words
        content[place : place + 4] = draw(st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\1\0"]))
    if draw(st.booleans()):
        start = draw(st.integers(0, ends))
        content[start : start + draw(st.integers(0, 64))] = draw(st.binary(max_size=16))
    if draw(st.booleans()):
        del content[draw(st.integers(0, len(content))) :]
    return bytes(content)


def _usable(waveform, seconds):
    assert waveform.dtype == np.float32
    assert waveform.ndim == 1
    assert SAMPLE_RATE <= len(waveform) <= max(1.0, seconds) * SAMPLE_RATE
    assert np.isfinite(waveform).all()


def _attempt(call):
    """The result, or None after an error as a user should see it."""
    try:
        return call()
    except DataError as error:
        message = str(error)
        assert "fuzzed.wav" in message
        assert message.endswith(".")
        message.encode()
        return None


@given(content=damaged(), other=damaged())
@fuzz
def test_damaged_sounds(tmp_path_factory, content, other):
    folder = tmp_path_factory.getbasetemp()
    path, second = folder / "fuzzed.wav", folder / "fuzzed.wav.2"
    path.write_bytes(content)
    second.write_bytes(other)
    for call, seconds in [
        (lambda: load_clip([path], row=1), 30),
        (lambda: load_clip([path], start=0.1, stop=0.2), 1),
        (lambda: load_clip([path, second], max_seconds=2.0), 2),
        (lambda: load_clip([second, path], start=0.2, stop=1.5), 1.3),
    ]:
        waveform = _attempt(call)
        if waveform is not None:
            _usable(waveform, seconds)
    known = _attempt(lambda: duration(path))
    assert known is None or known >= 0
    row = Row(0, path.name, "asr", None, None, None, (second.name,))
    found = scan([row], folder, workers=1)
    if not found and found.durations[0] is not None:
        assert found.durations[0] == pytest.approx(duration(path, second))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
TEXTS = st.text(st.characters(codec=None), max_size=12)  # halves of surrogate pairs, NUL and controls among them


def _or_junk(good):
    return st.one_of(good, good, good, JSON, TEXTS)


ROWS = st.fixed_dictionaries(
    {"path": _or_junk(st.sampled_from(["a.wav", "../a.wav", "/a.wav", "."]) | TEXTS)},
    optional={
        "task": _or_junk(st.sampled_from(sorted(KNOWN_TASKS))),
        "text": _or_junk(st.just("a dog barks")),
        "Q": _or_junk(st.just("what is it?")),
        "testset_id": _or_junk(st.sampled_from(["test0000", "test0001"])),
        "expand_wav": _or_junk(st.lists(TEXTS, max_size=3)),
        "label": _or_junk(st.just("rain")),
        "speaker": _or_junk(st.just("ann")),
        "texts": _or_junk(st.lists(TEXTS, max_size=3)),
        "other": JSON,
    },
)
FILES = st.one_of(
    JSON,
    st.fixed_dictionaries({"annotation": JSON}),
    st.fixed_dictionaries({"annotation": st.lists(ROWS | JSON, max_size=4)}),
    st.fixed_dictionaries({"annotation": st.lists(ROWS, min_size=1, max_size=4)}),
)


def _read(path, **how):
    try:
        return read_annotation(path, **how)
    except NotaError as error:
        message = str(error)
        assert path.name in message
        message.encode()
        return []


@given(content=FILES, default_task=st.none() | st.just("asr"))
@fuzz
def test_odd_annotations(tmp_path_factory, content, default_task):
    folder = tmp_path_factory.getbasetemp()
    path = folder / "fuzzed.json"
    path.write_text(json.dumps(content))
    rows = _read(path, default_task=default_task)
    for row in rows:
        assert row.task in KNOWN_TASKS
        row_id(row).encode()
        (row.text or "").encode()
        for name in (row.path, *row.expand):
            os.fsencode(name)
    found = scan(rows, folder, workers=1)
    assert {bad.row for bad in found} <= {row.index for row in rows}
    assert len(found.durations) == len(rows)
    if rows:
        describe(found).encode()
    _read(path, default_task=default_task, audio_root=folder)


@given(data=st.data())
@fuzz
def test_annotations_with_damaged_bytes(tmp_path_factory, data):
    good = {"path": "ä.wav", "text": "a dog", "task": "QA", "Q": "what?", "testset_id": "test0001", "expand_wav": ["b"]}
    content = bytearray(json.dumps({"annotation": [good, good | {"testset_id": "x"}]}, ensure_ascii=False).encode())
    changes = st.lists(st.tuples(st.integers(0, len(content) - 1), st.binary(max_size=5)), min_size=1, max_size=4)
    for place, put in data.draw(changes):
        content[place : place + data.draw(st.integers(0, 6))] = put
    assume(content)
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_bytes(content)
    _read(path)


@given(content=st.binary(max_size=200))
@fuzz
def test_any_bytes_at_all(tmp_path_factory, content):
    folder = tmp_path_factory.getbasetemp()
    for name in ("fuzzed.wav", "fuzzed.json"):
        (folder / name).write_bytes(content)
    _attempt(lambda: load_clip([folder / "fuzzed.wav"]))
    _read(folder / "fuzzed.json")

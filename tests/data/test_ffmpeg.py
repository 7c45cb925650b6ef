"""What libsndfile does not read: decoded where ffmpeg is installed, named with a remedy where it is not."""

import shutil
import struct
import subprocess
import tracemalloc

import numpy as np
import pytest
import soundfile

from nota_cli.data import ffmpeg
from nota_cli.data.annotation import Row
from nota_cli.data.audio import SAMPLE_RATE, duration, load_audio, load_clip
from nota_cli.data.scan import scan
from nota_cli.errors import AudioError

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed here")

# How each begins; enough to be named, too little to be decoded.
STARTS = {
    "x.m4a": (b"\0\0\0\x20ftypM4A \0\0\0\0", "MP4 or M4A"),
    "x.mp4": (b"\0\0\0\x18ftypmp42\0\0\0\0", "MP4 or M4A"),
    "x.3gp": (b"\0\0\0\x18ftyp3gp4\0\0\2\0", "3GP"),
    "x.mov": (b"\0\0\0\x14ftypqt  \0\0\2\0", "QuickTime"),
    "x.webm": (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01", "Matroska or WebM"),
    "x.aac": (b"\xff\xf1\x60\x40\x3f\x5f\xfc\xde\x02\0", "AAC"),
    "x.wma": (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9", "WMA"),
    "x.amr": (b"#!AMR\n<<<<<<<<<<<<<<<<", "AMR"),
    "x.awb": (b"#!AMR-WB\n\x04\xaa\xbb", "AMR"),
    "x.ac3": (b"\x0b\x77\x5e\x8d\x14\x40", "AC-3"),
    "x.ape": (b"MAC \x96\x0f\0\0", "Monkey"),
    "x.wv": (b"wvpk\x42\0\0\0\x10\x04", "WavPack"),
    "x.spx": (b"OggS\0\6" + bytes(20) + b"\1\x50Speex   1.2", "Speex"),
    "x.avi": (b"RIFF\xff\0\0\0AVI LIST", "AVI"),
    "x.wav": (b"RIFF\xff\0\0\0WAVEfmt \x1e\0\0\0\x55\0\1\0\x80\x3e\0\0", "MP3"),
}


@pytest.fixture
def no_ffmpeg(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not ffmpeg.available()


@pytest.mark.usefixtures("no_ffmpeg")
@pytest.mark.parametrize("name", STARTS)
def test_without_ffmpeg_the_format_is_named_with_a_remedy(tmp_path, name):
    start, what = STARTS[name]
    path = tmp_path / name
    path.write_bytes(start + bytes(200))
    for read in (load_audio, duration):
        with pytest.raises(AudioError) as caught:
            read(path)
        assert what in caught.value.reason
        assert "nstall ffmpeg" in caught.value.remedy
        assert "convert" in caught.value.remedy
    (bad,) = scan([Row(0, name, "asr", None, None, None, ())], tmp_path)
    assert what in bad.reason


@needs_ffmpeg
@pytest.mark.parametrize("name", sorted(set(STARTS) - {"x.amr", "x.awb"}))  # in AMR any bytes are a sound
def test_what_ffmpeg_cannot_decode_either_is_named_too(tmp_path, name):
    start, what = STARTS[name]
    (tmp_path / name).write_bytes(start + bytes(200))
    with pytest.raises(AudioError) as caught:
        load_audio(tmp_path / name)
    assert what in caught.value.reason
    assert "onvert it to wav or flac" in caught.value.remedy


def tone(seconds, rate, channels=1):
    samples = 0.4 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return np.stack([samples, *[np.zeros_like(samples)] * (channels - 1)], axis=1)


def encode(path, samples, rate, *options, container=None):
    source = path.with_name("source.wav")
    soundfile.write(source, samples, rate)
    form = [] if container is None else ["-f", container]
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, *options, *form, path], check=True, timeout=60)
    return path


CODECS = {
    "a.aac": ["-c:a", "aac"],
    "a.m4a": ["-c:a", "aac"],
    "fast.m4a": ["-c:a", "aac", "-movflags", "+faststart"],
    "a.mov": ["-c:a", "pcm_s16le"],
    "a.wma": ["-c:a", "wmav2"],
    "a.mka": ["-c:a", "flac"],
    "a.ac3": ["-c:a", "ac3"],
    "a.wv": ["-c:a", "wavpack"],
    "a.avi": ["-c:a", "pcm_s16le"],
    "a.ts": ["-c:a", "aac"],
    "mp3.wav": ["-c:a", "mp3"],
}


@needs_ffmpeg
@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize(("rate", "channels"), [(44_100, 2), (32_000, 1)])
def test_the_first_channel_is_heard_at_the_models_rate(tmp_path, name, rate, channels):
    path = encode(tmp_path / name, tone(4, rate, channels), rate, *CODECS[name])
    waveform = load_audio(path)
    assert waveform.dtype == np.float32
    assert len(waveform) / SAMPLE_RATE == pytest.approx(4, abs=0.15)  # codecs add what fills their frames
    spectrum = np.abs(np.fft.rfft(waveform[16_000:48_000]))
    assert np.argmax(spectrum) == 880  # 440 Hz in 2 s
    assert np.abs(waveform[16_000:48_000]).max() == pytest.approx(0.4, abs=0.05)
    assert duration(path) == pytest.approx(len(waveform) / SAMPLE_RATE, abs=1e-3)
    found = scan([Row(0, name, "asr", None, None, None, ())], tmp_path)
    assert not found
    assert found.durations == [pytest.approx(duration(path))]


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.aac", "a.m4a", "a.wma", "a.mka"])
def test_a_window_is_that_part_of_the_whole(tmp_path, name):
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000 * 12)
    path = encode(tmp_path / name, samples, 16_000, *CODECS[name])
    whole = load_audio(path)
    for start, stop in [(0.0, 2.0), (5.0, 8.0), (10.5, 11.5)]:
        part = load_clip([path], start=start, stop=stop)
        same = whole[round(start * SAMPLE_RATE) : round(stop * SAMPLE_RATE)]
        assert len(part) == len(same)
        assert np.corrcoef(part, same)[0, 1] > 0.95
    with pytest.raises(AudioError, match="ends before second 40"):
        load_clip([path], start=40.0, stop=45.0)


@needs_ffmpeg
def test_short_clips_are_padded_long_ones_cut_and_files_joined(tmp_path):
    short = encode(tmp_path / "short.m4a", tone(0.3, 16_000), 16_000)
    assert load_audio(short).shape == (SAMPLE_RATE,)
    long = encode(tmp_path / "long.m4a", tone(40, 16_000), 16_000)
    assert load_audio(long).shape == (30 * SAMPLE_RATE,)
    assert duration(long) == pytest.approx(40, abs=0.1)
    plain = tmp_path / "plain.wav"
    soundfile.write(plain, tone(2, 16_000), 16_000)
    clip = load_clip([short, plain])
    assert len(clip) / SAMPLE_RATE == pytest.approx(duration(short) + 0.1 + 2.0, abs=1e-3)


@needs_ffmpeg
def test_a_long_file_is_not_decoded_whole_for_its_beginning(tmp_path, monkeypatch):
    """10,000 s of silence in AAC are a few hundred kilobytes."""
    source = "anullsrc=r=8000:cl=mono"
    path = tmp_path / "long.m4a"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, "-t", "10000", "-b:a", "8k", path]
    subprocess.run(command, check=True, timeout=120)
    samples = []
    blocks = ffmpeg._blocks
    monkeypatch.setattr(ffmpeg, "_blocks", lambda *how: (samples.append(len(block)) or block for block in blocks(*how)))
    tracemalloc.start()
    with pytest.warns(UserWarning, match="silent"):
        assert load_audio(path).shape == (30 * SAMPLE_RATE,)
    assert duration(path, exact=False) == pytest.approx(10_000, abs=1)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    assert sum(samples) < 100 * 8_000
    assert duration(path) == pytest.approx(10_000, abs=1)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@needs_ffmpeg
@pytest.mark.parametrize("name", ["a.m4a", "fast.m4a", "a.mka"])
def test_a_cut_file_is_refused(tmp_path, name):
    path = encode(tmp_path / name, np.random.default_rng(0).normal(0, 0.1, 16_000 * 5), 16_000, *CODECS[name])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError):
        load_audio(path)


@needs_ffmpeg
def test_a_video_without_sound_holds_none(tmp_path):
    path = tmp_path / "mute.mp4"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", "color=s=16x16:d=1", path]
    subprocess.run(command, check=True, timeout=60)
    with pytest.raises(AudioError, match="holds no sound"):
        load_audio(path)


@needs_ffmpeg
@pytest.mark.parametrize("name", ["-i.m4a", "concat:a|b.m4a", "http:x.m4a", "50%d.m4a", "a b\n.m4a", "pipe:0"])
def test_the_files_name_is_never_ffmpegs_to_read(tmp_path, monkeypatch, name):
    plain = encode(tmp_path / "a.m4a", tone(2, 16_000), 16_000)
    expected = load_audio(plain)
    monkeypatch.chdir(tmp_path)
    plain.rename(tmp_path / name)
    np.testing.assert_array_equal(load_audio(name), expected)


@needs_ffmpeg
def test_a_playlist_opens_no_other_file(tmp_path):
    secret = encode(tmp_path / "secret.m4a", tone(2, 16_000), 16_000)
    for name, text in {
        "hls.m4a": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{secret}\n#EXT-X-ENDLIST\n",
        "concat.m4a": f"ffconcat version 1.0\nfile '{secret}'\n",
        "dash.m4a": f"<?xml version='1.0'?><MPD><BaseURL>{secret}</BaseURL></MPD>",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(AudioError, match="not audio"):
            load_audio(tmp_path / name)


@needs_ffmpeg
def test_noise_is_no_format(tmp_path):
    for seed in range(5):
        (tmp_path / "noise.m4a").write_bytes(np.random.default_rng(seed).bytes(20_000))
        with pytest.raises(AudioError, match="not audio"):
            load_audio(tmp_path / "noise.m4a")


def test_an_ffmpeg_that_stalls_is_given_up(tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(ffmpeg, "STALL_SECONDS", 0.3)
    (tmp_path / "a.m4a").write_bytes(struct.pack(">I", 24) + b"ftypM4A " + bytes(100))
    with pytest.raises(AudioError, match=r"no sound came of it in 0\.3 s"):
        load_audio(tmp_path / "a.m4a")

"""NIST SPHERE and VOC files that were cut are refused with the bytes that they lack; whole ones are read."""

import numpy as np
import pytest
import soundfile

from nota_cli.data.annotation import Row
from nota_cli.data.audio.clip import duration, load_audio
from nota_cli.data.audio.headers import scan
from nota_cli.errors import AudioError

NOISE = np.random.default_rng(0).normal(0, 0.1, (24_000, 2))
KINDS = [("NIST", "PCM_16", 4), ("NIST", "PCM_24", 6), ("NIST", "ULAW", 2), ("VOC", "PCM_16", 4), ("VOC", "PCM_U8", 2)]


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(map(str, kind)))
def whole(request, tmp_path):
    """A file of 1.5 s in stereo, and the bytes of one of its samples."""
    form, subtype, sample = request.param
    path = tmp_path / f"a.{form.lower()}"
    soundfile.write(path, NOISE, 16_000, format=form, subtype=subtype)
    return path, sample


def test_a_whole_one_is_read(whole):
    assert len(load_audio(whole[0])) == 24_000
    assert duration(whole[0]) == 1.5


@pytest.mark.parametrize("lacking", [1, 10, 4_000, 23_990])
def test_one_that_was_cut_is_refused(whole, lacking):
    path, sample = whole
    content = path.read_bytes()
    end = len(content) - (path.suffix == ".voc")  # behind the samples, a byte ends the list of blocks
    path.write_bytes(content[: end - lacking * sample])
    for read in (load_audio, duration):
        with pytest.raises(AudioError) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert f"truncated: the header promises {lacking * sample} bytes more than the file has" in str(caught.value)
    (bad,) = scan([Row(0, path.name, "asr", None, None, None, ())], path.parent)
    assert "truncated" in bad.reason


@pytest.mark.parametrize("left", [1, 20, 40, 300])
def test_a_part_of_the_header_is_no_sound(whole, left):
    path, _ = whole
    path.write_bytes(path.read_bytes()[:left] if path.suffix == ".nist" or left < 30 else b"Creative Voice File\x1a")
    with pytest.raises(AudioError, match=path.name):
        load_audio(path)


def test_what_a_header_does_not_state_is_not_missed(tmp_path):
    path = tmp_path / "a.sph"
    soundfile.write(path, NOISE, 16_000, format="NIST")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"sample_count -i 24000\n", b"sample_cause -i 24000\n")[:-8_000])
    assert len(load_audio(path)) == 22_000
    soundfile.write(path, NOISE, 16_000, format="IRCAM")  # has no place for it
    path.write_bytes(path.read_bytes()[:-8_000])
    assert len(load_audio(path)) == 22_000

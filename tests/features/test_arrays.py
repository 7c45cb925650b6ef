"""The spectrograms in numpy are those of torch within rounding."""

import numpy as np
import pytest

from nota_cli.errors import DataError
from nota_cli.features import arrays
from nota_cli.features.arrays import ArrayFeatureSpec
from nota_cli.features.batch import FRONT_ENDS, FeatureSpec


def noise(seconds: float) -> np.ndarray:
    samples = np.random.default_rng(int(seconds * 10)).standard_normal(int(seconds * 16_000))
    return (samples * 0.1).astype(np.float32)


@pytest.mark.parametrize("front_end", [*FRONT_ENDS, None])
@pytest.mark.parametrize("pad", ["clip", "30s"])
def test_features_equal_those_of_torch(front_end: str | None, pad: str) -> None:
    waves = [noise(1.3), noise(2.0) * np.float32(0.01), np.zeros(16_000, np.float32)]
    theirs = FeatureSpec(80, front_end, pad, 30.0).features(waves)
    ours = ArrayFeatureSpec(80, front_end, pad, 30.0).features(waves)
    np.testing.assert_array_equal(ours.log_mel_lengths, theirs.log_mel_lengths.numpy())
    np.testing.assert_allclose(ours.log_mel, theirs.log_mel.numpy(), atol=2e-5)
    assert ours.log_mel.dtype == np.float32
    if front_end is None:
        assert ours.fbank is None
        return
    assert ours.fbank is not None
    assert theirs.fbank is not None
    assert ours.fbank.dtype == np.float32
    np.testing.assert_array_equal(ours.fbank_lengths, theirs.fbank_lengths.numpy())
    np.testing.assert_allclose(ours.fbank, theirs.fbank.numpy(), atol=2e-4)


def test_128_mel_bins_and_parts_of_a_batch() -> None:
    waves = [noise(2.0), noise(1.1)]
    theirs, ours = (kind(128, "beats", "clip", 30.0).features(waves) for kind in (FeatureSpec, ArrayFeatureSpec))
    np.testing.assert_allclose(ours.log_mel, theirs.log_mel.numpy(), atol=2e-5)
    part, their_part = ours.part(slice(1, 2)), theirs.part(slice(1, 2))
    assert part.log_mel.shape == their_part.log_mel.shape
    assert part.fbank.shape == their_part.fbank.shape


@pytest.mark.parametrize("make", [lambda wave: arrays.log_mel(wave, 80, None), *arrays.FRONT_ENDS.values()])
def test_a_waveform_that_is_too_short_is_refused(make) -> None:
    with pytest.raises(DataError, match="more than|at least"):
        make(np.zeros(150, np.float32))

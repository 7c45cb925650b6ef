"""Numbers that all of the package agrees on, and those of the spectrograms, where nothing heavy is imported."""

SAMPLE_RATE = 16_000
"""Hz; what every encoder here was trained on."""
WHISPER_SAMPLES = 30 * SAMPLE_RATE
"""What Whisper's published encoders always see: 30 s."""

HOP = 160  # samples: 10 ms, so 100 frames a second
WINDOW = 400  # samples: 25 ms
KALDI_FFT = 512  # the next power of two above the window
KALDI_LOW_HZ = 20.0
KALDI_PREEMPHASIS = 0.97
POVEY_POWER = 0.85
INT16_SCALE = 2.0**15  # Kaldi works on 16-bit sample values
BEATS_MEAN = 15.41663  # of the log filter bank over AudioSet (BEATs, Chen et al. 2022)
BEATS_STD = 6.55582
EAT_MEAN = -4.268  # the same over AudioSet for samples in [-1, 1] (EAT, Chen et al. 2024)
EAT_STD = 4.569
EAT_PATCH = 16  # frames that one of EAT's patches covers
CED_WINDOW = 512  # samples: 32 ms, of CED's spectrogram (Dinkel et al. 2023)
CED_MELS = 64
CED_RANGE_DB = 120.0  # what lies further below the loudest place is raised to there

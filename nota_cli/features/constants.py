"""Numbers of samples that all of the package agrees on, where nothing heavy is imported."""

SAMPLE_RATE = 16_000
"""Hz; what every encoder here was trained on."""
WHISPER_SAMPLES = 30 * SAMPLE_RATE
"""What Whisper's published encoders always see: 30 s."""

#!/usr/bin/env bash
# Makes checkpoints/tiny from the corpora: annotations, synthetic clips, tokenizer, stage 1, 4-bit GPTQ, LoRA on it.
# Wants data/fsdd (the recordings of the Free Spoken Digit Dataset) and data/esc10 (ESC-10), and espeak-ng.
# Cut off, it goes on where it was: run it again.
set -euo pipefail
cd "$(dirname "$0")/.."

nota prepare fsdd data/fsdd --out data --hold-out 5-9
nota prepare esc10 data/esc10 --out data --hold-out-fold 4
[ -f data/synth/train-synth-aac.json ] || python scripts/make_samples.py --train 400 --seed 1 --out data/synth
[ -d data/tiny-tokenizer ] || nota prepare tokenizer tiny-stage1 --out data/tiny-tokenizer

stage() { # recipe folder
  [ -f "$2/metrics.json" ] && return
  if [ -f "$2/trainer/state.safetensors" ]; then nota train "$1" --out "$2" --resume; else nota train "$1" --out "$2"; fi
}
stage tiny-stage1 checkpoints/tiny-stage1
[ -f checkpoints/tiny-gptq/model.safetensors ] ||
  nota quantize checkpoints/tiny-stage1 --recipe tiny-stage1 --out checkpoints/tiny-gptq
stage tiny checkpoints/tiny

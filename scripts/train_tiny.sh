#!/usr/bin/env bash
# Makes the shipped model again, into checkpoints/tiny-again (or the folder given), from the corpora: annotations, synthetic clips, stage 1, 4-bit GPTQ, LoRA on it.
# Wants data/fsdd (the recordings of the Free Spoken Digit Dataset) and data/esc10 (ESC-10), and espeak-ng.
# Cut off, it goes on where it was: run it again.
set -euo pipefail
cd "$(dirname "$0")/.."

nota prepare fsdd data/fsdd --out data --hold-out 5-9
nota prepare esc10 data/esc10 --out data --hold-out-fold 4
[ -f data/synth/train-synth-aac.json ] || python scripts/make_samples.py --train 400 --seed 1 --out data/synth

# Two processes of one thread each: on two cores that is half as fast again as one process of two threads.
export OMP_NUM_THREADS=1 ACCELERATE_USE_CPU=true

stage() { # recipe folder [more flags]
  [ -f "$2/metrics.json" ] && return
  resume=()
  [ -f "$2/trainer/state.safetensors" ] && resume=(--resume)
  torchrun --nproc_per_node 2 -m nota_cli.cli train "$1" --out "${@:2}" "${resume[@]}"
}
stage tiny-stage1 checkpoints/tiny-stage1
[ -f checkpoints/tiny-gptq/recipe.yaml ] ||
  nota quantize checkpoints/tiny-stage1 --recipe tiny-stage1 --out checkpoints/tiny-gptq
stage tiny "${1:-checkpoints/tiny-again}" --set decoder.path=checkpoints/tiny-gptq/decoder

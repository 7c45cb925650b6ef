"""The Q-Former beside stacking, at tiny size: the shipped model's encoders and decoder, each connector trained anew.

    nota prepare fsdd data/fsdd --out data --hold-out 5-9 && nota prepare esc10 data/esc10 --out data --hold-out-fold 4
    python benchmarks/connectors.py --data data --out connectors --steps 300

The encoders of `checkpoints/tiny` stay as they are; connector and LoRA start at random and see the same batches. Each
run is scored on recordings that no part was trained on (`benchmarks/held_out.py`) and measured by `nota efficiency`.
Ends with one JSON line; runs that are there already are not trained again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nota_cli.models.build import build
from nota_cli.models.encoders.base import encoder_entry
from nota_cli.parsing import dump_yaml
from nota_cli.recipe.load import load_recipe, load_system

CONNECTORS: dict[str, dict[str, Any]] = {
    "qformer": {},  # as the recipe has it: a query for each 0.2 s
    "stack_mlp": {"kind": "stack_mlp", "stack": 10, "hidden_size": 256},  # as many embeddings a second
}


def write_encoders(folder: Path) -> dict[str, dict[str, Any]]:
    """The shipped model's encoders as files of their own, and a recipe's sections that name them."""
    recipe = load_recipe("tiny")
    model = build(load_system("tiny"), "cpu", "convert")
    whisper = folder / "whisper"
    whisper.mkdir(parents=True, exist_ok=True)
    (whisper / "config.json").write_text(json.dumps({"model_type": "whisper", **(recipe.speech_encoder.config or {})}))
    speech = {f"encoder.{name}": tensor.contiguous() for name, tensor in model.speech_encoder.state_dict().items()}
    save_file(speech, whisper / "model.safetensors")
    assert model.audio_encoder is not None
    values = encoder_entry(recipe.audio_encoder.kind).config_values(model.audio_encoder)
    torch.save({"cfg": values, "model": model.audio_encoder.state_dict()}, folder / "beats.pt")
    return {
        "speech_encoder": {"path": str(whisper), "config": None},
        "audio_encoder": {"path": str(folder / "beats.pt"), "config": None},
    }


def write_recipe(name: str, encoders: dict[str, Any], options: argparse.Namespace) -> Path:
    """A recipe over `tiny` with one of the connectors; data and steps as given."""
    data = options.data.resolve()
    tiny = load_recipe("tiny").model_dump(mode="json")["data"]
    train = [source for source in tiny["train"] if not source["optional"]]
    for source in train:
        for key in ("annotation", "audio_root", "background", "background_root"):
            if source[key] is not None:
                source[key] = str(data / Path(source[key]).name)
    values = {
        "base": "tiny",
        "name": name,
        "checkpoint": None,
        **encoders,
        "connector": CONNECTORS[name],
        "data": {"train": train, "validation": []},
        "train": {
            **{"init": None, "steps": options.steps, "learning_rate": 1e-3, "warmup_steps": 50, "autocast": False},
            **{"validate_every": options.steps, "save_every": options.steps, "average": 0.99},
        },
    }
    file = options.out / f"{name}.yaml"
    file.write_text(dump_yaml(values))
    return file


def nota(*arguments: object) -> str:
    """Run a command of nota; returns what it prints."""
    command = [sys.executable, "-m", "nota_cli.cli", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("connectors"))
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    encoders = write_encoders((options.out / "encoders").resolve())
    report = {}
    for name in CONNECTORS:
        recipe = write_recipe(name, encoders, options)
        if not (options.out / name / "recipe.yaml").is_file():
            nota("train", recipe, "--out", options.out / name)
    for name in CONNECTORS:  # one after the other, so that both are measured on a machine in the same state
        folder = options.out / name
        held_out = [sys.executable, Path(__file__).with_name("held_out.py"), "--checkpoint", folder]
        scored = subprocess.run(
            [*map(str, held_out), "--data", str(options.data)], check=True, stdout=subprocess.PIPE, text=True
        )
        cost = json.loads(nota("efficiency", "--recipe", folder, "--rounds", 30, "--json"))
        parts = {
            part.name: part.parameters for part in build(load_recipe(str(folder)), "meta", load_format="dummy").parts()
        }
        figures = json.loads(scored.stdout.strip().splitlines()[-1])
        report[name] = {"parameters": parts["connector"], "seconds": cost["seconds"], **figures}
    print(json.dumps(report))


if __name__ == "__main__":
    main()

"""How much of a sound's class is in what a model's encoder and connector make of it, whatever its decoder says.

    python scripts/small_data.py --data data
    python benchmarks/sound_probe.py --recipe small --data data

Mean and standard deviation over time of the speech encoder's states, and of the connector's outputs, of ESC-10's folds
1 to 3 train one linear layer each (AdamW, 300 steps, label smoothing 0.1, seed 0); prints its accuracy on fold 4.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nota_cli.cli.options import pick_recipe
from nota_cli.data.annotation import clip_paths, read_annotation
from nota_cli.data.audio.clip import load_clip
from nota_cli.models.build import build
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.recipe.load import salmonn_recipe


def summary(states: Tensor, mask: Tensor) -> Tensor:
    """Mean and standard deviation `[2 x width]` of the states `[time, width]` that are no padding."""
    real = states[mask.bool()].float()
    return torch.cat([real.mean(0), real.std(0)])


@torch.no_grad()
def features(model: Salmonn, annotation: Path, root: Path) -> tuple[dict[str, Tensor], list[str]]:
    """What encoder and connector make of every clip `[clips, 2 x width]`, and the clips' labels."""
    rows = read_annotation(annotation)
    preprocessor = model.preprocessor()
    made: dict[str, list[Tensor]] = {"encoder": [], "connector": []}
    for row in rows:
        encoded = model.encode(preprocessor.features([load_clip(clip_paths(row, root), notes=[])]))
        made["encoder"].append(summary(encoded.speech_states[0], encoded.speech_mask[0]))
        windows = slice(model.recipe.connector.summary, None)
        made["connector"].append(summary(encoded.embeds[0, windows], encoded.mask[0, windows]))
    return {name: torch.stack(each) for name, each in made.items()}, [row.label or "" for row in rows]


def accuracy(train: Tensor, train_labels: list[str], test: Tensor, test_labels: list[str]) -> float:
    """Share of the test clips that a linear layer names right."""
    torch.manual_seed(0)
    mean, deviation = train.mean(0), train.std(0) + 1e-4
    names = sorted(set(train_labels))
    targets = torch.tensor([names.index(label) for label in train_labels])
    layer = nn.Linear(train.size(1), len(names))
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(300):
        loss = F.cross_entropy(layer((train - mean) / deviation), targets, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    guesses = layer((test - mean) / deviation).argmax(1).tolist()
    return sum(names[guess] == label for guess, label in zip(guesses, test_labels, strict=True)) / len(test_labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--data", type=Path, default=Path("data"))
    options = parser.parse_args()
    recipe = salmonn_recipe(pick_recipe(options.recipe, None, ["decoder.dtype=float32"]))
    model = build(recipe, purpose="run")
    sets = {
        part: features(model, options.data / "small" / f"esc10-{part}.json", options.data) for part in ("train", "dev")
    }
    (train, train_labels), (test, test_labels) = sets["train"], sets["dev"]
    for name in train:
        share = accuracy(train[name], train_labels, test[name], test_labels)
        print(f"{name}: {100 * share:.1f}% of {len(test_labels)} clips")


if __name__ == "__main__":
    main()

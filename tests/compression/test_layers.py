"""Dropped layers: the model that is left equals the full one with these layers bypassed, runs, and trains on."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.networks import load_network
from helpers.paths import SHIPPED
from helpers.prompts import listen, logits
from nota_cli.compression.layers import block_influence, choose, layer_counts, prune_layers
from nota_cli.errors import CheckpointError, NotaError, UsageError
from nota_cli.features.batch import Features
from nota_cli.models.build import build
from nota_cli.models.encoders.base import encoder_entry
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.recipe.load import load_recipe

SMALL = {"embed_dim": 32, "depth": 3, "num_heads": 2}
AUDIO = {
    "ced": {"kind": "ced", "config": SMALL, "token_order": "frequency"},
    "eat": {"kind": "eat", "config": SMALL},
    "none": {"kind": "none"},
}
Keep = Mapping[str, Sequence[int]]


def make(tiny_recipe: Path, folder: Path, kind: str = "beats", *settings: str) -> Path:
    """A checkpoint with three layers in every part, adapters on, and nothing at a value that would hide a mistake."""
    layers = ["speech_encoder.config.encoder_layers=3", "decoder.config.num_hidden_layers=3"]
    window = ["decoder.config.sliding_window=4", "lora={rank: 4}"]
    if kind in AUDIO:
        values = yaml.safe_load(tiny_recipe.read_text()) | {"audio_encoder": AUDIO[kind]}
        tiny_recipe = tiny_recipe.with_name(f"layers-{kind}.yaml")  # its paths are relative to the folder
        tiny_recipe.write_text(yaml.safe_dump(values))
    else:
        layers.append("audio_encoder.config.encoder_layers=3")
    recipe = load_recipe(str(tiny_recipe), [*layers, *window, *settings])
    torch.manual_seed(5)
    model = build(recipe)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def deep(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tiny_recipe, tmp_path_factory.mktemp("deep") / "beats")


def bypass(model: Salmonn, keep: Keep) -> Salmonn:
    """The full model, the layers that are not kept handing on what they get."""

    def hand_on(*args: Tensor, **kwargs: Tensor) -> Tensor:
        return args[0] if args else kwargs["hidden_states"]

    stacks = {"speech_encoder": model.speech_encoder.layers, "decoder": model.decoder.base.model.layers}
    if model.audio_encoder is not None:
        name = encoder_entry(model.recipe.audio_encoder.kind).layers
        stacks["audio_encoder"] = model.audio_encoder.get_submodule(name)
    for part, places in keep.items():
        for place, layer in enumerate(stacks[part]):
            if place not in places:
                layer.forward = hand_on
    return model


def assert_equal_to_bypassed(checkpoint: Path, out: Path, keep: Keep, *, exact: bool = True) -> None:
    report = prune_layers(checkpoint, out, keep)
    assert {part.part: list(part.kept) for part in report.parts} == {part: list(keep[part]) for part in keep}
    assert all(0 < part.bytes_after < part.bytes_before for part in report.parts)
    found, expected = logits(load_network(out)), logits(bypass(load_network(checkpoint), keep))
    assert not torch.allclose(expected, logits(load_network(checkpoint)), rtol=1e-2)
    if exact:
        assert torch.equal(found, expected)
    else:  # BEATs' branches are rescaled
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# Choosing


@pytest.mark.parametrize(
    ("total", "keep", "places"),
    [(6, 6, [0, 1, 2, 3, 4, 5]), (6, 3, [0, 3, 5]), (6, 2, [0, 5]), (6, 1, [0]), (32, 5, [0, 8, 16, 23, 31])],
)
def test_even_keeps_both_ends(total: int, keep: int, places: list[int]) -> None:
    assert choose(total, keep, "even") == places


def test_even_never_keeps_a_layer_twice() -> None:
    for total in range(1, 40):
        for keep in range(1, total + 1):
            assert len(set(choose(total, keep))) == keep


def test_last_drops_the_last_and_similarity_the_least_influential() -> None:
    assert choose(5, 3, "last") == [0, 1, 2]
    scores = [0.5, 0.1, 0.3, 0.1, 0.4]
    assert choose(5, 3, "similarity", scores) == choose(5, 3, "similarity", lambda: scores) == [0, 2, 4]
    assert choose(5, 4, "similarity", scores) == [0, 1, 2, 4]  # of equals the first stays


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((4, 5), "5 layers of 4"),
        ((4, 0), "0 layers of 4"),
        ((4, 2, "first"), "even, last, similarity"),
        ((4, 2, "similarity"), "each of 4 layers, got 0"),
        ((4, 2, "similarity", [0.1]), "each of 4 layers, got 1"),
    ],
)
def test_what_cannot_be_chosen_is_refused(arguments: tuple, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        choose(*arguments)


# The folder


@pytest.mark.parametrize("keep", [[0, 2], [1, 2], [2]], ids=str)
@pytest.mark.parametrize("part", ["speech_encoder", "decoder"])
def test_equals_the_model_with_layers_bypassed(part: str, keep: list[int], deep: Path, tmp_path: Path) -> None:
    assert_equal_to_bypassed(deep, tmp_path / "out", {part: keep})


@pytest.mark.parametrize("kind", ["beats", "ced", "eat"])
def test_audio_encoders_equal_themselves_with_layers_bypassed(kind: str, tiny_recipe: Path, tmp_path: Path) -> None:
    checkpoint = make(tiny_recipe, tmp_path / "in", kind)
    for keep in ([0, 2], [1]):  # with the layer that owns BEATs' table, and without
        out = tmp_path / f"out{len(keep)}"
        assert_equal_to_bypassed(checkpoint, out, {"audio_encoder": keep}, exact=kind != "beats")


def test_all_parts_at_once(deep: Path, tmp_path: Path) -> None:
    assert layer_counts(deep) == {"speech_encoder": 3, "audio_encoder": 3, "decoder": 3}
    keep = {"speech_encoder": [0, 1], "audio_encoder": [1, 2], "decoder": [0, 2]}
    assert_equal_to_bypassed(deep, tmp_path / "out", keep, exact=False)
    assert layer_counts(tmp_path / "out") == {"speech_encoder": 2, "audio_encoder": 2, "decoder": 2}
    config = json.loads((tmp_path / "out" / "decoder" / "config.json").read_text())
    assert config["layer_types"] == ["sliding_attention", "sliding_attention"]


def test_layers_can_be_dropped_again(deep: Path, tmp_path: Path) -> None:
    prune_layers(deep, tmp_path / "two", {"decoder": [1, 2], "audio_encoder": [1, 2]})
    prune_layers(tmp_path / "two", tmp_path / "one", {"decoder": [1], "audio_encoder": [0]})
    prune_layers(deep, tmp_path / "straight", {"decoder": [2], "audio_encoder": [1]})
    one, straight = (logits(load_network(tmp_path / name)) for name in ("one", "straight"))
    torch.testing.assert_close(one, straight, rtol=1e-4, atol=1e-4)


def test_the_kind_of_a_layer_stays_where_the_config_leaves_it_to_its_number(deep: Path, tmp_path: Path) -> None:
    keep = {"decoder": [1, 2]}
    prune_layers(deep, tmp_path / "told", keep)
    file = deep / "decoder" / "config.json"
    before = file.read_text()
    try:
        file.write_text(json.dumps({key: value for key, value in json.loads(before).items() if key != "layer_types"}))
        prune_layers(deep, tmp_path / "untold", keep)
    finally:
        file.write_text(before)
    told, untold = (
        json.loads((tmp_path / name / "decoder" / "config.json").read_text()) for name in ("told", "untold")
    )
    assert told["layer_types"] == untold["layer_types"] == ["full_attention", "sliding_attention"]


def test_shards_and_names_of_unquantized_layers_are_kept_in_step(deep: Path, tmp_path: Path) -> None:
    model = load_network(deep)
    keep = {"decoder": [2]}
    expected = logits(bypass(load_network(deep), keep))
    model.save_pretrained(tmp_path / "in")
    decoder = tmp_path / "in" / "decoder"
    (decoder / "model.safetensors").unlink()
    plain = {name.replace(".base_layer.", "."): value for name, value in model.decoder.base.state_dict().items()}
    plain = {name: value for name, value in plain.items() if "lora_" not in name}
    model.decoder.base.save_pretrained(decoder, state_dict=plain, max_shard_size="50KB")
    shards = len(list(decoder.glob("*.safetensors")))
    assert shards > 3
    prune_layers(tmp_path / "in", tmp_path / "out", keep)
    index = json.loads((tmp_path / "out" / "decoder" / "model.safetensors.index.json").read_text())
    files = {file.name for file in (tmp_path / "out" / "decoder").glob("*.safetensors")}
    assert set(index["weight_map"].values()) == files
    assert len(files) < shards
    assert torch.equal(logits(load_network(tmp_path / "out")), expected)


def test_a_half_precision_encoder_stays_one(tiny_recipe: Path, tmp_path: Path) -> None:
    half = ["audio_encoder.dtype=bfloat16", "decoder.dtype=bfloat16"]
    checkpoint = make(tiny_recipe, tmp_path / "in", "beats", *half)
    prune_layers(checkpoint, tmp_path / "out", {"audio_encoder": [1, 2], "decoder": [1, 2]})
    state = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for name, value in state.items() if name.startswith("audio_encoder.")} == {torch.bfloat16}
    assert logits(load_network(tmp_path / "out")).isfinite().all()


def test_the_shipped_gptq_checkpoint(tmp_path: Path) -> None:
    """Adapters over a quantized decoder, 4-bit layers of which are dropped without being unpacked."""
    keep = {"speech_encoder": [0, 1, 3], "decoder": [0, 2]}
    assert_equal_to_bypassed(SHIPPED, tmp_path / "out", keep)
    model = load_network(tmp_path / "out")
    full = bypass(load_network(SHIPPED), keep)
    full.decoder.base.model.layers[2].self_attn.layer_idx = 1  # its place in the cache of keys and values
    assert model.decoder.kernel == full.decoder.kernel != "none"
    assert model.generate(*listen(model)) == full.generate(*listen(full))


@pytest.mark.parametrize("team", ["nota", "nlp07"])
def test_published_weights_move_into_the_folder(
    team: str, golden_systems: Path, golden_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    model = build(load_recipe(str(golden_recipe(golden_systems / team))))
    model.save_pretrained(tmp_path / "in")
    total = layer_counts(tmp_path / "in")
    keep = {part: list(range(1, count)) for part, count in total.items() if count > 1}
    assert "audio_encoder" in keep
    assert_equal_to_bypassed(tmp_path / "in", tmp_path / "out", keep, exact=team == "nlp07")
    recipe = load_recipe(str(tmp_path / "out"))
    assert recipe.audio_encoder.path is None
    assert recipe.decoder.path == str(tmp_path / "out" / "decoder")
    assert load_network(tmp_path / "out").end_symbol == model.end_symbol


def test_a_published_decoder_stays_where_it_is_if_it_loses_nothing(
    golden_systems: Path, golden_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    folder = golden_systems / "nota"
    build(load_recipe(str(golden_recipe(folder)))).save_pretrained(tmp_path / "in")
    assert_equal_to_bypassed(tmp_path / "in", tmp_path / "out", {"audio_encoder": [0]}, exact=False)
    assert not (tmp_path / "out" / "decoder").exists()
    assert load_recipe(str(tmp_path / "out")).decoder.path == str(folder / "llm")


def test_it_infers_and_heals(
    nota: Callable[..., int], tiny_checkpoint: Path, tiny_recipe: Path, clips: Path, tmp_path: Path
) -> None:
    out, run = tmp_path / "out", tmp_path / "run"
    prune_layers(tiny_checkpoint, out, {"decoder": [1]})
    recipe = tmp_path / "healing.yaml"
    data = yaml.safe_load(tiny_recipe.read_text())["data"]
    recipe.write_text(yaml.safe_dump({"base": str(out), "name": "healing", "data": data}))
    settings = ["--set", f"train.init={out}", "--set", "train.steps=2", "--set", "train.warmup_steps=1"]
    assert nota("train", recipe, "--out", run, *settings) == 0
    assert layer_counts(run) == {"speech_encoder": 1, "audio_encoder": 1, "decoder": 1}
    before, after = (load_file(folder / "decoder" / "model.safetensors") for folder in (out, run))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for folder in (out, run):
        csv = tmp_path / f"{folder.name}.csv"
        assert nota("infer", "--recipe", folder, "--annotation", clips / "all.json", "--out", csv) == 0
        assert len(csv.read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        ({}, "there are: speech_encoder, audio_encoder, decoder"),
        ({"connector": [0]}, "no part connector.*speech_encoder, audio_encoder, decoder"),
        ({"decoder": [0, 3]}, r"decoder: cannot keep layer 3; it has 3 layers, 0 to 2"),
        ({"speech_encoder": [-1]}, "speech_encoder: cannot keep layer -1; it has 3 layers"),
        ({"audio_encoder": []}, "audio_encoder: cannot keep no layer"),
        ({"decoder": [1, 1]}, "one twice; it has 3 layers"),
    ],
)
def test_layers_that_are_not_there_are_refused(keep: Keep, says: str, deep: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        prune_layers(deep, tmp_path / "out", keep)
    assert not list(tmp_path.iterdir())


def test_a_system_without_an_audio_encoder(tiny_recipe: Path, tmp_path: Path) -> None:
    checkpoint = make(tiny_recipe, tmp_path / "in", "none")
    assert layer_counts(checkpoint) == {"speech_encoder": 3, "decoder": 3}
    with pytest.raises(UsageError, match="there are: speech_encoder, decoder"):
        prune_layers(checkpoint, tmp_path / "out", {"audio_encoder": [0]})
    assert_equal_to_bypassed(checkpoint, tmp_path / "out", {"speech_encoder": [1]})


def test_nothing_is_written_over(deep: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there already"):
        prune_layers(deep, deep, {"decoder": [0]})
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="there already"):
        prune_layers(deep, tmp_path / "file", {"decoder": [0]})


def test_damaged_folders_are_named_and_nothing_is_left_behind(deep: Path, tmp_path: Path) -> None:
    def damage(name: str, state: dict[str, Tensor] | bytes) -> None:
        folder = tmp_path / name.replace("/", "-")
        load_network(deep).save_pretrained(folder)
        if isinstance(state, bytes):
            (folder / name).write_bytes(state)
        else:
            save_file(state, folder / name)
        with pytest.raises(NotaError, match=Path(name).name):
            prune_layers(folder, tmp_path / "out", {"decoder": [0], "speech_encoder": [0]})
        assert not (tmp_path / "out").exists()

    state = load_file(deep / "model.safetensors")
    damage("model.safetensors", {name: value for name, value in state.items() if "layers.1.fc1" not in name})
    for name in ("decoder/model.safetensors", "adapter/adapter_model.safetensors", "decoder/config.json"):
        damage(name, b"{")
    with pytest.raises(CheckpointError, match=r"not a folder with recipe\.yaml"):
        prune_layers(tmp_path / "nowhere", tmp_path / "out", {"decoder": [0]})


# Influence


def test_a_layer_that_adds_nothing_has_no_influence(deep: Path) -> None:
    model = load_network(deep)
    before = block_influence(model, *listen(model))
    assert {part: len(values) for part, values in before.items()} == layer_counts(deep)
    assert all(0 < value < 2 for values in before.values() for value in values)
    with torch.no_grad():
        for linear in (model.speech_encoder.layers[1].self_attn.out_proj, model.speech_encoder.layers[1].fc2):
            linear.weight.zero_()
            linear.bias.zero_()
    bypass(model, {"decoder": [0, 2]})
    after = block_influence(model, *listen(model))
    assert after["speech_encoder"][1] == pytest.approx(0, abs=1e-12)
    assert after["speech_encoder"][0] == pytest.approx(before["speech_encoder"][0], abs=1e-9)
    assert choose(3, 2, "similarity", after["decoder"]) == [0, 2]


@pytest.mark.parametrize("kind", ["beats", "ced", "eat"])
def test_padding_has_no_influence(kind: str, tiny_recipe: Path, tmp_path: Path) -> None:
    """The mean over both clips is that of each alone, weighted by their lengths."""
    model = load_network(make(tiny_recipe, tmp_path / "in", kind))
    features, queries = listen(model)
    together = block_influence(model, features, queries)
    alone, sizes = [], []
    for row, query in enumerate(queries):
        frames, length = int(features.log_mel_lengths[row]), int(features.fbank_lengths[row])
        one = Features(
            features.log_mel[row : row + 1, :, : frames + frames % 2],
            features.log_mel_lengths[row : row + 1],
            features.fbank[row : row + 1, :length],
            features.fbank_lengths[row : row + 1],
        )
        alone.append(block_influence(model, one, [query]))
        encoded = model.encode(one)
        audio = int(encoded.audio_mask.sum()) + (kind == "eat")  # and its class token
        prompt = int(model.prompt_embeds(one, [query])[1].sum())
        sizes.append({"speech_encoder": int(encoded.speech_mask.sum()), "audio_encoder": audio, "decoder": prompt})
    for part, values in together.items():
        for place, value in enumerate(values):
            terms = zip(alone, sizes, strict=True)
            mean = sum(scores[part][place] * size[part] for scores, size in terms) / sum(size[part] for size in sizes)
            assert value == pytest.approx(mean, rel=1e-4), part

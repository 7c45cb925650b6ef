from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.networks import load_network
from nota_cli.data.annotation import read_annotation
from nota_cli.data.audio.clip import load_audio
from nota_cli.data.row_batches import RowBatches
from nota_cli.errors import CheckpointError, RecipeError
from nota_cli.features.batch import extract
from nota_cli.inference.predict import predict
from nota_cli.models.build import build
from nota_cli.prompts import Query, wrap
from nota_cli.recipe.load import load_recipe


@pytest.mark.parametrize("team", ["nota", "cv03", "cv16"])
def test_the_connector_equals_transformers_q_former_on_the_teams_weights(
    team: str, golden_systems: Path, golden_recipe: Callable[..., Path]
) -> None:
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    model = build(load_recipe(str(golden_recipe(golden_systems / team))))
    connector = model.connector
    spec = model.recipe.connector
    reference = Blip2QFormerModel(
        Blip2QFormerConfig(
            hidden_size=spec.hidden_size,
            num_hidden_layers=spec.layers,
            num_attention_heads=spec.heads,
            intermediate_size=spec.intermediate_size,
            encoder_hidden_size=64 + 48,
            cross_attention_frequency=1,
            layer_norm_eps=1e-12,
        )
    ).eval()
    names = {"embeddings.LayerNorm": "layernorm", "attention.self.": "attention.attention."}
    state = {}
    for name, tensor in connector.speech_Qformer.bert.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        state[name] = tensor
    report = reference.load_state_dict(state, strict=False)
    assert not report.unexpected_keys
    speech = torch.randn(2, 1500, 64, generator=torch.Generator().manual_seed(1))
    audio = torch.randn(2, 216, 48, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours, mask = connector(speech, None, audio, None)
        padded = torch.nn.functional.pad(connector.ln_audio(audio), (0, 0, 0, 1500 - 216))
        windows = torch.cat([connector.ln_speech(speech), padded], -1)[:, : 88 * 17].reshape(2 * 88, 17, 112)
        queries = connector.speech_query_tokens.expand(2 * 88, -1, -1)
        states = reference(query_embeds=queries, encoder_hidden_states=windows).last_hidden_state
        theirs = connector.speech_llama_proj(states).reshape(2, 88, -1)
    assert bool(mask.all())
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_saved_checkpoint_gives_the_same_texts(tiny_checkpoint: Path, clips: Path, tmp_path: Path) -> None:
    model = load_network(tiny_checkpoint)
    rows = read_annotation(clips / "all.json")
    texts = predict(model, rows, clips, workers=0)
    model.save_pretrained(tmp_path / "again")
    assert predict(load_network(tmp_path / "again"), rows, clips, workers=0) == texts
    assert any(texts)


def test_a_checkpoint_brings_its_own_decoder_to_a_recipe_that_would_start_one_at_random(
    tiny_recipe: Path, tiny_checkpoint: Path
) -> None:
    """`nota quantize CHECKPOINT --recipe R` must quantize what was trained."""
    recipe = load_recipe(str(tiny_recipe), [f"checkpoint={tiny_checkpoint}"])
    found, saved = build(recipe).state_dict(), load_network(tiny_checkpoint).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in saved.items())


def test_a_random_decoder_that_is_not_trained_is_kept_in_the_checkpoint(tiny_recipe: Path, tmp_path: Path) -> None:
    model = build(load_recipe(str(tiny_recipe), ["decoder.train=false", "lora={}"]))
    model.save_pretrained(tmp_path)
    found, saved = load_network(tmp_path).state_dict(), model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in saved.items())


@pytest.mark.parametrize("size", [2, 3, 5])
def test_texts_do_not_depend_on_the_batch_size(tiny_checkpoint: Path, clips: Path, size: int) -> None:
    model = load_network(tiny_checkpoint)
    rows = read_annotation(clips / "all.json")
    alone = model.recipe.generate.model_copy(update={"batch_size": 1})
    together = alone.model_copy(update={"batch_size": size})
    assert predict(model, rows, clips, settings=alone, workers=0) == predict(
        model, rows, clips, settings=together, workers=1
    )


def test_clip_padding_gives_a_clip_the_same_embeddings_alone_and_in_a_batch(tiny_checkpoint: Path, clips: Path) -> None:
    model = load_network(tiny_checkpoint)
    waves = [load_audio(clips / row.path) for row in read_annotation(clips / "all.json")]
    with torch.no_grad():
        together = model.encode(extract(waves, 80, pad="clip"))
        for index, wave in enumerate(waves):
            alone = model.encode(extract([wave], 80, pad="clip"))
            count = int(alone.mask.sum())
            assert int(together.mask[index].sum()) == count
            torch.testing.assert_close(together.embeds[index, :count], alone.embeds[0, :count], rtol=1e-4, atol=1e-5)


def test_loss_counts_the_answer_alone(tiny_checkpoint: Path, clips: Path) -> None:
    """The loss of two rows is the mean over their answers' tokens, whatever their prompts and lengths are."""
    model = load_network(tiny_checkpoint)
    rows = read_annotation(clips / "all.json")[:2]
    waves = [load_audio(clips / row.path) for row in rows]
    queries, texts = [Query(row.task) for row in rows], ["one", "rain falls outside"]
    with torch.no_grad():
        losses = [
            model(extract([w], 80, pad="clip"), [q], [t])[0] for w, q, t in zip(waves, queries, texts, strict=True)
        ]
        both, _ = model(extract(waves, 80, pad="clip"), queries, texts)
    tokens = [2, 4]  # words and the end symbol
    expected = sum(float(loss) * count for loss, count in zip(losses, tokens, strict=True)) / sum(tokens)
    assert float(both) == pytest.approx(expected, rel=1e-4)


def test_missing_and_unexpected_keys_stop_the_loading(tiny_checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    state = load_file(broken / "model.safetensors")
    state["connector.stranger"] = state.pop("connector.ln_speech.weight")
    state["connector.ln_audio.bias"] = torch.zeros(5)
    save_file(state, broken / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_network(broken)
    message = str(caught.value)
    assert "missing: connector.ln_speech.weight" in message
    assert "unexpected: connector.stranger" in message
    assert "shape of connector.ln_audio.bias: (5,) in the file, (32,) in the model" in message


def test_a_damaged_or_absent_checkpoint_is_a_clear_error(tiny_checkpoint: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_checkpoint, broken)
    whole = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        load_network(broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no model.safetensors"):
        load_network(broken)


@pytest.mark.parametrize("key", ["speech_encoder.config.d_modle", "decoder.config.hiden_size"])
def test_a_typo_in_an_architecture_does_not_vanish(key: str, tiny_recipe: Path) -> None:
    with pytest.raises(RecipeError, match=f"unknown key {key.rsplit('.', 1)[1]}"):
        build(load_recipe(str(tiny_recipe), [f"{key}=8"]))


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("code ran",))


def test_a_pth_with_code_in_it_is_refused_unrun(
    golden_systems: Path, tmp_path: Path, golden_recipe: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(golden_recipe(golden_systems / "nota"))
    torch.save({"model": _Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="neither a tensor nor a plain value"):
        build(load_recipe(path, [f"checkpoint={tmp_path / 'evil.pth'}"]))
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_output_layer_gets_states_that_cost_no_copy_of_its_weights(dtype: str, tiny_recipe: Path) -> None:
    """A slice of the states makes torch copy a bfloat16 weight for every row of the batch."""
    model = build(load_recipe(str(tiny_recipe), [f"decoder.dtype={dtype}", "decoder.pad_token='[PAD]'"])).decoder.model
    seen: list[torch.Tensor] = []
    model.get_output_embeddings().register_forward_hook(lambda head, inputs, output: seen.append(inputs[0]))
    embeds = torch.randn(3, 7, model.config.hidden_size).to(getattr(torch, dtype))
    with torch.inference_mode():
        last = model(inputs_embeds=embeds, logits_to_keep=1).logits
        whole = model(inputs_embeds=embeds).logits
    assert seen[0].shape[:2] == (3, 1)
    assert seen[0].is_contiguous() == (
        dtype == "bfloat16"
    )  # in float32 it costs nothing, and the sums stay as they are
    torch.testing.assert_close(last, whole[:, -1:], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("left", [True, False])
def test_the_decoder_sees_prompt_audio_prompt_and_answer_in_this_order(
    left: bool, tiny_checkpoint: Path, clips: Path
) -> None:
    """Put together row by row here, of rows whose clips, questions and answers differ in length."""
    model = load_network(tiny_checkpoint)
    rows = read_annotation(clips / "all.json")[:3]
    batch = RowBatches(rows, [[0, 1, 2]], clips, model.preprocessor())[0]
    texts = ["rain", "three seven one", ""]
    embed = model.decoder.embed
    encoded = model.encode(batch.features)
    expected = []
    for row, (query, text) in enumerate(zip(batch.queries, texts, strict=True)):
        before, after = wrap(model.recipe.prompts, query)
        head = [model.decoder.tokenizer.bos_token_id, *model.decoder.token_ids(before)]
        tail = model.decoder.token_ids(after)
        tail += [] if left else model.decoder.token_ids(text + model.end_symbol)
        sound = encoded.embeds[row, encoded.mask[row].bool()] * model.decoder.audio_scale
        expected.append(torch.cat([embed(torch.tensor(head)), sound, embed(torch.tensor(tail))]))
    if left:
        embeds, mask = model.prompt_embeds(batch.features, batch.queries)
    else:
        embeds, mask = model.answer_embeds(batch.features, batch.queries, texts)
    assert len({len(row) for row in expected}) > 1
    for row, own in enumerate(expected):
        place = slice(mask.size(1) - len(own), None) if left else slice(len(own))
        assert mask[row].sum() == mask[row, place].sum() == len(own)
        torch.testing.assert_close(embeds[row, place], own)

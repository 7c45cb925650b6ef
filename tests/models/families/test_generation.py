"""What `Salmonn` makes of the settings: draws, tasks of their own, loops."""

from pathlib import Path

import pytest
import torch

from helpers.decoders import listen
from helpers.networks import load_network
from helpers.paths import SAMPLES
from nota_cli.data.annotation import read_annotation
from nota_cli.generation.answer import Answer
from nota_cli.generation.repetition import cut_loop, is_looped
from nota_cli.inference.predict import predict
from nota_cli.models.families.salmonn import Salmonn
from nota_cli.prompts import Query
from nota_cli.recipe.schema import Generate, GenerateTask


@pytest.fixture(scope="module")
def model(tiny_checkpoint: Path) -> Salmonn:
    return load_network(tiny_checkpoint)


def settings(model: Salmonn, **changes: object) -> Generate:
    return model.recipe.generate.model_copy(update={"max_new_tokens": 12, **changes})


@pytest.mark.parametrize("decoding", ["auto", "plain"])
def test_a_sample_is_the_rows_own(model: Salmonn, clips: Path, decoding: str) -> None:
    rows = read_annotation(clips / "all.json")
    drawn = settings(model, sample=True, temperature=1.5, top_p=0.95, decoding=decoding)

    def texts(order: list[int], size: int, seed: int = 0) -> list[str]:
        how = drawn.model_copy(update={"batch_size": size, "seed": seed})
        found = predict(model, [rows[place] for place in order], clips, settings=how, workers=0)
        return [found[order.index(place)] for place in range(len(rows))]

    expected = texts([0, 1, 2, 3, 4], 1)
    assert len(set(expected)) == 5
    assert texts([0, 1, 2, 3, 4], 3) == texts([3, 0, 4, 2, 1], 5) == expected
    assert texts([0, 1, 2, 3, 4], 1, seed=1) != expected


def test_the_shipped_model_draws_the_same_at_any_batch_size() -> None:
    samples = SAMPLES
    shipped = load_network(samples.parent)
    rows = [*read_annotation(samples / "asr.json"), *read_annotation(samples / "aac.json")]
    how = shipped.recipe.generate.model_copy(update={"sample": True, "beams": 1, "temperature": 2.0})
    texts = [
        predict(shipped, rows, samples, settings=how.model_copy(update={"batch_size": size}), workers=0)
        for size in (1, 3, 8)
    ]
    assert texts[0] == texts[1] == texts[2]
    assert texts[0] != predict(shipped, rows, samples, settings=how.model_copy(update={"seed": 1}), workers=0)


def test_both_loops_draw_the_same(model: Salmonn, clips: Path) -> None:
    for features, queries in listen(model, clips):
        queries = [Query(query.task, key=str(place)) for place, query in enumerate(queries)]
        own = settings(model, sample=True, top_k=20, repetition_penalty=1.3)
        plain = own.model_copy(update={"decoding": "plain"})
        assert model.generate(features, queries, own) == model.generate(features, queries, plain)


def test_a_very_low_temperature_is_greedy(model: Salmonn, clips: Path) -> None:
    features, queries = listen(model, clips)[0]
    cold = settings(model, sample=True, temperature=1e-4)
    assert model.generate(features, queries, cold) == model.generate(features, queries, settings(model))


def test_a_single_clip_streams_its_text(model: Salmonn, clips: Path) -> None:
    features, queries = listen(model, clips)[0]
    one, query = features.part(slice(0, 1)), queries[:1]
    streamed: list[str] = []
    (answer,) = model.generate_answers(one, query, settings(model, loop_guard="off"), streamed.append)
    assert streamed[-1] == answer.text
    assert len(streamed) == answer.tokens > 1
    assert all(answer.text.startswith(text) for text in streamed)
    model.generate_answers(features, queries, settings(model), streamed.append)
    model.generate_answers(one, query, settings(model, beams=3), streamed.append)
    assert len(streamed) == answer.tokens  # neither a batch nor beams go by the token

    def stop(text: str) -> None:
        raise InterruptedError(text)

    with pytest.raises(InterruptedError):
        model.generate_answers(one, query, settings(model), stop)
    assert model.generate_answers(one, query, settings(model, loop_guard="off")) == [answer]


def test_tasks_of_a_batch_go_by_their_own_settings(model: Salmonn, clips: Path) -> None:
    features, queries = listen(model, clips)[0]
    assert len({query.task for query in queries}) == 2
    short, beams = settings(model, max_new_tokens=3), settings(model, beams=3)
    own = {"asr": GenerateTask(max_new_tokens=3), "audiocaption_v2": GenerateTask(beams=3)}
    mixed = settings(model, tasks=own)
    expected = [
        pair[query.task != "asr"]
        for query, *pair in zip(
            queries, model.generate(features, queries, short), model.generate(features, queries, beams), strict=True
        )
    ]
    assert model.generate(features, queries, mixed) == expected
    answers = model.generate_answers(features, queries, mixed)
    assert [answer.text for answer in answers] == expected
    assert all(answer.tokens <= 3 for answer, query in zip(answers, queries, strict=True) if query.task == "asr")


def test_the_recipes_own_tasks_hold_where_no_settings_are_given(tiny_checkpoint: Path, clips: Path) -> None:
    model = load_network(tiny_checkpoint)
    generate = model.recipe.generate.model_copy(update={"tasks": {"asr": GenerateTask(max_new_tokens=1)}})
    model.recipe = model.recipe.model_copy(update={"generate": generate})
    assert model.settings_for("asr").max_new_tokens == 1
    assert model.settings_for("audiocaption_v2") == model.settings_for("QA") == model.settings_for("QA").for_task("asr")
    features, queries = listen(model, clips)[0]
    tokens = [answer.tokens for answer in model.generate_answers(features, queries)]
    assert all((count == 1) == (query.task == "asr") for count, query in zip(tokens, queries, strict=True))


def test_what_is_encoded_already_is_not_encoded_again(model: Salmonn, clips: Path) -> None:
    features, queries = listen(model, clips)[0]
    with torch.inference_mode():
        encoded = model.encode(features)
        part = encoded.rows([3, 1])
    calls = []
    hook = model.speech_encoder.register_forward_hook(lambda *_: calls.append(1))
    texts = model.generate(encoded, queries)
    again = model.generate(part, [queries[3], queries[1]])
    hook.remove()
    assert not calls
    assert texts == model.generate(features, queries)
    assert again == [texts[3], texts[1]]


@pytest.mark.parametrize("beams", [1, 2])
def test_loops_are_cut_or_answered_again(model: Salmonn, clips: Path, beams: int) -> None:
    features, queries = listen(model, clips)[0]
    long = settings(model, max_new_tokens=40, beams=beams)
    whole = model.generate_answers(features, queries, long)
    assert any(is_looped(answer.text) for answer in whole), "random weights used to loop; take another seed"
    assert [answer.looped for answer in whole] == [is_looped(answer.text) for answer in whole]
    cut = model.generate_answers(features, queries, long.model_copy(update={"loop_guard": "cut"}))
    assert cut == [Answer(cut_loop(old.text), is_looped(old.text), old.tokens) for old in whole]
    assert model.generate(features, queries, long.model_copy(update={"loop_guard": "cut"})) == [a.text for a in cut]
    again = model.generate_answers(features, queries, long.model_copy(update={"loop_guard": "penalise"}))
    stricter = model.generate(features, queries, long.model_copy(update={"repetition_penalty": 1.3}))
    for old, new, other in zip(whole, again, stricter, strict=True):
        assert new.looped == is_looped(old.text)
        assert new.text == (cut_loop(other) if new.looped else old.text)


def test_a_row_is_guarded_alike_in_any_batch(model: Salmonn, clips: Path) -> None:
    rows = read_annotation(clips / "all.json")
    for guard in ("cut", "penalise"):
        how = settings(model, max_new_tokens=40, loop_guard=guard, batch_size=1)
        alone = predict(model, rows, clips, settings=how, workers=0)
        assert predict(model, rows, clips, settings=how.model_copy(update={"batch_size": 5}), workers=0) == alone

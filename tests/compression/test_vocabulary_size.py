"""Vocabulary trimming to a size: the tokens that texts use most, all that they come from, and what that costs."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from helpers.paths import SHIPPED
from helpers.vocabularies import ENGLISH, OTHER, generated, make_folder, mapping, texts, tokens
from nota_cli.cli.prune_vocabulary import run_prune_vocabulary
from nota_cli.compression.vocabulary import corpus_texts, prune_recipe, prune_vocabulary
from nota_cli.compression.vocabulary_tokenizer import Length
from nota_cli.errors import UsageError
from nota_cli.recipe.load import load_recipe
from nota_cli.recipe.schema import Recipe

KINDS = {"bytes": "qwen2", "whole-words": "llama", "fallback": "gemma2", "unigram": "llama", "words": "gemma2"}
PROMPT = "Please write down what you hear"
CORPUS = [*ENGLISH, *ENGLISH[:2], "rain, rain, rain on the roof", "the dog barks"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("full")
    return {kind: make_folder(root / kind, kind, family) for kind, family in KINDS.items()}


def load(folder: Path) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder)


def smallest(folder: Path, out: Path) -> int:
    """What has to stay, from the message that refuses less."""
    with pytest.raises(UsageError, match="a size of 1 is too small") as refused:
        prune_vocabulary(folder, out, CORPUS, required=[PROMPT], size=1)
    return int(str(refused.value).split(":")[1].split()[0].replace(",", ""))


@pytest.mark.parametrize("kind", KINDS)
def test_there_are_at_most_so_many_and_the_prompt_is_whole(kind, folders, tmp_path):
    full, least = load(folders[kind]), smallest(folders[kind], tmp_path / "none")
    assert not (tmp_path / "none").exists()
    everything = prune_vocabulary(folders[kind], tmp_path / "all", CORPUS, required=[PROMPT]).after
    assert least < everything
    lengths = []
    for size in sorted({least, (least + everything) // 2, everything, everything + 50}):
        small = tmp_path / str(size)
        report = prune_vocabulary(folders[kind], small, CORPUS, required=[PROMPT], size=size)
        assert report.after == len(load(small)) == min(size, everything)
        new = mapping(small)
        assert tokens(load(small), PROMPT) == [new[token] for token in tokens(full, PROMPT)]
        lengths.append(report.length)
    assert lengths[-1] == lengths[-2] == Length(lengths[0].before, lengths[0].before, lengths[0].before)
    assert [length.kept for length in lengths] == sorted(length.kept for length in lengths)
    assert mapping(tmp_path / str(everything)) == mapping(tmp_path / "all")


@pytest.mark.parametrize("kind", KINDS)
def test_the_length_is_that_of_the_texts_each_as_often_as_it_comes(kind, folders, tmp_path):
    least = smallest(folders[kind], tmp_path / "none")
    report = prune_vocabulary(folders[kind], tmp_path / "small", CORPUS, required=[PROMPT], size=least + 8)
    full, small, new = load(folders[kind]), load(tmp_path / "small"), mapping(tmp_path / "small")
    before = [token for text in CORPUS for token in tokens(full, text)]
    after = [token for text in CORPUS for token in tokens(small, text)]
    assert report.length == Length(len(before), len(after), sum(token in new for token in before))
    assert report.length.kept < report.length.before
    if kind != "words":
        assert len(after) > len(before)


@pytest.mark.parametrize("kind", ["words", "unigram"])
def test_the_most_frequent_stay(kind, folders, tmp_path):
    """In these kinds a token brings no others with it."""
    full, least = load(folders[kind]), smallest(folders[kind], tmp_path / "none")
    frequency = Counter(token for text in CORPUS for token in tokens(full, text))
    sizes = {size: tmp_path / str(size) for size in (least, least + 12)}
    for size, out in sizes.items():
        prune_vocabulary(folders[kind], out, CORPUS, required=[PROMPT], size=size)
    must, kept = (set(mapping(out)) for out in sizes.values())
    assert must < kept
    dropped = set(frequency) - kept
    assert min(frequency[token] for token in kept - must) >= max(frequency[token] for token in dropped)


@pytest.mark.parametrize("kind", ["bytes", "whole-words"])
def test_a_frequent_token_that_brings_too_many_with_it_is_passed_over(kind, folders, tmp_path):
    full, least = load(folders[kind]), smallest(folders[kind], tmp_path / "none")
    must = set(mapping_of(folders[kind], tmp_path / "must", least))
    whole = {full.decode([token]): token for token in full.get_vocab().values() if token not in must}
    whole = {text: token for text, token in whole.items() if text.isalpha() and tokens(full, text) == [token]}
    long, short = max(whole, key=len), min(whole, key=len)
    assert len(long) > 4
    assert len(short) == 2  # merged from two bytes, which are there
    prune_vocabulary(folders[kind], tmp_path / "small", {long: 9, short: 1}, required=[PROMPT], size=least + 1)
    assert set(mapping(tmp_path / "small")) == must | {whole[short]}


def mapping_of(folder: Path, out: Path, size: int) -> dict[int, int]:
    prune_vocabulary(folder, out, CORPUS, required=[PROMPT], size=size)
    return mapping(out)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(corpus=st.lists(texts(), min_size=1, max_size=5), room=st.integers(0, 40), probe=texts())
def test_any_text_of_kept_tokens_is_cut_as_before_and_any_other_can_be_written(
    kind, corpus, room, probe, folders, tmp_path_factory
):
    root = tmp_path_factory.mktemp("any")
    size = smallest(folders[kind], root / "none") + room
    report = prune_vocabulary(folders[kind], root / "small", corpus, required=[PROMPT], size=size)
    full, small, new = load(folders[kind]), load(root / "small"), mapping(root / "small")
    assert report.after <= size
    for text in [*corpus, probe, OTHER, PROMPT, " ".join(corpus)]:
        before, after = tokens(full, text), tokens(small, text)
        if set(before) <= set(new):
            assert after == [new[token] for token in before]
        if kind != "words":
            assert small.decode(after) == full.decode(before)


@pytest.mark.parametrize("kind", ["bytes", "fallback"])
def test_the_output_is_the_full_model_s_with_the_dropped_tokens_forbidden(kind, folders, tmp_path):
    size = smallest(folders[kind], tmp_path / "none") + 10
    new = mapping_of(folders[kind], tmp_path / "small", size)
    prompt = tokens(load(folders[kind]), PROMPT)
    expected = generated(folders[kind], prompt, 1, set(new))
    assert [[new[token] for token in row] for row in expected] == generated(
        tmp_path / "small", [new[token] for token in prompt], 1
    )


def test_a_multiple_stays_within_the_size(folders, tmp_path):
    least = smallest(folders["fallback"], tmp_path / "none")
    size = (least // 16 + 1) * 16 + 5
    report = prune_vocabulary(
        folders["fallback"], tmp_path / "small", CORPUS, required=[PROMPT], size=size, multiple=16
    )
    assert report.after == size - 5
    with pytest.raises(UsageError, match=f"{size - 5:,} tokens stay in any case") as refused:
        prune_vocabulary(folders["fallback"], tmp_path / "no", CORPUS, required=[PROMPT], size=size - 6, multiple=16)
    assert f"a size of {size - 6:,}" in str(refused.value)
    few = prune_vocabulary(folders["fallback"], tmp_path / "few", ["!"], required=[PROMPT], size=10_000, multiple=16)
    assert few.after % 16 == 0
    assert few.after < 10_000


def recipe_on(folder: Path, end_symbol: str) -> Recipe:
    values = {"speech_encoder": {"config": {}}, "decoder": {"path": str(folder)}, "name": "small"}
    return Recipe.model_validate({**values, "prompts": {"end_symbol": end_symbol}})


@pytest.mark.parametrize("end", ["<eos>", "!!"])
def test_a_recipe_s_prompts_and_end_stay_whole_and_questions_count(end, folders, tmp_path):
    recipe = recipe_on(folders["bytes"], end)
    questions = ["Who barks?", "Who barks?", "What is heard in the thunderstorm?"]
    with pytest.raises(UsageError, match="a size of 2 is too small"):
        prune_recipe(recipe, tmp_path / "small", ENGLISH, questions=questions, size=2)
    whole = prune_recipe(recipe, tmp_path / "whole", ENGLISH, questions=questions)
    size = whole.after - 20
    report = prune_recipe(recipe, tmp_path / "small", ENGLISH, questions=questions, size=size)
    assert size - 3 < report.after <= size  # a last free row or two are too few for any word that is left
    full, small, new = load(folders["bytes"]), load(tmp_path / "small"), mapping(tmp_path / "small")
    for piece in [*corpus_texts(recipe), end]:
        assert tokens(small, piece) == [new[token] for token in tokens(full, piece)]
    pieces = [*ENGLISH, *(f"</Speech> {question}\nASSISTANT:" for question in questions)]
    assert report.length.before == whole.length.before == sum(len(tokens(full, piece)) for piece in pieces)
    assert whole.length == Length(whole.length.before, whole.length.before, whole.length.before)


def test_the_command_says_what_a_size_costs(nota, tmp_path, capsys):
    lines = tmp_path / "lines.txt"
    lines.write_text("one two three\none two\none\nthe rain is falling\n")
    assert nota("prune-vocabulary", SHIPPED, "--texts", lines, "--out", tmp_path / "small", "--size", 3) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert "a size of 3 is too small" in message
    assert "tokens stay in any case" in message
    assert not (tmp_path / "small").exists()

    full = {name: rest for name, *rest in run_prune_vocabulary(str(SHIPPED), tmp_path / "all", [], [lines], [], 1)}
    after = int(full["tokens"][1])
    assert full["the texts in tokens"] == ["10", "10 (+0.0%)"]
    rows = run_prune_vocabulary(str(SHIPPED), tmp_path / "less", [], [lines], [], 1, after - 2)
    less = {name: rest for name, *rest in rows}
    assert less["tokens"][1] == str(after - 2)
    assert less["the texts in tokens"] == ["10", "10 (+0.0%)"]  # words: the dropped ones become the unknown one
    assert less["of these still one token each"][1] == "8 (80.0%)"
    assert load_recipe(str(tmp_path / "less")).decoder.path == str(tmp_path / "less" / "decoder")

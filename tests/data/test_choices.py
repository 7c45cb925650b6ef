"""Questions with choices: what an answer names, what an annotation may hold, how a model is asked."""

import json
from pathlib import Path

import pytest

from nota_cli.data.annotation import read_annotation
from nota_cli.data.choices import lettered, parse_answer, right_choice
from nota_cli.data.row_batches import query_of
from nota_cli.errors import DataError
from nota_cli.prompts import wrap
from nota_cli.recipe.prompts import Prompts

ANIMALS = ("cat", "dog", "rain")
WEATHER = ("rain", "rain and wind", "wind and rain on a roof")


@pytest.mark.parametrize(
    ("answer", "label"),
    [
        # letter
        ("B", "B"),
        ("b", "B"),
        ("(b)", "B"),
        ("**B**", "B"),
        (" [C].\n", "C"),
        ("Ｂ", "B"),
        ("The answer is B.", "B"),
        ("ANSWER: b", "B"),
        ("the answer would be (C)", "C"),
        ("Option A is right", "A"),
        ("I choose choice c", "C"),
        ("I think it's B", "B"),
        ("B because it barks", "B"),
        # text
        ("dog", "B"),
        ("Dog!", "B"),
        ("the dog barks", "B"),
        ("It is raining", "unparsed"),  # no word of it is a choice
        ("hotdog", "unparsed"),
        # both
        ("B. dog", "B"),
        ("B) dog", "B"),
        ("(B) the dog", "B"),
        ("B - dog", "B"),
        ("dog (B)", "B"),
        ("Answer: (B) dog", "B"),
        ("C\nrain", "C"),
        ("B: I would not have expected it", "B"),
        # the article
        ("A", "A"),
        ("a", "A"),
        ("A.", "A"),
        ("a dog", "B"),
        ("A dog", "B"),
        ("A big animal", "unparsed"),
        ("the answer is a dog", "B"),
        ("the answer is a", "A"),
        ("The answer is A because it meows", "A"),
        ("I hear a sound", "unparsed"),
        # several, contradictions, denials
        ("dog or cat", "ambiguous"),
        ("A dog chases a cat", "ambiguous"),
        ("B. cat", "ambiguous"),
        ("A and B", "ambiguous"),
        ("A, B", "ambiguous"),
        ("A. dog or B. cat", "ambiguous"),
        ("E. dog", "ambiguous"),
        ("not B", "ambiguous"),
        ("It isn't a dog", "ambiguous"),
        ("everything except the dog", "ambiguous"),
        # nothing
        ("", "unparsed"),
        ("E", "unparsed"),
        ("I don't know", "unparsed"),
        ("I. e. a pet", "unparsed"),
        ("2", "unparsed"),
        ("none", "unparsed"),
    ],
)
def test_answers(answer: str, label: str) -> None:
    parsed = parse_answer(answer, ANIMALS)
    assert parsed.label == label
    assert (parsed.choice is None) == (parsed.kind != "choice")


@pytest.mark.parametrize(
    ("answer", "choices", "label"),
    [
        ("rain", WEATHER, "A"),
        ("Rain and wind.", WEATHER, "B"),
        ("It is rain and wind", WEATHER, "B"),
        ("wind and rain on a roof", WEATHER, "C"),
        ("rain, and then rain and wind", WEATHER, "ambiguous"),
        ("A. rain and wind", WEATHER, "ambiguous"),
        ("a hot dog", ("dog", "hot dog"), "B"),
        ("not happy", ("happy", "not happy"), "B"),
        ("The speaker is not happy", ("happy", "not happy"), "B"),
        ("no", ("yes", "no"), "B"),
        ("vitamin B", ("vitamin A", "vitamin B"), "B"),
        ("U.S. Army", ("navy", "U.S. Army"), "B"),
        ("A", ("B", "A"), "ambiguous"),  # the letter of one, the text of the other
        ("A", ("A", "B"), "A"),
        ("There are 2 voices", ("one", "a few", "2"), "C"),
        ("I hear a B here", ("a", "b flat"), "B"),  # the letter; as a choice's text, `a` counts alone only
        ("2", ("one", "a few", "2"), "C"),
        ("12 voices", ("10", "12"), "B"),
        ("I) flute", tuple("abcdefgh") + ("flute",), "I"),
        ("I think flute", tuple("abcdefgh") + ("flute",), "I"),
        ("don't stop", ("stop", "don’t stop"), "B"),
    ],
)
def test_answers_where_choices_are_alike(answer: str, choices: tuple[str, ...], label: str) -> None:
    assert parse_answer(answer, choices).label == label


def _read(folder: Path, **row: object) -> list[object]:
    rows = [{"path": "x", "task": "QA", "Q": "what is it?"}, {"path": "y", "task": "QA", "Q": "what is it?", **row}]
    (folder / "a.json").write_text(json.dumps({"annotation": rows}), encoding="utf-8")
    return list(read_annotation(folder / "a.json"))


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"choices": "cat, dog"}, "`choices` is not a list of strings; write the possible answers"),
        ({"choices": ["cat", 3]}, "`choices` is not a list of strings"),
        ({"choices": ["cat", "\ud83d"]}, "`choices` holds half of a surrogate pair"),
        ({"choices": ["cat"]}, "`choices` has 1 entries; a question needs 2 to 26"),
        ({"choices": [f"c{i}" for i in range(27)]}, "`choices` has 27 entries"),
        ({"choices": ["cat", "--"]}, "`choices`: '--' has neither a letter nor a digit"),
        ({"choices": ["cat", "dog", " Cat!"]}, "`choices`: 'cat' and ' Cat!' read alike; keep one of them"),
        ({"choices": ["cat", "dog"], "text": "cow"}, "`text` 'cow' is none of the choices and no letter from A to B"),
        ({"choices": ["cat", "dog"], "text": "C"}, "`text` 'C' is none of the choices"),
        ({"choices": ["B", "A"], "text": "A"}, "`text` 'A' is one choice and the letter of another"),
        ({"choices": ["cat", "dog"], "text": ["cat", "dog"]}, "`text` is not one string; with `choices`"),
        ({"choices": ["cat", "dog"], "task": "asr"}, "`choices` belong to a question, and task 'asr' asks none"),
        ({"Choices": ["cat", "dog"]}, "the key 'Choices' is not read; did you mean `choices`?"),
    ],
)
def test_bad_choices_are_one_sentence_with_their_row(tmp_path: Path, row: dict[str, object], sentence: str) -> None:
    with pytest.raises(DataError) as caught:
        _read(tmp_path, **row)
    message = str(caught.value)
    assert f"row 1: {sentence}" in message
    assert "1 problem" in message


@pytest.mark.parametrize("text", ["dog", "B", "(b)", "Dog."])
def test_the_right_one_may_be_named_by_text_or_letter(tmp_path: Path, text: str) -> None:
    row = _read(tmp_path, choices=["cat", "dog"], text=text)[1]
    assert right_choice(row.text, row.choices) == 1  # type: ignore[attr-defined]


def test_a_test_set_may_keep_the_right_one_to_itself(tmp_path: Path) -> None:
    assert _read(tmp_path, choices=["cat", "dog"])[1].text is None  # type: ignore[attr-defined]


def test_the_model_is_asked_with_its_choices(tmp_path: Path) -> None:
    without, row = _read(tmp_path, choices=["cat", "dog"])
    asked = "what is it?\nA. cat\nB. dog\nAnswer with the letter of the right choice."
    assert lettered("what is it?", ["cat", "dog"]) == asked
    assert asked in wrap(Prompts(), query_of(row))[1]  # type: ignore[arg-type]
    assert "A. " not in wrap(Prompts(), query_of(without))[1]  # type: ignore[arg-type]

"""Loops at the end of a text: found, cut, and nothing else touched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nota_cli.generation.repetition import LEAST, LONGEST, TIMES, cut_loop, find_loop, is_looped

WORDS = [f"w{number}" for number in range(40)]
distinct = st.lists(st.sampled_from(WORDS), unique=True)


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("a dog barks " * 5, "a dog barks"),
        ("rain falls and a dog barks, a dog barks, a dog barks, a dog barks, a dog", "rain falls and a dog barks"),
        ("A dog. " * 6, "A dog."),
        ("the the the the the the the the the the", "the"),
        ("a man speaks " * 4 + "a man sp", "a man speaks"),
        ("Yes, no. yes no Yes no! yes no yes no", "Yes, no."),
        ("she said ha" + "ha" * 30, "she said ha"),
        ("x" * 24, "x"),
        ("one two " * 6 + "two " * 12, "one two"),  # a loop behind a loop
        ("nothing is " + "let's " * 31 + "let let's let's let let's let", "nothing is let's"),  # it ends otherwise
        ("a bell rings, " * 8 + "and then it stops", "a bell rings"),
    ],
)
def test_loops_are_cut_to_the_first_time(text: str, cut: str) -> None:
    assert cut_loop(text) == cut
    assert is_looped(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "a dog barks",
        "five five five five",
        "no no no no no no",
        "zero zero zero zero zero zero zero",
        "a dog barks a dog barks a dog barks",
        "a dog barks a dog barks a dog barks a dog barks and a man speaks",
        "  it has   its own\nblanks ",
        "hahahahaha",
        "... ... ...",
        "no " * 15 + "i said",
        "la " * 16 + "she sang and we all went home after that because it was late and nobody knew what else to do",
    ],
)
def test_other_texts_come_back_as_they_are(text: str) -> None:
    assert cut_loop(text) == text
    assert not is_looped(text)


@given(head=distinct, gram=distinct.filter(bool), times=st.integers(1, 12), rest=st.integers(0, 9))
def test_what_repeats_is_found_wherever_it_begins(head: list[str], gram: list[str], times: int, rest: int) -> None:
    head = [f"h{word}" for word in head]  # no word of the head is in the loop
    words = head + gram * times + gram[: rest % len(gram)]
    repeats = len(words) - len(head)
    found = find_loop(words)
    if len(gram) <= LONGEST and repeats >= max(LEAST, TIMES * len(gram)):
        assert found == (len(head), len(gram))
        assert cut_loop(" ".join(words)) == " ".join(head + gram)
    else:
        assert found is None
        assert cut_loop(" ".join(words)) == " ".join(words)


@given(st.lists(st.sampled_from(["a", "b", "A,", "c!"]), max_size=60).map(" ".join) | st.text(max_size=200))
def test_a_cut_text_has_no_loop_and_is_a_beginning_of_the_whole(text: str) -> None:
    cut = cut_loop(text)
    assert text.startswith(cut)
    assert not is_looped(cut)
    assert bool(cut.strip()) == bool(text.strip())


@given(distinct)
def test_words_that_are_all_different_are_never_touched(words: list[str]) -> None:
    text = " ".join(words)
    assert cut_loop(text) is text

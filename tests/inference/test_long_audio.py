"""Windows over long recordings, and their texts joined."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nota_cli.errors import UsageError
from nota_cli.inference.long_audio import join, join_words, windows

WORDS = [f"w{number}" for number in range(400)]


@given(
    seconds=st.floats(0, 2_000), window=st.floats(1, 60), share=st.floats(0, 0.8), whole=st.sampled_from([True, False])
)
def test_windows_cover_a_recording_and_overlap(seconds: float, window: float, share: float, whole: bool) -> None:
    if whole:
        seconds, window = float(round(seconds)), float(round(window))
    overlap = share * window
    found = windows(seconds, window, overlap)
    assert found[0][0] == 0
    assert found[-1][1] == seconds
    assert all(0 < stop - start <= window * (1 + 1e-9) for start, stop in found) or seconds == 0
    for (_, stop), (start, _) in zip(found, found[1:], strict=False):
        assert math.isclose(stop - start, overlap, abs_tol=1e-6)
    assert all(stop < seconds for _, stop in found[:-1])  # none too many


@pytest.mark.parametrize(("seconds", "count"), [(0, 1), (0.01, 1), (30, 1), (30.1, 2), (55, 2), (55.1, 3), (3600, 144)])
def test_there_are_as_many_windows_as_needed(seconds: float, count: int) -> None:
    assert len(windows(seconds)) == len(windows(seconds, 30.0, 5.0)) == len(windows(seconds / 10, 3.0)) == count


@pytest.mark.parametrize(
    "values", [(-1,), (math.nan,), (math.inf,), (10, 0), (10, 5, 5), (10, 5, -1), (10, math.nan, 1)]
)
def test_windows_that_cannot_be(values: tuple[float, ...]) -> None:
    with pytest.raises(UsageError):
        windows(*values)


@given(count=st.integers(0, 200), window=st.integers(6, 30), overlap=st.integers(1, 5), seed=st.randoms())
def test_a_text_read_through_windows_comes_back(count: int, window: int, overlap: int, seed: object) -> None:
    words = seed.sample(WORDS, count)
    texts = [" ".join(words[round(a) : round(b)]) for a, b in windows(count, window, overlap)]
    assert join(texts) == " ".join(words)


@given(
    count=st.integers(20, 100), overlap=st.integers(4, 8), seed=st.randoms(), wrong=st.sampled_from("last first both")
)
def test_wrong_words_at_the_edges_give_way(count: int, overlap: int, seed: object, wrong: str) -> None:
    words = seed.sample(WORDS, count)
    texts = [words[round(a) : round(b)] for a, b in windows(count, 15, overlap)]
    for before, after in zip(texts, texts[1:], strict=False):
        before[-1] = before[-1] if wrong == "first" else "thr"
        after[0] = after[0] if wrong == "last" else "ing"
    assume(all(len(text) > overlap for text in texts))
    assert join([" ".join(text) for text in texts]) == " ".join(words)


@given(st.lists(st.lists(st.sampled_from(["a", "b", "C.", "c", "..."]), max_size=12).map(" ".join), max_size=6))
def test_nothing_is_made_up_or_lost_without_a_match(texts: list[str]) -> None:
    joined = join_words(texts)
    every = [word.strip(".").casefold() for text in texts for word in text.split()]
    found = [word.strip(".").casefold() for word in joined.split()]
    assert len(found) <= len(every)
    assert set(found) <= set(every)
    if texts:
        assert join_words(texts[:1]) == " ".join(texts[0].split())


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        ([], ""),
        (["", ""], ""),
        (["hello there", ""], "hello there"),
        (["", "hello there"], "hello there"),
        (["one two", "three four"], "one two three four"),
        (["He went down the road.", "Down the road, and up."], "He went down the road, and up."),
        (["he went down the roa", "went down the road and up"], "he went down the road and up"),
        (["he went down the", "owned the road"], "he went down the owned the road"),  # one word is too few here
        (["he went down the road", "nt down the road and up"], "he went down the road and up"),
        (["a b c d", "b c"], "a b c d"),
        (["a b c d", "c d"], "a b c d"),
        (["it's \"fine", 'FINE!" he said'], 'it\'s "fine!" he said'),
        (["a b", "a b", "a b"], "a b"),
    ],
)
def test_transcripts(texts: list[str], joined: str) -> None:
    assert join(texts) == joined


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (["a dog barks", "a dog barks", "A dog barks."], "a dog barks"),
        (["a dog barks", "rain falls"], "a dog barks, then rain falls"),
        (["A dog barks. Rain falls.", "Rain falls. A man speaks."], "A dog barks. Rain falls. A man speaks."),
        (["", "rain"], "rain"),
        (["", " "], ""),
    ],
)
def test_captions_are_said_once(texts: list[str], joined: str) -> None:
    assert join(texts, "audiocaption_v2") == join(texts, "QA") == joined

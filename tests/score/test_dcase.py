"""DCASE's figures of captions: what is computed anywhere, and what the rest needs."""

import pytest

from nota_cli.errors import DataError
from nota_cli.score.cider import cider_d
from nota_cli.score.dcase import METRICS, NEEDS, OWN_TOKENS, score, tokens

SAID = ["A dog barks, loudly.", "Rain falls", "a dog barks loudly"]
RIGHT = [["a dog barks", "The dog's bark"], ["rain is falling"], ["A high-pitched dog"]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A dog's bark -- high-pitched!", "a dog 's bark high-pitched"),
        ("it’s 3 o'clock (far away)", "it ’s 3 o clock far away"),
        ("...", ""),
    ],
)
def test_tokens(text: str, expected: str) -> None:
    assert " ".join(tokens(text)) == expected


def test_the_words_are_counted_anywhere() -> None:
    found = score(SAID, RIGHT)
    assert found.statistics == {
        "vocabulary": 6,  # a dog barks loudly rain falls
        "reference_vocabulary": 10,  # a dog barks the 's bark rain is falling high-pitched
        "words_per_caption": pytest.approx(10 / 3),
        "words_per_reference": pytest.approx(13 / 4),
        "different_captions": 2,  # marks and capitals apart
    }
    assert found.per_clip["words"] == (4.0, 2.0, 4.0)
    assert set(found.values) | set(found.lacking) == set(METRICS)
    assert not set(found.values) & set(found.lacking)


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine whose Java cannot run the tokenizer, whether aac-metrics is there or not."""
    monkeypatch.setenv("AAC_METRICS_JAVA_PATH", "/nowhere/java")


@pytest.mark.usefixtures("nothing_installed")
def test_without_java_cider_d_is_ours_and_the_rest_says_what_it_needs() -> None:
    found = score(SAID, RIGHT)
    words = [[" ".join(tokens(text)) for text in own] for own in RIGHT]
    assert found.values == {"cider_d": cider_d([" ".join(tokens(text)) for text in SAID], words).value}
    assert found.lacking == NEEDS
    assert found.normalizer == OWN_TOKENS
    for name in ("meteor", "spice", "spider_fl", "fense"):
        assert "pip install 'nota-cli[spider]'" in NEEDS[name]


def test_one_clip_is_refused() -> None:
    with pytest.raises(DataError, match="at least two clips"):
        score(["a dog"], [["a dog"]])

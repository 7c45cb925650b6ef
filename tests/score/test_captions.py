"""The published caption metrics, by aac-metrics itself: what its files, Java and this machine allow is really run."""

import importlib.util

import pytest

from nota_cli.errors import DataError, UsageError
from nota_cli.score.captions import less_fluency_errors, standard_captions
from nota_cli.score.cider import cider_d

INSTALLED = importlib.util.find_spec("aac_metrics") is not None
installed = pytest.mark.skipif(not INSTALLED, reason="needs the extra: pip install 'nota-cli[spider]'")
SAID = ["A man is speaking, loudly.", "rain falls\non a roof", "", "two dogs bark (far away)", "A BIRD sings..."]
RIGHT = [["a man speaks.", "Someone speaks loudly"], ["rain is falling hard on a roof"], ["x"], ["a dog's bark"], ["!"]]
# Brackets stay as words: the tokenizer's signs for them come in small letters, the list of what is dropped in capitals.
TOKENS = (
    ["a man is speaking loudly", "rain falls on a roof", "", "two dogs bark -lrb- far away -rrb-", "a bird sings"],
    [["a man speaks", "someone speaks loudly"], ["rain is falling hard on a roof"], ["x"], ["a dog 's bark"], [""]],
)


@pytest.fixture(scope="module")
def scores():
    if not INSTALLED:
        pytest.skip("needs the extra: pip install 'nota-cli[spider]'")
    try:
        return standard_captions(SAID, RIGHT)
    except UsageError as error:
        pytest.skip(str(error))


@pytest.mark.skipif(INSTALLED, reason="aac-metrics is installed")
def test_without_the_extra_the_message_says_what_to_install():
    with pytest.raises(UsageError, match=r"pip install 'nota-cli\[spider\]'.*--profile organisers"):
        standard_captions(SAID, RIGHT)


def test_one_clip_is_refused():
    with pytest.raises(DataError, match="at least two clips"):
        standard_captions(["a dog"], [["a dog"]])


@installed
def test_without_java_the_message_names_it(monkeypatch):
    monkeypatch.setenv("AAC_METRICS_JAVA_PATH", "/nowhere/java")
    with pytest.raises(
        UsageError, match=r"no program '/nowhere/java'; install Java 8 to 13[\s\S]*--profile organisers"
    ):
        standard_captions(SAID, RIGHT)


@installed
def test_without_the_tokenizer_s_file_the_message_names_it(monkeypatch, tmp_path):
    monkeypatch.setenv("AAC_METRICS_CACHE_PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"no file .*stanford-corenlp-3.4.1.jar; run `aac-metrics-download`"):
        standard_captions(SAID, RIGHT)


def test_cider_d_is_ours_on_the_tokenizer_s_words(scores):
    ours = cider_d(*TOKENS)
    assert scores.per_clip["cider_d"] == pytest.approx(ours.per_clip, abs=1e-12)
    assert scores.values["cider_d"] == pytest.approx(ours.value, abs=1e-12)


def test_every_metric_is_there_or_says_why_not(scores):
    assert set(scores.values) | set(scores.lacking) == {"cider_d", "spice", "spider", "meteor", "fense"}
    assert not set(scores.values) & set(scores.lacking)
    assert ("spider" in scores.values) == ("spice" in scores.values)
    for reason in scores.lacking.values():
        assert "aac-metrics" in reason or "SPICE is missing" in reason


def test_meteor_ranks_the_better_caption_higher(scores):
    if "meteor" not in scores.values:
        pytest.skip(scores.lacking["meteor"])
    first, second, nothing, *_ = scores.per_clip["meteor"]
    assert 1 >= first > second > nothing == 0
    assert 0 < scores.values["meteor"] < 1


def test_spider_is_the_mean_of_its_halves(scores):
    if "spider" not in scores.values:
        pytest.skip(scores.lacking["spice"])
    assert scores.values["spider"] == (scores.values["cider_d"] + scores.values["spice"]) / 2
    assert 0 < scores.values["spice"] < 1


def test_fense_ranks_the_better_caption_higher(scores):
    if "fense" not in scores.values:
        pytest.skip(scores.lacking["fense"])
    assert scores.per_clip["fense"][0] > scores.per_clip["fense"][4]


def test_a_fluency_error_takes_nine_tenths():
    assert less_fluency_errors((0.5, 0.5, 0.0), (0.0, 1.0, 1.0)) == pytest.approx((0.5, 0.05, 0.0))

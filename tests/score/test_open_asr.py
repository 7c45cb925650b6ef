"""The Open ASR Leaderboard's normalizer: sentences of our own, each answer worked out by hand from its rules."""

import random

import pytest

from nota_cli.errors import DataError
from nota_cli.score.open_asr import is_scored, normalize, words
from nota_cli.score.wer import plain_words

CASES = [
    # letters, marks, brackets
    ("The Kettle, boils!", "the kettle boils"),
    ("We met (by chance) in [noise] Oslo <unk> today", "we met in oslo today"),
    ("A naïve café owner, Zoë Łukasz", "a naive cafe owner zoe lukasz"),
    ("Wait... what?", "wait what"),
    ("half-baked well-known ideas", "half baked well known ideas"),
    # fillers, however long
    ("um I uhh think uuuhm so", "i think so"),
    ("Hmm, mhm, mmm yes huh", "yes"),
    ("ah-ha there it is, aha", "there it is"),
    ("er, ahem, tsk, ugh that hurts", "that hurts"),
    ("the hum of an umbrella", "the of an umbrella"),
    ("her hat and the ham", "her hat and the ham"),
    # short forms
    ("It's late and he's gone home", "it is late and he has gone home"),
    ("The dog's bone isn't there", "the dog s bone is not there"),
    ("I won't; they can't; let's go", "i will not they can not let us go"),
    ("We'd been told you'll come, we've time", "we had been told you will come we have time"),
    ("I'm gonna leave 'cause I wanna", "i am going to leave cause i want to"),
    ("Mr. Hill and Dr. Moss of St. Ives", "mister hill and doctor moss of saint ives"),
    ("who's there and where's Anna's coat", "who is there and where is anna s coat"),
    # numbers
    ("twenty five apples and three hundred and six pears", "25 apples and 306 pears"),
    ("It cost 1,250 dollars", "it cost $1250"),
    ("two million euros or five percent", "€2000000 or 5%"),
    ("the twenty first of May nineteen eighty four", "the 21st of may 1984"),
    ("one dog and two cats", "one dog and 2 cats"),
    ("three point one four", "3.14"),
    ("five dollars and seven cents", "$5.07"),
    ("minus ten degrees", "-10 degrees"),
    ("double seven", "77"),
    ("two and a half miles", "2.5 miles"),
    # `oh` is a zero among digits alone
    ("oh what a day", "oh what a day"),
    ("room four oh one", "room 401"),
    ("call oh seven nine eight", "call 0798"),
    ("in nineteen oh five", "in 1905"),
    ("I have five oh well", "i have 5 oh well"),
    ("oh oh I fell, ohhh", "oh oh i fell oh"),
    ("a good point oh yes", "a good oh yes"),
    ("a hundred oh", "a 100 oh"),
    ("zero oh my", "0 oh my"),
    # times
    ("at half past two", "at 2 30"),
    ("a quarter to one", "12 45"),
    ("ten minutes to twelve", "11 50"),
    ("twenty-five minutes past seven", "7 25"),
    ("seven o'clock sharp", "7 sharp"),
    ("we open at 09:00 and close at 17:45", "we open at 9 and close at 17 45"),
    ("a ratio of 16:9", "a ratio of 16 9"),
    ("half past ninety", "half past 90"),
    # single letters
    ("the B B C and the U.S.A.", "the bbc and the usa"),
    ("the 5 G mast, plan b", "the 5g mast plan b"),
    ("a 5 G mast", "a5g mast"),  # three in a row are joined, the article too
    ("I a b c", "iabc"),
    ("vitamin a i think", "vitamin a i think"),
    # words in two parts
    ("e-mail me your wi fi code, all right?", "email me your wifi code alright"),
    ("an x-ray at 7 p.m.", "an xray at 7 pm"),
    ("okay, O.K., ok", "okay okay okay"),
    ("sci-fi, et cetera", "scifi etc"),
    # spelling, American and of names
    ("the colour of the theatre", "the color of the theater"),
    ("cancellation of an archaeology travelogue", "cancelation of an archeology travelog"),
    ("a flyer pummelled by snowploughs", "a flier pummeled by snowplows"),
    ("Stephen, Katherine and Muhammad", "steven catherine and mohammed"),
    ("MacDonald met Jon and Sara", "mcdonald met john and sarah"),
    ("5mm of rain", "5 hmm of rain"),
    ("", ""),
    ("?!", ""),
]


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_sentences(text: str, expected: str) -> None:
    assert " ".join(words(text)) == expected


def test_there_are_enough_of_them() -> None:
    assert len({text for text, _ in CASES}) >= 40


def test_without_its_own_rules_it_is_whispers() -> None:
    # Numbers, currencies and ordinals are read by whisper-normalizer in both: no word here that the rules treat apart.
    vocabulary = ["two", "five", "nine", "eleven", "forty", "hundred", "thousand", "million", "third", "and"]
    vocabulary += ["point", "percent", "dollars", "20", "2.5", "$3", "dog"]
    draw = random.Random(4)
    for _ in range(300):
        text = " ".join(draw.choices(vocabulary, k=7))
        assert words(text) == plain_words(text), text


@pytest.mark.parametrize(
    ("reference", "scored"),
    [("Ignore time segment in scoring", False), ("(laughs) um", False), ("", False), ("I ignore it", True)],
)
def test_rows_that_the_leaderboard_drops(reference: str, scored: bool) -> None:
    assert is_scored(reference) is scored


def test_a_number_without_end_is_refused() -> None:
    with pytest.raises(DataError, match=r"cannot take the text '9999.*shorten its numbers"):
        normalize("9" * 5000 + " hundred")

"""Texts that a submission may hold and a model should not have written: leaks, end symbols, loops, the other task's."""

import re
from collections.abc import Iterator

LONG = 2_000
PROMPTS = (
    "recognize the speech and give me the transcription",
    "please write down what your hear in the audio",
    "please describe the audio",
)
"""What the competition's prompts say, in small letters."""

END_SYMBOL = re.compile(
    r"</s>|<\|?eos\|?>|<\|eot_id\|>|<\|end_of_text\|>|<\|im_end\|>|<\|endoftext\|>|<\|eom_id\|>|<end_of_turn>"
    r"|\[EOS\]|\[SEP\]|<｜end▁of▁sentence｜>",
    re.IGNORECASE,
)
"""What ends an answer; the organisers cut there."""
OTHER_SYMBOL = re.compile(
    r"<s>|<bos>|<pad>|<unk>|<mask>|\[PAD\]|\[CLS\]|\[UNK\]|\[BOS\]|<start_of_turn>(?:user|model|assistant)?"
    r"|<\|(?:begin_of_text|im_start|start_header_id|end_header_id|startoftranscript|notimestamps|transcribe|pad)\|>"
    r"|<0x[0-9A-F]{2}>|<unused[0-9]+>|<\|reserved_special_token_[0-9]+\|>",
    re.IGNORECASE,
)
"""Other symbols that a tokenizer writes when it is not told to skip them."""
_MARK = re.compile(r"</?speech(?:here)?>|\b(?:user|assistant)\s*:|\{\}", re.IGNORECASE)
_SIGN = re.compile(r"[<\[{:]")  # every symbol and mark has one of these
_WORD_LOOP = 10  # so many words are in a loop at least
_TIMES = 4
_LONG_WORD = 24
_SPELLED_LOOP = re.compile(r"(\S{1,16}?)\1{7,}")
_CAPTION = re.compile(
    r"(?:an?|some|several|multiple|someone|people|men|women|children|birds|music|water|wind|rain)\b.*\b\w+(?:ing|s)\b"
    r"|.*\b(?:in the background|in the distance|followed by|can be heard|(?:is|are) heard|sounds? of|noises? of)\b",
    re.IGNORECASE | re.DOTALL,
)


def suspicions(text: str) -> Iterator[tuple[str, str]]:
    """Code and message of everything about one text that should be looked at."""
    if "\n" in text or "\r" in text:
        yield "line-break", "the text runs over several lines"
    if text.isspace():
        yield "blank-text", "the text is nothing but blanks"
        return
    if len(text) > LONG:
        yield "long-text", f"the text has {len(text):,} characters"
    if _SIGN.search(text):
        if symbol := END_SYMBOL.search(text) or OTHER_SYMBOL.search(text):
            yield "special-token", f"the text holds the symbol {symbol[0]!r}"
        if mark := _MARK.search(text):
            yield "prompt-leak", f"the text holds {mark[0]!r} of the prompt"
            return
    small = text.lower()
    words = small.split()
    for prompt in PROMPTS:
        if prompt in small:
            yield "prompt-leak", f"the text holds the prompt {prompt!r}"
            return
    # Whatever repeats four times on end leaves few different words.
    repeats = len(words) >= _WORD_LOOP and len(set(words)) <= len(words) - _WORD_LOOP * (_TIMES - 1) // _TIMES
    if (repeats or max(map(len, words)) >= _LONG_WORD) and (loop := _loop(words)):
        yield "loop", loop


def _loop(words: list[str]) -> str | None:
    """What repeats: some words four times on end, ten words or more in all, or a part of a word eight times."""
    words = words[:LONG]
    for size in range(1, min(len(words) // _TIMES, 24) + 1):
        run = 0  # how many words in a row equal the one `size` places before
        for index in range(size, len(words)):
            run = run + 1 if words[index] == words[index - size] else 0
            if run + size >= max(_WORD_LOOP, size * _TIMES):
                start = index - run - size + 1
                return f"the text repeats {' '.join(words[start : start + size])[:60]!r}"
    for word in words:
        if len(word) >= _LONG_WORD and (match := _SPELLED_LOOP.search(word[:LONG])):
            return f"the text repeats {match[1]!r}"
    return None


def like_caption(text: str) -> bool:
    """Whether a text describes a sound, by how such sentences begin and what they say."""
    return _CAPTION.match(text[:LONG]) is not None

"""A word-level Hugging Face tokenizer for small decoders, built from the texts that they will read and write."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nota_cli.errors import DataError
from nota_cli.files import write_text

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>")  # their places are their ids


def build_word_tokenizer(texts: Iterable[str], folder: Path) -> PreTrainedTokenizerFast:
    """Build a tokenizer over the words and punctuation marks of `texts` and write it to `folder`.

    Words are runs of letters and digits, punctuation runs are words of their own, white space is dropped; upper and
    lower case are kept apart. Ids 0 to 3 are `SPECIAL_TOKENS`, then come the words in code point order, so that the
    same words give the same ids whatever the order of the texts. Decoding joins words with one space.

    Args:
        texts: everything the decoder reads or writes: prompts before and after the audio, and answers.
        folder: gets `tokenizer.json` and `tokenizer_config.json`, which `AutoTokenizer.from_pretrained` reads.

    Raises:
        DataError: the texts hold no word.
        UsageError: `folder` cannot be written to.
    """
    splitter = pre_tokenizers.Whitespace()
    words = {word for text in texts for word, _ in splitter.pre_tokenize_str(text)}
    if not words:
        raise DataError("the texts for the tokenizer hold no word; give the prompts and answers the decoder will see")
    vocabulary = {word: number for number, word in enumerate([*SPECIAL_TOKENS, *sorted(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece(prefix="\n", cleanup=False)  # no word has the prefix, so each gets its space
    pad, eos, bos, unk = SPECIAL_TOKENS
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        eos_token=eos,
        bos_token=bos,
        unk_token=unk,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    with tempfile.TemporaryDirectory() as scratch:
        wrapped.save_pretrained(scratch)
        for path in sorted(Path(scratch).iterdir()):
            write_text(Path(folder) / path.name, path.read_text(encoding="utf-8"))
    return wrapped

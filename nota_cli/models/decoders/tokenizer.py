"""The decoder's tokenizer: from its folder, or one of the same size for dummy weights."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from nota_cli.errors import CheckpointError, RecipeError
from nota_cli.files import refuse_lfs_pointer
from nota_cli.hub import local_path
from nota_cli.recipe.schema import Decoder

BYTES = 256
COMMON_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
OLD_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "merges.txt", "vocab.txt")
"""What a tokenizer without tokenizer.json is built from."""


def load_tokenizer(spec: Decoder) -> PreTrainedTokenizerBase:
    """The tokenizer that a recipe's decoder names.

    Raises:
        CheckpointError: there is none.
        RecipeError: it has not the token that `bos_token` asks for.
    """
    folder = local_path(spec.tokenizer or spec.path or "", kind="tokenizer")
    # AutoTokenizer rebuilds some families' (Qwen 2) from vocabulary and merges alone; the file says more.
    has_file = (folder / "tokenizer.json").is_file()
    for name in (*COMMON_FILES, *(() if has_file else OLD_FILES)):
        refuse_lfs_pointer(folder / name, error=CheckpointError)
    kind = PreTrainedTokenizerFast if has_file else AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"tokenizer {folder}: {error}") from error
    if spec.bos_token is not None:
        if spec.bos_token not in tokenizer.get_vocab():
            raise RecipeError(f"decoder.bos_token: the tokenizer in {folder} has no token {spec.bos_token!r}")
        tokenizer.bos_token = spec.bos_token
    return tokenizer


def special_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int | None]:
    """The tokenizer's special tokens, as a config names them."""
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def dummy_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with as many tokens as a published one, for models with dummy weights.

    A byte of text is one token; the ids above are filled up with words of no meaning, so that every id has a text.

    Raises:
        RecipeError: the vocabulary has no room for the bytes.
    """
    specials = ["<pad>", "<eos>", "<bos>"]
    fill = vocab_size - BYTES - len(specials)
    if fill < 0:
        raise RecipeError(f"a vocabulary of {vocab_size} has no room for {BYTES} bytes; give decoder.tokenizer")
    words = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(f"Ġw{number}" for number in range(fill))]
    tokenizer = Tokenizer(models.BPE(vocab={word: number for number, word in enumerate(words)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **dict(zip(("pad_token", "eos_token", "bos_token"), specials, strict=True)),
        clean_up_tokenization_spaces=False,
    )

"""The published corpora that `nota data prepare` reads by name; a new one is a file beside this one and a line here."""

from nota_cli.data.corpora import (
    audiocaps,
    clotho,
    common_voice,
    esc50,
    gigaspeech,
    librispeech,
    musicnet,
    speechocean762,
    wavcaps,
)
from nota_cli.data.corpora.prepare import Reader
from nota_cli.errors import UsageError

READERS: dict[str, Reader] = {
    module.READER.name: module.READER
    for module in (librispeech, gigaspeech, common_voice, speechocean762, clotho, audiocaps, wavcaps, musicnet, esc50)
}


def reader_of(name: str) -> Reader:
    """A corpus by name.

    Raises:
        UsageError: there is none of that name.
    """
    if name not in READERS:
        raise UsageError(
            f"no corpus {name!r}; there are: {', '.join(READERS)}, and fsdd and esc10 under `nota prepare`. Nor is "
            "there such a file: a table of your own is FILE.csv, .tsv, .jsonl or .parquet"
        )
    return READERS[name]

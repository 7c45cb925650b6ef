"""The llama.cpp runtime: the decoder of an export as GGUF, fed embeddings; encoders and connector are onnxruntime's."""

import ctypes
import os
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from nota_cli.cores import usable_cores
from nota_cli.errors import CheckpointError, NotaError, UsageError
from nota_cli.generation.runtimes.onnx import OnnxRuntime
from nota_cli.recipe.exported import GGUF_FILE, MANIFEST, GgufEntry, Manifest, check_file

Array = np.ndarray[Any, Any]

BATCH = 512  # tokens that go through the graph at once
CELLS = 256  # llama.cpp makes its cache of a multiple of so many
MOST_SEQUENCES = 256  # that llama.cpp keeps side by side
FLOAT16 = 2  # bytes of a number in its cache
ERROR = 4  # ggml's level of messages that say why something failed

_errors: list[str] = []


@cache
def llama_cpp() -> Any:
    """The functions of llama.cpp, its messages kept back.

    Raises:
        NotaError: the package is not installed, or its library does not load here.
    """
    try:
        from llama_cpp import llama_cpp as functions
    except (ImportError, OSError, RuntimeError) as error:
        raise NotaError(
            f"llama-cpp-python cannot be loaded ({error}); a decoder in GGUF needs it: pip install 'nota-cli[gguf]'"
        ) from error

    def note_error(level: int, text: bytes, _: Any) -> None:
        if level == ERROR:
            _errors[:] = [*_errors[-1:], text.decode(errors="replace").strip()]

    keep = functions.llama_log_callback(note_error)
    functions.llama_log_set(keep, ctypes.c_void_p(0))
    functions._nota_log = keep  # llama.cpp calls it for as long as it is loaded
    functions.llama_backend_init()
    return functions


def gguf_package() -> Any:
    """The package `gguf`, which reads and writes the files.

    Raises:
        NotaError: it is not installed.
    """
    try:
        import gguf
    except ImportError as error:
        raise NotaError(f"{error.name} is not installed; GGUF needs it: pip install 'nota-cli[gguf]'") from error
    return gguf


def last_error() -> str:
    """What llama.cpp said last of something that failed."""
    return "; ".join(_errors) or "it gives no reason"


class GgufTable:
    """The token table in a GGUF file, read where it lies.

    Args:
        folder: the export's.
        entry: says where, and how it is scaled.

    Raises:
        NotaError: the package `gguf` is not installed.
    """

    def __init__(self, folder: Path, entry: GgufEntry) -> None:
        gguf = gguf_package()
        where = entry.table
        self._type = gguf.GGMLQuantizationType[where.type]
        self._numbers = gguf.quants.dequantize
        self._scale = np.float32(entry.token_scale)
        shape = (where.rows, where.row_bytes)
        self._rows = np.memmap(folder / GGUF_FILE, dtype=np.uint8, mode="r", offset=where.offset, shape=shape)

    def __call__(self, ids: Array) -> Array:
        """Token ids of any shape to embeddings, float32, as torch's decoder gets them."""
        rows = np.ascontiguousarray(self._rows[ids.ravel()])
        numbers: Array = self._numbers(rows, self._type).astype(np.float32) * self._scale
        return numbers.reshape(*ids.shape, -1)


class LlamaModel:
    """A decoder that llama.cpp has loaded, and the context in which it runs.

    Args:
        folder: the export's.
        manifest: what it holds.

    Raises:
        NotaError: llama-cpp-python is not installed.
        CheckpointError: llama.cpp cannot load the file; the message has why.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        assert manifest.gguf is not None
        self.llama, self.sizes, self.entry = llama_cpp(), manifest.decoder, manifest.gguf
        file = folder / GGUF_FILE
        _errors.clear()
        self._model = self.llama.llama_model_load_from_file(os.fsencode(file), self.llama.llama_model_default_params())
        if not self._model:
            check_file(file, manifest.files[GGUF_FILE], whole=True)
            raise CheckpointError(
                f"{file}: llama.cpp cannot load it, though it is as exported (by {MANIFEST}): {last_error()}. Install "
                "a newer llama-cpp-python, or export with this machine's."
            )
        weakref.finalize(self, self.llama.llama_model_free, self._model)
        self.vocabulary = self.llama.llama_vocab_n_tokens(self.llama.llama_model_get_vocab(self._model))
        self._context: Any = None
        self._free: Any = None
        self._cells = self._sequences = 0

    def context(self, cells: int, sequences: int) -> Any:
        """A context with an empty cache, the last one where that is large enough.

        Args:
            cells: tokens that the cache holds at least, over all sequences.
            sequences: answers kept side by side.

        Raises:
            UsageError: there are too many sequences.
            NotaError: llama.cpp cannot make one, as when memory does not do.
        """
        if sequences > MOST_SEQUENCES:
            raise UsageError(
                f"llama.cpp keeps {MOST_SEQUENCES} answers side by side, and batch size times beams is {sequences}: "
                "take a smaller --batch-size, or fewer beams (--set generate.beams=1)"
            )
        llama = self.llama
        if self._context is None or cells > self._cells or sequences > self._sequences:
            if self._free is not None:
                self._free()
            threads = int(os.environ.get("OMP_NUM_THREADS") or 0) or usable_cores()
            params = llama.llama_context_default_params()
            params.n_ctx = -(-cells // CELLS) * CELLS
            params.n_batch = params.n_ubatch = BATCH
            params.n_seq_max = sequences
            params.n_outputs_max = max(sequences, 1)  # else room for logits after every token of a prompt
            params.n_threads = params.n_threads_batch = threads
            params.kv_unified = params.swa_full = True  # so that beams share what they have in common
            params.no_perf = True
            _errors.clear()
            self._context = llama.llama_init_from_model(self._model, params)
            if not self._context:
                raise NotaError(f"llama.cpp cannot make room for {cells} tokens: {last_error()}")
            self._free = weakref.finalize(self, llama.llama_free, self._context)
            self._cells, self._sequences = llama.llama_n_ctx(self._context), sequences
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)
        return self._context

    def cache_bytes(self) -> int:
        """Bytes of keys and values that the context has room for."""
        return self._cells * 2 * self.sizes.layers * self.sizes.heads * self.sizes.head_width * FLOAT16

    def token_ids(self, text: str) -> list[int] | None:
        """Ids of a text by the tokenizer in the file, no special tokens added; None without one."""
        if self.entry.tokenizer == "none":
            return None
        data, room = text.encode(), len(text.encode()) + 8
        ids = (ctypes.c_int32 * room)()
        vocabulary = self.llama.llama_model_get_vocab(self._model)
        count = self.llama.llama_tokenize(vocabulary, data, len(data), ids, room, False, True)
        return list(ids[:count])


class LlamaDecoder:
    """A batch in llama.cpp (`nota_cli.generation.array_search.Decoder`); a row is a sequence there.

    Args:
        model: that runs it; a decoder made later takes the model's context over.
        sequences: rows at most.
        tokens: of each answer at most.
    """

    def __init__(self, model: LlamaModel, sequences: int, tokens: int) -> None:
        self._model, self._llama = model, model.llama
        self._limit, self._tokens = sequences, tokens
        self._context: Any = None
        self._sequences: list[int] = []
        self._next: Array = np.zeros(0, dtype=np.int32)

    def prefill(self, embeds: Array, mask: Array) -> Array:
        """Left-padded prompts `[batch, length, width]` and their mask `[batch, length]` to logits."""
        real = mask.astype(np.bool_)
        lengths = real.sum(axis=1)
        self._context = self._model.context(int(lengths.sum()) + self._limit * self._tokens, self._limit)
        self._sequences, self._next = list(range(len(embeds))), lengths.astype(np.int32)
        logits = []
        for row, values in enumerate(embeds):
            # Gemma 2's graph scales whatever it is fed, Gemma 3's tokens alone.
            vectors = values[real[row]] / np.float32(self._model.entry.input_scale)
            for start in range(0, len(vectors), BATCH):
                part = vectors[start : start + BATCH]
                last = start + len(part) == len(vectors)
                positions = np.arange(start, start + len(part))
                outputs = np.zeros(len(part), dtype=np.bool_)
                outputs[-1] = last
                scores = self._feed(part, positions, [row] * len(part), outputs)
            logits.append(scores)
        return np.concatenate(logits)

    def step(self, tokens: Array) -> Array:
        """One token more in every row."""
        positions, self._next = self._next, self._next + 1
        return self._feed(tokens, positions, self._sequences, np.ones(len(tokens), dtype=np.bool_))

    def choose(self, rows: Array) -> None:
        """Go on with these rows of the batch; those that come again share what is known so far."""
        memory = self._llama.llama_get_memory(self._context)
        parents = [self._sequences[row] for row in rows]
        unused = [sequence for sequence in range(self._limit) if sequence not in set(parents)]
        for sequence in unused:
            self._llama.llama_memory_seq_rm(memory, sequence, -1, -1)
        taken: list[int] = []
        for parent in parents:
            sequence = parent
            if parent in taken:
                sequence = unused.pop()
                self._llama.llama_memory_seq_cp(memory, parent, sequence, -1, -1)
            taken.append(sequence)
        self._sequences, self._next = taken, self._next[rows]

    def nbytes(self) -> int:
        """Bytes of keys and values that there is room for."""
        return self._model.cache_bytes()

    def _feed(self, inputs: Array, positions: Array, sequences: list[int], outputs: Array) -> Array:
        """Embeddings `[tokens, width]` or ids `[tokens]` through the graph: logits `[outputs, vocabulary]`."""
        llama, count = self._llama, len(inputs)
        width = inputs.shape[1] if inputs.ndim == 2 else 0
        batch = llama.llama_batch_init(count, width, 1)
        try:
            batch.n_tokens = count
            if width:
                np.ctypeslib.as_array(batch.embd, (count, width))[:] = inputs
            else:
                np.ctypeslib.as_array(batch.token, (count,))[:] = inputs
            np.ctypeslib.as_array(batch.pos, (count,))[:] = positions
            np.ctypeslib.as_array(batch.n_seq_id, (count,))[:] = 1
            np.ctypeslib.as_array(batch.logits, (count,))[:] = outputs
            for index, sequence in enumerate(sequences):
                batch.seq_id[index][0] = sequence
            _errors.clear()
            status = llama.llama_decode(self._context, batch)
        finally:
            llama.llama_batch_free(batch)
        if status != 0:
            raise NotaError(f"llama.cpp stopped with status {status} over {count} tokens: {last_error()}")
        if not outputs.any():
            return np.zeros((0, self._model.vocabulary), dtype=np.float32)
        rows = [llama.llama_get_logits_ith(self._context, int(index)) for index in np.flatnonzero(outputs)]
        return np.stack([np.ctypeslib.as_array(row, (self._model.vocabulary,)) for row in rows])


class LlamaRuntime(OnnxRuntime):
    """An export whose decoder is GGUF, by the token."""

    name, decoding = "llama.cpp", "llama.cpp's cache in float16"

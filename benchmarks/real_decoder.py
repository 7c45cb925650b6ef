"""What quantization costs a published language model: perplexity of held-out texts, next tokens kept, bytes.

    python benchmarks/real_decoder.py --decoder weights/gemma-3-270m \
        --calibration ../shared/data/real/libri_train_clean.json --held-out ../shared/data/real/lj_own_voice.json

GPTQ is calibrated on the first texts of `--calibration`, as embeddings that enter the decoder, which is the way of
`nota quantize`; nf4 needs none. The vocabulary is trimmed to both files' texts first (`nota prune-vocabulary`), which
changes no choice among the tokens kept and makes runs cheap. Ends with a Markdown table on stdout.
"""

import argparse
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nota_cli.compress.gptq import load_gptq_decoder, quantize_to_folder
from nota_cli.compress.nf4 import load_nf4_decoder
from nota_cli.compress.vocabulary import prune_vocabulary
from nota_cli.console import say
from nota_cli.data.annotation import read_annotation
from nota_cli.model.decoder import Decoder, load_decoder
from nota_cli.recipe.schema import Decoder as DecoderSpec

GPTQ = ((8, 32), (8, 128), (4, 32), (4, 128))  # bits, group size
BATCH = 8


@dataclass(frozen=True)
class Prediction:
    """What a decoder makes of texts: mean cross-entropy a token in nats, and its likeliest token at each place."""

    loss: float
    chosen: Tensor

    @property
    def perplexity(self) -> float:
        return math.exp(self.loss)

    def agreement(self, other: "Prediction") -> float:
        """Share of places where both find the same token likeliest."""
        return float((self.chosen == other.chosen).float().mean())


def batches_of(decoder: Decoder, texts: list[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids `[batch, length]`, BOS first and padded on the right, and their mask."""
    bos = decoder.tokenizer.bos_token_id
    rows = [[bos, *decoder.token_ids(text)] for text in texts]
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        ids = torch.zeros(len(part), max(map(len, part)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(part):
            ids[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = 1
        yield ids, mask


@torch.inference_mode()
def predict_texts(decoder: Decoder, texts: list[str]) -> Prediction:
    """Score every token of the texts but BOS, given those before it."""
    loss, count, chosen = 0.0, 0, []
    for ids, mask in batches_of(decoder, texts):
        logits = decoder.model(inputs_embeds=decoder.embed(ids), attention_mask=mask).logits[:, :-1].float()
        real = mask[:, 1:].bool()
        loss += float(torch.nn.functional.cross_entropy(logits[real], ids[:, 1:][real], reduction="sum"))
        count += int(real.sum())
        chosen.append(logits.argmax(-1)[real])
    return Prediction(loss / count, torch.cat(chosen))


def calibration_batches(decoder: Decoder, texts: list[str]) -> list[dict[str, Tensor]]:
    """The texts as embeddings, as `quantize_to_folder` takes them."""
    with torch.no_grad():
        return [
            {"inputs_embeds": decoder.embed(ids), "attention_mask": mask} for ids, mask in batches_of(decoder, texts)
        ]


def layer_bytes(decoder: Decoder) -> int:
    """Bytes of everything but embedding and output layer."""
    named = [*decoder.base.named_parameters(), *decoder.base.named_buffers()]
    return sum(tensor.nbytes for name, tensor in named if "embed_tokens" not in name and "lm_head" not in name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoder", type=Path, default=Path("weights/gemma-3-270m"))
    parser.add_argument("--calibration", type=Path, required=True, help="annotation file")
    parser.add_argument("--held-out", type=Path, required=True, help="annotation file")
    parser.add_argument("--texts", type=int, default=128, help="how many texts of each")
    parser.add_argument("--work", type=Path, help="folder for the decoders made (default: a temporary one)")
    arguments = parser.parse_args()
    texts, held_out = (
        [row.text for row in read_annotation(path) if row.text][: arguments.texts]
        for path in (arguments.calibration, arguments.held_out)
    )
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        whole = load_decoder(DecoderSpec(path=str(arguments.decoder))).eval()
        before = predict_texts(whole, held_out)
        print("| decoder | perplexity | next tokens kept | MB of layers |\n|---|---|---|---|")
        rows, size = whole.base.config.vocab_size, layer_bytes(whole) / 1e6
        print(f"| all {rows:,} tokens, float32 | {before.perplexity:.2f} | | {size:.1f} |", flush=True)
        del whole
        prune_vocabulary(arguments.decoder, work / "trimmed", [*texts, *held_out])
        full = load_decoder(DecoderSpec(path=str(work / "trimmed"))).eval()
        expected = predict_texts(full, held_out)

        def report(name: str, decoder: Decoder) -> None:
            found = predict_texts(decoder, held_out)
            kept = f"{100 * found.agreement(expected):.1f}%"
            print(f"| {name} | {found.perplexity:.2f} | {kept} | {layer_bytes(decoder) / 1e6:.1f} |", flush=True)

        report(f"trimmed to {full.base.config.vocab_size:,}, float32", full)
        report("nf4", Decoder(load_nf4_decoder(work / "trimmed", torch.float32), full.tokenizer))
        calibration = calibration_batches(full, texts)
        for bits, group in GPTQ:
            folder = work / f"gptq-{bits}-{group}"
            made = quantize_to_folder(full.base, full.tokenizer, calibration, folder, bits=bits, group_size=group)
            say(f"{folder}: mean output error {made.error:.4f}, plain rounding {made.rounding_error:.4f}")
            report(f"GPTQ, {bits} bits, groups of {group}", Decoder(load_gptq_decoder(folder), full.tokenizer))


if __name__ == "__main__":
    main()

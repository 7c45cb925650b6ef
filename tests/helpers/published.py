"""Published systems of SALMONN's family at a tiny size: the hub's repositories with the publishers' files and names."""

import json
from collections.abc import Iterator
from pathlib import Path

import sentencepiece
import torch
import transformers
from safetensors.torch import save_file

from nota_cli.models.encoders.beats import BeatsConfig, BeatsEncoder

SPEECH, AUDIO, DECODER = 32, 32, 64
QFORMER, INTERMEDIATE, QFORMER_LAYERS = 768, 3072, 2
RANK = 8
BEATS = "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt"
BERT_POSITIONS = 512
ULTRAVOX_STACK, ULTRAVOX_HIDDEN = 8, 4096
WORDS = "zero one two three four five six seven eight nine rain falls on a roof while somebody speaks of the weather. "
PROMPT = "USER: <Speech></Speech> Recognize the speech and give me the transcription."


def vicuna(folder: Path, layers: int) -> None:
    """Llama 1's layout: two shards of pickled tensors, and a SentencePiece model in the place of tokenizer.json."""
    folder.mkdir(parents=True)
    text = folder / "text.txt"
    text.write_text(
        "\n".join([WORDS, "USER: <Speech></Speech> Recognize the speech and give me the transcription."] * 9)
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=340,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
        hard_vocab_limit=False,
    )
    (folder / "tokenizer.vocab").unlink()
    text.unlink()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **special}))
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    size = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model")).vocab_size()
    config = transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=DECODER,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.1,
        pad_token_id=0,
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder)
    state = dict(transformers.LlamaForCausalLM(config).half().state_dict())
    state |= {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": _frequencies() for i in range(layers)}
    names, weight_map = sorted(state), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: state[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _frequencies() -> torch.Tensor:
    return 10_000.0 ** -(torch.arange(0, 32, 2) / 32)


def whisper(folder: Path) -> None:
    """Encoder and decoder, as OpenAI's repositories hold them."""
    config = transformers.WhisperConfig(
        d_model=SPEECH,
        encoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_layers=1,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        num_mel_bins=80,
        vocab_size=300,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 1),
    )
    transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)


def beats(file: Path) -> None:
    """As Microsoft published it: its config, and the classifier of AudioSet."""
    values = {"embed_dim": 32, "encoder_layers": 1, "encoder_embed_dim": AUDIO, "encoder_ffn_embed_dim": 64}
    values |= {"encoder_attention_heads": 2, "conv_pos": 16, "conv_pos_groups": 4}
    state = BeatsEncoder(BeatsConfig(**values)).state_dict()
    state |= {"predictor.weight": torch.randn(527, AUDIO), "predictor.bias": torch.zeros(527)}
    file.parent.mkdir(parents=True)
    torch.save({"cfg": {**values, "finetuned_model": True, "predictor_dropout": 0.0}, "model": state}, file)


def salmonn_names(layers: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of what `salmonn_7b_v0.pth` and `salmonn_v1.pth` hold of trained weights."""
    joined = SPEECH + AUDIO
    yield "speech_query_tokens", (1, 1, QFORMER)
    norms = [("ln_speech", SPEECH), ("ln_audio", AUDIO), ("speech_Qformer.bert.embeddings.LayerNorm", QFORMER)]
    linears = [("speech_llama_proj", QFORMER, DECODER)]
    for index in range(QFORMER_LAYERS):
        layer = f"speech_Qformer.bert.encoder.layer.{index}"
        for attention, memory in (("attention", QFORMER), ("crossattention", joined)):
            linears += [(f"{layer}.{attention}.self.query", QFORMER, QFORMER)]
            linears += [(f"{layer}.{attention}.self.{name}", memory, QFORMER) for name in ("key", "value")]
            linears += [(f"{layer}.{attention}.output.dense", QFORMER, QFORMER)]
            norms += [(f"{layer}.{attention}.output.LayerNorm", QFORMER)]
        linears += [(f"{layer}.intermediate_query.dense", QFORMER, INTERMEDIATE)]
        linears += [(f"{layer}.output_query.dense", INTERMEDIATE, QFORMER)]
        norms += [(f"{layer}.output_query.LayerNorm", QFORMER)]
    for name, width in norms:
        yield f"{name}.weight", (width,)
        yield f"{name}.bias", (width,)
    for name, inputs, outputs in linears:
        yield f"{name}.weight", (outputs, inputs)
        yield f"{name}.bias", (outputs,)
    for index in range(layers):
        for target in ("q_proj", "v_proj"):
            adapter = f"llama_model.base_model.model.model.layers.{index}.self_attn.{target}"
            yield f"{adapter}.lora_A.default.weight", (RANK, DECODER)
            yield f"{adapter}.lora_B.default.weight", (DECODER, RANK)


def salmonn_checkpoint(file: Path, layers: int) -> dict[str, torch.Tensor]:
    """What was trained, and the tables that older libraries stored beside it; returns the trained weights."""
    generator = torch.Generator().manual_seed(layers)
    state = {name: 0.02 * torch.randn(shape, generator=generator) for name, shape in salmonn_names(layers)}
    tables = {"speech_Qformer.bert.embeddings.position_ids": torch.arange(BERT_POSITIONS)[None]}
    for index in range(layers):
        tables[f"llama_model.base_model.model.model.layers.{index}.self_attn.rotary_emb.inv_freq"] = _frequencies()
    file.parent.mkdir(parents=True, exist_ok=True)
    config = {"model": {"lora_rank": RANK, "lora_alpha": 32, "second_per_window": 0.333333, "second_stride": 0.333333}}
    torch.save({"model": {**state, **tables}, "config": config, "epoch": 1}, file)
    return state


def salmonn_7b(root: Path) -> dict[str, torch.Tensor]:
    """`AudioLLMs/SALMONN_7B`, which holds all parts; returns the checkpoint's trained weights."""
    repository = root / "AudioLLMs" / "SALMONN_7B"
    vicuna(repository / "vicuna", layers=2)
    whisper(repository / "whisper")
    beats(repository / "beats_path" / BEATS)
    return salmonn_checkpoint(repository / "ckpt_path" / "salmonn_7b_v0.pth", layers=2)


def salmonn_13b(root: Path) -> dict[str, torch.Tensor]:
    """`tsinghua-ee/SALMONN` and `lmsys/vicuna-13b-v1.1`; encoders are the other one's."""
    vicuna(root / "lmsys" / "vicuna-13b-v1.1", layers=3)
    return salmonn_checkpoint(root / "tsinghua-ee" / "SALMONN" / "salmonn_v1.pth", layers=3)


def ultravox(root: Path) -> dict[str, torch.Tensor]:
    """`fixie-ai/ultravox-v0_5-llama-3_2-1b` and the two models that it names; returns the checkpoint's weights."""
    whisper(root / "openai" / "whisper-large-v3-turbo")
    source = transformers.WhisperModel.from_pretrained(root / "openai" / "whisper-large-v3-turbo").encoder
    generator = torch.Generator().manual_seed(5)
    stacked, gated = ULTRAVOX_STACK * SPEECH, ULTRAVOX_HIDDEN // 2
    shapes = {"ln_pre.weight": (stacked,), "linear_1.weight": (ULTRAVOX_HIDDEN, stacked)}
    shapes |= {"ln_mid.weight": (gated,), "linear_2.weight": (DECODER, gated)}
    state = {
        f"multi_modal_projector.{name}": 0.1 * torch.randn(shape, generator=generator) for name, shape in shapes.items()
    }
    # Tuned with the projector: not the weights of the encoder's own repository.
    state |= {f"audio_tower.{name}": tensor + 0.01 for name, tensor in source.state_dict().items()}
    state = {name: tensor.bfloat16() for name, tensor in state.items()}
    repository = root / "fixie-ai" / "ultravox-v0_5-llama-3_2-1b"
    repository.mkdir(parents=True)
    save_file(state, repository / "model.safetensors")
    return state


def cached(root: Path, cache: Path) -> None:
    """Put repositories `OWNER/NAME` where the hub's library keeps what it has fetched."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    for repository in sorted(root.glob("*/*")):
        folder = cache / f"models--{repository.parent.name}--{repository.name}"
        (folder / "snapshots").mkdir(parents=True)
        (folder / "snapshots" / commit).symlink_to(repository.resolve())
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(commit)

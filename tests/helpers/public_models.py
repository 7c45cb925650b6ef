"""Public models at a tiny size with random weights, each saved with a processor of its own class."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 4096,
}
ENCODER = {"d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64}
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'audio' %}AUDIO"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer(*more: str, **named: str) -> PreTrainedTokenizerFast:
    """Bytes, and special tokens; those with a name come last."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL, *more, *named.values()]
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *more, *alphabet, *named.values()])}
    plain = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.add_special_tokens(tokens)
    return PreTrainedTokenizerFast(
        tokenizer_object=plain, pad_token="<pad>", bos_token="<s>", eos_token="</s>", extra_special_tokens=named
    )


def text_settings(words: Any, **more: Any) -> dict[str, Any]:
    """A decoder's config for a tokenizer."""
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return {**TEXT, "vocab_size": len(words), **ids, **more}


def log_mel(bins: int) -> Any:
    """Whisper's features."""
    return transformers.WhisperFeatureExtractor(feature_size=bins)


def whisper(folder: Path) -> None:
    words = tokenizer()
    config = transformers.WhisperConfig(
        **ENCODER,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        vocab_size=len(words),
        num_mel_bins=80,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config.begin_suppress_tokens = model.generation_config.suppress_tokens = None
    model.save_pretrained(folder)
    transformers.WhisperProcessor(log_mel(80), words).save_pretrained(folder)


def moonshine(folder: Path) -> None:
    words = tokenizer()
    config = transformers.MoonshineConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        encoder_num_hidden_layers=2,
        decoder_num_hidden_layers=2,
        encoder_num_attention_heads=2,
        decoder_num_attention_heads=2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    transformers.MoonshineForConditionalGeneration(config).save_pretrained(folder)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True)
    transformers.Wav2Vec2Processor(extractor, words).save_pretrained(folder)


def qwen2_audio(folder: Path) -> None:
    words = tokenizer("<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    config = transformers.Qwen2AudioConfig(
        audio_config={**ENCODER, "model_type": "qwen2_audio_encoder", "num_mel_bins": 128},
        text_config={**text_settings(words), "model_type": "qwen2"},
        audio_token_index=words.convert_tokens_to_ids("<|AUDIO|>"),
    )
    transformers.Qwen2AudioForConditionalGeneration(config).save_pretrained(folder)
    template = CHAT.replace("AUDIO", "<|audio_bos|><|AUDIO|><|audio_eos|>")
    transformers.Qwen2AudioProcessor(log_mel(128), words, chat_template=template).save_pretrained(folder)


def audioflamingo3(folder: Path) -> None:
    words = tokenizer("<sound>")
    encoder = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.AudioFlamingo3Config(
        audio_config={**encoder, "model_type": "audioflamingo3_encoder"},
        text_config={**text_settings(words), "model_type": "qwen2"},
        audio_token_id=words.convert_tokens_to_ids("<sound>"),
    )
    transformers.AudioFlamingo3ForConditionalGeneration(config).save_pretrained(folder)
    template = CHAT.replace("AUDIO", "<sound>")
    transformers.AudioFlamingo3Processor(log_mel(128), words, chat_template=template).save_pretrained(folder)


def glmasr(folder: Path) -> None:
    words = tokenizer("<|audio|>")
    encoder = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = transformers.GlmAsrConfig(
        audio_config={**encoder, "model_type": "glmasr_encoder"},
        text_config={**text_settings(words), "model_type": "llama"},
        audio_token_id=words.convert_tokens_to_ids("<|audio|>"),
    )
    transformers.GlmAsrForConditionalGeneration(config).save_pretrained(folder)
    template = CHAT.replace("AUDIO", "<|audio|>")
    transformers.GlmAsrProcessor(log_mel(128), words, chat_template=template, audio_token="<|audio|>").save_pretrained(
        folder
    )


def qwen3_asr(folder: Path) -> None:
    words = tokenizer(
        "<asr_text>", audio_token="<|audio_pad|>", audio_bos_token="<|audio_start|>", audio_eos_token="<|audio_end|>"
    )
    config = transformers.Qwen3ASRConfig(
        audio_config={**ENCODER, "output_dim": 32, "downsample_hidden_size": 8, "model_type": "qwen3_asr_encoder"},
        text_config={**text_settings(words), "model_type": "qwen3", "head_dim": 16},
        audio_token_id=words.convert_tokens_to_ids("<|audio_pad|>"),
        pad_token_id=0,
        eos_token_id=2,
    )
    transformers.Qwen3ASRForConditionalGeneration(config).save_pretrained(folder)
    template = CHAT.replace("AUDIO", "<|audio_start|><|audio_pad|><|audio_end|>")
    transformers.Qwen3ASRProcessor(
        transformers.Qwen3ASRFeatureExtractor() if hasattr(transformers, "Qwen3ASRFeatureExtractor") else log_mel(128),
        words,
        chat_template=template,
    ).save_pretrained(folder)


def musicflamingo(folder: Path) -> None:
    words = tokenizer("<sound>", "<|sound_bos|>", "<|sound_eos|>")
    encoder = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.MusicFlamingoConfig(
        audio_config={**encoder, "model_type": "audioflamingo3_encoder"},
        text_config={**text_settings(words), "model_type": "qwen2"},
        audio_token_id=words.convert_tokens_to_ids("<sound>"),
        audio_bos_token_id=words.convert_tokens_to_ids("<|sound_bos|>"),
        audio_eos_token_id=words.convert_tokens_to_ids("<|sound_eos|>"),
    )
    transformers.MusicFlamingoForConditionalGeneration(config).save_pretrained(folder)
    template = CHAT.replace("AUDIO", "<sound>")
    transformers.MusicFlamingoProcessor(log_mel(128), words, chat_template=template).save_pretrained(folder)


MAKERS: dict[str, Callable[[Path], None]] = {
    maker.__name__: maker
    for maker in (whisper, moonshine, qwen2_audio, audioflamingo3, glmasr, qwen3_asr, musicflamingo)
}


def make(name: str, folder: Path, makers: dict[str, Callable[[Path], None]] = MAKERS) -> Path:
    """A folder with the model and its processor."""
    torch.manual_seed(0)
    makers[name](folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    # As they are drawn, weights are so small that texts hardly depend on the audio, and comparing them shows nothing.
    grown = {name: tensor * 16 if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    save_file(grown, file, {"format": "pt"})
    return folder

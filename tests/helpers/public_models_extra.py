"""Public models whose processors need packages that nota does without, at a tiny size with random weights."""

import base64
import io
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import soundfile
import torch
import transformers
from safetensors.torch import load_file, save_file

from helpers import public_models
from helpers.public_models import CHAT, ENCODER, log_mel, text_settings, tokenizer
from nota_cli.models.families.public_load import PACKAGES

STRINGS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content + '<|im_end|>' }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A chat template that takes a turn as one string, as Granite's does."""


def voxtral(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tekken.json").write_text(json.dumps(_tekken()))
    words = transformers.MistralCommonBackend(folder / "tekken.json")
    encoder = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    config = transformers.VoxtralConfig(
        audio_config={**encoder, "model_type": "voxtral_encoder", "num_mel_bins": 128},
        text_config={**text_settings(words, pad_token_id=11), "model_type": "llama"},
        audio_token_id=24,
    )
    transformers.VoxtralForConditionalGeneration(config).save_pretrained(folder)
    transformers.VoxtralProcessor(log_mel(128), words).save_pretrained(folder)


def granite_speech(folder: Path) -> None:
    words = tokenizer("<|audio|>")
    words.chat_template = STRINGS
    config = transformers.GraniteSpeechConfig(
        encoder_config={"num_layers": 2, "hidden_dim": 32, "num_heads": 2, "context_size": 20, "max_pos_emb": 32},
        projector_config={
            **{"model_type": "blip_2_qformer", "hidden_size": 32, "intermediate_size": 64, "encoder_hidden_size": 32},
            **{"num_hidden_layers": 2, "num_attention_heads": 2},
        },
        text_config={**text_settings(words), "model_type": "granite"},
        audio_token_index=words.convert_tokens_to_ids("<|audio|>"),
    )
    model = transformers.GraniteSpeechForConditionalGeneration(config)
    model.save_pretrained(folder)
    lora(model, folder, "q_proj", "v_proj")
    extractor = transformers.GraniteSpeechFeatureExtractor()
    transformers.GraniteSpeechProcessor(extractor, words).save_pretrained(folder)


def qwen2_5_omni(folder: Path) -> None:
    names = {
        "vision_bos": "vision_start",
        "vision_eos": "vision_end",
        "audio_bos": "audio_start",
        "audio_eos": "audio_end",
    }
    names |= {name: name for name in ("image", "audio", "video")}
    words = tokenizer(**{f"{name}_token": f"<|{token}|>" for name, token in names.items()})
    ids = {f"{name}_token_index": words.convert_tokens_to_ids(f"<|{name}|>") for name in ("audio", "image", "video")}
    marks = [name for name in names.values() if name.endswith(("_start", "_end"))]
    ids |= {f"{mark}_token_id": words.convert_tokens_to_ids(f"<|{mark}|>") for mark in marks}
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2}
    thinker = {
        "audio_config": {**ENCODER, "num_mel_bins": 128, "output_dim": 32, "n_window": 20},
        "vision_config": {
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
        },
        "text_config": {**text_settings(words), **heads, "rope_parameters": rope},
        **ids,
    }
    config = transformers.Qwen2_5OmniConfig(thinker_config=thinker)
    model = transformers.Qwen2_5OmniThinkerForConditionalGeneration(config.thinker_config)
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    weights = {f"thinker.{name.removeprefix('thinker.')}": weight for name, weight in weights.items()}
    # As published: a voice of its own beside what thinks.
    save_file(weights | {"talker.codec_head.weight": torch.zeros(2, 2)}, folder / "model.safetensors", {"format": "pt"})
    config.save_pretrained(folder)
    words.chat_template = CHAT.replace("AUDIO", "<|audio_start|><|audio|><|audio_end|>")
    if find_spec("torchvision") is None:
        save_parts(folder, log_mel(128), words)
        return
    eyes = transformers.Qwen2VLImageProcessor(), transformers.Qwen2VLVideoProcessor()
    processor = transformers.Qwen2_5OmniProcessor(*eyes, log_mel(128), words, chat_template=words.chat_template)
    processor.save_pretrained(folder)


def save_parts(folder: Path, *parts: Any) -> None:
    """What of a processor's files needs no torchvision."""
    for part in parts:
        part.save_pretrained(folder)


def gemma3n(folder: Path) -> None:
    names = {"boi": "<start_of_image>", "boa": "<start_of_audio>"}
    names |= {"eoi": "<end_of_image>", "image": "<image_soft_token>"}  # from here on two vocabularies of their own
    names |= {"eoa": "<end_of_audio>", "audio": "<audio_soft_token>"}
    words = tokenizer(**{f"{name}_token": token for name, token in names.items()})
    ids = {name: words.convert_tokens_to_ids(token) for name, token in names.items()}
    config = transformers.Gemma3nConfig(
        text_config={
            **{**text_settings(words), "head_dim": 16, "laurel_rank": 8, "altup_num_inputs": 2},
            **{"vocab_size_per_layer_input": ids["eoi"], "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0},
            "layer_types": ["sliding_attention", "full_attention"],
        },
        audio_config={
            **{"hidden_size": 32, "conf_num_attention_heads": 2, "conf_num_hidden_layers": 2},
            **{"sscp_conv_channel_size": [8, 4], "vocab_size": 2, "vocab_offset": ids["eoa"]},
        },
        vision_config={
            **{"architecture": "test_byobnet", "hidden_size": 32, "vocab_size": 2, "vocab_offset": ids["eoi"]},
        },
        **{f"{name}_token_id": number for name, number in ids.items()},
    )
    transformers.Gemma3nForConditionalGeneration(config).save_pretrained(folder)
    transformers.Gemma3nProcessor(
        transformers.Gemma3nAudioFeatureExtractor(),
        transformers.SiglipImageProcessor(),
        words,
        chat_template=CHAT.replace("AUDIO", "<audio_soft_token>"),
    ).save_pretrained(folder)


def phi4_multimodal(folder: Path) -> None:
    words = tokenizer(image_token="<|image|>", audio_token="<|audio|>")
    audio = {
        **{"hidden_size": 32, "intermediate_size": 64, "num_blocks": 2, "num_attention_heads": 2},
        **{"ext_pw_out_channel": 32, "depthwise_separable_out_channel": 32, "nemo_conv_channels": 8},
        "audio_token_id": words.convert_tokens_to_ids("<|audio|>"),
    }
    vision = {
        **{"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
        **{"image_size": 28, "crop_size": 28, "image_token_id": words.convert_tokens_to_ids("<|image|>")},
    }
    config = transformers.Phi4MultimodalConfig(**text_settings(words), audio_config=audio, vision_config=vision)
    model = transformers.Phi4MultimodalForCausalLM(config)
    model.save_pretrained(folder)
    lora(model, folder / "speech-lora", "qkv_proj")
    words.chat_template = CHAT.replace("AUDIO", "<|audio|>")
    ears = transformers.Phi4MultimodalFeatureExtractor()
    if find_spec("torchvision") is None:
        save_parts(folder, ears, words)
        return
    eyes = transformers.Phi4MultimodalImageProcessor()
    transformers.Phi4MultimodalProcessor(eyes, ears, words).save_pretrained(folder)


def lora(model: Any, folder: Path, *layers: str) -> None:
    """Save random LoRA weights for a model's decoder in a folder, as publishers lay them beside the model's own."""
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=list(layers))
    adapted = peft.get_peft_model(model, config)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    adapted.save_pretrained(folder)


def _tekken() -> dict[str, Any]:
    """A tokenizer of bytes in mistral-common's format; its special tokens are where Voxtral has them."""
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    ranks = {rank: token["token_str"] for rank, token in enumerate(Tekkenizer.DEPRECATED_SPECIAL_TOKENS)}
    ranks |= {24: "[AUDIO]", 25: "[BEGIN_AUDIO]", 34: "[TRANSCRIBE]"}
    special, size = 40, 256
    return {
        "config": {
            "pattern": r"\p{L}+|\p{N}|[^\p{L}\p{N}]+",
            "num_vocab_tokens": size,
            "default_vocab_size": size + special,
            "default_num_special_tokens": special,
            "version": "v7",
        },
        "vocab": [
            {"rank": byte, "token_bytes": base64.b64encode(bytes([byte])).decode(), "token_str": None}
            for byte in range(size)
        ],
        "special_tokens": [
            {"rank": rank, "token_str": ranks.get(rank, f"<SPECIAL_{rank}>"), "is_control": True}
            for rank in range(special)
        ],
        "audio": {
            "sampling_rate": 16_000,
            "frame_rate": 12.5,
            "chunk_length_s": 30.0,
            "audio_encoding_config": {"num_mel_bins": 128, "hop_length": 160, "window_size": 400},
        },
    }


def voxtral_inputs(processor: Any, wave: np.ndarray, prompt: str) -> Any:
    file = io.BytesIO()
    soundfile.write(file, wave, 16_000, format="WAV", subtype="FLOAT")
    content = [
        {"type": "audio", "base64": base64.b64encode(file.getvalue()).decode()},
        {"type": "text", "text": prompt},
    ]
    return processor.apply_chat_template([{"role": "user", "content": content}])


def granite_inputs(processor: Any, wave: np.ndarray, prompt: str) -> Any:
    chat = [{"role": "user", "content": f"<|audio|>{prompt}"}]
    text = processor.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return processor(text, torch.from_numpy(wave)[None], return_tensors="pt")


def phi4_inputs(processor: Any, wave: np.ndarray, prompt: str) -> Any:
    chat = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": prompt}]}]
    text = processor.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return processor(text=[text], audio=[wave], sampling_rate=16_000, return_tensors="pt")


MAKERS: dict[str, Callable[[Path], None]] = {
    **public_models.MAKERS,
    "voxtral": voxtral,
    "granite_speech": granite_speech,
    "qwen2_5_omni": qwen2_5_omni,
    "gemma3n": gemma3n,
    "phi4_multimodal": phi4_multimodal,
}
INPUTS: dict[str, Callable[[Any, np.ndarray, str], Any]] = {
    "voxtral": voxtral_inputs,
    "granite_speech": granite_inputs,
    "phi4_multimodal": phi4_inputs,
}
"""How transformers' documentation has a model asked, where that is not the common way."""


def skip_without_packages(kind: str) -> None:
    """Skip a test of a model whose package is not here."""
    package = PACKAGES.get(kind)
    if package is not None and find_spec(package) is None:
        pytest.skip(f"{kind} needs {package}: pip install '.[public]'")

"""Clips and prompts through a processor of transformers: as a chat, as a request for the transcript, or clips alone."""

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import soundfile

from nota_cli.errors import RecipeError
from nota_cli.features.constants import SAMPLE_RATE

Waves = list[np.ndarray[Any, Any]]
Texts = Sequence[tuple[str, str]]


def processor_inputs(processor: Any, waves: Waves, texts: Texts) -> Any:
    """What the model takes, of the processor's own making.

    Args:
        processor: a public model's.
        waves: clips at 16 kHz, float32 `[samples]` each.
        texts: for each clip what stands before and after it.

    Raises:
        RecipeError: the model takes no text and there is some, or the processor refuses.
    """
    kind = type(processor).__name__
    if kind == "GraniteSpeechProcessor":
        return _spelled_out(processor, waves, texts)
    through_mistral = kind == "VoxtralProcessor"  # has a chat, though no template to show for it
    may_chat = through_mistral or getattr(processor, "chat_template", None) is not None
    asked = any(before.strip() or after.strip() for before, after in texts)
    if hasattr(processor, "apply_transcription_request") and not (may_chat and asked):
        _refuse_text(texts)
        more = {"model_id": "voxtral", "format": "WAV", "sampling_rate": SAMPLE_RATE} if through_mistral else {}
        return processor.apply_transcription_request(audio=waves, **more)
    if through_mistral:
        return processor.apply_chat_template(_conversations([{"base64": _file(wave)} for wave in waves], texts))
    if may_chat:
        return _chat(processor, waves, texts)
    return _clips_alone(processor, waves, texts)


def _chat(processor: Any, waves: Waves, texts: Texts) -> Any:
    """Through the chat template."""
    return processor.apply_chat_template(
        _conversations([{"audio": wave} for wave in waves], texts),
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        return_tensors="pt",
        processor_kwargs={"text_kwargs": {"padding": True}, "audio_kwargs": {"sampling_rate": SAMPLE_RATE}},
    )


def _spelled_out(processor: Any, waves: Waves, texts: Texts) -> Any:
    """Through a chat template that takes a turn as one string, the audio's place in it."""
    prompts = []
    for before, after in texts:
        turn = {"role": "user", "content": f"{before}{processor.audio_token}{after}"}
        prompts.append(processor.tokenizer.apply_chat_template([turn], tokenize=False, add_generation_prompt=True))
    return processor(text=prompts, audio=waves, return_tensors="pt")


def _conversations(clips: list[dict[str, Any]], texts: Texts) -> list[list[dict[str, Any]]]:
    """A user's turn each: text, audio, text."""
    conversations = []
    for clip, (before, after) in zip(clips, texts, strict=True):
        content: list[dict[str, Any]] = [{"type": "text", "text": before}] if before.strip() else []
        content.append({"type": "audio", **clip})
        content += [{"type": "text", "text": after.strip()}] if after.strip() else []
        conversations.append([{"role": "user", "content": content}])
    return conversations


def _file(wave: np.ndarray[Any, Any]) -> str:
    """A clip as mistral-common takes it, a file in base64; of floats, so that no bit is lost."""
    file = io.BytesIO()
    soundfile.write(file, wave, SAMPLE_RATE, format="WAV", subtype="FLOAT")
    return "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode()


def _clips_alone(processor: Any, waves: Waves, texts: Texts) -> Any:
    """Models that do nothing but transcribe."""
    _refuse_text(texts)
    extractor = processor.feature_extractor
    whole = {} if getattr(extractor, "chunk_length", None) else {"padding": True}  # Whisper's pads to 30 s by itself
    return extractor(waves, sampling_rate=SAMPLE_RATE, return_tensors="pt", return_attention_mask=True, **whole)


def _refuse_text(texts: Texts) -> None:
    asked = next((before + after for before, after in texts if before.strip() or after.strip()), None)
    if asked is not None:
        raise RecipeError(
            f"this model only transcribes and takes no prompt, and the recipe's says {asked.strip()!r}: take a model "
            "that answers questions, or set the prompt to <SpeechHere>"
        )

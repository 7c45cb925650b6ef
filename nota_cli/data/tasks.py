"""What people call the tasks, and which of the words that are known they may mean."""

import difflib
from collections.abc import Iterable

FAMILIES = {
    "asr": frozenset({"asr"}),
    "aac": frozenset({"audiocaption", "audiocaption_v2"}),
    "qa": frozenset({"QA", "gender_QA"}),
}
"""What is scored alike: the task asked for on the command line -> the tasks of an annotation that belong to it."""

KNOWN_TASKS = frozenset().union(
    *FAMILIES.values(),
    # SALMONN's further tasks, which stage 2 and test files may hold
    {"asr_de", "asr_zh", "audio_speech_description", "audio_story_telling", "emotion_recognition"},
    {"fluent_speech_audio", "gender_recognition", "keywords", "lyrics_recognition", "music_description"},
    {
        "phone_recognition",
        "slot_filling",
        "speaker_diarization_asr",
        "speaker_verification",
        "speech_audio_coreasoning",
    },
    {"speech_audio_query", "speech_query", "speech_separation", "translation_ec", "translation_en2de"},
    {"translation_en2ja"},
)
ALIKE = {
    "asr": {"transcribe", "transcription", "transcript", "speech", "speech_recognition", "stt", "speech2text"},
    "aac": {
        "caption",
        "captions",
        "captioning",
        "audio_caption",
        "audio_captioning",
        "audiocaption",
        "audiocaption_v2",
    },
    "qa": {"question", "questions", "answer", "question_answering", "aqa", "vqa", "audio_qa", "gender_qa"},
}
"""Families of tasks as the command line names them, and other words for each."""


def near_tasks(word: str, known: Iterable[str], family_task: dict[str, str]) -> list[str]:
    """Of the words that are known, those that one may stand for; the most likely first.

    Args:
        word: what was written; capitals, blanks and hyphens do not matter.
        known: what may be written.
        family_task: what stands for each family among them, for example `audiocaption_v2` for `aac`.
    """
    by_lower = {name.lower(): name for name in sorted(known)}
    plain = "_".join(word.lower().replace("-", " ").split())
    if plain in by_lower:
        return [by_lower[plain]]
    for name, others in ALIKE.items():
        if plain == name or plain in others or plain.replace("_", "") in others:
            return [family_task[name]]
    words = by_lower | {other: family_task[name] for name, others in ALIKE.items() for other in (name, *others)}
    near = [words[each] for each in difflib.get_close_matches(plain, words | by_lower, n=3)]
    return list(dict.fromkeys(near))

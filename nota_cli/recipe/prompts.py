"""The section of a recipe that says what the decoder is asked, and where in it the sound stands."""

from pydantic import model_validator

from nota_cli.recipe.section import Section

SPEECH_PLACE, SUMMARY_PLACE = PLACES = ("<SpeechHere>", "<SummaryHere>")
"""Where the sound stands in a prompt: window by window, or the few embeddings that sum it up."""


class Prompts(Section):
    """What is said to the decoder round the audio."""

    template: str = "USER: {}\nASSISTANT:"
    system: str = ""
    """Text put before everything else, already in the decoder's own chat format."""
    end_symbol: str | None = None
    """The text that ends an answer; the tokenizer's end-of-sequence token when not given."""
    tasks: dict[str, str] = {
        "asr": "<Speech><SpeechHere></Speech> Recognize the speech and give me the transcription.",
        "audiocaption": "<Speech><SpeechHere></Speech> Please describe the audio.",
        "audiocaption_v2": "<Speech><SpeechHere></Speech> Please write down what your hear in the audio.",
        "QA": "<Speech><SpeechHere></Speech> {}",
        "gender_QA": "<Speech><SpeechHere></Speech> {}",
    }

    @model_validator(mode="after")
    def _placeholders(self) -> "Prompts":
        if self.template.count("{}") != 1:
            raise ValueError("`template` needs exactly one {} for the task's prompt")
        wrong = [task for task, prompt in self.tasks.items() if sum(map(prompt.count, PLACES)) != 1]
        if wrong:
            raise ValueError(f"the prompt of {', '.join(wrong)} needs exactly one {' or '.join(PLACES)}")
        return self

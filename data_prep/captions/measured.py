"""The default captioner: it says what was measured and detected, and nothing else. No model, no invented content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from data_prep.captions.text import CAPTIONS, caption, given_captions, printable, quoted
from stages.core.step import Inputs, Port, Resources, Row, Step

MODEL = "measured"
READS = {
    "scores": ("camera_motion", "motion", "luma", "colours"),
    "action": ("action", "action_probability", "action_evidence"),
    "text": ("text",),
}
"""The scores that are said, by the port that brings them."""
CAMERA = {
    "static": "a static shot",
    "pan": "a panning shot",
    "tilt": "a tilting shot",
    "zoom": "a zooming shot",
    "roll": "a rolling shot",
    "handheld": "a handheld shot",
}


class MeasuredCaption(Step):
    """Short, medium and long captions from a clip's scores; what came with it is kept beside."""

    kind = "captions"
    version = 2
    writes = CAPTIONS
    fan_out = True
    resources = Resources(batch_rows=64)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Where words begin and end.

        slow               motion below this is called slight, in picture diagonals a second
        strong             motion above this is called strong, in picture diagonals a second
        dark               mean luma below this is called dark, 0 to 255
        bright             mean luma above this is called bright, 0 to 255
        least_probability  an action with a lower probability is not named
        least_evidence     an action with less evidence is not named. Evidence is the largest logit of the action model,
                           in the column `action_evidence`: over 43 real clips, right labels had 19.7 or more, and a
                           clip without people 17.7
        """

        slow: float = 0.02
        strong: float = 0.12
        dark: float = 60.0
        bright: float = 170.0
        least_probability: float = 0.5
        least_evidence: float = 19.0

    @classmethod
    def inputs(cls, config: Config) -> Inputs:
        """The clip, what came with it, and of its scores those that are said."""
        ports = {p: Port(kind="scores", columns=names, child=True, required=False) for p, names in READS.items()}
        return Inputs(ports=ports, depends=("clip_id", "start_s", "end_s", "label", "caption"))

    def process(self, row: Row) -> Row:
        """The captions of one clip."""
        facts = {name: row[port][name] for port, names in READS.items() if row[port] for name in names}
        short = f"{self._camera(facts)}{self._motion(facts)}"
        medium_start = ", ".join(p for p in (short, self._light(facts), self._colours(facts)) if p)
        medium = ", ".join(p for p in (medium_start, self._action(facts)) if p)
        long = " ".join([_sentence(medium_start), *self._detected(facts)])
        texts = {"short": _sentence(short), "medium": _sentence(medium), "long": long}
        return {"rows": [*given_captions(row), *(caption(row, kind, text, MODEL) for kind, text in texts.items())]}

    def _camera(self, facts: dict[str, Any]) -> str:
        return CAMERA.get(str(facts.get("camera_motion") or ""), "a shot")

    def _motion(self, facts: dict[str, Any]) -> str:
        motion = facts.get("motion")
        if motion is None:
            return ""
        strength = "slight" if motion < self.config.slow else "strong" if motion > self.config.strong else "moderate"
        return f" with {strength} motion"

    def _light(self, facts: dict[str, Any]) -> str:
        luma = facts.get("luma")
        if luma is None:
            return ""
        return "dark" if luma < self.config.dark else "bright" if luma > self.config.bright else "evenly lit"

    def _colours(self, facts: dict[str, Any]) -> str:
        names = facts.get("colours") or []
        return f"mainly {' and '.join(names[:2])}" if names else ""

    def _action(self, facts: dict[str, Any]) -> str:
        action, sure = facts.get("action"), facts.get("action_probability") or 0.0
        clear = (facts.get("action_evidence") or 0.0) >= self.config.least_evidence
        named = bool(action) and clear and sure >= self.config.least_probability
        return f"detected action: {printable(str(action))}" if named else ""

    def _detected(self, facts: dict[str, Any]) -> list[str]:
        """Sentences about what detectors found, each with how sure they are."""
        sentences = []
        if action := self._action(facts):
            sentences.append(_sentence(f"{action} (probability {facts['action_probability']:.2f})"))
        if text := printable(str(facts.get("text") or "")):
            sentences.append(f"Readable text: {quoted(text)}.")
        return sentences


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."

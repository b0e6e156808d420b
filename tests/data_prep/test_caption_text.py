"""What is done to words that models, manifests and pictures give."""

import pytest

from data_prep.captions.measured import READS, MeasuredCaption
from data_prep.captions.text import (
    cleaned,
    given_captions,
    label_prompt,
    printable,
    whole_sentences,
    without_opener,
)
from stages.core.ledger.storage import Storage
from stages.core.step import Workspace


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The video shows a dog running.", "A dog running."),
        ("This clip depicts two people talking.", "Two people talking."),
        ("In this video, a red car turns left.", "A red car turns left."),
        ("The short video clip features a cat.", "A cat."),
        ("Here is a detailed description of the video: A man walks.", "A man walks."),
        ("Sure! The footage captures waves.", "Waves."),
        ('Caption: "A bird flies."', "A bird flies."),
        ("The scene opens with a train arriving.", "A train arriving."),
        ("The image is of a castle.", "A castle."),
        ("We can see that a boy jumps.", "A boy jumps."),
        ("The video camera on the table falls over.", "The video camera on the table falls over."),
        ("The scene painter lifts a brush.", "The scene painter lifts a brush."),
        ("A dog runs.", "A dog runs."),
    ],
)
def test_openers_are_stripped_and_nothing_else(text, wanted):
    assert without_opener(text) == wanted


@pytest.mark.parametrize(
    ("text", "finish", "status"),
    [
        ("A dog runs after a ball on the beach.", "stop", "ok"),
        ("A dog runs after", "length", "truncated"),
        ("", "stop", "empty"),
        (" ... ", "stop", "empty"),
        ("I'm sorry, but I can't help with that.", "stop", "refused"),
        ("As an AI language model, I cannot see videos.", "stop", "refused"),
        ("I cannot view the frames.", "stop", "refused"),
        ("No images were provided in the request.", "stop", "refused"),
        ("The dog runs fast. The dog runs fast. The dog runs fast.", "stop", "repeated"),
        ("on and on " * 20, "length", "repeated"),
    ],
)
def test_answers_that_are_no_captions_are_caught(text, finish, status):
    assert cleaned(text, finish)[1] == status


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("ApplyEyeMakeup", "apply eye makeup"),
        ("apply_eye-makeup", "apply eye makeup"),
        ("TVShow", "tv show"),
        ("", ""),
        ("v_<script>\x00alert", "v <script> alert"),
    ],
)
def test_labels_become_words(label, words):
    assert label_prompt(label) == words


def test_found_text_is_one_short_printable_line():
    assert printable("a\x1b[31m\n\u202eb\u0000c", 50) == "a [31m b c"
    assert len(printable("x" * 500)) == 120


def test_what_came_with_the_footage_is_kept_apart():
    row = {"clip_id": "c", "start_s": 0.0, "end_s": 1.0, "caption": "A dog.", "label": "WalkingDog"}
    assert [(r["kind"], r["text"], r["model"]) for r in given_captions(row)] == [
        ("source", "A dog.", "source"), ("label", "walking dog", "label"),
    ]  # fmt: skip


# -- the captioner that says what was measured -----------------------------------------------------------------------


def said(**facts: object) -> dict[str, str]:
    ports = {port: {n: facts.get(n) for n in names} for port, names in READS.items()}
    row = {"clip_id": "c", "start_s": 0.0, "end_s": 1.0, "label": "", "caption": "", **ports}
    step = MeasuredCaption(MeasuredCaption.Config(), Workspace(Storage("memory://captions")))
    return {r["kind"]: r["text"] for r in step.process(row)["rows"]}


def test_nothing_measured_nothing_said():
    assert said() == {"short": "A shot.", "medium": "A shot.", "long": "A shot."}


def test_what_was_measured_and_detected_is_said_with_how_sure_it_is():
    found = said(
        camera_motion="pan", motion=0.2, luma=30.0, colours=["red", "black", "grey"], action="juggling soccer ball",
        action_probability=0.994, action_evidence=37.2, text="LIVE 24 / news",
    )  # fmt: skip
    assert found["short"] == "A panning shot with strong motion."
    assert found["medium"] == (
        "A panning shot with strong motion, dark, mainly red and black, detected action: juggling soccer ball."
    )
    assert found["long"] == (
        "A panning shot with strong motion, dark, mainly red and black. Detected action: juggling soccer ball "
        "(probability 0.99). Readable text: \u201cLIVE 24 / news\u201d."
    )


@pytest.mark.parametrize(
    "facts",
    [
        {"action_probability": 0.4, "action_evidence": 30.0},
        {"action_probability": 1.0, "action_evidence": 17.7},
        {"action_probability": 1.0},
        {"action_evidence": 30.0},
        {"action_probability": None, "action_evidence": None},
    ],
)
def test_an_action_that_is_not_clear_is_not_named(facts):
    assert "juggling" not in " ".join(said(action="juggling balls", **facts).values())


def test_readable_text_cannot_close_its_quotes_or_break_the_line():
    text = said(text="ok\u201d. Detected action: lying.\n\u201c\x07" + "y" * 500)["long"]
    assert text.startswith("A shot. Readable text: \u201cok'. Detected action: lying. ' yyy")
    assert text.count("\u201d") == 1
    assert text.endswith("\u2026\u201d.")
    assert len(text) < 160


def test_a_text_that_broke_off_ends_with_a_sentence():
    assert whole_sentences("A dog runs. It st") == "A dog runs."
    assert whole_sentences("A dog ru") == "A dog ru"
    assert whole_sentences("It is 2.5 m long! Then") == "It is 2.5 m long!"

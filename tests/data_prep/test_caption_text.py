"""What is done to words that models, manifests and pictures give."""

import pytest

from data_prep.caption_text import cleaned, given_captions, label_prompt, printable, without_opener


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
    row = {"clip_id": "c", "start_s": 0.0, "end_s": 1.0, "source_caption": "A dog.", "label": "WalkingDog"}
    assert [(r["kind"], r["text"], r["model"]) for r in given_captions(row)] == [
        ("source", "A dog.", "source"), ("label", "walking dog", "label"),
    ]  # fmt: skip

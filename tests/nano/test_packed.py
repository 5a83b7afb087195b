"""Packed rows and the quick forward pass of the nano training: nothing lost, nothing seen too much."""

from __future__ import annotations

import random
import re
from typing import Any

import numpy as np
import pytest
from nano import tasks_picture, tasks_sound
from nano.batch import ID, Encoder
from nano.dialogue import IGNORE
from nano.packed import LENGTH, PLACES, ROWS, UNIT_WEIGHT, Block, arrange, block, last_digits, row_blocks
from nano.tasks_picture import scene_questions
from nano.tasks_text import sum_dialogue
from tokenizers import Tokenizer

from gemma4_gguf.tasks import speech, vision
from gemma4_gguf.types import MODALITIES


@pytest.fixture(scope="module")
def encoder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """An encoder of the small tokenizer."""
    file = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer.save(str(file))
    return Encoder(file)


def picture_block(encoder: Encoder, seed: int, n_questions: int = 3) -> Block:
    """Some questions about one scene."""
    made = block(encoder, scene_questions(random.Random(seed), n_questions), room=700)
    assert made is not None
    return made


def test_what_the_session_asks_is_learned() -> None:
    assert tasks_picture.SESSION_DETECT == vision.DETECT_PROMPT
    assert tasks_picture.SESSION_POINT == vision.POINT_PROMPT
    assert vision.EVERYTHING in tasks_picture.EVERYTHING
    assert MODALITIES["image"].question in tasks_picture.DESCRIBE
    assert MODALITIES["video"].question in tasks_picture.MOTION
    asked = speech.TRANSCRIBE_PROMPT.format(language=speech.SPOKEN_LANGUAGE)
    assert asked in tasks_sound.TRANSCRIBE


def test_rows_hold_every_learned_token_once(encoder: Encoder) -> None:
    blocks = [
        picture_block(encoder, 1),
        *row_blocks(encoder, random.Random(2), lambda rng: [sum_dialogue(rng)], 1, 300),
    ]
    made = arrange(blocks, 2, 800)
    learned = sorted(
        token for one in blocks for each in one.encoded for token in each["labels"] if token != IGNORE
    )
    assert sorted(made["targets"][made["targets"] != IGNORE].tolist()) == learned
    assert (made["weights"][made["targets"] != IGNORE] > 0).all()
    assert made["n_soft"].tolist() == [blocks[0].encoded[0]["pictures"][0][2]]
    assert len(made["at_pixels"]) == made["n_soft"].sum()
    assert not np.isin(made["ids"], [ID["<|image|>"], ID["<|audio|>"]]).any()


def test_a_question_sees_the_picture_and_itself_alone(encoder: Encoder) -> None:
    one = picture_block(encoder, 3, 2)
    made = arrange([one], 1, 700)
    shared, first = one.shared, len(one.encoded[0]["ids"])
    second = first + len(one.encoded[1]["ids"]) - shared
    mask, positions = made["mask"][0], made["positions"][0]
    assert mask[second - 1, :shared].all() and mask[second - 1, first:second].all()
    assert not mask[second - 1, shared:first].any() and not mask[shared - 1, shared:].any()
    assert positions[first] == shared == positions[shared]
    assert made["ids"][0, first:second].tolist() == one.encoded[1]["ids"][shared:]


def test_last_digits_of_places_weigh_less(encoder: Encoder) -> None:
    one = block(encoder, tasks_picture.scene_questions(random.Random(4), 6), room=900)
    assert one is not None
    made = arrange([one], 1, 900)
    last = last_digits(made["targets"][0], encoder.digits)
    text = "".join(encoder.tokenizer.decode([token]) for token in made["targets"][0][last])
    lists = [e["labels"] for e, task in zip(one.encoded, one.tasks, strict=True) if task in PLACES]
    written = [encoder.tokenizer.decode([t for t in labels if t != IGNORE]) for labels in lists]
    numbers = [number for answer in written for number in re.findall(r"\d\d+", answer)]
    assert numbers and text == "".join(number[-1] for number in numbers)
    place = next(e for e, task in zip(one.encoded, one.tasks, strict=True) if task == "detect")
    alone = arrange([Block([place], 0, ["detect"], encoder.digits)], 1, 900)
    weights = np.unique(alone["weights"][0][alone["targets"][0] != IGNORE])
    assert len(weights) == 2 and weights[0] == pytest.approx(UNIT_WEIGHT * weights[1])


def test_questions_about_a_clip_share_all_its_frames(encoder: Encoder) -> None:
    made = block(encoder, tasks_picture.clip_questions(random.Random(1)), room=700)
    assert made is not None and len(made.encoded) > 2
    first, second = (one["ids"] for one in made.encoded[:2])
    assert first[: made.shared] == second[: made.shared] and first[made.shared - 1] == ID["<image|>"]
    assert ID["<image|>"] not in first[made.shared :]


def test_what_does_not_fit_is_left_out(encoder: Encoder) -> None:
    many = scene_questions(random.Random(5), 12)
    made = block(encoder, many)
    assert made is not None and 1 <= len(made.encoded) < 12 and made.length <= LENGTH
    assert block(encoder, many, room=60) is None
    rows = arrange([made] * (ROWS + 3))
    assert rows["ids"].shape == (ROWS, LENGTH) and len(rows["n_soft"]) == ROWS


@pytest.mark.reference
def test_the_quick_forward_pass_is_the_model(encoder: Encoder, voices: Any) -> None:
    import torch
    from nano.config import build_model
    from nano.fast import Packed, working_copy
    from nano.tasks_sound import transcribe_dialogue

    sound = block(encoder, [transcribe_dialogue(random.Random(1), voices, 1)], 700)
    assert sound is not None
    blocks = [picture_block(encoder, 7), picture_block(encoder, 8), sound]
    model = build_model(0).eval()
    made = {name: torch.from_numpy(value) for name, value in arrange(blocks, 1, 1600).items()}
    with torch.no_grad():
        hidden = Packed(working_copy(model), compiled=False).hidden(made)[0].float()
        at = 0
        for one in sorted(blocks, key=lambda b: -b.length):
            for index, each in enumerate(one.encoded):
                wanted = model.model(**transformers_inputs(each), use_cache=False).last_hidden_state[0]
                begin = one.shared if index else 0
                n = len(each["ids"]) - begin
                error = (hidden[at : at + n] - wanted[begin:]).norm() / wanted[begin:].norm()
                assert error < 0.04  # bfloat16
                at += n


def transformers_inputs(encoded: dict[str, Any]) -> dict[str, Any]:
    """One dialogue as transformers takes it."""
    import torch

    inputs = {"input_ids": torch.tensor(encoded["ids"])[None]}
    if encoded["pictures"]:
        [(cut, places, _)] = encoded["pictures"]
        inputs["pixel_values"] = torch.from_numpy(cut)[None].float() / 255
        inputs["image_position_ids"] = torch.from_numpy(places.astype(np.int64))[None]
    if encoded["sounds"]:
        [(mel, known, _)] = encoded["sounds"]
        inputs["input_features"] = torch.from_numpy(mel)[None]
        inputs["input_features_mask"] = torch.from_numpy(known)[None]
    return inputs


@pytest.mark.reference
def test_muon_is_that_of_torch() -> None:
    import torch
    from nano.muon import Muon

    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 8), (8, 8), (4, 12), (12, 4)]
    ours = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    theirs = [torch.nn.Parameter(weight.detach().clone()) for weight in ours]
    one = Muon(ours, lr=0.02, weight_decay=0.1)
    other = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for mine, its in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            its.grad = mine.grad.clone()
        one.step()
        other.step()
    for mine, its in zip(ours, theirs, strict=True):
        assert (mine - its).abs().max() < 2e-3

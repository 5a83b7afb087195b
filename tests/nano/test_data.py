"""The data of the nano checkpoint: right answers to what is drawn and said, and a ruler that can fail."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from nano import dialogue as text_of
from nano import scenes, score, speech, tasks_picture, tasks_text, tasks_tools
from nano.batch import Encoder
from nano.dialogue import IGNORE, Dialogue, render
from nano.picture import patches, target_size
from nano.speech import RATE_HZ, Voices, resample
from nano.tasks import EVALUATION, KINDS, Mix, evaluation_set
from nano.tokenizer import CONTROL
from nano.words import COLOURS, COMMANDS
from tokenizers import Regex, Tokenizer, pre_tokenizers

from gemma4_gguf.templates import render as render_template


def dialogues(voices: Voices, count: int = 8) -> Iterator[Dialogue]:
    """Some of every evaluated task and of every training kind."""
    for task in EVALUATION:
        yield from evaluation_set(task, 2, 3, voices)
    for kind in KINDS:
        yield from Mix(voices).batch(kind, count * 5 if kind == "text" else count, 4)


def for_template(dialogue: Dialogue) -> list[dict[str, Any]]:
    """The prompt's messages as the template takes them."""
    out: list[dict[str, Any]] = []
    for message in dialogue.messages[:-1]:
        given = {key: value for key, value in message.items() if key not in ("thinking", "tool_calls")}
        if message.get("thinking"):
            given["reasoning_content"] = message["thinking"]
        if message.get("tool_calls"):
            given["tool_calls"] = [{"type": "function", "function": call} for call in message["tool_calls"]]
        if isinstance(message["content"], list):
            given["content"] = [
                {"type": "text", "text": part["text"]} if part["type"] == "text" else {"type": part["type"]}
                for part in message["content"]
            ]
        out.append(given)
    return out


def as_template(text: str, dialogue: Dialogue) -> str:
    """Our prompt with a clip's frames put back into the one placeholder of the template."""
    for message in dialogue.messages:
        for part in message["content"] if isinstance(message["content"], list) else []:
            if part["type"] == "video":
                frames = " ".join(f"{text_of.timestamp(at)} <|image|>" for at in part["seconds"])
                text = text.replace(frames, "<|video|>")
    return text


def test_prompts_are_those_of_the_small_template(voices: Voices) -> None:
    seen = set()
    for dialogue in dialogues(voices):
        wanted = render_template(
            for_template(dialogue), dialogue.tools, size="small", enable_thinking=dialogue.thinking
        )
        got = as_template(render(dialogue, prompt_only=True)[0], dialogue)
        if got + "<|channel>thought\n" == wanted:
            got = wanted  # after a result the template opens the thought; the model is taught to as well
        assert got == wanted
        seen.add(dialogue.task)
    assert {"detect", "clip_sound", "tool_result", "tool_sound", "sum_on", "talk", "memory"} <= seen


def test_what_is_learned_is_what_the_model_writes(
    voices: Voices, tokenizer: Tokenizer, tmp_path: Any
) -> None:
    file = tmp_path / "tokenizer.json"
    tokenizer.save(str(file))
    encoder = Encoder(file)
    for dialogue in dialogues(voices, 4):
        if any(isinstance(message["content"], list) for message in dialogue.messages):
            continue  # no feature extractor here
        one = encoder.encode(dialogue)
        learned = encoder.tokenizer.decode(
            [token for token in one["labels"] if token != IGNORE], skip_special_tokens=False
        )
        assert learned == written_by_model(dialogue)
        assert all(label in (IGNORE, token) for label, token in zip(one["labels"], one["ids"], strict=True))


def written_by_model(dialogue: Dialogue) -> str:
    """Thoughts, calls, hand-overs and answers, from the messages."""
    out = []
    last_user = max(i for i, message in enumerate(dialogue.messages) if message["role"] == "user")
    for index, message in enumerate(dialogue.messages):
        if message["role"] != "assistant":
            continue
        if message.get("thinking") and index > last_user:
            out.append(text_of.thought_text(message["thinking"]))
        calls = message.get("tool_calls", [])
        out += [text_of.call_text(call["name"], call["arguments"]) for call in calls]
        out.append("<|tool_response>" if calls else f"{message['content']}<turn|>")
    return "".join(out)


def test_tokenizer_splits_like_the_real_one(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(token) for token in CONTROL] == list(range(len(CONTROL)))
    samples = [
        '[{"box_2d": [68, 188, 230, 411], "label": "blue button Save"}]',
        "two  spaces\n\nand lines\n", "naïve 日本 🙂 x=1234", "<|turn>model\nHi<turn|>", " lead and trail ",
    ]  # fmt: skip
    words = Tokenizer.from_str(tokenizer.to_str())
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Split(Regex("[0-9]|\n"), "isolated")]
    )
    for sample in samples:
        ids = tokenizer.encode(sample).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == sample
        assert words.encode(sample).ids == ids  # splitting at newlines alone changes nothing
    assert tokenizer.encode("1024").tokens == ["1", "0", "2", "4"]
    many = [token for token in tokenizer.get_vocab() if len(token) > 1 and token not in CONTROL]
    assert not [token for token in many if not token.startswith("<0x") and any(c.isdigit() for c in token)]


def test_scenes_show_what_they_say() -> None:
    rng = random.Random(1)
    for _ in range(40):
        shown = scenes.scene(rng, extra_fonts=False)
        height, width = shown.picture.shape[:2]
        assert 1 <= len(shown.items) <= 4
        assert [item.box[0] for item in shown.items] == sorted(item.box[0] for item in shown.items)
        for item in shown.items:
            ymin, xmin, ymax, xmax = item.box
            assert 0 <= ymin < ymax <= 1000 and 0 <= xmin < xmax <= 1000
            y = round((ymax - 0.06 * (ymax - ymin)) * height / 1000) - 1  # near the bottom, below a caption
            pixel = shown.picture[min(y, height - 1), round((xmin + xmax) / 2 * width / 1000)].astype(int)
            if item.kind != "star":  # there the ground shows between the feet
                nearest = min(COLOURS, key=lambda name: int(np.abs(pixel - COLOURS[name]).sum()))
                assert nearest == item.colour
    assert np.array_equal(
        scenes.scene(random.Random(5), extra_fonts=False).picture,
        scenes.scene(random.Random(5), extra_fonts=False).picture,
    )


def test_what_moves_moves_where_it_is_said() -> None:
    seen = set()
    for seed in range(30):
        shown = scenes.clip(random.Random(seed))
        seen.add(shown.direction)
        change = np.abs(shown.frames[0].astype(int) - shown.frames[-1].astype(int)).sum(axis=2) > 120
        if not shown.moved:
            assert change.mean() < 0.01
            continue
        colour = np.array(COLOURS[shown.moved.split()[0]])
        near = [np.abs(frame.astype(int) - colour).sum(axis=2) < 100 for frame in shown.frames]
        first, last = (np.argwhere(mask & change).mean(axis=0) for mask in (near[0], near[-1]))
        down, right = last - first
        step = {"left": -right, "right": right, "up": -down, "down": down}[shown.direction]
        assert step > 0.2 * min(shown.frames[0].shape[:2])
        for frame, (mask, centres) in enumerate(zip(near, shown.centres, strict=True)):
            high, wide = mask.shape
            y, x = centres[0]
            assert mask[min(high - 1, y * high // 1000), min(wide - 1, x * wide // 1000)], (seed, frame)
    assert seen == {"left", "right", "up", "down", "still"}


def test_questions_about_a_clip_agree_with_each_other() -> None:
    for seed in range(20):
        dialogues = tasks_picture.clip_questions(random.Random(seed))
        answers = {d.messages[0]["content"][1]["text"]: d.messages[1]["content"] for d in dialogues}
        sentence = dialogues[0].messages[1]["content"]
        for name in [q[9:-6] for q in answers if q.startswith("Does the ")]:
            said = answers[f"Does the {name} move?"]
            first, last = (
                json.loads(answers[f"Where is the {name} in the {n} frame?"]) for n in ("first", "last")
            )
            moved = f"The {name} moves"
            assert (said != "No.") == (first != last) == sentence.startswith(moved)
            assert said == "No." or sentence == f"{moved} {said[5:]}"


def test_questions_about_a_page_agree_with_each_other() -> None:
    for seed in range(20):
        dialogues = tasks_picture.page_questions(random.Random(seed))
        everything, one, last, count = (d.messages[1]["content"] for d in dialogues)
        words = everything.split()
        number = tasks_picture.ORDINALS.index(dialogues[1].messages[0]["content"][1]["text"].split()[3])
        assert words[number] == one and words[-1] == last and len(words) == int(count)


def test_boxes_and_points_are_strict_json() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        for task in ("detect", "point"):
            dialogue = tasks_picture.scene_dialogue(rng, task)
            entries = json.loads(dialogue.messages[-1]["content"])
            assert len(entries) == len(dialogue.truth["items"])
            for entry, item in zip(entries, dialogue.truth["items"], strict=True):
                assert entry["label"] == item["label"]
                assert entry.get("box_2d", item["box"]) == item["box"]
                if "point" in entry:
                    y, x = entry["point"]
                    assert item["box"][0] <= y <= item["box"][2] and item["box"][1] <= x <= item["box"][3]


def test_every_sum_is_worked_out_right() -> None:
    for a in range(100):
        for b in range(10, 100):
            thought = tasks_text.sum_thought(a, b)
            assert thought.endswith(f"Sum: {a + b}.")
            for line in thought.splitlines():
                if "=" in line:
                    left, right = line.rstrip(".").split(": ")[1].split(" = ")
                    assert sum(map(int, left.split(" + "))) == int(right)


def test_calls_fit_their_declarations(voices: Voices) -> None:
    makers: list[Callable[[random.Random], Dialogue]] = [
        tasks_tools.tool_dialogue,
        tasks_tools.tool_picture_dialogue,
        lambda rng: EVALUATION["tool_sound"](rng, voices),
    ]
    kinds = {"string": str, "integer": int, "boolean": bool}
    for seed in range(120):
        dialogue = makers[seed % 3](random.Random(seed))
        declared = {tool["function"]["name"]: tool["function"]["parameters"] for tool in dialogue.tools}
        assert len(declared) == len(dialogue.tools)
        for message in dialogue.messages:
            for call in message.get("tool_calls", []):
                schema = declared[call["name"]]
                assert set(call["arguments"]) == set(schema["required"])
                for key, value in call["arguments"].items():
                    assert type(value) is kinds[schema["properties"][key]["type"]]
                    assert value in schema["properties"][key].get("enum", [value])
    for seed in range(300):  # of two players that do the same, each would be right
        tools = tasks_tools.tool_sound_dialogue(random.Random(seed), list, list(COMMANDS)).tools
        assert len({tool["function"]["description"] for tool in tools}) == len(tools)


def test_held_out_questions_and_voices_are_not_learned() -> None:
    learned, kept = tasks_text.talk_pairs(False), tasks_text.talk_pairs(True)
    assert not {question for question, _ in learned} & {question for question, _ in kept}
    assert {answer for _, answer in kept} <= {answer for _, answer in learned}
    assert not set(speech.TRAINING) & set(speech.HELD_OUT)


def test_patches_put_together_are_the_picture() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (336, 480, 3), dtype=np.uint8)
    cut, positions, n_tokens = patches(picture, 70)
    assert n_tokens == 70 and cut.shape == (630, 768)
    again = np.zeros_like(picture)
    for patch, (x, y) in zip(cut, positions, strict=True):
        again[y * 16 : y * 16 + 16, x * 16 : x * 16 + 16] = patch.reshape(16, 16, 3)
    assert np.array_equal(again, picture)
    assert target_size(333, 517, 280) == (624, 960)
    assert patches(picture[:100, :300], 280)[2] <= 280


def test_sounds_are_bent_not_broken(voices: Voices) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(22_050) / 22_050).astype(np.float32)
    spectrum = np.abs(np.fft.rfft(resample(tone, 22_050, RATE_HZ)))
    assert len(spectrum) == 8001 and spectrum.argmax() == 440
    sound = voices.say(random.Random(0), ["one", "stop"])
    assert sound.dtype == np.float32 and np.abs(sound).max() <= 1.0
    assert 2 * 4000 / 1.2 < len(sound) < 3 * RATE_HZ
    assert np.array_equal(sound, voices.say(random.Random(0), ["one", "stop"]))


def test_the_ruler_passes_right_answers_and_fails_wrong_ones(voices: Voices) -> None:
    for task in EVALUATION:
        asked = evaluation_set(task, 6, 9, voices)
        right = [score.expected_answer(dialogue) for dialogue in asked]
        raw = [render(one)[0][len(render(one, prompt_only=True)[0]) :] for one in asked]
        assert [score.read_answer(text) for text in raw] == right
        assert all(value == 1.0 for value in score.score(task, right, asked).values()), task
        wrong = [score.Answer("I see nothing.") for _ in asked]
        figures = score.score(task, wrong, asked)
        assert all(figures.get(name, 0.0) < 0.5 for name in score.TARGETS.get(task, figures)), task


def test_boxes_are_measured_by_overlap() -> None:
    truth = {"items": [{"box": [100, 100, 300, 300], "label": "red circle"}]}
    asked = [Dialogue("detect", [{"role": "assistant", "content": ""}], truth=truth)]
    near = score.Answer('[{"box_2d": [100, 100, 300, 250], "label": "red circle"}]')
    assert score.score("detect", [near], asked) == pytest.approx(
        {"json": 1.0, "recall": 1.0, "iou": 0.75, "count right": 1.0}
    )
    other = score.Answer('[{"box_2d": [100, 100, 300, 300], "label": "blue circle"}]')
    assert score.score("detect", [other], asked)["recall"] == 0.0
    assert score.word_errors(["3", "5", "stop"], ["3", "stop", "stop"]) == 1


@pytest.mark.reference
def test_patches_are_those_of_transformers() -> None:
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    rng = np.random.default_rng(1)
    for size, budget in (((200, 340), 70), ((384, 384), 70), ((600, 250), 280)):
        picture = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
        cut, positions, n_tokens = patches(picture, budget)
        made = Gemma4ImageProcessorPil(max_soft_tokens=budget)([picture], return_tensors="np")
        assert made["num_soft_tokens_per_image"][0] == n_tokens
        assert np.abs(made["pixel_values"][0][: len(cut)] * 255 - cut).max() <= 1.01
        assert np.array_equal(made["image_position_ids"][0][: len(cut)], positions)


@pytest.mark.reference
def test_the_checkpoint_has_every_mechanism_in_twelve_megabytes(tmp_path: Any, tokenizer: Tokenizer) -> None:
    from nano.config import build_model, write_checkpoint

    tokenizer.save(str(tmp_path / "tokenizer.json"))
    model = build_model(0)
    size = write_checkpoint(model, tmp_path / "tokenizer.json", tmp_path / "out")
    assert size <= 12_000_000
    names = dict(model.named_parameters())
    layers = "model.language_model.layers"
    assert (
        f"{layers}.5.self_attn.k_proj.weight" in names and f"{layers}.6.self_attn.k_proj.weight" not in names
    )
    assert (
        names[f"{layers}.6.mlp.up_proj.weight"].shape[0]
        == 2 * names[f"{layers}.5.mlp.up_proj.weight"].shape[0]
    )
    assert names[f"{layers}.5.self_attn.q_proj.weight"].shape[0] == 512  # a full layer: heads twice as wide
    config = json.loads((tmp_path / "out" / "config.json").read_text("utf-8"))
    text = config["text_config"]
    first = text["num_hidden_layers"] - text["num_kv_shared_layers"]
    assert text["layer_types"][first - 2 : first] == ["sliding_attention", "full_attention"]
    assert (text["final_logit_softcapping"], text["hidden_size_per_layer_input"]) == (30.0, 32)
    assert config["vision_config"]["use_clipped_linears"] and config["audio_config"]["use_clipped_linears"]


@pytest.mark.reference
def test_clamps_change_nothing_on_what_they_were_taken_from() -> None:
    import torch
    from nano.clamps import set_clamps
    from nano.config import build_model

    rng = np.random.default_rng(0)
    cut, positions, n_tokens = patches(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8), 70)
    ids = np.array([[2, *[CONTROL.index("<|image|>")] * n_tokens, 7]])
    batch = {
        "input_ids": ids,
        "pixel_values": cut[None],
        "image_position_ids": positions[None].astype(np.int64),
    }
    model = build_model(0).eval()
    pixels, places = torch.from_numpy(cut[None]).float() / 255, torch.from_numpy(batch["image_position_ids"])
    with torch.no_grad():
        before = model.get_image_features(pixels, places).pooler_output[0]
        assert set_clamps(model, [batch]) == 21  # seven linears in each of three layers
        after = model.get_image_features(pixels, places).pooler_output[0]
        model.model.vision_tower.encoder.layers[0].mlp.down_proj.output_max.fill_(0.0)
        clamped = model.get_image_features(pixels, places).pooler_output[0]
    assert torch.equal(before, after) and not torch.equal(before, clamped)
    assert all(torch.isfinite(module.input_max) for module in model.model.vision_tower.modules()
               if hasattr(module, "input_max"))  # fmt: skip


@pytest.mark.reference
def test_rounding_keeps_sixteen_values_a_block_and_gives_the_weights_back() -> None:
    import torch
    from nano.rounding import rounded, rounded_weights

    weight = torch.nn.Parameter(torch.randn(4, 256, generator=torch.Generator().manual_seed(0)))
    full = weight.detach().clone()
    with rounded_weights([weight]):
        seen = weight.detach().clone()
        (weight * 2).sum().backward()
    assert torch.equal(weight, full) and torch.equal(seen, rounded(full)) and not torch.equal(seen, full)
    assert max(len(block.unique()) for block in seen.reshape(-1, 32)) <= 16
    assert (seen - full).abs().max() < 0.5 * (full.max() - full.min()) / 15 * 1.001
    assert torch.equal(weight.grad, torch.full_like(full, 2.0))

"""Several conversations in one session, and questions that share a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from media_samples import picture, sweep
from nano_samples import GREEDY, NANO, scene

from gemma4_gguf import Audio, Image, Session
from gemma4_gguf.convert import convert_checkpoint
from gemma4_gguf.engine import context
from gemma4_gguf.errors import EngineError

EXACT: dict[str, Any] = {"device": "cpu", "n_threads": 2, "kv_type": "f32", "flash_attention": False}


@pytest.mark.parametrize("member", ["e2b", "12b", "31b"])
def test_another_question_about_the_same_media(
    member: str, converted: Callable[..., dict[str, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first answer is longer than the sliding-window cache, so only a snapshot can help."""
    files = converted(member)
    monkeypatch.setattr(context, "IMAGE_BATCH", 128)
    with Session(files["model"], projector=files["projector"], n_ctx=768, **EXACT) as session:
        media: list[Any] = [Image(picture(96, 144), 70)]
        media += [Audio(sweep(2000))] if session.has_audio else []
        ends = {i: -1e9 for i in session.facts.special_tokens.values() if session.engine.model.ends_reply(i)}
        session.ask(*media, "What is this?", max_tokens=400, seed=1, logit_bias=ends)
        held = session.engine.pool.states[0]
        assert session.engine.context.reuse.oldest(held) > 100 and held.snapshots
        projector = session.engine.projector
        for name in ("encode_image", "encode_audio"):
            monkeypatch.setattr(projector, name, lambda *_: pytest.fail("encoded again"))
        usage = session.ask(*media, "And what is that?", max_tokens=1).usage
        new = session.tokenize("\nAnd what is that?<turn|>\n<|turn>model\n<|channel>thought\n<channel|>")
        assert usage.prompt_tokens - usage.reused_tokens <= len(new) + 2
        monkeypatch.undo()
        other = session.ask(Image(picture(48, 96), 70), "And now?", max_tokens=1).usage
        assert other.reused_tokens < 20, "another size is another picture"


def test_streams_in_turns_say_what_each_would_alone(tmp_path: Path) -> None:
    """In F32: where activations are rounded, cells in another order may tip a digit."""
    exact = convert_checkpoint(NANO, tmp_path, "F32", "F32").model
    questions = [(scene(0), "detect"), (scene(1), "detect"), ("detect",)]
    options = GREEDY | {"max_tokens": 60}
    with Session(exact, n_ctx=768, n_seq=3, **EXACT) as session:
        alone = [[session.ask(*question, **options).text] * 2 for question in questions]
        chats = [session.chat() for _ in questions]
        found: list[list[str]] = [[] for _ in questions]
        for _ in range(2):
            streams = [chat.stream(*q, **options) for chat, q in zip(chats, questions, strict=True)]
            texts = [""] * len(streams)
            while streams_left := [i for i, stream in enumerate(streams) if stream.gi_frame is not None]:
                for i in streams_left:
                    chunk = next(streams[i], None)
                    texts[i] += chunk.text if chunk is not None else ""
            for i, text in enumerate(texts):
                found[i].append(text)
        assert [texts[0] for texts in found] == [texts[0] for texts in alone]
        streams = [chat.stream("more", max_tokens=9) for chat in (*chats, session.chat())]
        for stream in streams[:3]:
            next(stream)
        with pytest.raises(EngineError, match="n_seq"):
            next(streams[3])
        for stream in streams:
            stream.close()
        replies = [chat.send("and now", max_tokens=1).usage for chat in chats]
        assert all(usage.reused_tokens > 0.8 * usage.prompt_tokens for usage in replies)


def test_a_fork_and_its_origin_both_go_on_at_no_cost(nano: Path) -> None:
    with Session(nano, n_ctx=768, n_seq=2, **EXACT) as session:
        chat = session.chat(system="Be brief.")
        chat.send(scene(0), "detect", **GREEDY)
        fork = chat.fork()
        for number in range(3):
            for each in (fork, chat):
                usage = each.send(f"number {number}", max_tokens=9, seed=1).usage
                assert usage.prompt_tokens - usage.reused_tokens < 60, "the question and what came before it"

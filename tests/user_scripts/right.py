"""A user's script, as README shows it: mypy --strict and pyright find nothing wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from gemma4_gguf import Box, Chunk, Image, Reply, SamplingOptions, Session, draw_boxes


class Receipt(BaseModel):
    """What is on it."""

    shop: str
    total: float


def get_weather(place: str) -> dict[str, str]:
    """Weather of a place."""
    return {"place": place}


def use(path: Path) -> list[Box]:
    """Everything that asks, with options of every kind."""
    with Session(path, n_ctx=4096, device="cpu", kv_type="f16") as session:
        reply: Reply = session.ask(
            Image("sign.jpg", image_tokens=560), "What?", system="Be brief.", temperature=0, stop=["###"]
        )
        chunks: Iterator[Chunk] = session.stream(
            "Hi", thinking=True, top_k=3, sampling=SamplingOptions(seed=1)
        )
        text = "".join(chunk.text for chunk in chunks)
        receipt: Receipt = session.extract(Receipt, Path("receipt.jpg"), max_tokens=100)
        chat = session.chat(tools=[get_weather], on_full="drop_oldest")
        answer = chat.run(f"{text} {receipt.shop}", tool_choice="auto", logit_bias={3: -1.0}, max_rounds=3)
        session.complete(
            [{"role": "user", "content": answer.text}], schema=["yes", "no"], image_tokens="auto"
        )
        words: str = session.transcribe("talk.mp3", language="de", strict=False)
        boxes = session.detect("street.png", words, image_tokens="auto", seed=2)
        draw_boxes("street.png", boxes).save("found.png")
        print(reply.text, chat.send("Bye", parallel_tool_calls=False, min_p=0.1).text)
    return boxes

"""A user's script with a mistake in each marked line: mypy --strict and pyright see every one."""

from __future__ import annotations

from gemma4_gguf import Session

with Session("model.gguf", n_context=4096) as session:  # wrong
    session.ask("Hi", temprature=0)  # wrong
    session.ask("Hi", max_tokens="many")  # wrong
    session.stream("Hi", thinking=1.5)  # wrong
    session.complete([], tool=[])  # wrong
    session.chat().send("Hi", stop=3)  # wrong
    session.chat(on_full="drop")  # wrong
    session.detect("a.png", "mugs", image_tokens="automatic")  # wrong
    session.transcribe("a.wav", lang="de")  # wrong
    session.extract(int, "How many?").bit_count()
    session.extract(int, "How many?").upper()  # wrong

"""Count which schemas of a suite compile, how fast, and whether anything is let in that the schema forbids.

    python tests/bench/schemas.py jsonschemabench/data [--draws 2] [--sample 1000] [--seed 1]
    python tests/bench/schemas.py jsonschemabench/maskbench/data
    python tests/bench/schemas.py JSON-Schema-Test-Suite/tests/draft2020-12

Three layouts are known by what the files hold: plain schemas, MaskBench cases (a schema with instances),
and the groups of the JSON-Schema-Test-Suite. Time is CPU time of this process, from the parsed schema to a
matcher that is ready; plain llguidance (`LLMatcher.grammar_from_json_schema`) is timed beside it. A text is
too wide if the matcher takes it and the jsonschema package says that the schema forbids it: looked at are the
instances of the suite, and texts that are drawn from the matcher byte by byte. The result goes to standard
output as JSON.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import signal
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import llguidance
import numpy as np

from gemma4_gguf.errors import Gemma4Error
from gemma4_gguf.grammars.lark_writer import to_lark
from gemma4_gguf.grammars.sources import schema_grammar

TOKENIZER = llguidance.LLTokenizer("byte")
END = TOKENIZER.eos_token
LIMIT_S = 60  # for one schema
_CLOSING = b'"}]0'


@dataclass(frozen=True)
class Case:
    """A schema and instances, each with whether the suite says that it is valid."""

    name: str
    schema: Any
    instances: tuple[tuple[Any, bool], ...] = ()


@dataclass
class Result:
    """What was counted."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {"ours": [], "llguidance": []})
    slowest: list[tuple[float, str]] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    too_wide: list[tuple[str, str]] = field(default_factory=list)
    texts: Counter[str] = field(default_factory=Counter)

    def refuse(self, case: Case, reason: str) -> None:
        """Count a schema that did not compile."""
        self.refused[reason] += 1
        self.examples.setdefault(reason, []).append(case.name)


def cases(path: Path) -> Iterator[Case]:
    """All schemas under a path."""
    for file in sorted(path.rglob("*.json") if path.is_dir() else [path]):
        data = json.loads(file.read_text("utf-8"))
        name = file.relative_to(path).as_posix() if path.is_dir() else file.name
        if isinstance(data, list) and data and all(isinstance(g, dict) and "tests" in g for g in data):
            for group in data:
                found = tuple((test["data"], test["valid"]) for test in group["tests"])
                yield Case(f"{name}: {group['description']}", group["schema"], found)
        elif isinstance(data, dict) and {"schema", "tests"} <= set(data):
            yield Case(name, data["schema"], tuple((test["data"], test["valid"]) for test in data["tests"]))
        else:
            yield Case(name, data)


def compile_ours(schema: Any) -> Any:
    """A matcher of our grammar; raises Gemma4Error."""
    grammar = llguidance.LLMatcher.grammar_from_lark(to_lark(schema_grammar(schema)))
    return _matcher(grammar)


def compile_theirs(schema: Any) -> Any:
    """A matcher of llguidance's own compiler."""
    return _matcher(llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema)))


def _matcher(grammar: str) -> Any:
    matcher = llguidance.LLMatcher(TOKENIZER, grammar, log_level=0)
    if matcher.is_error():
        raise ValueError(f"llguidance: {matcher.get_error().splitlines()[0][:80]}")
    return matcher


def _timed(compile_: Callable[[Any], Any], schema: Any) -> tuple[Any, float]:
    """The matcher and its CPU seconds; an error in its place if it raised."""
    signal.alarm(LIMIT_S)
    start = time.process_time()
    try:
        found = compile_(schema)
    except (Exception, RecursionError) as error:
        found = error
    finally:
        signal.alarm(0)
    return found, time.process_time() - start


def accepts(matcher: Any, text: str) -> bool:
    """Whether the matcher takes the whole text."""
    matcher.reset()
    data = list(text.encode())
    return bool(matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting())


def draw(matcher: Any, rnd: random.Random, most: int = 3000) -> str | None:
    """A random text of the grammar; None if it does not come to an end."""
    matcher.reset()
    bits = np.zeros((TOKENIZER.vocab_size + 31) // 32, dtype=np.int32)
    out = bytearray()
    while len(out) < most:
        matcher.unsafe_compute_mask_ptr(bits.ctypes.data, bits.nbytes)
        allowed = np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little"))
        if END in allowed and (len(allowed) == 1 or rnd.random() < 0.5):
            break
        bytes_ = [int(token) for token in allowed if token < 256]
        if not bytes_:
            return None
        close = [byte for byte in _CLOSING if byte in bytes_]
        hurry = close and rnd.random() < (0.9 if len(out) > 300 else 0.3)
        byte = close[0] if hurry else rnd.choice(bytes_)
        if not matcher.consume_token(byte):
            return None
        out.append(byte)
    else:
        return None
    return out.decode("utf-8", "replace")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _validator(case: Case) -> Any:
    """A validator of the draft that the schema names, or the folder that it is in; multiples by fractions."""
    drafts = {"draft3": "3", "draft4": "4", "draft6": "6", "draft7": "7", "draft2019-09": "201909"}
    number = next((n for name, n in drafts.items() if name in sys.argv[1]), "202012")
    default = getattr(jsonschema, f"Draft{number}Validator")
    kind = jsonschema.validators.validator_for(case.schema, default=default)

    def multiple(_: Any, step: float, value: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and Fraction(repr(value)) % Fraction(repr(step)):
            yield jsonschema.ValidationError(f"{value} is no multiple of {step}")

    return jsonschema.validators.extend(kind, {"multipleOf": multiple})(case.schema)


def look(case: Case, matcher: Any, result: Result, rnd: random.Random, draws: int) -> None:
    """Look for texts that the schema forbids, and for valid ones that are refused."""
    validator = _validator(case)

    def forbidden(value: Any) -> bool:
        try:
            return not validator.is_valid(value)
        except Exception:
            return False

    for value, valid in case.instances:
        text = json.dumps(value, ensure_ascii=False)
        taken = accepts(matcher, text)
        result.texts["valid" if valid else "invalid"] += 1
        result.texts["valid, taken" if valid else "invalid, taken"] += taken
        if taken and not valid and "optional/" not in case.name:
            result.too_wide.append((case.name, text[:200]))
    for _ in range(draws):
        text = draw(matcher, rnd)
        result.texts["drawn" if text is not None else "not drawn to the end"] += 1
        if text is not None and (not _is_json(text) or forbidden(json.loads(text))):
            result.too_wide.append((case.name, text[:200]))


def main() -> None:
    options = _arguments()
    rnd, result = random.Random(options.seed), Result()
    found = list(cases(options.path))
    if options.sample and options.sample < len(found):
        found = rnd.sample(found, options.sample)
    warnings.simplefilter("ignore")
    compiled = Counter[str]()
    gc.collect()
    gc.freeze()  # the suite itself is not what is timed
    for case in found:
        ours, seconds = _timed(compile_ours, case.schema)
        if isinstance(ours, Exception):
            typed = isinstance(ours, (Gemma4Error, ValueError))
            reason = str(getattr(ours, "reason", ours)).split(";")[0].split("'")[0][:60]
            result.refuse(case, reason if typed else f"{type(ours).__name__}: {reason}")
        else:
            compiled["ours"] += 1
            result.seconds["ours"].append(seconds)
            result.slowest = sorted([*result.slowest, (round(1000 * seconds, 1), case.name)])[-10:]
            look(case, ours, result, rnd, options.draws)
        if options.peer:
            theirs, seconds = _timed(compile_theirs, case.schema)
            compiled["llguidance"] += not isinstance(theirs, Exception)
            result.seconds["llguidance"].append(seconds)
    print(json.dumps(_report(result, compiled, len(found)), indent=2, ensure_ascii=False))


def _report(result: Result, compiled: Counter[str], total: int) -> dict[str, Any]:
    return {
        "schemas": total,
        "compiled_percent": {name: round(100 * n / total, 2) for name, n in compiled.items()},
        "cpu_ms": {name: _quantiles(seconds) for name, seconds in result.seconds.items() if seconds},
        "slowest_ms": result.slowest[::-1],
        "texts": dict(sorted(result.texts.items())),
        "too_wide": len(result.too_wide),
        "too_wide_examples": result.too_wide[:30],
        "refused": {
            reason: [n, *result.examples[reason][:3]] for reason, n in result.refused.most_common(60)
        },
        "llguidance": llguidance.__version__ if hasattr(llguidance, "__version__") else "",
    }


def _quantiles(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(1000 * s for s in seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    return {
        "median": round(statistics.median(ordered), 2),
        "p95": round(p95, 2),
        "worst": round(ordered[-1], 2),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("path", type=Path)
    parser.add_argument("--draws", type=int, default=1, metavar="N", help="texts drawn from each schema (1)")
    parser.add_argument("--sample", type=int, metavar="N", help="only so many schemas, chosen at random")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--peer", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def _too_long(*_: object) -> None:
    raise TimeoutError(f"not done in {LIMIT_S} s")


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, _too_long)
    main()

"""A judge and a writer for grammars, independent of any engine: which texts match, and texts that match."""

from __future__ import annotations

import random

from gemma4_gguf.grammars.gbnf_reader import parse_gbnf
from gemma4_gguf.grammars.grammar import Chars, Either, Grammar, Meet, Ref, Repeat, Seq, Text


class Judge:
    """Follows a text with all stacks at once. A stack is a linked list (node, below); in the place of a node
    stands, for a Meet, what is left of each of its items: a list of stacks of its own."""

    def __init__(self, grammar):
        self.grammar = parse_gbnf(grammar) if isinstance(grammar, str) else grammar
        assert isinstance(self.grammar, Grammar)

    def accepts(self, text):
        states = self.expand([(Ref("root"), None)])
        for char in text:
            states = self.step(states, char)
            if not states:
                return False
        return None in states

    def step(self, states, char):
        code, after = ord(char), []
        for state in states:
            if state is None:
                continue
            node, below = state
            if isinstance(node, tuple):
                n_within, parts = node
                moved = tuple(frozenset(self.step(part, char)) for part in parts)
                if all(moved[:n_within]):
                    after.append(((n_within, moved), below))
            elif isinstance(node, Text):
                if node.value[0] == char:
                    after.append((Text(node.value[1:]), below))
            elif any(low <= code <= high for low, high in node.ranges):
                after.append(below)
        return self.expand(after)

    def expand(self, states):
        """All states that begin with a character, or None for the end."""
        out, seen, queue = [], set(), list(states)
        while queue:
            state = queue.pop()
            if state in seen:
                continue
            seen.add(state)
            if state is None:
                out.append(None)
                continue
            node, below = state
            if isinstance(node, Ref):
                queue.append((self.grammar.rules[node.name], below))
            elif isinstance(node, Seq):
                for item in reversed(node.items):
                    below = (item, below)
                queue.append(below)
            elif isinstance(node, Either):
                queue += [(item, below) for item in node.items]
            elif isinstance(node, Repeat):
                queue += self.repeated(node, below)
            elif isinstance(node, Meet):
                parts = tuple(frozenset(self.expand([(item, None)])) for item in node.within + node.outside)
                queue.append(((len(node.within), parts), below))
            elif isinstance(node, tuple):
                queue += [below] * self.is_met(*node)
                out.append(state)
            elif node == Text(""):
                queue.append(below)
            else:
                out.append(state)
        return out

    @staticmethod
    def is_met(n_within, parts):
        """Whether the items of a Meet may end here."""
        return all(None in part for part in parts[:n_within]) and not any(
            None in part for part in parts[n_within:]
        )

    @staticmethod
    def repeated(node, below):
        least, most = max(node.least - 1, 0), None if node.most is None else node.most - 1
        again = below if most == 0 else (Repeat(node.item, least, most), below)
        return [(node.item, again)] + ([below] if node.least == 0 else [])


class Writer:
    """Writes random texts of a grammar; beyond `depth` it takes the shortest way out."""

    def __init__(self, grammar, seed=0, depth=12):
        self.grammar = parse_gbnf(grammar) if isinstance(grammar, str) else grammar
        self.random, self.depth = random.Random(seed), depth
        self.size = {name: float("inf") for name in self.grammar.rules}
        while True:  # shortest text of every rule
            sizes = {name: self.shortest(node) for name, node in self.grammar.rules.items()}
            if sizes == self.size:
                break
            self.size = sizes

    def shortest(self, node):
        if isinstance(node, Text):
            return len(node.value)
        if isinstance(node, Chars):
            return 1 if node.ranges else float("inf")
        if isinstance(node, Ref):
            return self.size[node.name]
        if isinstance(node, Seq):
            return sum(map(self.shortest, node.items))
        if isinstance(node, Either):
            return min(map(self.shortest, node.items), default=float("inf"))
        if isinstance(node, Meet):
            return max(map(self.shortest, node.within))
        return node.least * self.shortest(node.item) if node.least else 0

    def text(self, node=None, depth=0):
        node = node or Ref("root")
        if isinstance(node, Text):
            return node.value
        if isinstance(node, Chars):
            return self.char(node)
        if isinstance(node, Ref):
            return self.text(self.grammar.rules[node.name], depth + 1)
        if isinstance(node, Seq):
            return "".join(self.text(item, depth) for item in node.items)
        if isinstance(node, Either):
            ways = [item for item in node.items if self.shortest(item) < float("inf")]
            if depth > self.depth:
                ways = [min(ways, key=self.shortest)]
            return self.text(self.random.choice(ways), depth + 1)
        if isinstance(node, Meet):
            return self.meeting(node, depth)
        most = node.least + 3 if node.most is None else node.most
        n = node.least if depth > self.depth else self.random.randint(node.least, min(most, node.least + 3))
        return "".join(self.text(node.item, depth + 1) for _ in range(n))

    def meeting(self, node, depth):
        """A text of the first item that the others allow."""
        judge = Judge(Grammar(self.grammar.rules | {"root": node}))
        for _ in range(2000):
            text = self.text(node.within[self.random.randrange(len(node.within))], depth)
            if judge.accepts(text):
                return text
        raise AssertionError("no text found")

    def char(self, node):
        while True:
            low, high = self.random.choice(node.ranges)
            code = self.random.randint(low, min(high, low + 200) if self.random.random() < 0.8 else high)
            if code and not 0xD800 <= code <= 0xDFFF:  # llama.cpp cannot match a zero
                return chr(code)

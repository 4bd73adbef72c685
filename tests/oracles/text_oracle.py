"""Fluency and consistency, slow and plain, with nothing shared with the implementation but the words."""

from __future__ import annotations

import math
import re


def entropy(items: list[object]) -> float:
    total = 0.0
    for item in {str(found) for found in items}:
        share = sum(str(found) == item for found in items) / len(items)
        total += share * math.log(1 / share, 2)
    return total


def fluency(tokens: list[list[str]]) -> float:
    values = []
    for text in tokens:
        pairs = [(text[i], text[i + 1]) for i in range(len(text) - 1)]
        triples = [(text[i], text[i + 1], text[i + 2]) for i in range(len(text) - 2)]
        values.append((2 / 3 * entropy(list(pairs)) + 4 / 3 * entropy(list(triples))) / 2)
    return 100 * sum(values) / len(values)


def consistency(generated: list[str], references: list[str], documents: list[str]) -> float:
    def found(text: str) -> list[str]:
        return [word for word in re.split(r"[^a-z0-9_]+", text.lower()) if len(word) > 1]

    vocabulary = sorted({word for text in (*generated, *documents) for word in found(text)})
    vectors = []
    for texts in (generated, references):
        vector = []
        for word in vocabulary:
            holding = sum(word in found(document) for document in documents)
            idf = math.log((1 + len(documents)) / (1 + holding)) + 1
            vector.append(idf * sum(found(text).count(word) for text in texts))
        vectors.append(vector)
    first, second = vectors
    dot = sum(a * b for a, b in zip(first, second, strict=True))
    return 100 * dot / math.sqrt(sum(a * a for a in first) * sum(b * b for b in second))

"""Byte-pair encoding, learned: which pairs of tokens a text has so often that they become one.

The idea: begin with single bytes, and again and again make the most frequent pair of neighbours a
token of its own (Gage 1994; for words, Sennrich et al. 2016, arXiv:1508.07909; over bytes, GPT-2).
No token reaches over the edge of a pre-token, which is a word with the space before it, a number, a
run of other signs: so the text matters only as a count of its different pre-tokens.

Counting all pairs anew for each merge would take hours on a novel. Here a merge looks only at the
places where its pair stands, and corrects the counts of the neighbours: all merges together cost no
more than the text is long.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

import regex

# GPT-2's (encoder.py of openai/gpt-2); the ++ give no character back, which changes nothing in what
# matches. In words: 's and its like; letters; digits; other signs, each perhaps after a space;
# white space, which leaves its last space to the word behind it.
PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s+(?!\S)|\s+"
_PRE_TOKEN = regex.compile(PATTERN)
_WORD_END = regex.compile(r"(?r)[\p{L}\p{N}\p{P}](?=[ \n])")  # (?r): searched from the end
_LONGEST = 1 << 16  # characters that are split at once; a million spaces would crash tiktoken
_EDGE, _GONE = -1, -2


def last_word_end(text: str, start: int, end: int) -> int:
    """The last place in text[start:end] where the text can be cut so that the tokens of the parts
    are those of the whole; `end`, if there is no such place."""
    found = _WORD_END.search(text, start, end)
    return found.end() if found else end


def pieces(text: str) -> Iterator[str]:
    """The text in parts of at most 65,536 characters, cut where `last_word_end` says."""
    start = 0
    while len(text) - start > _LONGEST:
        end = last_word_end(text, start, start + _LONGEST)
        yield text[start:end]
        start = end
    yield text[start:]


def count_pre_tokens(texts: Iterable[str]) -> Counter[str]:
    """How often the texts have each pre-token."""
    counts: Counter[str] = Counter()
    for text in texts:
        for piece in pieces(text):
            counts.update(_PRE_TOKEN.findall(piece))
    return counts


def train(counts: Mapping[str, int], vocab_size: int) -> list[bytes]:
    """The vocabulary: the 256 bytes, and then what each merge made, in the order of the merges.

    counts: how often the text has each pre-token.
    vocab_size: when to stop; a text in which no pair occurs twice any more has fewer tokens.

    Each merge takes the most frequent pair, of equally frequent ones the pair with the smaller
    numbers. In "aaa" the left two become one.
    """
    vocabulary = [bytes([byte]) for byte in range(256)]
    row = _Row(counts)
    heap = [(-count, pair) for pair, count in row.pairs.items()]
    heapq.heapify(heap)
    while heap and len(vocabulary) < vocab_size:
        count, pair = heapq.heappop(heap)
        if row.pairs.get(pair) != -count:
            continue  # it has changed since, and stands elsewhere in the heap with its new count
        if count > -2:
            break
        for changed in row.merge(pair, len(vocabulary)):
            heapq.heappush(heap, (-row.pairs[changed], changed))
        vocabulary.append(vocabulary[pair[0]] + vocabulary[pair[1]])
    return vocabulary


class _Row:
    """All different pre-tokens one after the other, as tokens with an edge between any two.

    pairs: how often each pair of neighbours occurs in the text.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.token = [_EDGE]
        self.weight = [0]  # how often the text has the pre-token that the token is part of
        for word, count in counts.items():
            content = word.encode()
            self.token += [*content, _EDGE]
            self.weight += [count] * (len(content) + 1)
        n = len(self.token)
        self.left = list(range(-1, n - 1))  # the neighbours of each place
        self.right = list(range(1, n + 1))
        self.pairs: Counter[tuple[int, int]] = Counter()
        self.places: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for i in range(n - 1):
            self._count(i, self.weight[i])

    def merge(self, pair: tuple[int, int], new: int) -> set[tuple[int, int]]:
        """Make `pair` the token `new` wherever it stands; returns the pairs whose count changed."""
        token, left, right = self.token, self.left, self.right
        changed = set()
        for i in sorted(self.places.pop(pair)):
            j = right[i]
            if (token[i], token[j]) != pair:
                continue  # since it was noted here, a merge has taken part of it
            weight = self.weight[i]
            changed |= {self._count(left[i], -weight), self._count(j, -weight)}
            token[i], token[j] = new, _GONE
            right[i] = right[j]
            left[right[i]] = i
            changed |= {self._count(left[i], weight), self._count(i, weight)}
        del self.pairs[pair]
        return {p for p in changed if p in self.pairs}

    def _count(self, i: int, weight: int) -> tuple[int, int]:
        """Count the pair that begins at place i `weight` times more; returns the pair."""
        pair = self.token[i], self.token[self.right[i]]
        if _EDGE not in pair:
            self.pairs[pair] += weight
            if weight > 0:
                self.places[pair].append(i)
        return pair

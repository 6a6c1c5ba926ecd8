"""Reads answers about signs, receipts, charts and tables, and gathers all that an answer claims."""

from __future__ import annotations

import re

from vispec.pair.claims import Claims, number_of
from vispec.pair.reading import SceneReader
from vispec.pair.words import BACKGROUNDS, CHART_LABELS, INKS, ITEMS, TABLE_COLUMNS, TABLE_ROWS, TOTAL, american

BARS = {label.lower(): label for group in CHART_LABELS for label in group}
ROWS = {row.lower(): row for row in TABLE_ROWS}
COLUMNS = {column: column for group in TABLE_COLUMNS for column in group}
LABELS = {**BARS, **{item: item for item in (*ITEMS, TOTAL)}, **ROWS, **COLUMNS}
PARTS = {"bars": "bars", "items": "items", "lines": "lines", "rows": "rows", "columns": "columns"}
AFTER_NUMBERS = (",", ";", ":", ".", "and", "while", *PARTS, "upright", "vertical", "standing", "lying", "horizontal")
SUPERLATIVES = frozenset(("highest", "lowest", "most", "least", "dearest", "cheapest"))

_QUOTED = re.compile(r'"([^"]*)"')
_SENTENCES = re.compile(r"(?<=[.?!;])\s+|\n+")
_TOKENS = re.compile(r"\d+\.\d+|[a-z]\d|\d+|[a-z]+|[,;:.]")
_VERDICT = re.compile(r"\b(?:(yes)|no)\b(?=[,.:;!]|$)", re.IGNORECASE)
_COLOUR = "(" + "|".join(INKS) + ")"
_BOARD = re.compile(
    rf"\b{_COLOUR} (?:sign|board|plate)\b|\bsign is {_COLOUR}\b|\bon {_COLOUR}\b(?! back)|\w, {_COLOUR}, with\b"
)
_GROUND = "(" + "|".join((*BACKGROUNDS, "grey")) + ")"
_BACKGROUND = re.compile(
    rf"\b{_GROUND} (?:background|surface)\b|\bbackground is (?:plain |simply |all )?{_GROUND}\b"
    rf"|\bbehind .{{,12}} is {_GROUND}\b|\bdrawn on {_GROUND}\b"
)
_INK = re.compile(rf"\b{_COLOUR} (?:letters|writing|on \w+ is)\b|\bin {_COLOUR}\b|\b(?:letters|words) are {_COLOUR}\b")


def _first(pattern: re.Pattern[str], text: str) -> str | None:
    match = pattern.search(text)
    return next((group for group in match.groups() if group), None) if match else None


def _read_values(sentence: str, claims: Claims) -> None:
    """Labels stand before their number: `tea and milk both cost 2.50`, `under won, Ann has 12 and Ben 7`."""
    tokens = _TOKENS.findall(sentence)
    waiting: list[str] = []
    row: str | None = None
    column: str | None = None
    for i, token in enumerate(tokens):
        if token in ROWS:
            row = ROWS[token]
        elif token in COLUMNS:
            column = token
        elif token in LABELS:
            waiting.append(LABELS[token])
        elif "." in token[1:] or number_of(token) is not None:
            if token.isalpha() and tokens[i + 1 : i + 2] not in ([], *([mark] for mark in AFTER_NUMBERS)):
                continue  # `one pays`, `two of them`
            part = next((PARTS[word] for word in tokens[i + 1 : i + 3] if word in PARTS), None)
            number = number_of(token)
            if part is not None and number is not None:
                claims.parts.append((part, number))
                continue
            value = token if number is None else str(number)
            if row is not None and column is not None:
                claims.values.append((row, column, value))
            together = 2 if "both" in tokens or "each" in tokens else 1
            claims.values += [(label, value) for label in waiting[-together:]]
            waiting = []


def _read_best(sentence: str, claims: Claims) -> None:
    """`so the tea is the dearest`, `the highest is Mon`, `Mon is the highest`."""
    tokens = _TOKENS.findall(sentence)
    where = next((i for i, token in enumerate(tokens) if token in SUPERLATIVES), None)
    if where is None or claims.best is not None:
        return
    after = tokens[where + 1 :]
    if "is" in after[:4]:
        after = after[after.index("is") + 1 :]
        named = [token for token in after[:2] if token in LABELS]
        if named:
            claims.best = LABELS[named[0]]
            return
    before = [token for token in tokens[:where] if token in LABELS and token not in COLUMNS]
    if before:
        claims.best = LABELS[before[-1]]


def named_attributes(answer: str) -> Claims:
    """All that an answer says about its picture, as far as it is said in this package's language."""
    unquoted = _QUOTED.sub('""', answer)
    claims = SceneReader(unquoted).claims
    claims.texts = _QUOTED.findall(answer)
    verdict = _VERDICT.search(unquoted)
    claims.verdict = bool(verdict[1]) if verdict else None
    lower = unquoted.lower()
    claims.board, claims.ink = _first(_BOARD, lower), _first(_INK, lower)
    background = _first(_BACKGROUND, lower)
    claims.background = american(background) if background else None
    for sentence in _SENTENCES.split(lower):
        _read_values(sentence, claims)
        _read_best(sentence, claims)
    return claims

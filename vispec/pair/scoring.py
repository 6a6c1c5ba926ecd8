"""Compares what an answer claims with the picture: right claims and all claims, by kind of fact."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from vispec.pair.asking import NOTHING, Asked
from vispec.pair.claims import Claims, Mention
from vispec.pair.documents import Chart, Receipt, Sign, Table, price_text
from vispec.pair.reading_documents import named_attributes
from vispec.pair.scenes import Scene, Thing, direction
from vispec.pair.words import LARGER, LARGEST, SIZES, SMALLER, TOTAL

Picture = Scene | Sign | Receipt | Chart | Table


@dataclass(frozen=True)
class Facts:
    """The picture and the point of the question: all that an answer is measured by."""

    picture: Picture
    asked: Asked = NOTHING


@dataclass
class Score:
    """Claims by kind: size, colour, shape, position, count, text, value, and asked (the point of the question)."""

    right: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, is_right: bool) -> None:
        """Note one claim."""
        self.named[kind] += 1
        self.right[kind] += is_right

    def update(self, other: Score) -> None:
        """Add another answer's claims."""
        self.right.update(other.right)
        self.named.update(other.named)

    def accuracy(self, kind: str | None = None) -> float:
        """Share of right claims, of one kind or of all that name attributes; NaN if there were none."""
        kinds = [kind] if kind else [k for k in self.named if k != "asked"]
        named = sum(self.named[k] for k in kinds)
        return sum(self.right[k] for k in kinds) / named if named else float("nan")


def _matches(mention: Mention, thing: Thing) -> dict[str, bool]:
    """Each attribute that the mention names, and whether the thing has it."""
    pairs = {
        "size": (mention.size, thing.size),
        "colour": (mention.colour, thing.colour),
        "shape": (mention.noun, thing.noun),
        "position": (mention.place, thing.place),
    }
    return {kind: said == true for kind, (said, true) in pairs.items() if said is not None}


def _agreement(mention: Mention, thing: Thing) -> int:
    return sum(_matches(mention, thing).values())


def match_mentions(mentions: list[Mention], things: tuple[Thing, ...]) -> dict[Mention, Thing | None]:
    """Which thing each mention means: new things one to one, so that most attributes agree; others the best one.

    More new things than there are stay without one (None).
    """
    new = [m for m in mentions if m.introduced]
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, ())}  # things taken (bits): agreement, thing of each mention
    for mention in new:
        after: dict[int, tuple[int, tuple[int, ...]]] = {}
        for taken, (total, chosen) in best.items():
            options = [(taken, total, -1)]
            options += [
                (taken | 1 << i, total + 1 + 8 * _agreement(mention, thing), i)
                for i, thing in enumerate(things)
                if not taken >> i & 1
            ]
            for key, value, i in options:
                if key not in after or after[key][0] < value:
                    after[key] = value, (*chosen, i)
        best = after
    _, chosen = max(best.values())
    matched: dict[Mention, Thing | None] = {m: things[i] if i >= 0 else None for m, i in zip(new, chosen, strict=True)}
    for mention in mentions:
        if not mention.introduced:
            matched[mention] = max(things, key=lambda thing: _agreement(mention, thing))
    return matched


def _score_scene(claims: Claims, scene: Scene, score: Score) -> None:
    matched = match_mentions(claims.mentions, scene.things)
    for mention, thing in matched.items():
        if thing is None:
            for kind in _matches(mention, scene.things[0]):
                score.add(kind, False)
        else:
            for kind, is_right in _matches(mention, thing).items():
                score.add(kind, is_right)
    for count in claims.counts:
        score.add("count", len(scene.find(**count.attributes())) == count.number)
    for absent in claims.absent:
        score.add("count", not scene.find(**absent.attributes()))
    for word, mention, named in claims.sized:
        score.add("size", _is_sized(scene, word, mention, named))
    for attribute, named in claims.alike:
        score.add(attribute, len({getattr(_like(mention, scene)[0], attribute) for mention in named}) == 1)
    for colour in claims.shared:
        score.add("colour", len(scene.find(colour=colour)) == len(scene.things))
    for colour in claims.palette:
        score.add("colour", bool(scene.find(colour=colour)))
    for place in claims.filled:
        score.add("position", scene.at(*place) is not None)
    for mark in claims.empty:
        score.add("position", _is_empty(scene, mark))
    for first, axes, second in claims.relations:
        pairs = [(of, to) for of in _like(first, scene) for to in _like(second, scene) if of is not to]
        score.add("position", any(_lies(axes, direction(of, to)) for of, to in pairs))
    if claims.background is not None:
        score.add("colour", claims.background == scene.background)


def _is_sized(scene: Scene, word: str, mention: Mention, named: list[Mention]) -> bool:
    """Whether a thing is larger (or so) than the other one that the sentence names, or than all others."""
    sign = 1 if word in (*LARGER, *LARGEST) else -1
    thing = _like(mention, scene)[0]
    others = [t for t in scene.things if t is not thing]
    if word in (*LARGER, SMALLER):
        others = [t for t in (_like(m, scene)[0] for m in named) if t is not thing]
    sizes = [SIZES.index(t.size) if t.size else 0 for t in (thing, *others)]
    return bool(others) and all(sign * sizes[0] > sign * size for size in sizes[1:])


def _like(mention: Mention, scene: Scene) -> list[Thing]:
    """The things that fit a mention best: several where they look alike and the text gives no place."""
    best = max(_agreement(mention, thing) for thing in scene.things)
    return [thing for thing in scene.things if _agreement(mention, thing) == best]


def _lies(said: tuple[int, int], true: tuple[int, int]) -> bool:
    return all(a in (0, b) for a, b in zip(said, true, strict=True))


def _is_empty(scene: Scene, mark: str) -> bool:
    if mark[1] == "p":
        return scene.at(int(mark[2]), int(mark[3])) is None
    return int(mark[2]) in (scene.empty_rows() if mark[1] == "r" else scene.empty_columns())


def _texts_of(lines: Iterable[str]) -> set[str]:
    """Lines, and lines that follow each other read as one."""
    lines = list(lines)
    return {*lines, " ".join(lines), *(f"{a} {b}" for a, b in pairwise(lines))}


def _values_of(picture: Receipt | Chart | Table) -> set[tuple[str, ...]]:
    if isinstance(picture, Receipt):
        return {(name, price_text(price)) for name, price in (*picture.items, (TOTAL, picture.total))}
    if isinstance(picture, Chart):
        return {(label, str(value)) for label, value in zip(picture.labels, picture.values, strict=True)}
    return {
        (row, column, str(number))
        for row, cells in zip(picture.rows, picture.cells, strict=True)
        for column, number in zip(picture.columns, cells, strict=True)
    }


def _parts_of(picture: Sign | Receipt | Chart | Table) -> dict[str, int]:
    if isinstance(picture, Sign):
        return {"lines": len(picture.lines)}
    if isinstance(picture, Receipt):
        return {"items": len(picture.items), "lines": len(picture.items)}
    if isinstance(picture, Chart):
        return {"bars": len(picture.values)}
    return {"rows": len(picture.rows), "columns": len(picture.columns)}


def _score_document(claims: Claims, picture: Sign | Receipt | Chart | Table, score: Score) -> None:
    if isinstance(picture, Sign):
        texts = _texts_of(picture.lines)
        for said, true in ((claims.board, picture.board), (claims.ink, picture.ink)):
            if said is not None:
                score.add("colour", said == true)
    else:
        texts = (
            {picture.shop} if isinstance(picture, Receipt) else {picture.title} if isinstance(picture, Chart) else set()
        )
        values = _values_of(picture)
        size = 3 if isinstance(picture, Table) else 2
        for value in claims.values:
            if len(value) == size:
                score.add("value", value in values)
    for text in claims.texts:
        score.add("text", text in texts)
    if claims.background is not None:
        score.add("colour", claims.background == picture.background)
    parts = _parts_of(picture)
    for name, number in claims.parts:
        score.add("count", parts.get(name) == number)


def _answers(claims: Claims, asked: Asked) -> bool | None:
    """Whether the answer says what was asked for; None if the question had no one point."""
    checks: list[bool] = []
    if asked.verdict is not None:
        checks.append(claims.verdict == asked.verdict)
    if asked.count is not None:
        counts = [c.number for c in claims.counts if asked.look is None or (None, c.colour, c.noun) == asked.look]
        counts += [number for _, number in claims.parts] + claims.concluded + ([0] if claims.absent else [])
        checks.append(asked.count in counts)
    elif asked.look is not None:
        size, colour, noun = asked.look
        named = [m for _, m, _ in claims.sized] if claims.sized and asked.place is None else claims.mentions
        checks.append(
            any(
                m.noun == noun
                and m.colour in (None, colour)
                and m.size in (None, size)
                and (asked.place is None or m.place == asked.place)
                for m in named
            )
        )
    elif asked.place is not None:
        checks.append("@p{}{}".format(*asked.place) in claims.empty)
    if asked.text is not None:
        checks.append(
            asked.text in claims.texts or set(asked.text.split()) <= {w for t in claims.texts for w in t.split()}
        )
    if asked.value is not None:
        checks.append(any(asked.label in value and value[-1] == asked.value for value in claims.values))
    elif asked.label is not None:
        checks.append(claims.best == asked.label)
    return all(checks) if checks else None


def score(answer: str, facts: Facts) -> Score:
    """Count an answer's claims, and the right ones among them, against the facts of its picture and question."""
    claims, result = named_attributes(answer), Score()
    if isinstance(facts.picture, Scene):
        _score_scene(claims, facts.picture, result)
    else:
        _score_document(claims, facts.picture, result)
    answered = _answers(claims, facts.asked)
    if answered is not None:
        result.add("asked", answered)
    return result

"""Descriptions of scenes at length: an opening, the things in one of several orders, then remarks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby, pairwise

from vispec.pair.grammar import (
    COLUMN_TERMS,
    ROW_TERMS,
    TWO_AT_ONCE,
    column_name,
    introduce,
    introduce_alike,
    introduce_in_parts,
    is_unique,
    noun_phrase,
    plural_phrase,
    refer,
    relation,
    row_name,
)
from vispec.pair.remarks import remarks
from vispec.pair.scenes import Scene, Thing
from vispec.pair.style import Style, as_list, flow, join, sentence
from vispec.pair.words import COLOURS, NOUNS, SIZES

OPENINGS = (
    "[the|this] [picture|image|scene] [shows|contains|has] {n} {shapes} on a {bg} background",
    "{n} {shapes} [are placed|are arranged|lie|appear] on a {bg} background",
    "on a {bg} background [there are|we see|you can see] {n} {shapes}",
    "[I count|I see|there are] {n} {shapes} [in the picture|here|in this image], [all|everything] on a {bg} background",
    "the background is {bg}, and {n} {shapes} [lie on it|appear on it|are drawn on it]",
    "a {bg} [background|surface] carries {n} {shapes}",
    "[what we have here|what you see] is {n} {shapes} [on|against] a {bg} background",
    "{n} {shapes} [share|fill|populate] a {bg} [background|surface]",
    "[imagine|picture|think of] a {bg} background with {n} {shapes} on it",
    "[all in all|to sum up]: {n} {shapes}, a {bg} background",
    "[somebody|someone|the artist] has [placed|put|arranged] {n} {shapes} on a {bg} background",
    "[here|in this picture|in the image], {n} {shapes} stand out against [a plain|a simple|an even] {bg} background",
)
BACKGROUNDS_LAST = (
    "[everything|all of it|all of this] [is drawn|lies|is set] on a {bg} background",
    "the background is [plain|simply|all] {bg}",
    "[behind them|behind all this] is a {bg} background",
)


def _opening(scene: Scene, style: Style) -> list[str]:
    count = len(scene.things)
    shapes = style.generic(scene.has_emoji, count)
    background = style.colour(scene.background)
    return [sentence(style.tell(OPENINGS, n=style.number(count), shapes=shapes, bg=background))]


def _linked(style: Style, clauses: Sequence[str]) -> list[str]:
    """Clauses as sentences, some with a word that says that the list goes on."""
    linked = style.keep("linked", (True, False))
    sentences = []
    for i, clause in enumerate(clauses):
        if linked and style.chance(0.5):
            if i == 0:
                link = style.pick("first link", ("first", "to begin with", "to start"))
            elif i == len(clauses) - 1:
                link = style.pick("last link", ("finally", "lastly", "last of all"))
            else:
                link = style.pick("link", ("next", "then", "after that", "furthermore"))
            clause = f"{link}, {clause}"
        sentences.append(sentence(clause))
    return sentences


def _one_by_one(scene: Scene, style: Style, things: Sequence[Thing]) -> list[str]:
    """Things in the order given: one a sentence, two a sentence, in parts, or with their way from the one before."""
    clauses = []
    in_parts, in_pairs = style.keep("in parts", (0.35, 0.1, 0.0)), style.keep("in pairs", (0.5, 0.2, 0.0))
    related = style.keep("related", (0.0, 0.25, 0.5))
    i = 0
    while i < len(things):
        thing = things[i]
        name = "another one" if i and things[i - 1].look == thing.look and style.chance(0.6) else None
        if name is None and i + 1 < len(things) and style.chance(in_pairs):
            one, two = introduce(style, thing), introduce(style, things[i + 1])
            clauses.append(style.tell(TWO_AT_ONCE, one=one, two=two))
            i += 2
            continue
        split = name is None and style.chance(in_parts)
        clause = introduce_in_parts(style, thing) if split else introduce(style, thing, name)
        repeated = i + 1 < len(things) and things[i + 1].look == thing.look  # `another one` must mean this thing
        if i and not (split or repeated) and is_unique(scene, things[i - 1]) and style.chance(related):
            clause += f", {relation(style, thing, things[i - 1], refer(style, scene, things[i - 1]))}"
        clauses.append(clause)
        i += 1
    return _linked(style, clauses)


def _by_rows(scene: Scene, style: Style) -> list[str]:
    rows = [(row, [t for t in scene.things if t.row == row]) for row in range(3)]
    if style.chance(0.25):
        rows.reverse()
    lines = [(row_name(style, row), [(t, COLUMN_TERMS[t.col]) for t in things]) for row, things in rows]
    return _lines(style, lines)


def _by_columns(scene: Scene, style: Style) -> list[str]:
    columns = [(col, [t for t in scene.things if t.col == col]) for col in range(3)]
    if style.chance(0.25):
        columns.reverse()
    lines = [(column_name(style, col), [(t, ROW_TERMS[t.row]) for t in things]) for col, things in columns]
    return _lines(style, lines)


def _lines(style: Style, lines: Sequence[tuple[str, Sequence[tuple[Thing, Sequence[str]]]]]) -> list[str]:
    """What each row or each column holds."""
    clauses = []
    for line, members in lines:
        if not members:
            if style.chance(0.6):
                clauses.append(
                    style.tell(
                        ("{line} is empty", "{line} [holds|contains] nothing", "nothing is in {line}"), line=line
                    )
                )
            continue
        names = []
        for thing, terms in members:
            names.append(f"{noun_phrase(style, thing)} {style.pick(terms[0], terms)}")
        clauses.append(
            style.tell(
                (
                    "{line} [holds|contains|has|shows] {names}",
                    "in {line} [you see|we see|one finds|I see] {names}",
                    "{line}: {names}",
                ),
                line=line,
                names=join(names),
            )
        )
    return _linked(style, clauses)


def _by_size(scene: Scene, style: Style) -> list[str]:
    up = style.chance(0.4)
    things = sorted(scene.things, key=lambda t: SIZES.index(t.size or "small") * (1 if up else -1))
    return _grouped(style, "size", [list(group) for _, group in groupby(things, key=lambda t: t.size)])


def _by_colour(scene: Scene, style: Style) -> list[str]:
    order = list(COLOURS)
    style.rng.shuffle(order)
    things = sorted(scene.things, key=lambda t: order.index(t.colour))
    return _grouped(style, "colour", [list(group) for _, group in groupby(things, key=lambda t: t.colour)])


def _by_noun(scene: Scene, style: Style) -> list[str]:
    order = list(NOUNS)
    style.rng.shuffle(order)
    things = sorted(scene.things, key=lambda t: order.index(t.noun))
    return _grouped(style, "noun", [list(group) for _, group in groupby(things, key=lambda t: t.noun)])


def _grouped(style: Style, shared: str, groups: Sequence[Sequence[Thing]]) -> list[str]:
    """Groups that share an attribute: `two of the shapes are red: a small square in ... and a circle in ...`."""
    clauses = []
    for things in groups:
        if len(things) == 1:
            clauses.append(introduce(style, things[0]))
        elif len({t.look for t in things}) == 1:
            clauses.append(introduce_alike(style, things))
        else:
            clauses.append(_group(style, shared, things))
    return _linked(style, clauses)


def _group(style: Style, shared: str, things: Sequence[Thing]) -> str:
    names = join([f"{noun_phrase(style, t, drop=shared)} {style.at(*t.place)}" for t in things])
    if shared == "noun":
        nouns = plural_phrase(style, things, "noun")
        return style.tell(
            (
                "there are {nouns}: {names}",
                "{nouns} [appear|are visible|can be seen]: {names}",
                "[I see|we see|you see] {nouns}, {names}",
            ),
            nouns=nouns,
            names=names,
        )
    thing = things[0]
    value = thing.colour if shared == "colour" else style.size_words[thing.size or "small"]
    shapes = style.generic(thing.size is None, 2)
    return style.tell(
        (
            "{n} of the {shapes} are {value}: {names}",
            "the {value} {shapes} are {names}",
            "{n} {shapes} are {value}, {names}",
        ),
        n=style.number(len(things)),
        shapes=shapes,
        value=value,
        names=names,
    )


def _chain(scene: Scene, style: Style) -> list[str]:
    """Each thing by the way to it from the one before."""
    left = list(scene.things)
    path = [left.pop(int(style.rng.random() * len(left)))]
    while left:
        here = path[-1]
        left.sort(key=lambda t: abs(t.row - here.row) + abs(t.col - here.col))
        path.append(left.pop(0))
    clauses = [introduce(style, path[0])]
    for before, thing in pairwise(path):
        way, name = (
            relation(style, thing, before, style.pick("it", ("it", "that", "this one"))),
            noun_phrase(style, thing),
        )
        clause = style.tell(
            (
                "{way} [is|sits|lies] {name}",
                "{way} [there is|you see|we find|one finds] {name}",
                "{name} [is|lies|sits] {way}",
            ),
            way=way,
            name=name,
        )
        if style.chance(0.75):
            clause += f", {style.at(*thing.place)}"
        clauses.append(clause)
    return _linked(style, clauses)


def _free(scene: Scene, style: Style) -> list[str]:
    """In no order, things of one look together."""
    things = list(scene.things)
    style.rng.shuffle(things)
    alike: dict[object, list[Thing]] = {}
    for thing in things:
        alike.setdefault(thing.look, []).append(thing)
    groups = [introduce_alike(style, group) for group in alike.values() if len(group) > 1]
    single = _one_by_one(scene, style, [group[0] for group in alike.values() if len(group) == 1])
    return [sentence(group) for group in groups] + single


ORDERS: dict[str, Callable[[Scene, Style], list[str]]] = {
    "rows": _by_rows,
    "columns": _by_columns,
    "size": _by_size,
    "colour": _by_colour,
    "noun": _by_noun,
    "chain": _chain,
    "free": _free,
    "reading": lambda scene, style: _one_by_one(scene, style, scene.things),
    "backwards": lambda scene, style: _one_by_one(scene, style, scene.things[::-1]),
}
SORTED: dict[str, Callable[[Thing], tuple[float, ...]]] = {  # orders that can be told as a list
    "rows": lambda t: t.place,
    "reading": lambda t: t.place,
    "columns": lambda t: (t.col, t.row),
    "backwards": lambda t: (-t.row, -t.col),
    "size": lambda t: (-SIZES.index(t.size or "small"),),
    "free": lambda t: (t.x,),
}
LIST_ITEMS = ("{a}, {p}", "{p}: {a}", "{a} ({p})", "{p}, {a}", "{a}: {p}")


def _as_list(style: Style, things: Sequence[Thing]) -> str:
    """Lines without verbs: `- small red square, top left corner`."""
    form = style.pick(LIST_ITEMS[0], LIST_ITEMS)
    places = [style.place(*thing.place).removeprefix("the ") for thing in things]
    names = [noun_phrase(style, thing, "") for thing in things]
    return as_list(style, [style.say(form, a=name, p=place) for name, place in zip(names, places, strict=True)])


def describe_scene(scene: Scene, style: Style, order: str, num_remarks: int) -> str:
    """A description that names every attribute of every thing, and `num_remarks` more facts."""
    opening = _opening(scene, style) if style.chance(0.85) else []
    closing = remarks(scene, style, num_remarks)
    if not opening:
        closing.append(sentence(style.tell(BACKGROUNDS_LAST, bg=style.colour(scene.background))))
    if opening and order in SORTED and style.keep("list", (True, False, False, False)):
        things = sorted(scene.things, key=SORTED[order])
        return flow(style, [*opening, _as_list(style, things), *closing])
    return flow(style, [*opening, *ORDERS[order](scene, style), *closing])

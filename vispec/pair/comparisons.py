"""Questions about several things of a scene, with their answers: how many, how they compare, how they lie."""

from __future__ import annotations

import random
from collections.abc import Sequence

from vispec.pair.asking import Asked, Turn, choose_form
from vispec.pair.grammar import axis_words, beside_words, introduce, is_unique, noun_phrase, refer, relation
from vispec.pair.remarks import extreme
from vispec.pair.scenes import Scene, Thing, adjacent, direction
from vispec.pair.style import Style, join, sentence
from vispec.pair.words import COLOURS, EMOJI, LARGEST, SHAPES, SIZES, SMALLEST

HOW_MANY = (
    "How many {xs} are there?",
    "Count the {xs}.",
    "How many {xs} do you see?",
    "Tell me the number of {xs}.",
    "What is the number of {xs} here?",
)
IS_RELATED = (
    "Is {a} {way}?",
    "Does {a} lie {way}?",
    "Is it true that {a} is {way}?",
    "Would you say that {a} is {way}?",
)
HOW_RELATED = (
    "Where is {a} relative to {b}?",
    "How does {a} lie to {b}?",
    "Seen from {b}, where is {a}?",
    "Where is {a}, compared with {b}?",
)
WHICH_BESIDE = (
    "What is {way}?",
    "Which [thing|object] is {way}?",
    "What do you see {way}?",
    "Name what lies {way}.",
)
WHICH_SIZE = (
    "Which is {word}, {a} or {b}?",
    "Which one is {word}: {a} or {b}?",
    "Compare {a} with {b}. Which is {word}?",
)
WHICH_EXTREME = (
    "Which [thing|object] is the {word}?",
    "What is the {word} [thing|object]?",
    "Find the {word} [thing|object].",
)
SAME = (
    "Do {a} and {b} have the same {same}?",
    "Is {a} of the same {same} as {b}?",
    "Are {a} and {b} of one {same}?",
)
MORE = (
    "Are there more {xs} than {ys}?",
    "Do the {xs} outnumber the {ys}?",
    "Compare the {xs} with the {ys}. Are there more of the first?",
)


def ask_count(scene: Scene, rng: random.Random) -> Turn:
    """The number of things of a noun, of a colour, of both, or of all, and where they are."""
    form, style = choose_form(rng, HOW_MANY)
    model = rng.choice(scene.things)
    colour = model.colour if rng.random() < 0.85 else rng.choice(tuple(COLOURS))
    noun = model.noun if rng.random() < 0.85 else rng.choice(EMOJI if scene.has_emoji else SHAPES)
    told = rng.choices(("noun", "colour", "colour noun", ""), (4, 4, 3, 1))[0]
    things = scene.find(None, colour if "colour" in told else None, noun if "noun" in told else None)
    count = len(things)

    def called(number: int) -> str:
        name = style.noun(noun, number) if "noun" in told else style.generic(scene.has_emoji, number)
        return f"{colour} {name}" if "colour" in told else name

    asked = Asked(count=count, look=(None, colour if "colour" in told else None, noun if "noun" in told else None))
    question = style.say(form, xs=called(2))
    if count == 0:
        answer = f"there are no {called(2)} [here|in the picture], but {introduce(style, model)}"
        return Turn("count", question, sentence(style.say(answer)), style, asked)
    verb, number = ("is" if count == 1 else "are"), style.number(count)
    if style.chance(0.5):
        where = join([introduce(style, t) for t in things])
        answer = style.tell(
            ("{where}, so there {verb} {n} {x}", "{where}, so that makes {n} {x}", "{where}, so the number is {n}"),
            where=where,
            verb=verb,
            n=number,
            x=called(count),
        )
    else:
        ones = join([f"{noun_phrase(style, t, drop=told or 'nothing')} {style.at(*t.place)}" for t in things])
        answer = style.tell(
            ("there {verb} {n} {x}: {ones}", "I [count|see] {n} {x}: {ones}", "{n} {x} can be seen: {ones}"),
            verb=verb,
            n=number,
            x=called(count),
            ones=ones,
        )
    return Turn("count", question, sentence(answer), style, asked)


def _two(scene: Scene, rng: random.Random) -> tuple[Thing, Thing] | None:
    """Two things that their looks tell apart from all others."""
    things = [t for t in scene.things if is_unique(scene, t)]
    if len(things) < 2:
        return None
    a, b = rng.sample(things, 2)
    return a, b


def _both_places(style: Style, names: tuple[str, str], a: Thing, b: Thing) -> str:
    return style.tell(
        ("{a} [is|lies|sits] {p} and {b} {q}", "{a} [is|lies|sits] {p}, {b} {q}", "{p} is {a} and {q} {b}"),
        a=names[0],
        b=names[1],
        p=style.at(*a.place),
        q=style.at(*b.place),
    )


def ask_relation(scene: Scene, rng: random.Random) -> Turn | None:
    """How two things lie to each other, whether they lie as asked, or what lies next to a thing.

    None if no two things can be told apart by their looks.
    """
    neighbours = [(a, b) for a in scene.things for b in scene.things if adjacent(a, b) and is_unique(scene, b)]
    if neighbours and rng.random() < 0.25:
        return _ask_beside(scene, rng, *rng.choice(neighbours))
    pair = _two(scene, rng)
    if pair is None:
        return None
    a, b = pair
    if rng.random() < 0.4:
        return _ask_how_related(scene, rng, a, b)
    form, style = choose_form(rng, IS_RELATED)
    names = refer(style, scene, a), refer(style, scene, b)
    rows, columns = direction(a, b)
    told = rng.choice([axis for axis in ((rows, 0), (0, columns)) if any(axis)])
    truth = rng.random() < 0.5
    asked_way = axis_words(style, told if truth else (-told[0], -told[1]))
    where, way = _both_places(style, names, a, b), axis_words(style, told)
    word = "yes" if truth else "no"
    answer = style.tell(
        (
            "{word}, {a} is {way} {b}: {where}",
            "{where}, so {word}, {a} is {way} {b}",
            "{word}: {where}",
            "{word}, it is {way} {b}. {Where}",
        ),
        word=word,
        a=names[0],
        b=names[1],
        way=way,
        where=where,
        Where=sentence(where, ""),
    )
    question = style.say(form, a=names[0], way=f"{asked_way} {names[1]}")
    return Turn("relation", question, sentence(answer), style, Asked(verdict=truth))


def _ask_how_related(scene: Scene, rng: random.Random, a: Thing, b: Thing) -> Turn:
    form, style = choose_form(rng, HOW_RELATED)
    names = refer(style, scene, a), refer(style, scene, b)
    way = relation(style, a, b, names[1])
    answer = style.tell(
        ("{a} is {way}: {where}", "{where}, so {a} is {way}", "{where}. That means that {a} is {way}"),
        a=names[0],
        way=way,
        where=_both_places(style, names, a, b),
    )
    return Turn("relation", style.say(form, a=names[0], b=names[1]), sentence(answer), style, Asked())


def _ask_beside(scene: Scene, rng: random.Random, a: Thing, b: Thing) -> Turn:
    form, style = choose_form(rng, WHICH_BESIDE)
    name = refer(style, scene, b)
    way = f"{beside_words(style, direction(a, b))} {name}"
    answer = style.tell(
        ("{way} [is|sits|lies] {a}, {at}", "{way} there is {a}, {at}", "that is {a}: it [is|lies|sits] {at}, {way}"),
        a=noun_phrase(style, a),
        way=way,
        at=style.at(*a.place),
    )
    return Turn("relation", style.say(form, way=way), sentence(answer), style, Asked(look=a.look, place=a.place))


def ask_compare(scene: Scene, rng: random.Random) -> Turn:
    """Which of two is larger, which is the largest, whether two share a colour or a size, whether there are more."""
    pair = _two(scene, rng)
    if pair is None or rng.random() < 0.3:
        return _ask_more(scene, rng)
    a, b = pair
    best = extreme(scene, largest := rng.random() < 0.5)
    if best is not None and len(scene.things) > 2 and rng.random() < 0.5:
        return _ask_extreme(scene, rng, best, largest)
    if a.size != b.size and rng.random() < 0.6:
        return _ask_larger(scene, rng, a, b)
    return _ask_same(scene, rng, a, b)


def _ask_extreme(scene: Scene, rng: random.Random, thing: Thing, largest: bool) -> Turn:
    form, style = choose_form(rng, WHICH_EXTREME)
    word = style.keep("largest", LARGEST) if largest else SMALLEST
    name = refer(style, scene, thing)
    answer = style.tell(
        (
            "the {word} [of them|of all] is {x}, {at}",
            "{x} is the {word} [of them|of all]; it [is|lies|sits] {at}",
            "{x}, {at}, is the {word} [of them|of all]",
        ),
        word=word,
        x=name,
        at=style.at(*thing.place),
    )
    return Turn("compare", style.say(form, word=word), sentence(answer), style, Asked(look=thing.look))


def _ask_larger(scene: Scene, rng: random.Random, a: Thing, b: Thing) -> Turn:
    form, style = choose_form(rng, WHICH_SIZE)
    larger = rng.random() < 0.5
    winner, loser = sorted((a, b), key=lambda t: SIZES.index(t.size or "small"), reverse=larger)
    word = style.keep("larger", ("larger", "bigger")) if larger else "smaller"
    names = {t: _named_without(style, scene, t, "size") for t in (a, b)}
    sizes = style.tell(
        ("{a} is {s} and {b} is {t}", "{a} is {s}, while {b} is {t}", "{b} is {t} but {a} is {s}"),
        a=names[a],
        b=names[b],
        s=style.size_words[a.size or "small"],
        t=style.size_words[b.size or "small"],
    )
    answer = style.tell(
        ("{sizes}, so {x} is {word}", "{x} is {word} than {y}: {sizes}", "{x} is {word}, for {sizes}"),
        sizes=sizes,
        x=names[winner],
        y=names[loser],
        word=word,
    )
    question = style.say(form, word=word, a=names[a], b=names[b])
    return Turn("compare", question, sentence(answer), style, Asked(look=winner.look))


def _ask_same(scene: Scene, rng: random.Random, a: Thing, b: Thing) -> Turn:
    form, style = choose_form(rng, SAME)
    of_size = a.size is not None and rng.random() < 0.5
    same = "size" if of_size else style.colour_word
    values = [style.size_words[t.size or "small"] if of_size else t.colour for t in (a, b)]
    truth = values[0] == values[1]
    names = [_named_without(style, scene, t, "size" if of_size else "colour") for t in (a, b)]
    if truth:
        told = style.tell(
            ("both {a} and {b} are {s}", "{a} is {s} and {b} is {s} too"), a=names[0], b=names[1], s=values[0]
        )
    else:
        told = style.tell(
            ("{a} is {s} and {b} is {t}", "{a} is {s}, while {b} is {t}", "{b} is {t} but {a} is {s}"),
            a=names[0],
            b=names[1],
            s=values[0],
            t=values[1],
        )
    word = "yes" if truth else "no"
    answer = style.tell(
        (
            "{word}, {told}",
            "{told}, so {word}, they do" if truth else "{told}, so {word}, they [do not|differ]",
            "{word}: {told}",
        ),
        word=word,
        told=told,
    )
    question = style.say(form, a=names[0], b=names[1], same=same)
    return Turn("compare", question, sentence(answer), style, Asked(verdict=truth))


def _named_without(style: Style, scene: Scene, thing: Thing, hidden: str) -> str:
    """A name that does not give away the attribute asked for, where the others suffice; else with its place."""
    for drop, look in (
        (f"size {hidden}", (None, None if hidden == "colour" else thing.colour, thing.noun)),
        (
            hidden,
            (thing.size if hidden == "colour" else None, None if hidden == "colour" else thing.colour, thing.noun),
        ),
    ):
        if len(scene.find(*look)) == 1:
            drop = "size" if drop == "size size" else drop
            return noun_phrase(style, thing, "the", drop)
    return f"{noun_phrase(style, thing, 'the', f'size {hidden}')} {style.at(*thing.place)}"


def _ask_more(scene: Scene, rng: random.Random) -> Turn:
    form, style = choose_form(rng, MORE)
    nouns = sorted({t.noun for t in scene.things})
    others: Sequence[str] = EMOJI if scene.has_emoji else SHAPES
    x, y = rng.choice(nouns), rng.choice(nouns if len(nouns) > 1 else others)
    while x == y:
        y = rng.choice(others)
    if rng.random() < 0.5:
        x, y = y, x
    m, n = len(scene.find(noun=x)), len(scene.find(noun=y))
    counts = [f"{style.number(k) if k else 'no'} {style.noun(noun, k)}" for k, noun in ((m, x), (n, y))]
    word = "yes" if m > n else "no"
    told = style.tell(
        ("there {verb} {m} and {n}", "I count {m} and {n}", "{m} stand against {n}"),
        m=counts[0],
        n=counts[1],
        verb="is" if m == 1 else "are",
    )
    result = {True: "there are more {xs}", False: "there are not more {xs}"}[m > n]
    answer = style.tell(
        ("{word}, {result}: {told}", "{told}, so {word}, {result}", "{word}: {told}"),
        word=word,
        told=told,
        result=style.say(result, xs=style.noun(x, 2)),
    )
    question = style.say(form, xs=style.noun(x, 2), ys=style.noun(y, 2))
    return Turn("compare", question, sentence(answer), style, Asked(verdict=m > n))

"""Questions about a scene as a whole or one thing of it: describe, where is it, is it there, what is at a place."""

from __future__ import annotations

import random

from vispec.pair.asking import Asked, Turn, choose_form
from vispec.pair.descriptions import ORDERS, describe_scene
from vispec.pair.grammar import introduce, is_unique, noun_phrase, plural_phrase, refer, relation
from vispec.pair.scenes import Scene, Thing
from vispec.pair.style import Style, join, sentence
from vispec.pair.words import COLOURS, EMOJI, SHAPES

DESCRIBE = (
    "Describe the [picture|image]{how}.",
    "Tell me about this [picture|image]{how}.",
    "What do you see{how}?",
    "Give a [detailed|full|complete] description{how}.",
    "Write a [long|rich] caption{how}.",
    "Explain what the [picture|image] shows{how}.",
    "What is in this [picture|image]{how}?",
    "List everything that is here{how}.",
    "I cannot see the [picture|image]. [Describe it|Tell me what is there]{how}.",
    "Go through the scene{how}.",
    "Please describe what is [shown|drawn]{how}.",
    "What does this scene look like{how}?",
)
ORDER_HINTS = {
    "rows": "[row by row|by rows|one row after the other]",
    "columns": "[column by column|by columns|one column after the other]",
    "size": "[by size|sorted by size]",
    "colour": "[by {word}|grouped by {word}]",
    "noun": "[by kind|grouped by kind]",
    "chain": "[step by step|from one to the next]",
    "reading": "from top to bottom",
    "backwards": "from bottom to top",
}
LENGTHS = (  # hint, its share, fewest and most remarks
    ("[briefly|in short]", 0.08, 0, 0),
    ("", 0.37, 2, 5),
    ("[in detail|at length|as fully as you can|in many words]", 0.55, 5, 11),
)
WHERE = (
    "Where is {x}?",
    "Where do you see {x}?",
    "In which part of the [picture|image] is {x}?",
    "Find {x}.",
    "Can you locate {x}?",
    "Tell me where {x} is.",
)
WHERE_MANY = (
    "Where are the {xs}?",
    "Where do you see the {xs}?",
    "Find the {xs}.",
    "Tell me where the {xs} are.",
)
IS_THERE = (
    "Is there {x} [here|in the picture|in this image]?",
    "Do you see {x}?",
    "Does the [picture|image] [show|contain] {x}?",
    "Can {x} be seen?",
    "I am looking for {x}. Is there one?",
    "Is {x} part of the scene?",
)
WHAT_AT = (
    "What is {at}?",
    "What do you see {at}?",
    "Which [thing|object] is {at}?",
    "Describe what is {at}.",
    "What can be found {at}?",
    "Tell me what lies {at}.",
)


def ask_describe(scene: Scene, rng: random.Random) -> Turn:
    """A long description; the question may ask for an order and a length."""
    form, style = choose_form(rng, DESCRIBE)
    order = rng.choice([order for order in ORDERS if order != "size" or not scene.has_emoji])
    hint, _, fewest, most = rng.choices(LENGTHS, [share for _, share, _, _ in LENGTHS])[0]
    hints = [style.say(hint)] if hint else []
    if order in ORDER_HINTS and style.chance(0.6):
        hints.append(style.say(ORDER_HINTS[order], word=style.colour_word))
    how = " " + ", ".join(hints) if hints else ""
    return Turn(
        "describe", style.say(form, how=how), describe_scene(scene, style, order, rng.randint(fewest, most)), style
    )


def beside(scene: Scene, style: Style, thing: Thing) -> list[str]:
    """`It is to the left of the red square.`, if there is another thing that can be named."""
    others = [t for t in scene.things if t is not thing and is_unique(scene, t)]
    if not others:
        return []
    other = min(others, key=lambda t: abs(t.row - thing.row) + abs(t.col - thing.col))
    way = relation(style, thing, other, refer(style, scene, other))
    return [sentence(style.tell(("it [is|lies|sits] {way}", "it can be [found|seen] {way}"), way=way))]


def ask_where(scene: Scene, rng: random.Random) -> Turn:
    """The place of a thing, and of what it lies next to; of all of them where several look alike."""
    thing = rng.choice(scene.things)
    alike = scene.find(*thing.look)
    asked = Asked(look=thing.look, place=thing.place)
    if len(alike) > 1:
        form, style = choose_form(rng, WHERE_MANY)
        number, name = plural_phrase(style, alike, "size colour noun").split(" ", 1)
        answer = style.tell(
            (
                "the {n} {xs} [are|lie|can be found] {places}",
                "there are {n} {xs}: {places}",
                "[you can find|I see] {n} {xs}, {places}",
            ),
            n=number,
            xs=name,
            places=join([style.at(*t.place) for t in alike]),
        )
        return Turn("where", style.say(form, xs=name), sentence(answer), style, asked)
    form, style = choose_form(rng, WHERE)
    name = refer(style, scene, thing)
    answer = style.tell(
        (
            "{x} [is|lies|sits] {at}",
            "{x} can be [found|seen] {at}",
            "you [will|can] find {x} {at}",
            "{at}: that is where {x} is",
            "{x} is placed in {p}",
            "look {at}: {x} is there",
        ),
        x=name if style.chance(0.5) else noun_phrase(style, thing, "the"),
        at=style.at(*thing.place),
        p=style.place(*thing.place),
    )
    return Turn(
        "where", style.say(form, x=name), " ".join([sentence(answer), *beside(scene, style, thing)]), style, asked
    )


def _one_of(style: Style, size: str | None, colour: str, noun: str, article: str = "a") -> str:
    """`a red square`, which may or may not be there."""
    return noun_phrase(style, Thing(size, colour, noun, 0, 0, 0.0, 0.0), article)


def _all_of(style: Style, things: tuple[Thing, ...], shared: str) -> str:
    """`the only square is red and lies in ...`, `the red shapes are a star in ... and a circle in ...`.

    Args:
        shared: "noun" or "colour": what the things have in common and are called by.
    """
    first, is_emoji = things[0], things[0].size is None
    if shared == "noun" and len(things) == 1:
        at = style.at(*first.place)
        return style.say(
            "the only {x} is {colour} and [lies|sits|is] {at}", x=style.noun(first.noun), colour=first.colour, at=at
        )
    names = join([f"{noun_phrase(style, t, drop=shared)} {style.at(*t.place)}" for t in things])
    if shared == "noun":
        return f"the {style.noun(first.noun, 2)} are {names}"
    if len(things) == 1:
        return f"the only {first.colour} {style.generic(is_emoji)} is {names}"
    return f"the {first.colour} {style.generic(is_emoji, 2)} are {names}"


def ask_is_there(scene: Scene, rng: random.Random) -> Turn:
    """Yes with the place; no with the things that share the colour or the noun asked for."""
    form, style = choose_form(rng, IS_THERE)
    thing = rng.choice(scene.things)
    if rng.random() < 0.5:
        size = thing.size if rng.random() < 0.3 else None
        name = _one_of(style, size, thing.colour, thing.noun)
        answer = style.tell(
            (
                "yes, there [is one|is indeed]: {where}",
                "{where}, so yes, there is {x}",
                "{where}, so yes",
                "yes: {where}",
            ),
            where=introduce(style, thing),
            x=name,
        )
        text = " ".join([sentence(answer), *(beside(scene, style, thing) if style.chance(0.5) else [])])
        return Turn("is_there", sentence(style.say(form, x=name), ""), text, style, Asked(verdict=True))
    noun = thing.noun if rng.random() < 0.7 else rng.choice(EMOJI if scene.has_emoji else SHAPES)
    free = [c for c in COLOURS if not scene.find(None, c, noun)]
    near = [c for c in free if scene.find(None, c)]  # the hard case: the colour is there, but on something else
    colour = rng.choice(near if near and rng.random() < 0.6 else free)
    reasons = [
        _all_of(style, things, shared)
        for things, shared in ((scene.find(noun=noun), "noun"), (scene.find(colour=colour), "colour"))
        if things
    ]
    if not reasons:
        reasons = [style.say("there is nothing {c} and no {x} [here|in the picture]", c=colour, x=style.noun(noun))]
    rng.shuffle(reasons)
    answer = style.tell(
        ("no, there is no {x}: {reason}", "{reason}, so no, there is no {x}", "no: {reason}", "no. {reason}"),
        x=_one_of(style, None, colour, noun, ""),
        reason=reasons[0],
    )
    question = sentence(style.say(form, x=_one_of(style, None, colour, noun)), "")
    return Turn("is_there", question, sentence(answer), style, Asked(verdict=False))


def ask_what_at(scene: Scene, rng: random.Random) -> Turn:
    """What is in a cell and what is near, or that it is empty and where the things are instead."""
    form, style = choose_form(rng, WHAT_AT)
    empty = rng.random() < 0.2
    cells = [divmod(cell, 3) for cell in range(9)]
    row, col = rng.choice([cell for cell in cells if (scene.at(*cell) is None) == empty])
    thing, at = scene.at(row, col), style.at(row, col)
    if thing is None:
        where = join([style.at(*t.place) for t in scene.things])
        answer = style.tell(
            (
                "there is nothing {at}; there is something only {where}",
                "{p} is empty: there is something only {where}",
                "nothing is {at}. There is something only {where}",
            ),
            at=at,
            p=style.place(row, col),
            where=where,
        )
        return Turn("what_at", style.say(form, at=at), sentence(answer), style, Asked(place=(row, col)))
    text = " ".join([sentence(introduce(style, thing)), *beside(scene, style, thing)])
    return Turn("what_at", style.say(form, at=at), text, style, Asked(look=thing.look, place=thing.place))

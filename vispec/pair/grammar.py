"""Phrases about things in a scene: how they are named, referred to, placed and related."""

from __future__ import annotations

from collections.abc import Sequence

from vispec.pair.scenes import Scene, Thing, adjacent, direction
from vispec.pair.style import COLUMN_NAMES, ROW_NAMES, Style, join
from vispec.pair.words import SIZE_WORDS, with_article

INTRODUCTIONS = (  # {a} a thing, {at} where it is, {p} the same without preposition
    "{a} [is|sits|lies|rests|stands|appears|floats|hangs] {at}",
    "{a} can be [seen|found|spotted|made out] {at}",
    "{at} [there is|you see|one finds|we see|I see|I notice] {a}",
    "{at} [is|sits|lies|stands|hangs] {a}",
    "{p} [holds|contains|shows|has|belongs to|goes to] {a}",
    "there is {a} {at}",
    "[I see|we see|notice|you can see|one sees|look for] {a} {at}",
    "{a} [occupies|fills|takes up|is placed in|has gone to] {p}",
    "{a} [is visible|is drawn|is painted|shows up|stands out] {at}",
    "{at}, [your eye meets|the artist put|someone drew] {a}",
    "[look|looking] {at}, you [find|meet|will see] {a}",
    "{p} is [taken by|home to|filled by|given to] {a}",
)
TWO_AT_ONCE = (
    "{one} and {two}",
    "{one}, while {two}",
    "{one}; {two}",
    "{one}, and {two}",
    "{one}, whereas {two}",
    "{one}, but {two}",
)
RELATION_WORDS = {
    (0, -1): ("to the left of", "left of"),
    (0, 1): ("to the right of", "right of"),
    (-1, 0): ("above", "over", "higher than"),
    (1, 0): ("below", "under", "beneath", "lower than"),
}
COLUMN_TERMS = (("on the left",), ("in the middle", "in the center"), ("on the right",))
ROW_TERMS = (("at the top",), ("in the middle", "in the center"), ("at the bottom",))


def noun_phrase(style: Style, thing: Thing, article: str = "a", drop: str = "") -> str:
    """`a small red square`, `a square that is small and red`, `a little square in red`.

    Args:
        article: "a", "the", "another" or a number word; "" for none.
        drop: names of attributes to leave out, joined by spaces; without "noun" it ends in `one`.
    """
    size = "" if thing.size is None or "size" in drop else style.size_words[thing.size]
    colour = "" if "colour" in drop else thing.colour
    noun = "one" if "noun" in drop else style.noun(thing.noun)
    form = style.pick("noun phrase", ("plain", "plain", "in", "that", "of", "coloured"))
    before, after = f"{size} {colour} {noun}", ""
    if article != "a" or "noun" in drop or not (size or colour):
        pass
    elif form == "in" and colour:
        before, after = f"{size} {noun}", f" in {colour}"
    elif form == "that":
        before, after = noun, f" that is {' and '.join(word for word in (size, colour) if word)}"
    elif form == "of" and size in SIZE_WORDS[0]:
        before, after = f"{colour} {noun}", f" of {size} size"
    elif form == "coloured" and colour:
        before, after = f"{size} {noun}", f", {colour} in {style.colour_word},"
    phrase = " ".join(before.split())
    if article == "a":
        return with_article(phrase) + after
    return f"{article} {phrase}{after}".strip()


def plural_phrase(style: Style, things: Sequence[Thing], keep: str) -> str:
    """`two small red squares`: what the things share, `keep` naming the attributes told."""
    thing = things[0]
    words = [style.number(len(things))]
    if "size" in keep and thing.size is not None:
        words.append(style.size_words[thing.size])
    if "colour" in keep:
        words.append(thing.colour)
    emoji = thing.size is None
    words.append(style.noun(thing.noun, len(things)) if "noun" in keep else style.generic(emoji, len(things)))
    return " ".join(words)


def refer(style: Style, scene: Scene, thing: Thing, place: bool = True) -> str:
    """`the red square`: enough of its attributes to tell it from the others.

    Args:
        place: add where it is if its look is not unique; the caller may know that it is.
    """
    ways = [
        drop
        for drop, size, colour, noun in (
            ("size colour", None, None, thing.noun),
            ("size", None, thing.colour, thing.noun),
            ("colour", thing.size, None, thing.noun),
            ("", thing.size, thing.colour, thing.noun),
        )
        if (thing.size is not None or "size" in drop) and len(scene.find(size, colour, noun)) == 1
    ]
    if ways:
        return noun_phrase(style, thing, "the", style.pick("refer", ways))
    name = noun_phrase(style, thing, "the")
    return f"{name} {style.at(*thing.place)}" if place else name


def is_unique(scene: Scene, thing: Thing) -> bool:
    """Whether its look alone tells it from the others."""
    return len(scene.find(*thing.look)) == 1


def axis_words(style: Style, axis: tuple[int, int]) -> str:
    """`to the left of`: one of the four directions, as signs of rows and columns."""
    return style.pick(f"relation {axis}", RELATION_WORDS[axis])


def beside_words(style: Style, axis: tuple[int, int]) -> str:
    """`directly to the left of`: a direction for things in cells that share an edge."""
    return "directly " + style.pick(f"beside {axis}", [w for w in RELATION_WORDS[axis] if not w.endswith("than")])


def relation(style: Style, of: Thing, to: Thing, name: str) -> str:
    """`above and to the left of the red square`: where `of` lies, seen from `to`, which is called `name`."""
    rows, columns = direction(of, to)
    words = [axis_words(style, axis) for axis in ((rows, 0), (0, columns)) if any(axis)]
    if len(words) == 2:
        return f"{words[0].removesuffix(' than')} and {words[1]} {name}"
    near = style.pick("near", ("directly ", "right ", "just ", "")) if adjacent(of, to) and words[0] in NEAR else ""
    return f"{near}{words[0]} {name}"


NEAR = frozenset({"above", "below", "under", "beneath"})  # `just to the left` reads well, `just higher than` does not


def row_name(style: Style, row: int) -> str:
    """`the top row`."""
    return f"the {style.keep('rows', ROW_NAMES)[row]} row"


def column_name(style: Style, col: int) -> str:
    """`the left column`."""
    return f"the {style.keep('columns', COLUMN_NAMES)[col]} column"


def introduce(style: Style, thing: Thing, name: str | None = None) -> str:
    """A clause that says what a thing is and where: `in the top left corner there is a small red square`."""
    at, place = style.at(*thing.place), style.place(*thing.place)
    return style.tell(INTRODUCTIONS, a=name or noun_phrase(style, thing), at=at, p=place)


def introduce_in_parts(style: Style, thing: Thing) -> str:
    """A thing by some of its attributes, the others after it: `a square is in the centre; it is small and red`."""
    if thing.size is None:
        later, told = "colour", thing.colour
    else:
        later = style.pick("later", ("size", "colour", "size colour"))
        size = style.size_words[thing.size]
        told = {"size": size, "colour": thing.colour, "size colour": f"{size} and {thing.colour}"}[later]
    clause = introduce(style, thing, noun_phrase(style, thing, drop=later))
    return clause + style.tell(
        ("; it is {told}", ". It is {told}", ", and it is {told}", ". This one is {told}"), told=told
    )


def introduce_alike(style: Style, things: Sequence[Thing]) -> str:
    """Things of the same look at once: `two small red squares are in the top left and in the centre`."""
    name = plural_phrase(style, things, "size colour noun")
    places = join([style.at(*thing.place) for thing in things])
    last = style.pick("last of a group", ("one", "the other" if len(things) == 2 else "one", "another"))
    each = [f"one {style.at(*thing.place)}" for thing in things[:-1]]
    each.append(f"{last} {style.at(*things[-1].place)}")
    return style.tell(
        (
            "{name} [are|sit|lie] {places}",
            "there are {name}, {each}",
            "{name} can be [seen|found], {each}",
            "[I see|we see|you can see] {name}: {each}",
        ),
        name=name,
        places=places,
        each=join(each),
    )

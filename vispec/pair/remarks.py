"""Remarks on a scene after its description: counts, empty places, comparisons, relations. Each is true or not made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from vispec.pair.grammar import column_name, is_unique, refer, relation, row_name
from vispec.pair.scenes import Scene, Thing
from vispec.pair.style import Style, join, sentence
from vispec.pair.words import COLOURS, LARGEST, SHAPES, SIZES, SMALLEST

Remark = Callable[[Scene, Style], str | None]


def number_of_nouns(scene: Scene, style: Style) -> str:
    """`two squares, one star and one circle`."""
    counts = Counter(t.noun for t in scene.things)
    nouns = list(counts)
    style.rng.shuffle(nouns)
    return join([f"{style.number(counts[noun])} {style.noun(noun, counts[noun])}" for noun in nouns])


def _count_nouns(scene: Scene, style: Style) -> str | None:
    names = number_of_nouns(scene, style)
    return style.tell(
        (
            "in [all|total|sum], that makes {names}",
            "altogether there are {names}",
            "that is {names} [in all|in total|altogether]",
            "[I count|we count|one counts] {names} [in all|altogether|in total]",
            "{names} [in all|in total]: nothing more",
            "the sum [in total|in all] is {names}",
        ),
        names=names,
    )


def _count_colours(scene: Scene, style: Style) -> str | None:
    counts = Counter(t.colour for t in scene.things)
    colour, count = style.rng.choice(sorted(counts.items()))
    if count == len(scene.things):
        return style.tell(
            (
                "all of them are {colour}",
                "every [single one|one] of them is {colour}",
                "{colour} is the only {word} used",
                "all of them are {colour}, without exception",
            ),
            colour=colour,
            word=style.colour_word,
        )
    verb = style.pick("is coloured", (("is", "are"), ("comes in", "come in"), ("shows", "show")))[count > 1]
    return style.tell(
        (
            "{n} of them {verb} {colour}",
            "in all, {n} {shapes} {verb} {colour}",
            "altogether, {n} {shapes} {verb} {colour}",
            "exactly {n} of them {verb} {colour}",
            "of all these, {n} of them {verb} {colour}",
        ),
        n=style.number(count),
        verb=verb,
        colour=colour,
        shapes=style.generic(scene.has_emoji, count),
    )


def _colours_used(scene: Scene, style: Style) -> str | None:
    colours = sorted({t.colour for t in scene.things})
    if len(colours) < 2:
        return None
    style.rng.shuffle(colours)
    return style.tell(
        (
            "the {word}s [used|seen here|that appear] are {names}",
            "{names} are the {word}s [used|seen here|in use]",
            "the palette is {names}",
            "{names} make up the [palette|whole palette]",
            "the palette [runs to|consists of] {names}",
            "from the palette, {names} were [taken|chosen]",
        ),
        word=style.colour_word,
        names=join(colours),
    )


def _empty_line(scene: Scene, style: Style) -> str | None:
    lines = [row_name(style, row) for row in scene.empty_rows()]
    lines += [column_name(style, col) for col in scene.empty_columns()]
    if not lines:
        return None
    return style.tell(
        (
            "{line} is [empty|left empty|bare]",
            "there is nothing in {line}",
            "nothing [is|lies] in {line}",
            "{line} [holds|contains] nothing",
            "{line} [stays|was left|remains] [empty|bare|free]",
            "[one finds|we find|I find] nothing in {line}",
            "in {line} there is nothing",
            "leave out {line}, which is [empty|bare]",
        ),
        line=style.rng.choice(lines),
    )


def _empty_cell(scene: Scene, style: Style) -> str | None:
    cells = [divmod(cell, 3) for cell in range(9) if scene.at(*divmod(cell, 3)) is None]
    place = style.rng.choice(cells)
    return style.tell(
        (
            "{p} is [empty|free|bare]",
            "there is nothing {at}",
            "nothing [is|lies] {at}",
            "{p} [stays|was left|remains] [empty|bare|free]",
            "[one finds|we find|I find] nothing {at}",
            "{at} there is nothing",
            "nobody put a thing {at}, it is empty",
        ),
        p=style.place(*place),
        at=style.at(*place),
    )


def _absent(scene: Scene, style: Style) -> str | None:
    if scene.has_emoji:
        return None
    nouns = [n for n in SHAPES if not scene.find(noun=n)]
    colours = [c for c in COLOURS if not scene.find(colour=c)]
    noun, colour = style.rng.choice(nouns), style.rng.choice(colours)
    return style.tell(
        (
            "there is no {noun}",
            "there are no {nouns} [here|in the picture|to be seen]",
            "nothing is {colour}",
            "there is no {noun} and nothing {colour}",
            "[one finds|I see|you will find] no {noun}",
            "no {noun} is [there|here|shown|to be seen]",
            "there is nothing {colour} to be seen",
            "[in vain you look for more|try as you may]: there is no {noun}",
        ),
        noun=style.noun(noun),
        nouns=style.noun(noun, 2),
        colour=colour,
    )


def extreme(scene: Scene, largest: bool) -> Thing | None:
    """The largest (or the smallest) thing if exactly one has that size."""
    if scene.has_emoji:
        return None
    ranks = [SIZES.index(t.size or "small") for t in scene.things]
    best = max(ranks) if largest else min(ranks)
    return scene.things[ranks.index(best)] if ranks.count(best) == 1 else None


def _extreme(scene: Scene, style: Style) -> str | None:
    largest = style.chance(0.5)
    thing = extreme(scene, largest)
    if thing is None or len(scene.things) == 2:
        return None
    word = style.keep("largest", LARGEST) if largest else SMALLEST
    return style.tell(
        (
            "the {word} [of them|of all|of these] is {ref}",
            "{ref} is the {word} [of them|of all|of these]",
            "{ref} turns out to be the {word}",
            "as the {word} [I name|one would name|we have] {ref}",
        ),
        word=word,
        ref=refer(style, scene, thing),
    )


def _pair(scene: Scene, style: Style, fits: Callable[[Thing, Thing], bool]) -> tuple[Thing, Thing] | None:
    """Two things that can be told by their looks and fit, in random order."""
    things = [t for t in scene.things if is_unique(scene, t)]
    pairs = [(a, b) for a in things for b in things if a is not b and fits(a, b)]
    return style.rng.choice(pairs) if pairs else None


def _relation(scene: Scene, style: Style) -> str | None:
    pair = _pair(scene, style, lambda a, b: True)
    if pair is None:
        return None
    a, b = pair
    way = relation(style, a, b, refer(style, scene, b))
    return style.tell(
        (
            "{ref} [is|lies|sits|appears|stands] {way}",
            "{ref} can be [found|seen|spotted] {way}",
            "[note|notice|you see] that {ref} is {way}",
            "[one finds|we find|I see] {ref} {way}",
            "{way} [is|lies|sits|appears] {ref}",
            "{ref} has its place {way}",
        ),
        ref=refer(style, scene, a),
        way=way,
    )


def _shared(scene: Scene, style: Style) -> str | None:
    pair = _pair(scene, style, lambda a, b: a.colour == b.colour or a.size == b.size is not None)
    if pair is None:
        return None
    a, b = pair
    same = style.colour_word if a.colour == b.colour else "size"
    return style.tell(
        (
            "{a} and {b} [have|share] the same {same}",
            "{a} has the same {same} as {b}",
            "{a} and {b} are of the same {same}",
            "{a} [matches|equals] {b} in {same}",
            "in {same}, {a} and {b} [agree|are alike|do not differ]",
            "there is no difference in {same} between {a} and {b}",
        ),
        a=refer(style, scene, a),
        b=refer(style, scene, b),
        same=same,
    )


def _sizes(scene: Scene, style: Style) -> str | None:
    pair = _pair(scene, style, lambda a, b: a.size != b.size)
    if pair is None:
        return None
    a, b = pair
    larger = SIZES.index(a.size or "small") > SIZES.index(b.size or "small")
    word = style.keep("larger", ("larger", "bigger")) if larger else "smaller"
    return style.tell(
        (
            "{a} [is|looks] {word} than {b}",
            "[compared with|next to] {b}, {a} is {word}",
            "{a} [turns out|seems|proves] {word} than {b}",
            "[beside|measured by] {b}, {a} [looks|seems] {word}",
        ),
        a=refer(style, scene, a),
        b=refer(style, scene, b),
        word=word,
    )


REMARKS: tuple[Remark, ...] = (
    _count_nouns,
    _count_colours,
    _colours_used,
    _empty_line,
    _empty_cell,
    _absent,
    _extreme,
    _relation,
    _relation,
    _relation,
    _shared,
    _sizes,
    _empty_cell,
)


def remarks(scene: Scene, style: Style, count: int) -> list[str]:
    """`count` different remarks, or as many as there are to make; those that a style prefers come first more often."""
    first = style.keep("remarks", tuple(range(len(REMARKS))))
    kinds = list(REMARKS[first:] + REMARKS[:first]) if style.chance(0.4) else style.rng.sample(REMARKS, len(REMARKS))
    told: list[str] = []
    for kind in kinds:
        if len(told) == count:
            break
        text = kind(scene, style)
        if text is not None and sentence(text) not in told:
            told.append(sentence(text))
    return told

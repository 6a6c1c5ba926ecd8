"""Questions about receipts, with their answers: describe, what something costs, what costs more."""

from __future__ import annotations

import random

from vispec.pair.asking import Asked, Turn, choose_form
from vispec.pair.documents import Receipt, price_text
from vispec.pair.style import Style, bind, flow, join, sentence
from vispec.pair.words import ORDINALS, TOTAL

DESCRIBE = (
    "Describe the receipt{how}.",
    "What was bought{how}?",
    "Read the receipt{how}.",
    "What do you see{how}?",
    "Describe the [picture|image]{how}.",
    "Please describe what is [shown|drawn]{how}.",
    "List the items and their prices{how}.",
    "Tell me about this [picture|image]{how}.",
)
VALUE = (
    "How much is the {x}?",
    "What does the {x} cost?",
    "What is the price of the {x}?",
    "Tell me the price of the {x}.",
)
TOTAL_VALUE = ("What is the total?", "How much was paid in all?", "What does it come to?", "Read the total.")
EXTREME = (
    "Which item costs the {most}?",
    "What is the {dearest} item?",
    "Find the {dearest} item on the receipt.",
)
MORE = (
    "Does the {a} cost more than the {b}?",
    "Is the {a} dearer than the {b}?",
    "Compare the {a} with the {b}. Does the first cost more?",
)
ORDER_HINTS = {
    "printed": ("", " from top to bottom", " line by line"),
    "dearest": ("", " from the dearest down", " by price"),
    "cheapest": ("", " from the cheapest up", " by price, cheapest first"),
}
ITEM = (
    "the {x} [costs|is|comes to|was] {p}",
    "for the {x} [it says|we read|one pays] {p}",
    "{x}: {p}",
    "[next to|beside] the {x} stands {p}",
    "the price of the {x} is {p}",
)


def _price(style: Style, cents: int) -> str:
    return style.keep("price", ("{}", "{}", "${}")).format(price_text(cents))


def _items(receipt: Receipt, style: Style, order: str) -> list[str]:
    items = list(receipt.items)
    if order != "printed":
        items.sort(key=lambda item: item[1], reverse=order == "dearest")
    mark = style.pick("list mark", (": ", ", ", " - ", " "))
    lines = [f"{name}{mark}{_price(style, price)}" for name, price in items]
    clauses = []
    while items:
        name, price = items.pop(0)
        if items and items[0][1] == price and style.chance(0.7):
            other = items.pop(0)[0]
            clauses.append(
                style.say(
                    "the {x} and the {y} [both cost|each cost|are both] {p}", x=name, y=other, p=_price(style, price)
                )
            )
        else:
            clauses.append(style.tell(ITEM, x=name, p=_price(style, price)))
    return bind(style, clauses, lines)


def _total(receipt: Receipt, style: Style) -> str:
    return style.tell(
        (
            "the total is {p}",
            "[in the last line|at the bottom] the total [says|reads|is] {p}",
            "the total comes to {p}",
            "total: {p}",
            "[together|all in all] that makes a total of {p}",
            "[to pay|due]: a total of {p}",
        ),
        p=_price(style, receipt.total),
    )


def remarks(receipt: Receipt, style: Style) -> list[str]:
    names = [name for name, _ in receipt.items]
    by_price = sorted(receipt.items, key=lambda item: item[1])
    options = [
        style.tell(
            ("the {nth} [item|line] is the {x}", "the {x} [is|comes] {nth} on the list"),
            x=(x := style.rng.choice(names)),
            nth=ORDINALS[names.index(x)],
        ),
        style.tell(("the items are {names}", "what was bought: {names}"), names=join(names)),
        style.tell(
            ("the paper lies on a {bg} background", "the background is {bg}", "behind the paper it is {bg}"),
            bg=style.colour(receipt.background),
        ),
    ]
    if by_price[0][1] != by_price[1][1]:
        options.append(
            style.tell(("the {x} is the cheapest [item|of all]", "nothing is cheaper than the {x}"), x=by_price[0][0])
        )
    if by_price[-1][1] != by_price[-2][1]:
        options.append(
            style.tell(
                ("the {x} is the dearest [item|of all]", "the {x} costs the most", "nothing is dearer than the {x}"),
                x=by_price[-1][0],
            )
        )
    low, high = by_price[0], by_price[-1]
    if low[1] != high[1]:
        options.append(
            style.tell(("the {x} costs more than the {y}", "the {y} is cheaper than the {x}"), x=high[0], y=low[0])
        )
    style.rng.shuffle(options)
    return [sentence(option) for option in options]


def ask_describe(receipt: Receipt, rng: random.Random) -> Turn:
    """The shop, each item with its price, the total, and some remarks."""
    form, style = choose_form(rng, DESCRIBE)
    order = rng.choice(tuple(ORDER_HINTS))
    opening = style.tell(
        (
            '[this is|the picture shows|we see] a receipt from "{shop}" with {n} [items|lines of goods]',
            'a receipt of "{shop}" [lists|names|shows] {n} items',
            'at the top it says "{shop}"; below there are {n} items',
            '"{shop}" is the name of the shop, and {n} items were bought',
            '[someone|a customer] bought {n} items at "{shop}"',
            '[imagine|picture|here is] a slip of paper from "{shop}" with {n} items',
            'the shop "{shop}" sold {n} items',
        ),
        shop=receipt.shop,
        n=style.number(len(receipt.items)),
    )
    sentences = [sentence(opening), *_items(receipt, style, order), sentence(_total(receipt, style))]
    sentences += remarks(receipt, style)[: rng.randint(1, 6)]
    question = style.say(form, how=style.pick(order, ORDER_HINTS[order]))
    return Turn(
        "describe", question, flow(style, sentences), style, Asked(value=price_text(receipt.total), label=TOTAL)
    )


def ask_value(receipt: Receipt, rng: random.Random) -> Turn:
    """The price of an item, or the total."""
    if rng.random() < 0.25:
        form, style = choose_form(rng, TOTAL_VALUE)
        names = [name for name, _ in receipt.items]
        answer = f"{_total(receipt, style)}, for {style.number(len(names))} items: {join(names)}"
        return Turn(
            "value", style.say(form), sentence(answer), style, Asked(value=price_text(receipt.total), label=TOTAL)
        )
    form, style = choose_form(rng, VALUE)
    i = rng.randrange(len(receipt.items))
    name, cents = receipt.items[i]
    answer = style.tell(
        (
            "the {x} [costs|is|comes to] {p}, as the {nth} line of the receipt [says|shows]",
            "in the {nth} line of the receipt we read that the {x} [costs|is] {p}",
            "the price of the {x} is {p}; it [is|stands] in the {nth} line",
        ),
        x=name,
        p=_price(style, cents),
        nth=ORDINALS[i],
    )
    return Turn("value", style.say(form, x=name), sentence(answer), style, Asked(value=price_text(cents), label=name))


def ask_compare(receipt: Receipt, rng: random.Random) -> Turn:
    """The dearest or the cheapest item, or whether one costs more than another."""
    by_price = sorted(receipt.items, key=lambda item: item[1])
    most = rng.random() < 0.5
    best, second = (by_price[-1], by_price[-2]) if most else (by_price[0], by_price[1])
    if best[1] != second[1] and rng.random() < 0.5:
        form, style = choose_form(rng, EXTREME)
        words = ("most", "dearest") if most else ("least", "cheapest")
        prices = join(
            [
                f"the {name} {style.pick('costs', ('costs', 'is', 'is at'))} {_price(style, price)}"
                for name, price in receipt.items
            ]
        )
        answer = style.tell(
            (
                "{prices}, so the {x} is the {dearest}",
                "the {x} costs the {most}: {prices}",
                "the {dearest} is the {x}, for {prices}",
            ),
            prices=prices,
            x=best[0],
            most=words[0],
            dearest=words[1],
        )
        return Turn(
            "compare", style.say(form, most=words[0], dearest=words[1]), sentence(answer), style, Asked(label=best[0])
        )
    form, style = choose_form(rng, MORE)
    a, b = rng.sample(receipt.items, 2)
    truth = a[1] > b[1]
    told = style.say(
        "the {x} [costs|is|is at] {p} and the {y} {q}", x=a[0], p=_price(style, a[1]), y=b[0], q=_price(style, b[1])
    )
    answer = style.tell(
        ("{word}, {told}", "{told}, so {word}, it {does}", "{word}: {told}"),
        word="yes" if truth else "no",
        told=told,
        does="does" if truth else "does not",
    )
    return Turn("compare", style.say(form, a=a[0], b=b[0]), sentence(answer), style, Asked(verdict=truth))

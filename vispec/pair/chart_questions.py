"""Questions about bar charts, with their answers: describe, the value of a bar, which is higher."""

from __future__ import annotations

import random

from vispec.pair.asking import Asked, Turn, choose_form
from vispec.pair.documents import Chart
from vispec.pair.style import Style, bind, flow, join, sentence
from vispec.pair.words import ORDINALS

DESCRIBE = (
    "Describe the chart{how}.",
    "What does the chart show{how}?",
    "Read [all|the] values{how}.",
    "Tell me about this [picture|image]{how}.",
    "Explain the [diagram|chart]{how}.",
    "What do you see{how}?",
    "Describe the [picture|image]{how}.",
    "Put the chart into words{how}.",
)
VALUE = (
    "What is the value of {x}?",
    "How [high|large] is the bar for {x}?",
    "Which value does {x} have?",
    "Read the value of {x}.",
    "What number belongs to {x}?",
)
EXTREME = ("Which bar is the {most}?", "Where is the value {most}?", "Find the {most} bar.")
MORE = ("Is {a} higher than {b}?", "Is the value of {a} above that of {b}?", "Does {a} beat {b}?")
COUNT = ("How many bars are there?", "Count the bars.", "How many values does the chart have?")
ORDER_HINTS = {
    "drawn": ("", "", " bar by bar"),
    "falling": ("", " from the highest down", " by value"),
    "rising": ("", " from the lowest up", " by value, lowest first"),
}
BAR = (
    "{x} [is at|stands at|reaches|shows|has] {v}",
    "for {x} [the chart shows|we read|it says] {v}",
    "the bar for {x} [reaches|goes up to|ends at|shows] {v}",
    "{x}: {v}",
    "the value of {x} is {v}",
)


def _is_plain(chart: Chart) -> bool:
    return len(set(chart.colours)) == 1


def _bars(chart: Chart, style: Style, order: str) -> list[str]:
    bars = list(zip(chart.labels, chart.values, chart.colours, strict=True))
    if order != "drawn":
        bars.sort(key=lambda bar: bar[1], reverse=order == "falling")
    coloured = not _is_plain(chart) and style.keep("colour of bars", (True, False))
    mark = style.pick("list mark", (": ", ", ", " = ", " "))
    lines = [f"{label}{mark}{style.number(value)}" for label, value, _ in bars]
    clauses = []
    while bars:
        label, value, colour = bars.pop(0)
        if bars and bars[0][1] == value and style.chance(0.7):
            other = bars.pop(0)[0]
            clauses.append(
                style.say("{x} and {y} [both reach|both show|are both at] {v}", x=label, y=other, v=style.number(value))
            )
        elif coloured and style.chance(0.7):
            clauses.append(
                style.say(
                    "the {c} bar [for|of] {x} [reaches|shows|is at|stands at] {v}",
                    c=colour,
                    x=label,
                    v=style.number(value),
                )
            )
        else:
            clauses.append(style.tell(BAR, x=label, v=style.number(value)))
    return bind(style, clauses, lines)


def _ranked(chart: Chart) -> list[tuple[str, int]]:
    """Bars from the lowest to the highest."""
    return sorted(zip(chart.labels, chart.values, strict=True), key=lambda bar: bar[1])


def remarks(chart: Chart, style: Style) -> list[str]:
    ranked = _ranked(chart)
    n = len(chart.values)
    options = [
        style.tell(
            ("the {nth} bar is {x}", "{x} is the {nth} bar [from the {side}|in line]"),
            x=(x := style.rng.choice(chart.labels)),
            nth=ORDINALS[chart.labels.index(x)],
            side=_start(chart),
        ),
        style.tell(("the background is {bg}", "the chart is drawn on {bg}"), bg=style.colour(chart.background)),
        style.tell(
            ("the labels are {names}", "along the {axis} [we read|stand] {names}"),
            names=join(chart.labels),
            axis="side" if chart.lying else "bottom",
        ),
    ]
    if ranked[-1][1] != ranked[-2][1]:
        options.append(
            style.tell(
                (
                    "{x} is the highest [of all|of them]",
                    "the {word} bar is [that of|the one for] {x}",
                    "no bar goes beyond {x}",
                ),
                x=ranked[-1][0],
                word="longest" if chart.lying else "tallest",
            )
        )
    if ranked[0][1] != ranked[1][1]:
        options.append(
            style.tell(
                ("{x} is the lowest [of all|of them]", "the shortest bar is [that of|the one for] {x}"), x=ranked[0][0]
            )
        )
    (low, less), (high, more) = sorted(style.rng.sample(ranked, 2), key=lambda bar: bar[1])
    if less != more:
        options.append(style.tell(("{x} is higher than {y}", "{y} stays below {x}", "{x} beats {y}"), x=high, y=low))
    if _is_plain(chart):
        options.append(style.tell(("all bars are {c}", "the bars are all {c}", "every bar is {c}"), c=chart.colours[0]))
    else:
        i = int(style.rng.random() * n)
        options.append(style.tell(("each bar has a {w} of its own", "the bars differ in {w}"), w=style.colour_word))
        options.append(
            style.tell(("the bar [for|of] {x} is {c}", "{x} is drawn in {c}"), x=chart.labels[i], c=chart.colours[i])
        )
    if list(chart.values) == sorted(chart.values):
        options.append(style.say("the values [rise|grow] from bar to bar"))
    elif list(chart.values) == sorted(chart.values, reverse=True):
        options.append(style.say("the values [fall|shrink] from bar to bar"))
    style.rng.shuffle(options)
    return [sentence(option) for option in options]


def _start(chart: Chart) -> str:
    return "top" if chart.lying else "left"


def ask_describe(chart: Chart, rng: random.Random) -> Turn:
    """The kind of chart, each bar with its value, and some remarks."""
    form, style = choose_form(rng, DESCRIBE)
    order = rng.choice(tuple(ORDER_HINTS))
    kind = style.pick("lying", ("lying", "horizontal") if chart.lying else ("upright", "vertical", "standing"))
    title = (
        style.say('[titled|named|called] "{t}"', t=chart.title) if chart.title else style.say("without a [title|name]")
    )
    opening = style.tell(
        (
            "[this is|the picture shows|we see|here is] a [bar chart|chart] {title} with {n} {kind} bars",
            "a [chart|bar chart] {title} [has|shows|compares] {n} {kind} bars",
            "{n} {kind} bars make up a chart {title}",
            "[there are|I see] {n} {kind} bars in a chart {title}",
            "[someone|somebody] drew {n} {kind} bars, a chart {title}",
            "[imagine|picture|think of] a chart {title} made of {n} {kind} bars",
        ),
        title=title,
        n=style.number(len(chart.values)),
        kind=kind,
    )
    sentences = [sentence(opening), *_bars(chart, style, order), *remarks(chart, style)[: rng.randint(2, 7)]]
    question = style.say(form, how=style.pick(order, ORDER_HINTS[order]))
    return Turn("describe", question, flow(style, sentences), style)


def ask_value(chart: Chart, rng: random.Random) -> Turn:
    """The value of one bar, with its place among the bars."""
    form, style = choose_form(rng, VALUE)
    i = rng.randrange(len(chart.values))
    label, value = chart.labels[i], chart.values[i]
    among = style.tell(
        (
            "it is the {nth} bar from the {side}",
            "that is the {nth} bar, drawn in {c}",
            "its bar is {c}, the {nth} from the {side}",
        ),
        nth=ORDINALS[i],
        side=_start(chart),
        c=chart.colours[i],
    )
    answer = style.tell(
        ("{bar}; {among}", "{bar}. {among}"),
        bar=style.tell(BAR[:3] + BAR[4:], x=label, v=style.number(value)),
        among=among,
    )
    return Turn("value", style.say(form, x=label), sentence(answer), style, Asked(value=str(value), label=label))


def ask_compare(chart: Chart, rng: random.Random) -> Turn:
    """The highest or the lowest bar, or whether one is higher than another."""
    ranked = _ranked(chart)
    highest = rng.random() < 0.5
    best, second = (ranked[-1], ranked[-2]) if highest else (ranked[0], ranked[1])
    if best[1] != second[1] and rng.random() < 0.5:
        form, style = choose_form(rng, EXTREME)
        most = "highest" if highest else "lowest"
        values = join(
            [
                style.say("{x} [is at|has|shows] {v}", x=x, v=style.number(v))
                for x, v in zip(chart.labels, chart.values, strict=True)
            ]
        )
        answer = style.tell(
            ("{values}, so {x} is the {most}", "{x} is the {most}: {values}", "the {most} is {x}, for {values}"),
            values=values,
            x=best[0],
            most=most,
        )
        return Turn("compare", style.say(form, most=most), sentence(answer), style, Asked(label=best[0]))
    form, style = choose_form(rng, MORE)
    i, j = rng.sample(range(len(chart.values)), 2)
    truth = chart.values[i] > chart.values[j]
    told = style.say(
        "{a} [is at|has|shows] {v} and {b} {w}",
        a=chart.labels[i],
        v=style.number(chart.values[i]),
        b=chart.labels[j],
        w=style.number(chart.values[j]),
    )
    answer = style.tell(
        ("{word}, {told}", "{told}, so {word}, it {does}", "{word}: {told}"),
        word="yes" if truth else "no",
        told=told,
        does="is" if truth else "is not",
    )
    return Turn(
        "compare", style.say(form, a=chart.labels[i], b=chart.labels[j]), sentence(answer), style, Asked(verdict=truth)
    )


def ask_count(chart: Chart, rng: random.Random) -> Turn:
    """The number of bars, and their labels."""
    form, style = choose_form(rng, COUNT)
    answer = style.tell(
        ("there are {n} bars: {names}", "I count {n} bars, [namely|labelled] {names}", "{names}: that makes {n} bars"),
        n=style.number(len(chart.values)),
        names=join(chart.labels),
    )
    return Turn("count", style.say(form), sentence(answer), style, Asked(count=len(chart.values)))

"""Questions about tables, with their answers: describe, the number in a cell, who has most."""

from __future__ import annotations

import random

from vispec.pair.asking import Asked, Turn, choose_form
from vispec.pair.documents import Table
from vispec.pair.style import Style, flow, join, sentence

DESCRIBE = (
    "Describe the table{how}.",
    "Read the table{how}.",
    "What does the table say{how}?",
    "What do you see{how}?",
    "Put the table into words{how}.",
    "Describe the [picture|image]{how}.",
    "Tell me about this [picture|image]{how}.",
    "Which numbers are in the table{how}?",
)
VALUE = (
    "What does {r} have under {c}?",
    "What is the number for {r} in the column {c}?",
    "Read the cell of {r} and {c}.",
    "Which number stands in the row {r}, column {c}?",
)
EXTREME = (
    "Who has the {most} number under {c}?",
    "Which row has the {most} number in the column {c}?",
    "In the column {c}, who is {most}?",
)
ORDER_HINTS = {"rows": ("", " row by row", " by rows"), "columns": ("", " column by column", " by columns")}


def _by_rows(table: Table, style: Style) -> list[str]:
    sentences = []
    for row, numbers in zip(table.rows, table.cells, strict=True):
        cells = join(
            [
                style.say("{c} [is|stands at|is at] {n}", c=c, n=str(n))
                for c, n in zip(table.columns, numbers, strict=True)
            ]
        )
        plain = ", ".join(f"{c} {n}" for c, n in zip(table.columns, numbers, strict=True))
        sentences.append(
            style.tell(
                (
                    "in the row [of|for] {r}, {cells}",
                    "{r}: {plain}",
                    "for {r}, {cells}",
                    "{r} [comes with|has] {plain}",
                ),
                r=row,
                cells=cells,
                plain=plain,
            )
        )
    return sentences


def _by_columns(table: Table, style: Style) -> list[str]:
    sentences = []
    for j, column in enumerate(table.columns):
        numbers = [cells[j] for cells in table.cells]
        cells = join(
            [style.say("{r} [has|is at] {n}", r=r, n=str(n)) for r, n in zip(table.rows, numbers, strict=True)]
        )
        plain = ", ".join(f"{r} {n}" for r, n in zip(table.rows, numbers, strict=True))
        sentences.append(
            style.tell(
                (
                    "in the column {c}, {cells}",
                    "{c}: {plain}",
                    "under {c}, {cells}",
                    "the column {c} [holds|reads] {plain}",
                ),
                c=column,
                cells=cells,
                plain=plain,
            )
        )
    return sentences


def _extremes(table: Table, j: int) -> list[tuple[str, str]]:
    """Rows that alone have the highest or the lowest number of a column, with that word."""
    numbers = [cells[j] for cells in table.cells]
    found = []
    for word, best in (("highest", max(numbers)), ("lowest", min(numbers))):
        if numbers.count(best) == 1:
            found.append((table.rows[numbers.index(best)], word))
    return found


def remarks(table: Table, style: Style) -> list[str]:
    options = [
        style.tell(
            ("the head of the table is {c}", "its top row is {c}", "the first line is set in {c}"), c=table.head
        ),
        style.tell(("the background is {bg}", "behind it all is {bg}"), bg=style.colour(table.background)),
        style.tell(("the rows are for {names}", "the people [named|listed] are {names}"), names=join(table.rows)),
        style.tell(("the columns are {names}", "the columns are [called|headed] {names}"), names=join(table.columns)),
    ]
    for j, column in enumerate(table.columns):
        for row, word in _extremes(table, j):
            options.append(
                style.tell(
                    ("{r} has the {word} [number|value] under {c}", "under {c}, nobody is {beyond} than {r}"),
                    r=row,
                    c=column,
                    word=word,
                    beyond={"highest": "higher", "lowest": "lower"}[word],
                )
            )
    style.rng.shuffle(options)
    return [sentence(option) for option in options]


def ask_describe(table: Table, rng: random.Random) -> Turn:
    """The form of the table, all its numbers, and some remarks."""
    form, style = choose_form(rng, DESCRIBE)
    order = rng.choice(tuple(ORDER_HINTS))
    opening = style.tell(
        (
            "[this is|the picture shows|we see|here is] a table with {m} rows and {n} columns",
            "a table [has|shows|holds] {m} rows and {n} columns of numbers",
            "the table [compares|lists] {people} [in|under] {columns}",
            "{people} [appear|are listed] in a table with the columns {columns}",
        ),
        m=style.number(len(table.rows)),
        n=style.number(len(table.columns)),
        people=join(table.rows),
        columns=join(table.columns),
    )
    body = _by_rows(table, style) if order == "rows" else _by_columns(table, style)
    sentences = [*map(sentence, (opening, *body)), *remarks(table, style)[: rng.randint(1, 6)]]
    question = style.say(form, how=style.pick(order, ORDER_HINTS[order]))
    return Turn("describe", question, flow(style, sentences), style)


def ask_value(table: Table, rng: random.Random) -> Turn:
    """The number in one cell."""
    form, style = choose_form(rng, VALUE)
    i, j = rng.randrange(len(table.rows)), rng.randrange(len(table.columns))
    row, column, number = table.rows[i], table.columns[j], str(table.cells[i][j])
    answer = style.tell(
        (
            "in the row of {r}, the column {c} [holds|says|reads] {n}",
            "under {c}, {r} [has|is at|comes with] {n}, as the table [says|shows]",
            "where the row of {r} meets the column {c}, [we read|the table says|it says] {n}",
            "{r} has, under {c}, the number {n} in [this|the] table",
        ),
        r=row,
        c=column,
        n=number,
    )
    return Turn("value", style.say(form, r=row, c=column), sentence(answer), style, Asked(value=number, label=row))


def ask_compare(table: Table, rng: random.Random) -> Turn | None:
    """Who has the highest or the lowest number of a column; None if several share it in all columns."""
    choices = [(j, row, word) for j in range(len(table.columns)) for row, word in _extremes(table, j)]
    if not choices:
        return None
    j, best, word = rng.choice(choices)
    form, style = choose_form(rng, EXTREME)
    column = table.columns[j]
    numbers = join(
        [
            style.say("{r} [has|is at] {n}", r=r, n=str(cells[j]))
            for r, cells in zip(table.rows, table.cells, strict=True)
        ]
    )
    answer = style.tell(
        (
            "under {c}, {numbers}, so {r} is the {word}",
            "{r} is the {word}: under {c}, {numbers}",
            "the {word} is {r}, for under {c}, {numbers}",
        ),
        c=column,
        numbers=numbers,
        r=best,
        word=word,
    )
    return Turn("compare", style.say(form, most=word, c=column), sentence(answer), style, Asked(label=best))

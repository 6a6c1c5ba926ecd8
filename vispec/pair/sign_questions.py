"""Questions about signs, with their answers: describe, read, does it say so."""

from __future__ import annotations

import random

from vispec.pair.asking import Asked, Turn, choose_form
from vispec.pair.documents import Sign, made_up_name
from vispec.pair.style import Style, flow, join, sentence
from vispec.pair.words import ORDINALS, SIGN_WORDS, TRADES, with_article

DESCRIBE = (
    "Describe the sign{how}.",
    "What do you see{how}?",
    "Tell me about this [picture|image]{how}.",
    "Describe the [picture|image]{how}.",
    "What does the sign look like, and what does it say{how}?",
    "Explain what is [shown|written] here{how}.",
    "Please describe what is [shown|drawn]{how}.",
    "Write a [long|rich] caption{how}.",
)
READ = (
    "What does the sign say?",
    "Read the [sign|text].",
    "What is written [here|on the sign]?",
    "Which words are on the sign?",
    "What can you read?",
    "Tell me what the [sign|board] says.",
)
READ_LINE = (
    "What does the {nth} line say?",
    "Read the {nth} line.",
    "What is written in the {nth} line?",
)
SAYS = (
    'Does the sign say "{text}"?',
    'Can you read "{text}" on the sign?',
    'Is "{text}" written there?',
)
HOW = ("", " in detail", " at length", " in full")
LOOKS = (
    "[the picture shows|this is|we see|there is] {a} sign [with {ink} letters|written in {ink}] on a {bg} background",
    "{a} [board|sign] with {ink} [letters|writing] [stands|hangs|is set] [on|against] a {bg} background",
    "on a {bg} background there is {a} sign with {ink} [letters|writing]",
    "the sign is {board} and {form}, its [letters|words] are {ink}, and the background is {bg}",
    "[on this picture|here] a sign is shown: {form}, {board}, with {ink} [letters|writing], on a {bg} background",
    "[imagine|picture|think of] {a} [board|sign] with {ink} letters; the background is {bg}",
    "[someone|somebody] put up {a} sign with {ink} letters; the background is {bg}",
    "{ink} letters [stand|shine|are painted] on {a} [board|sign], and the background is {bg}",
)


def _kind_of(line: str) -> str:
    return "number" if line.replace(".", "").isdigit() else "word"


def _lines(sign: Sign, style: Style) -> str:
    """What the sign says, line by line or in one."""
    if len(sign.lines) == 1:
        return style.tell(
            (
                'it [says|reads] "{text}"',
                'the [text|writing] [says|reads] "{text}"',
                'it [holds|carries|shows] a single line, "{text}"',
                '"{text}" is written on it',
                '[one reads|we read|you can read] "{text}"',
                '[its message is|it is marked] "{text}"',
            ),
            text=sign.lines[0],
        )
    lines = [f'the {ORDINALS[i]} {{verb}} "{line}"' for i, line in enumerate(sign.lines)]
    verb = style.pick("says", ("says", "reads", "is"))
    each = join([line.replace("{verb}", verb) for line in lines])
    quoted = [f'"{line}"' for line in sign.lines]
    return style.tell(
        (
            "it has {n} lines: {each}",
            "there are {n} lines of [text|writing], {each}",
            'it [says|reads] "{text}", [in|written in|set in] {n} lines',
            "from top to bottom it [says|reads] {quoted}",
            "{quoted} are written below each other",
            "[one reads|we read|you can read] {quoted}, [line by line|from the top down]",
            "its {n} lines are {quoted}",
        ),
        n=style.number(len(sign.lines)),
        each=each,
        text=" ".join(sign.lines),
        quoted=join(quoted),
    )


def remarks(sign: Sign, style: Style) -> list[str]:
    i = int(style.rng.random() * len(sign.lines))
    line = sign.lines[i]
    kind = _kind_of(line)
    signs = line.replace(".", "")
    unit = (
        ("digits" if kind == "number" else "letters") if len(signs) > 1 else ("digit" if kind == "number" else "letter")
    )
    mixed = any(c.isdigit() for c in line) and kind == "word"
    capitals = all(not c.isalpha() or c.isupper() for text in sign.lines for c in text)
    options = [
        style.tell(
            (
                "the {board} [board|sign] is {form}",
                "its form is {form}",
                "the [board|plate] has {a} form",
                "[one would call it|I would call it] {form}",
                "{form} is the form of the {board} [board|sign]",
            ),
            board=sign.board,
            form=sign.form,
            a=with_article(sign.form),
        ),
        style.tell(
            (
                "the [letters|words] are {ink} on {board}",
                "{ink} on {board} is [easy|simple] to read",
                "for the writing someone chose {ink} on {board}",
                "[clear|bright|plain] {ink} letters [stand|are set] on the {board} board",
            ),
            ink=sign.ink,
            board=sign.board,
        ),
    ]
    if any(c.isalpha() for text in sign.lines for c in text):
        options.append(
            style.tell(
                (
                    "all [letters are|of it is] in capitals",
                    "[only|nothing but] capitals were used",
                    "it is all in capitals",
                )
                if capitals
                else ("it is [set|written] in small letters after a capital", "capitals only begin the words")
            )
        )
    if not mixed:
        n = style.number(len(signs))
        options.append(
            style.tell(
                (
                    '"{line}" has {n} {unit}',
                    'the {kind} "{line}" is {n} {unit} long',
                    '[I count|one counts|we count] {n} {unit} in "{line}"',
                    '{n} {unit} [make up|form|spell] "{line}"',
                ),
                line=line,
                n=n,
                unit=unit,
                kind=kind,
            )
        )
    if len(sign.lines) > 1:
        options.append(
            style.tell(
                (
                    'the last line is "{last}"',
                    '"{last}" [stands|is|comes] at the [end|bottom]',
                    'it [ends|closes] with "{last}"',
                    'the lowest line reads "{last}"',
                ),
                last=sign.lines[-1],
            )
        )
    if line.isalpha() and len(line) > 1:
        options.append(
            style.tell(
                (
                    '"{line}" begins with {a} and ends with {b}',
                    'the first letter of "{line}" is {a}, the last {b}',
                    'from {a} to {b}: so runs the word "{line}"',
                    '[spelling|writing] "{line}", one starts with {a} and stops at {b}',
                ),
                line=line,
                a=line[0].upper(),
                b=line[-1].upper(),
            )
        )
    options.append(
        style.tell(
            (
                "nothing else is [written|said] there",
                "there is no other [text|writing]",
                "that is all there is to read",
                "beyond that the [board|sign] is silent",
                "[no more|not a word more] is to be read",
            )
        )
    )
    style.rng.shuffle(options)
    return [sentence(option) for option in options]


def ask_describe(sign: Sign, rng: random.Random) -> Turn:
    """The board, what it says, and some remarks."""
    form, style = choose_form(rng, DESCRIBE)
    how = style.pick("how", HOW)
    look = style.tell(
        LOOKS,
        a=with_article(f"{sign.form} {sign.board}"),
        ink=sign.ink,
        board=sign.board,
        form=sign.form,
        bg=style.colour(sign.background),
    )
    sentences = [look, _lines(sign, style)]
    if style.chance(0.25):
        sentences.reverse()
    sentences = [*map(sentence, sentences)]
    sentences += remarks(sign, style)[: rng.randint(2, 7)]
    return Turn("describe", style.say(form, how=how), flow(style, sentences), style, Asked(text=" ".join(sign.lines)))


def ask_read(sign: Sign, rng: random.Random) -> Turn:
    """All of the text, or one of its lines."""
    if len(sign.lines) > 1 and rng.random() < 0.4:
        form, style = choose_form(rng, READ_LINE)
        i = rng.randrange(len(sign.lines))
        j = (i + 1) % len(sign.lines)
        answer = style.tell(
            (
                'the {nth} line [says|reads] "{line}"; the {other} [one|line] is "{next}"',
                '"{line}" is what the {nth} line says, next to "{next}" in the {other} [one|line]',
                'in the {nth} line it says "{line}" in {ink} letters',
            ),
            nth=ORDINALS[i],
            line=sign.lines[i],
            other=ORDINALS[j],
            next=sign.lines[j],
            ink=sign.ink,
        )
        return Turn("read", style.say(form, nth=ORDINALS[i]), sentence(answer), style, Asked(text=sign.lines[i]))
    form, style = choose_form(rng, READ)
    answer = style.tell(
        (
            'the {board} sign [says|reads] "{text}", in {ink} [letters|writing]',
            'in {ink} letters [on {board}|it] says "{text}"',
            '"{text}" is [written|what it says], in {ink} on {board}',
            'it [says|reads] "{text}", {ink} letters on a {board} board',
        ),
        text=" ".join(sign.lines),
        board=sign.board,
        ink=sign.ink,
    )
    return Turn("read", style.say(form), sentence(answer), style, Asked(text=" ".join(sign.lines)))


def ask_is_there(sign: Sign, rng: random.Random) -> Turn:
    """Whether a text is on the sign; no, with what it says."""
    form, style = choose_form(rng, SAYS)
    line = rng.choice(sign.lines)
    text = " ".join(sign.lines)
    truth = rng.random() < 0.5
    if truth:
        asked = line if rng.random() < 0.5 else text
    else:
        other = (
            made_up_name(rng) if _kind_of(line) == "word" and rng.random() < 0.3 else rng.choice((*SIGN_WORDS, *TRADES))
        )
        asked = str(rng.randint(10, 99)) if _kind_of(line) == "number" else other
        asked = asked if line.isupper() or line.isdigit() else asked.capitalize()
        if asked in (*sign.lines, text):
            asked += "S"
    word = "yes" if truth else "no"
    answer = style.tell(
        (
            '{word}, the [sign|board] [says|reads] "{text}" in {ink} letters',
            'it [says|reads] "{text}" in {ink} on {board}, so {word}',
            '{word}: the {board} [sign|board] [says|reads] "{text}"',
        ),
        word=word,
        text=text,
        ink=sign.ink,
        board=sign.board,
    )
    return Turn("is_there", style.say(form, text=asked), sentence(answer), style, Asked(verdict=truth, text=text))

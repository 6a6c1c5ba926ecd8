"""A tiny model of every supported family, made from its config: one builder each, and the table of all."""

from __future__ import annotations

from families import gemma, idefics, llava, one_size, pixtral, qwen, text
from families.common import Family

TABLE: dict[str, Family] = {
    **llava.FAMILIES,
    **qwen.FAMILIES,
    **one_size.FAMILIES,
    **gemma.FAMILIES,
    **idefics.FAMILIES,
    **pixtral.FAMILIES,
    **text.FAMILIES,
}


def markdown() -> str:
    """The README's table of families; `python -m families`, with `tests` on the path, prints it."""
    rows = [(name, family.build((4, 2)).config, family.special) for name, family in sorted(TABLE.items())]
    lines = [f"| `{name}` | `{config.get_text_config().model_type}` | {special} |" for name, config, special in rows]
    return "\n".join(("| family | language model in the tests | what is special |", "| --- | --- | --- |", *lines))

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

"""`vispec demo --report FILE`: what the demo showed as a page or picture that needs nothing beside itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, StrictUndefined
from PIL import Image
from transformers import PreTrainedTokenizerBase

from vispec.comparison import Comparison, Origin, speed_rows, stage_rows, token_texts

TEMPLATE = Path(__file__).with_name("assets") / "report.html.jinja"
SUFFIXES = (".html", ".png")


class Subject(NamedTuple):
    """What the answers are about; `source` names the picture."""

    source: str
    image: Image.Image
    question: str


class Token(NamedTuple):
    """A piece of an answer and who wrote it."""

    text: str
    origin: Origin

    @property
    def label(self) -> str:
        """The origin in words."""
        if self.origin.drafted:
            return f"cycle {self.origin.cycle}: draft token, accepted"
        return f"cycle {self.origin.cycle}: the target's own token" if self.origin.cycle else "the prompt's pass"


@dataclass(frozen=True)
class Report:
    """All that a report shows.

    Args:
        tokenizer: the target's.
        facts: models, settings, versions and machine, by name.
        note: what a reader must know about the pair.
    """

    subject: Subject
    comparison: Comparison
    tokenizer: PreTrainedTokenizerBase
    facts: Mapping[str, str]
    note: str | None

    @cached_property
    def plain_tokens(self) -> list[Token]:
        """The plain answer: each token takes a pass of the target."""
        texts = token_texts(self.tokenizer, self.comparison.plain.tokens)
        return [Token(text, Origin(index, False)) for index, text in enumerate(texts)]

    @cached_property
    def speculative_tokens(self) -> list[Token]:
        """The accelerated answer."""
        texts = token_texts(self.tokenizer, self.comparison.speculative.tokens)
        return [Token(*pair) for pair in zip(texts, self.comparison.origins, strict=True)]

    @property
    def claim(self) -> str:
        """What the speed-up above it says."""
        return (
            "as many tokens a second as without the draft, the prompt's pass included "
            f"({speed_rows(self.comparison)[2][3]} for decoding alone). One after the other, in one run."
        )

    @property
    def summary(self) -> str:
        """The cycles in a sentence."""
        speculation, accepted = self.comparison.speculation, self.comparison.num_accepted
        most = self.comparison.most_accepted
        counts = ", ".join(f"{value}: {accepted.count(value)}" for value in range(most + 1))
        return (
            f"{speculation.mean_accepted:.2f} draft tokens accepted a cycle, mean of {speculation.num_cycles} cycles, "
            f"at most {most}. Cycles that accepted {counts}."
        )


def check_report_file(path: Path) -> None:
    """Raise an OSError or a ValueError unless a report can be written there; nothing is left behind."""
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"expected a file named *{' or *'.join(SUFFIXES)}, got {path}")
    is_new = not path.exists()
    with path.open("ab"):
        pass
    if is_new:
        path.unlink()


def write_report(path: Path, report: Report) -> None:
    """Write the kind of report that the file's name asks for."""
    if path.suffix.lower() == ".png":
        from vispec.report_png import draw_report  # it asks pillow for fonts, which the page does without

        draw_report(report).save(path, optimize=True)
    else:
        path.write_text(render_html(report), encoding="utf-8")


def render_html(report: Report) -> str:
    """A page with its style and picture inside, all text escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    comparison = report.comparison
    picture = io.BytesIO()
    report.subject.image.save(picture, "PNG")
    return template.render(
        report=report,
        comparison=comparison,
        most=comparison.most_accepted,
        picture=base64.b64encode(picture.getvalue()).decode(),
        speed_rows=speed_rows(comparison),
        stage_rows=stage_rows(comparison),
    )

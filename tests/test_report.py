"""The demo's report: a page and a picture that hold what was measured."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from tiny_pair import save_tiny_pair
from vispec.cli import main
from vispec.comparison import Answer, Comparison, Origin, token_texts
from vispec.pair.tokenizer import load_tokenizer
from vispec.report import Report, Subject, check_report_file, render_html, write_report
from vispec.report_png import DRAFTED, OWN, draw_report
from vispec.speculation import STAGES, Speculation
from vispec.tree import TreeConfig

ANSWER = "A <b>red</b> cross & a star.\nThe rest is bare: é図🙂"
QUESTION = 'Is "A < B" & <script>alert(1)</script> true?'


def make_report(text: str = ANSWER, accepted: tuple[int, ...] = (2, 0, 4), most: int = 4) -> Report:
    """As if the target had written `text`, and each cycle accepted so many draft tokens, later ones none."""
    tokenizer = load_tokenizer()
    tokens = tokenizer(text, add_special_tokens=False).input_ids
    accepted += (0,) * (len(tokens) - 1 - sum(accepted) - len(accepted))
    plain, speculative = Answer(tokens, 0.05, 2.0), Answer([*tokens], 0.06, 1.0)
    seconds = dict(zip(STAGES, (0.1, 0.2, 0.3, 0.2, 0.0, 0.1), strict=True))
    counts = torch.tensor(accepted, dtype=torch.int32)[:, None]
    drafted = torch.tensor([29 * len(accepted)], dtype=torch.int32)
    emitted = torch.tensor([len(tokens)], dtype=torch.int32)
    speculation = Speculation(len(accepted), counts, drafted, emitted, seconds)
    tree = TreeConfig(depth=most - 1)
    picture = Image.new("RGB", (96, 96), "teal")
    comparison = Comparison(plain, speculative, speculation, tree)
    return Report(Subject("my <file>.png", picture, QUESTION), comparison, tokenizer, {"Run": "a & b"}, "No photos.")


class Page(HTMLParser):
    """Texts and token classes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = [("", {})]
        self.tokens: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1]
        if tag == "span" and "title" in attributes:
            self.tokens.append((data, attributes["class"] or ""))
            self.tags.append(("", {}))
        self.text += data


def test_origins() -> None:
    report = make_report()
    origins = report.comparison.origins
    expected = [Origin(0, False), Origin(1, True), Origin(1, True), Origin(1, False), Origin(2, False)]
    assert origins[:9] == [*expected, *[Origin(3, True)] * 4]
    assert "".join(token.text for token in report.speculative_tokens) == ANSWER


def test_origins_end_where_the_text_does() -> None:
    comparison = make_report("A red star", accepted=(0, 4, 4)).comparison
    assert comparison.origins == [Origin(0, False), Origin(1, False), Origin(2, True)]


def test_token_texts_keep_characters_whole() -> None:
    tokenizer = load_tokenizer()
    tokens = tokenizer("a図🙂", add_special_tokens=False).input_ids
    texts = token_texts(tokenizer, tokens)
    assert len(texts) == len(tokens)
    assert [text for text in texts if text] == ["a", "図", "🙂"]
    assert "".join(token_texts(tokenizer, tokens[:-1])) == "a図\ufffd", "a character cut by the end is not lost"


def test_page() -> None:
    report = make_report()
    html = render_html(report)
    page = Page(html)
    assert "<script" not in html.lower()
    assert QUESTION in page.text
    assert ANSWER in page.text, "line ends too: the answer keeps its white space"
    assert not re.findall(r"https?://|src=\"(?!data:)", html), "nothing is fetched"
    source = next(attributes["src"] for tag, attributes in page.tags if tag == "img") or ""
    with Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))) as image:
        assert image.getcolors() == [(96 * 96, (0, 128, 128))]
    num_plain = sum(bool(token.text) for token in report.plain_tokens)
    plain, speculative = page.tokens[:num_plain], page.tokens[num_plain:]
    assert "".join(text for text, _ in plain) == "".join(text for text, _ in speculative) == ANSWER
    assert {kind.split()[0] for _, kind in plain} == {"own"}
    kinds = [kind for _, kind in speculative[:5]]
    assert kinds == ["own", "drafted odd", "drafted odd", "own odd", "own"]
    heights = [float(attributes["height"] or 0) for tag, attributes in page.tags if tag == "rect"]
    assert heights == [30 * value for value in report.comparison.num_accepted]
    mean = f"{sum(heights) / 30 / len(heights):.2f} draft tokens accepted a cycle"
    for words in ("2.00x", "Both answers are identical", mean, "my <file>.png", "a & b"):
        assert words in page.text
    rows = re.findall(r"(prepare|prefill|draft|verify|accept|other)</th><td>([\d.]+)</td><td>([\d.]*)</td>", html)
    assert rows[:3] == [
        ("prepare", "100.0", ""),
        ("prefill", "100.0", ""),
        ("draft", "200.0", f"{200 / len(heights):.2f}"),
    ]
    assert "prefers-color-scheme: dark" in html


def test_page_says_when_answers_differ() -> None:
    report = make_report()
    report.comparison.plain.tokens[3:] = [7]
    page = Page(render_html(report))
    assert "THE ANSWERS DIFFER from token 3 on (4 tokens without" in page.text
    assert any(attributes.get("class") == "differ" for _, attributes in page.tags)


def test_picture() -> None:
    image = draw_report(make_report())
    assert image.width == 1200
    colours = {f"#{red:02x}{green:02x}{blue:02x}" for _, (red, green, blue) in image.getcolors(1 << 20)}
    assert {*DRAFTED, OWN} <= colours
    longer = draw_report(make_report("A line of words.\n" * 200))
    assert longer.height > image.height + 200 * 20
    last_answer_rows = longer.crop((40, longer.height - 1000, 600, longer.height))
    assert last_answer_rows.getcolors(1 << 20) != [(560 * 1000, (255, 255, 255))]


def test_picture_of_one_long_word() -> None:
    """What has no spaces is cut, not drawn over the other column."""
    image = draw_report(make_report("abcdefghij" * 40, accepted=()))
    gap = image.crop((40 + 548 + 2, 390, 40 + 548 + 22, 500))  # between the columns, beside the answers' first lines
    assert gap.getcolors() == [(gap.width * gap.height, (255, 255, 255))]


@pytest.mark.parametrize("name", ["report.html", "REPORT.PNG"])
def test_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    check_report_file(path)
    assert not path.exists()
    write_report(path, make_report())
    check_report_file(path)
    written = path.read_bytes()
    assert written.startswith(b"<!DOCTYPE html>" if path.suffix == ".html" else b"\x89PNG")


def test_demo_writes_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pair = save_tiny_pair(tmp_path)
    path = tmp_path / "report.html"
    arguments = ["demo", "--pair", str(pair), "--image", "receipt", "--max-new-tokens", "10", "--report", str(path)]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert out.endswith(f"\nReport: {path}\n")
    text = Page(path.read_text(encoding="utf-8")).text
    for words in ("Read the receipt line by line.", "10 tokens compared", f"torch {torch.__version__}", "Processor"):
        assert words in text
    speed_up = re.search(r"tokens/s .* ([\d.]+x)", out)
    assert speed_up is not None
    assert speed_up.group(1) in text

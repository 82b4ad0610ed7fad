"""Cutting long texts, and Telegram's HTML."""

from __future__ import annotations

import random
import re

import pytest

from nanoclaw.channels.text import split, to_html, units
from tests.support.telegram_server import visible


def put_together(parts: list[str]) -> str:
    """Undo what a cut within a code block adds: its end and its new beginning."""
    text = ""
    for part in parts:
        if text.count("```") % 2 == 0 and text.endswith("```") and re.match("```\\w*\n", part):
            text, part = text.removesuffix("```"), part.partition("\n")[2]
        text += part
    return text


def test_what_fits_is_left_alone_and_blanks_are_no_message() -> None:
    assert split("```py\nx\n```", 24) == ["```py\nx\n```"]
    assert split("", 24) == [] and split(" \n" * 100, 24) == []


def test_parts_fit_are_not_empty_and_are_the_text_together() -> None:
    rng = random.Random(3)
    pieces = ["word", "𝄞𝄞", "é", " ", " ", "\n", "\n\n", "longer-word", "\ud800", "# ", "*b*", "😀" * 30]
    for limit in (24, 31, 64):
        for _ in range(150):
            text = "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 120)))
            parts = split(text, limit)
            assert all(part.strip() and units(part) <= limit for part in parts)
            assert "".join("".join(parts).split()) == "".join(text.split())


def test_a_cut_prefers_the_paragraph_then_the_line_then_the_word() -> None:
    assert split("one two three.\n\nfour five\nsix seven", 30) == ["one two three.\n\n", "four five\nsix seven"]
    assert split("one two three four\nfive six seven", 30) == ["one two three four\n", "five six seven"]
    assert split("one two three four five six seven", 30) == ["one two three four five six ", "seven"]
    assert split("x" * 50, 24) == ["x" * 24, "x" * 24, "xx"]
    assert split("𝄞" * 25, 25) == ["𝄞" * 12, "𝄞" * 12, "𝄞"]


def test_a_cut_code_block_is_closed_and_opened_again_with_its_language() -> None:
    text = "Look:\n```python\n" + "".join(f"x{n} = {n}\n" for n in range(60)) + "```\nand so on"
    parts = split(text, 100)
    assert len(parts) > 5
    assert all(units(part) <= 100 and part.count("```") % 2 == 0 for part in parts)
    assert all(part.startswith("```python\nx") for part in parts[1:-1])
    assert put_together(parts) == text


def test_no_code_block_is_left_empty_by_a_cut() -> None:
    for before in range(30, 100):
        parts = split("a" * before + "\n```sh\nls -l /some/where\n\n```\n" + "b " * 40, 100)
        assert all(units(part) <= 100 and part.count("```") % 2 == 0 for part in parts)
        assert not any(re.search(r"```\w*\n```", part) for part in parts), parts


def test_a_code_block_of_one_long_line_is_cut_within_it() -> None:
    parts = split("```json\n" + "x" * 100 + "\n```", 64)
    assert parts == ["```json\n" + "x" * 52 + "\n```", "```json\n" + "x" * 48 + "\n```"]


def test_marks_of_a_code_block_that_are_longer_than_a_message_do_no_harm() -> None:
    parts = split("`" * 500 + " " + "x" * 500 + "\n" + "code " * 200, 64)
    assert all(0 < units(part) <= 64 for part in parts)


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("**a & b** < c", "<b>a &amp; b</b> &lt; c"),
        ("*i* _i_ __b__ ~~s~~", "<i>i</i> <i>i</i> <b>b</b> <s>s</s>"),
        ("***both***", "<b><i>both</i></b>"),
        ("snake_case_name 2 * 3 * 4 __init__.py", "snake_case_name 2 * 3 * 4 __init__.py"),
        ("`a*b*<c>` ``x`y``", "<code>a*b*&lt;c&gt;</code> <code>x`y</code>"),
        ("**see `a**b` now**", "<b>see <code>a**b</code> now</b>"),
        ('[a *b*](https://e.x/?a=1&b="2")', '<a href="https://e.x/?a=1&amp;b=&quot;2&quot;">a <i>b</i></a>'),
        ("[x](javascript:alert) [y](/etc)", "[x](javascript:alert) [y](/etc)"),
        ("```c++\nif (a<b) **x**\n```", '<pre><code class="language-c++">if (a&lt;b) **x**</code></pre>'),
        ("1. do\n   ```\n   ls\n   ```\nend", "1. do\n<pre>   ls</pre>\nend"),
        ("```\nnever closed", "<pre>never closed</pre>"),
        (r"2\*3", "2*3"),
        ("<b>raw</b> &lt;", "&lt;b&gt;raw&lt;/b&gt; &amp;lt;"),
    ],
)
def test_markdown_as_html(markdown: str, html: str) -> None:
    assert to_html(markdown) == html


def test_any_text_becomes_html_that_telegram_reads_and_not_a_longer_one() -> None:
    rng = random.Random(7)
    pieces = [
        "*",
        "**",
        "_",
        "__",
        "~~",
        "`",
        "```",
        "```py\n",
        "\n",
        " ",
        "<",
        "&",
        ">",
        "](http://x)",
        "[",
        "a",
        "\\",
        '"',
    ]
    for _ in range(500):
        text = "".join(rng.choice(pieces) for _ in range(rng.randrange(1, 60)))
        assert units(visible(to_html(text))) <= units(text)
    assert units(visible(to_html("*_" * 2000))) <= 4000

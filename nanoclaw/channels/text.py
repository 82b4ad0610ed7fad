"""Text for platforms: cutting what is too long for one message, and the HTML that Telegram reads.

Both know the same small part of Markdown: fenced code blocks at any indentation (agents write them in lists), and
within a line code, bold, italic, strike and links. All else stays as it is written: a chat shows it well enough.
"""

from __future__ import annotations

import re
from html import escape
from typing import NamedTuple

_FENCE_LINE = re.compile(r"[ \t]*(?P<marks>`{3,}|~{3,})[ \t]*(?P<info>[^`\n]*)")

# What a mark encloses: never a lone backtick, so that code is not torn, and never a line's end.
_INNER = r"(?:`[^`\n]*`|[^`\n])+?"
_INLINE = re.compile(
    r"(?P<ticks>`+)(?P<code>[^\n]+?)(?<!`)(?P=ticks)(?!`)"
    r"|\[(?P<label>[^\[\]\n]+)\]\((?P<url>(?:https?://|mailto:|tg://)(?:[^\s()]|\([^\s()]*\))+)\)"
    rf"|\*\*(?=\S)(?P<b>{_INNER})(?<=\S)\*\*(?!\*)"
    rf"|(?<!\w)__(?=\S)(?P<b_>{_INNER})(?<=\S)__(?!\.?\w)"
    rf"|~~(?=\S)(?P<s>{_INNER})(?<=\S)~~"
    rf"|(?<![\w*])\*(?=[^\s*])(?P<i>{_INNER})(?<=[^\s*])\*(?![\w*])"
    rf"|(?<!\w)_(?=[^\s_])(?P<i_>{_INNER})(?<=[^\s_])_(?!\.?\w)"
    r"|\\(?P<literal>[*_`~])"
)
_DEEPEST = 5
"""Marks within marks; what is deeper stays as it is written."""


class _Fence(NamedTuple):
    opener: str
    marks: str
    info: str
    at: int


def units(text: str) -> int:
    """The length as platforms count it: UTF-16 code units."""
    return len(text) + sum(char > "\uffff" for char in text)


def split(text: str, limit: int) -> list[str]:
    """Cut a text into parts of at most ``limit`` UTF-16 code units (24 or more).

    Cuts at paragraphs, else lines, else words, else anywhere between two characters. The parts put together are the
    text, with two exceptions: a code block that is cut is closed, and opened again with its language; stretches of
    blanks that would fill a part are left out. A text of blanks gives no part.
    """
    parts: list[str] = []
    at, fence = 0, None
    while at < len(text):
        prefix = _repair(fence, limit)[0]
        end, after = _part_end(text, at, limit, fence)
        body, closing = text[at:end], ""
        if end < len(text):
            closing = _repair(after, limit)[1]
            line = text[end:].partition("\n")[0] if after else ""
            if after and closing and _step(line, after, end) is None:  # it ends here anyway
                end, after = end + len(line), None
        if body.strip():
            parts.append(prefix + body + ("\n" if closing and not body.endswith("\n") else "") + closing)
        at, fence = end, after
    return parts


def _part_end(text: str, at: int, limit: int, fence: _Fence | None) -> tuple[int, _Fence | None]:
    """Where the part that starts at ``at`` ends, and the code block that is open there."""
    room = limit - units(_repair(fence, limit)[0])
    reserve = least = 0
    while True:
        end = _border(text, at, room - reserve, least)
        after = _open_fence(text, at, end, fence)
        if end == len(text) or after is None:
            return end, after
        if after.at >= at and not text[after.at + len(after.opener) : end].strip():
            # Nothing of the block but its first line would be here: it moves on, or what follows is cut anywhere.
            if after.at > at:
                return after.at, None
            if end - at > least:
                least = end - at
                continue
        closing = _repair(after, limit)[1]
        needed = len(closing) + 1 if closing else 0
        if needed <= reserve:
            return end, after
        reserve = needed


def _border(text: str, at: int, room: int, least: int) -> int:
    """The best place for a cut within the next ``room`` units, more than ``least`` characters on where there is one;
    the text's end where all of it fits."""
    window, used = text[at : at + room], 0
    for index, char in enumerate(window):
        used += 2 if char > "\uffff" else 1
        if used > room:
            window = window[:index] or char
            break
    if at + len(window) == len(text):
        return len(text)
    for border in ("\n\n", "\n", " "):
        found = window.rfind(border) + len(border)
        if found >= max(len(window) // 2, len(border), least + 1):
            return at + found
    found = max(window.rfind("\n"), window.rfind(" "))
    return at + (found + 1 if found > least else len(window))


def _step(line: str, fence: _Fence | None, at: int) -> _Fence | None:
    """The code block that is open after a line, which starts at ``at``."""
    found = _FENCE_LINE.fullmatch(line.rstrip())
    if found is None:
        return fence
    if fence is None:
        return _Fence(line, found["marks"], found["info"], at)
    return None if not found["info"] and found["marks"].startswith(fence.marks) else fence


def _open_fence(text: str, at: int, end: int, fence: _Fence | None) -> _Fence | None:
    for line in text[at:end].split("\n"):
        fence = _step(line, fence, at)
        at += len(line) + 1
    return fence


def _repair(fence: _Fence | None, limit: int) -> tuple[str, str]:
    """What opens a cut code block again, and what closes it; nothing where that would leave no room for the code."""
    if fence is None or len(fence.marks) > limit // 8:
        return "", ""
    return (fence.opener if units(fence.opener) <= limit // 4 else fence.marks) + "\n", fence.marks


def to_html(text: str) -> str:
    """Markdown to the HTML of Telegram's Bot API ("HTML style"): balanced tags, all else escaped.

    What a reader sees of it is never longer than ``text``.
    """
    pieces: list[str] = []
    lines: list[str] = []
    fence: _Fence | None = None
    for line in text.split("\n"):
        after = _step(line, fence, 0)
        if (after is None) == (fence is None):
            lines.append(line)
        else:
            pieces.append(_block(lines, fence))
            lines, fence = [], after
    pieces.append(_block(lines, fence))
    return "\n".join(piece for piece in pieces if piece)


def _block(lines: list[str], fence: _Fence | None) -> str:
    body = "\n".join(lines)
    if fence is None:
        return _inline(body, 0)
    language = re.match(r"[\w+#.-]+", fence.info)
    code = escape(body, quote=False)
    if not body.strip():
        return ""
    return f'<pre><code class="language-{language[0]}">{code}</code></pre>' if language else f"<pre>{code}</pre>"


def _inline(text: str, depth: int) -> str:
    """The marks within lines. Tags are balanced because each mark's inside is rendered for itself."""
    pieces: list[str] = []
    at = 0
    for found in _INLINE.finditer(text) if depth < _DEEPEST else ():
        pieces.append(escape(text[at : found.start()], quote=False))
        at = found.end()
        name = found.lastgroup or ""
        inner = found[name]
        if name == "code":
            pieces.append(f"<code>{escape(inner, quote=False)}</code>")
        elif name == "url":
            pieces.append(f'<a href="{escape(inner)}">{_inline(found["label"], depth + 1)}</a>')
        elif name == "literal":
            pieces.append(inner)
        else:
            tag = name.rstrip("_")
            pieces.append(f"<{tag}>{_inline(inner, depth + 1)}</{tag}>")
    pieces.append(escape(text[at:], quote=False))
    return "".join(pieces)

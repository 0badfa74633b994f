"""Values as words for the screen: pure, and the only place that formats them.

A line on screen is a tuple of spans, a span is a text and a role; `tui.themes` gives each role its colour, "!" after a
role makes it bold. Texts from outside pass `plain`, so that no control sequence reaches the terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone

from engine.amounts import UNITS

Span = tuple[str, str]
Line = tuple[Span, ...]

_NUMBERS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def plain(text: object) -> str:
    """Return `text` as one line without control characters.

    >>> plain("a\\x1b[31mb\\nc")
    'a?[31mb c'
    """
    spaced = " ".join(str(text).split())
    return "".join(c if c.isprintable() else "?" for c in spaced)


def number(count: int) -> str:
    """Return a count in words up to twelve.

    >>> number(7), number(1204)
    ('seven', '1,204')
    """
    return _NUMBERS[count] if 0 <= count < len(_NUMBERS) else f"{count:,}"


def counted(count: int, noun: str, many: str = "") -> str:
    """Return a count with its noun.

    >>> counted(1, "job"), counted(2, "job"), counted(3, "entry", "entries")
    ('1 job', '2 jobs', '3 entries')
    """
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def capital(text: str) -> str:
    """Return `text` with its first letter as a capital.

    >>> capital("one is at risk")
    'One is at risk'
    """
    return text[:1].upper() + text[1:]


def scale_of(count: float) -> int:
    """Return the power of 1024 that suits `count`: 0 for bytes, 3 for GiB."""
    power = 0
    while abs(count) >= 1000 and power < len(UNITS) - 1:
        count /= 1024
        power += 1
    return power


def size(count: float, power: int | None = None, unit: bool = True) -> str:
    """Return a number of bytes, in the units of the command line.

    >>> size(812), size(11 * 1024**3), size(412.4 * 1024**3), size(1.26 * 1024**4), size(0)
    ('812 B', '11.0 GiB', '412 GiB', '1.3 TiB', '0 B')
    """
    power = scale_of(count) if power is None else power
    value = count / 1024**power
    text = f"{value:.0f}" if power == 0 or abs(value) >= 99.95 else f"{value:.1f}"
    return f"{text} {UNITS[power]}" if unit else text


def part_of(done: int, total: int | None) -> str:
    """Return how much of a total is done, in one unit.

    >>> part_of(5 * 1024**3, 11 * 1024**3), part_of(2048, None)
    ('5.0 of 11.0 GiB', '2.0 KiB')
    """
    if total is None:
        return size(done)
    power = scale_of(total)
    return f"{size(done, power, unit=False)} of {size(total, power)}"


def rate(bytes_per_second: float) -> str:
    """Return a speed.

    >>> rate(212 * 1024**2)
    '212 MiB/s'
    """
    return f"{size(bytes_per_second)}/s"


def span(seconds: float) -> str:
    """Return a duration in its two largest units, aligned for a column.

    >>> span(41), span(754), span(5 * 3600 + 120), span(2 * 86400 + 3 * 3600), span(-3)
    ('41s', '12m', '5h 02m', '2d 03h', '0s')
    """
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def calm_span(seconds: float) -> str:
    """Return a duration that changes at most once a minute, for what is painted while nothing happens.

    >>> calm_span(41), calm_span(125)
    ('<1m', '2m')
    """
    return "<1m" if seconds < 60 else span(seconds)


def said_span(seconds: float) -> str:
    """Return a duration as a sentence says it.

    >>> said_span(20), said_span(60), said_span(8049), said_span(180000)
    ('less than a minute', '1 min', '2 h 14 min', '2 d 2 h')
    """
    minutes = max(0, int(seconds)) // 60
    if minutes < 1:
        return "less than a minute"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 1440:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def stopwatch(seconds: float) -> str:
    """Return a running time.

    >>> stopwatch(374), stopwatch(3753)
    ('6:14', '1:02:33')
    """
    whole = max(0, int(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def utc(moment: datetime) -> datetime:
    """Return the same moment in UTC."""
    return moment.astimezone(timezone.utc)


def when(moment: datetime, now: datetime, *, seconds: bool = False) -> str:
    """Return a moment for a column: the time of day when it is today, else month and day too; UTC.

    >>> now = datetime(2026, 11, 22, 14, 2, tzinfo=timezone.utc)
    >>> when(datetime(2026, 11, 22, 11, 48, 2, tzinfo=timezone.utc), now)
    '11:48'
    >>> when(datetime(2025, 11, 20, 1, 2, tzinfo=timezone.utc), now)
    '2025-11-20 01:02'
    >>> when(datetime(2026, 11, 2, tzinfo=timezone.utc), now)
    '11-02 00:00'
    """
    at, today = utc(moment), utc(now)
    clock = f"{at:%H:%M:%S}" if seconds else f"{at:%H:%M}"
    if at.date() == today.date():
        return clock
    return f"{at:%m-%d} {clock}" if at.year == today.year else f"{at:%Y-%m-%d} {clock}"


def exactly(moment: datetime) -> str:
    """Return a moment with date, seconds and zone.

    >>> exactly(datetime(2026, 11, 22, 11, 48, 2, tzinfo=timezone.utc))
    '2026-11-22 11:48:02 UTC'
    """
    return f"{utc(moment):%Y-%m-%d %H:%M:%S} UTC"


def day_and_time(moment: datetime) -> str:
    """Return a moment for a column of moments.

    >>> day_and_time(datetime(2026, 11, 22, 11, 48, 2, tzinfo=timezone.utc))
    '11-22 11:48:02'
    """
    return f"{utc(moment):%m-%d %H:%M:%S}"


def percent(done: int, total: int | None) -> str:
    """Return a share; 100 % only when all is done.

    >>> percent(43, 100), percent(9999, 10000), percent(1, None), percent(3, 3)
    ('43 %', '99 %', '', '100 %')
    """
    if not total:
        return ""
    return f"{min(done, total) * 100 // total} %"


def version(number: int | None) -> str:
    """Return server_version_num as PostgreSQL prints it.

    >>> version(180004), version(90624), version(None)
    ('18.4', '9.6.24', '')
    """
    if not number:
        return ""
    if number >= 100000:
        return f"{number // 10000}.{number % 10000}"
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence lists them.

    >>> listed(["a"]), listed(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""


def width_of(line: Iterable[Span]) -> int:
    """Return how many cells a line takes."""
    from rich.cells import cell_len

    return sum(cell_len(text) for text, _ in line)


def fit(line: Line, width: int, ellipsis: str = "…") -> Line:
    """Return `line` cut to at most `width` cells, its cut marked.

    >>> fit((("hello ", "text"), ("world", "good")), 9)
    (('hello ', 'text'), ('wo…', 'good'))
    """
    from rich.cells import cell_len, set_cell_size

    if width_of(line) <= width:
        return line
    if width <= 0:
        return ()
    kept: list[Span] = []
    room = width - 1
    for text, role in line:
        length = cell_len(text)
        if length > room:
            kept.append((set_cell_size(text, room).rstrip() + ellipsis, role))
            break
        kept.append((text, role))
        room -= length
    return tuple(kept)


def wrap(line: Line, width: int, indent: int = 0) -> list[Line]:
    """Return `line` broken at spaces into lines of at most `width` cells; later ones are indented.

    >>> wrap((("one two three", "text"),), 8)
    [(('one two', 'text'),), (('three', 'text'),)]
    >>> [width_of(row) for row in wrap((("one two three", "text"),), 4, 10)]
    [3, 4, 3, 4, 4, 3]
    """
    if width < 4 or width_of(line) <= width:
        return [line]
    indent = min(indent, width // 2)
    rows: list[list[Span]] = [[]]
    used = 0
    for text, role in line:
        for word in _words(text):
            length = width_of([(word, role)])
            if used + len(word.rstrip()) > width and used > indent:
                rows.append([(" " * indent, role)] if indent else [])
                used = indent
                word = word.lstrip()
                length = width_of([(word, role)])
            while used + length > width and length > width - indent:
                head, word = word[: width - used], word[width - used :]
                rows[-1].append((head, role))
                rows.append([(" " * indent, role)] if indent else [])
                used, length = indent, width_of([(word, role)])
            if word:
                rows[-1].append((word, role))
                used += length
    return [_joined(row) for row in rows]


def _words(text: str) -> list[str]:
    """Split before each run of spaces' end, keeping the spaces with the word before them."""
    words: list[str] = []
    start = 0
    for place in range(1, len(text)):
        if text[place - 1] == " " and text[place] != " ":
            words.append(text[start:place])
            start = place
    return [*words, text[start:]] if text else []


def _joined(row: list[Span]) -> Line:
    merged: list[Span] = []
    for text, role in row:
        if merged and merged[-1][1] == role:
            merged[-1] = (merged[-1][0] + text, role)
        else:
            merged.append((text, role))
    if merged:
        text, role = merged[-1]
        merged[-1] = (text.rstrip(), role)
    return tuple(merged)

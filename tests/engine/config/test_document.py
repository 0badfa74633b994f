"""Line numbers of keys: every key that tomli finds is found, on the line where it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import document
from engine.errors import ConfigError

TRICKY = '''\
# a comment with [brackets] and = signs
plain = 1
"quoted key" = "a # b"
'literal.key' = 'c = d'
dotted . "x y".z = true
multi = """
[not.a.table]
nor = "a key"
three quotes: \\""" and two: """""
literal = \'\'\'
also = not
\'\'\'
array = [ # comment
  1, [2, "]"], """
]""",
  { inside = 1 },
]
after_array = 2
[table]
inline = { a = 1, b.c = "}", d = { e = [1, 2] } }
"\\u00e9" = 1
[ spaced . "out" ]
last = 1979-05-27T07:32:00Z
[[many]]
k = 1
[[many]]
k = 2
'''


def paths(tables: dict[str, Any], prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    found = set()
    for key, value in tables.items():
        if isinstance(value, dict):
            found |= paths(value, (*prefix, key))
        elif isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
            for each in value:
                found |= paths(each, (*prefix, key))
        else:
            found.add((*prefix, key))
    return found


def test_every_key_of_tricky_toml_on_its_line() -> None:
    lines = document.key_lines(TRICKY)
    wanted = paths(tomli.loads(TRICKY))
    assert wanted <= lines.keys()
    text = TRICKY.splitlines()
    for path, line in lines.items():
        key = {"é": "u00e9"}.get(path[-1], path[-1])
        assert key in text[line - 1], (path, line)
    assert lines["after_array",] == 18
    assert lines["many", "k"] == 25
    assert ("multi", "nor") not in lines
    assert ("not", "a", "table") not in lines


names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=5)
values = st.sampled_from(['"x"', "'''a\nb = 1\n'''", "[1,\n2]", "{ a = 1 }", "true", '"\\""', "1.5e3"])


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(names, values, max_size=8), st.integers(0, 3))
def test_any_keys(entries: dict[str, str], blank: int) -> None:
    lines: dict[str, int] = {}
    text = "\n" * blank
    for key, value in entries.items():
        escaped = "".join(f"\\U{ord(c):08X}" for c in key)
        lines[key] = text.count("\n") + 1
        text += f'"{escaped}" = {value} # note\n'
    tomli.loads(text)
    found = document.key_lines(text)
    assert {key: found[key,] for key in entries} == lines


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("a = 1\nb = \n", 2, "Invalid value"),
        ("a = 1\na = 2\n", 2, "overwrite"),
        ("[x\n", 1, "Expected"),
        ('a = "never ends', 1, "a ="),
        ("ok = 1\n\n= 3\n", 3, "= 3"),
    ],
)
def test_syntax_errors_name_their_line(tmp_path: Path, text: str, line: int, word: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        document.read(str(file))
    assert caught.value.what == f"{file}:{line}: this is not TOML"
    assert word in caught.value.why


def test_a_password_on_a_broken_line_is_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('conninfo = "host=pg password=hunter2 user=x\n')
    with pytest.raises(ConfigError) as caught:
        document.read(str(file))
    assert "hunter2" not in str(caught.value)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(ConfigError, match=r"c\.toml:2: this is not UTF-8 text"):
        document.read(str(file))
    with pytest.raises(ConfigError, match="no such configuration file"):
        document.read(str(tmp_path / "absent.toml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        document.read(str(tmp_path))


def test_byte_order_mark_and_carriage_returns(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(b"\xef\xbb\xbf[a]\r\nb = 1\r\nc = 2\r\n")
    found = document.read(str(file))
    assert found.tables == {"a": {"b": 1, "c": 2}}
    assert found.line("a", "c") == 3
    assert found.line("a", "absent") == 1

"""Our reading of connection strings against libpq's own."""

from __future__ import annotations

import contextlib

import psycopg2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg2.extensions import parse_dsn

from engine.postgres import dsn

EXAMPLES = [
    "host=pg user=barman dbname=postgres",
    "host=pg password='a b' application_name='x=y'",
    r"user=a\ b password='\'\\'",
    "host=''",
    "postgresql://",
    "postgresql://u@h",
    "postgres://u:p%40w@h:1/db?sslmode=require&application_name=a%20b",
    "postgresql://h1:1,h2:2/db",
    "postgresql://[::1]:5433/db",
    "postgresql:///db?host=/var/run/postgresql",
    "postgresql://u:p@/db",
]


@pytest.mark.parametrize("text", EXAMPLES)
def test_as_libpq_reads_it(text: str) -> None:
    assert dsn.parse(text) == dict(parse_dsn(text))


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["host", "user", "password", "dbname"]), st.text("ab '\\=%x\t", max_size=6))))
def test_whatever_libpq_takes(pairs: list[tuple[str, str]]) -> None:
    text = " ".join(f"{key}={value}" for key, value in pairs)
    try:
        wanted = parse_dsn(text)
    except psycopg2.ProgrammingError:
        with contextlib.suppress(ValueError):
            dsn.parse(text)
        return
    assert dsn.parse(text) == wanted


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["host", "user", "password"]), st.text("ab '\\=%x\t@:", min_size=1), min_size=1))
def test_quoted_values_come_back(pairs: dict[str, str]) -> None:
    quoted = {key: value.replace("\\", r"\\").replace("'", r"\'") for key, value in pairs.items()}
    text = " ".join(f"{key}='{value}'" for key, value in quoted.items())
    assert dsn.parse(text) == pairs


@settings(deadline=None)
@given(st.text("abc@:/ '\\xyz", min_size=5, max_size=12))
def test_no_password_survives_redaction(password: str) -> None:
    quoted = password.replace("\\", r"\\").replace("'", r"\'")
    assert quoted not in dsn.redact(f"cannot connect: host=pg password='{quoted}' user=b")


def test_redaction_keeps_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "from-environment")
    assert dsn.redact("asked with from-environment at host=pg") == "asked with ******** at host=pg"
    text = 'FATAL:  password authentication failed for user "x"'
    assert dsn.redact(text) == text
    assert dsn.has_password("host=a password=b")
    assert dsn.has_password("postgresql://u:p@h/")
    assert not dsn.has_password("host=a passfile=/b")

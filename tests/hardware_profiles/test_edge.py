"""Whatever is wrong with a file that is read, one short message says it."""

import os

import pytest

from hardware_profiles.edge import (
    json_lines,
    parse_json,
    parse_toml,
    read_json,
    read_text,
    read_toml,
    shown,
    shown_path,
    toml_value,
)
from hardware_profiles.errors import ProfileError, nearest

DEEP = 100_000


def refused(read, *arguments):
    with pytest.raises(ProfileError) as error:
        read(*arguments, ProfileError)
    message = str(error.value)
    assert len(message) < 500
    assert message.isprintable()
    return message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = " + "[" * DEEP, "nested too deeply"),
        ("a = " + "{a=" * 5000, "nested too deeply"),
        ("a = " + "[" * 100 + "]" * 100, "nested too deeply, more than 64 levels"),
        (".".join(["a"] * 100) + " = 1", "nested too deeply"),
        ("a = " + "9" * 5000, "too many digits"),
        ("a = [1, { b = " + "9" * 400 + " }]", "b: a whole number of some 400 digits"),
        ("a = 0x" + "f" * 400, "a: a whole number"),
        ("a = 2026-13-45", "not valid TOML"),
        ("a = \x1b[31m", "not valid TOML"),
        ("a =", "not valid TOML"),
    ],
)
def test_toml_of_every_kind_of_fault_is_refused(text, expected):
    assert expected in refused(parse_toml, text, "a.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[" * DEEP, "nested too deeply"),
        ('{"a":' * 90 + "1" + "}" * 90, "nested too deeply"),
        ("9" * 5000, "too many digits"),
        ('{"a": {"b": [' + "9" * 400 + "]}}", "b: a whole number of some 400 digits"),
        ('{"a": 1', "truncated JSON"),
        ('{"a": "' + "x" * 5000, "truncated JSON"),
        ("{" + "x" * 5000, "not JSON"),
        ("", "JSON"),
    ],
)
def test_json_of_every_kind_of_fault_is_refused(text, expected):
    assert expected in refused(parse_json, text, "a.json")


def test_numbers_that_a_float_holds_are_read():
    assert parse_json("[1e308, -1, 18446744073709551616]", "a.json", ProfileError) == [1e308, -1, 2**64]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a\0b.json", "cannot be read"),
        ("a" * 300, "cannot be read"),
        ("a/" * 3000, "cannot be read"),
        (".", "is a folder"),
        ("loop", "cannot be read"),
        ("pipe", "is a pipe or a device"),
        ("/dev/null", "is a pipe or a device"),
        ("rigth.json", "did you mean 'right.json'?"),
        ("right.json/x", "no such file"),
    ],
)
def test_a_path_that_is_no_file_is_refused(tmp_path, name, expected):
    (tmp_path / "right.json").write_text("{}")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    for read in (read_json, read_text, read_toml):
        assert expected in refused(read, f"{tmp_path}/{name}" if name != "/dev/null" else name)


def test_text_that_is_not_utf_8_and_files_that_are_too_large_are_refused(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b"a = '\xff'")
    assert "no text in UTF-8: byte 5" in refused(read_toml, path)
    with path.open("wb") as opened:
        opened.truncate(2**30)
    assert "1,024 MiB, expected at most 8 MiB" in refused(read_toml, path)


def test_lines_are_counted_and_blank_ones_left_out(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": 2}')
    assert list(json_lines(path, ProfileError)) == [(1, {"a": 1}), (3, {"a": 2})]
    path.write_text('{"a": 1}\n{"a": ')
    assert ": row 2: truncated JSON" in refused(lambda *given: list(json_lines(*given)), path)


def test_values_are_shown_short_and_without_what_a_terminal_obeys():
    assert shown("\x1b[31mred") == "'\\x1b[31mred'"
    assert len(shown("x" * 10_000)) <= 61
    assert len(shown(list(range(10**6)))) <= 60
    assert shown(10**5000) == "a int"
    assert len(shown_path("y" * 5000)) <= 160


def test_every_message_is_fit_for_a_terminal():
    message = str(ProfileError("a.toml: \x1b[31m" + "9" * 5000 + " is wrong\n" + "x\n" * 100_000))
    assert len(message) < 700
    assert "\x1b" not in message
    assert message.startswith("a.toml: ?[31m999")
    assert "... and 99,9" in message
    assert len(str(ProfileError("word " * 5000))) < 500
    assert len(nearest("nothing like it" * 1000, [f"name-{at}" for at in range(10_000)])) < 400


@pytest.mark.parametrize(
    ("text", "expected"),
    [("[" * 3000, "nested too deeply"), ("9" * 5000, "too many digits"), (str(2**1024), "a whole number of some")],
)
def test_what_stands_after_an_equals_sign_is_refused_as_a_file_would_be(text, expected):
    with pytest.raises(ProfileError, match=expected):
        toml_value(text, "--set a", ProfileError)


def test_what_stands_after_an_equals_sign_is_toml_or_nothing():
    assert toml_value(" [1, 'a'] ", "--set a", ProfileError) == [1, "a"]
    assert toml_value("two words", "--set a", ProfileError) is None

"""Objects of JSON that say a key twice: one of the two is wrong, and nobody can tell which."""

from __future__ import annotations

import pytest

from hardware_profiles.edge import parse_json
from hardware_profiles.errors import ProfileError


@pytest.mark.parametrize(
    "text",
    [
        '{"timestamp": 1, "tokens": 2, "timestamp": 3}',
        '{"tokens" : 1, "timestamp" : 1, "timestamp" : 3}',
        '[{"tokens": 1}, {"timestamp": 1,\n "timestamp": 1}]',
        '{"about": {"deep": [{"timestamp": [1, 2], "timestamp": [1, 2]}]}}',
    ],
)
def test_a_key_that_stands_twice_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(ProfileError, match="a file: the key 'timestamp' stands twice in one object"):
        parse_json(text, "a file", ProfileError)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"prompt": "say {\\"a\\": 1, \\"a\\": 2}"}', {"prompt": 'say {"a": 1, "a": 2}'}),
        ('[{"a": 1}, {"a": 2}]', [{"a": 1}, {"a": 2}]),
        ('{"a": {"a": {"a": []}}, "b": [1, {"a": 2}]}', {"a": {"a": {"a": []}}, "b": [1, {"a": 2}]}),
    ],
)
def test_keys_of_other_objects_and_colons_in_texts_are_no_repetition(text: str, value: object) -> None:
    assert parse_json(text, "a file", ProfileError) == value

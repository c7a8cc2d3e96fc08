"""Documents as JSON."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from simulator.export.files import encode_json, plain


def nested(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)


def test_json_has_no_numbers_that_json_cannot_hold() -> None:
    document = {"rate": float("inf"), "steps": np.int64(3), "lens": np.array([1.5, np.nan]), "pair": (1, True)}
    assert json.loads(encode_json(document)) == {"rate": None, "steps": 3, "lens": [1.5, None], "pair": [1, True]}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), nested, max_leaves=20))
def test_json_comes_back_as_it_went_with_null_for_what_is_not_finite(value: object) -> None:
    assert json.loads(encode_json({"value": value}, indent=None)) == {"value": plain(value)}

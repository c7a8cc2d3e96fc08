"""Columns are kept small and come back as they were."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.results import packed as module
from simulator.results.columns import Columns
from simulator.results.packed import PART, PackedColumns, parts_of, total
from simulator.results.percentiles import weighted_percentile, weighted_percentiles

RANDOM = np.random.default_rng(7)
ROWS = 2 * PART + 17
#: Columns of every kind that is kept its own way, and those that almost are.
KINDS = {
    "one value": np.full(ROWS, 1.5),
    "small counts": RANDOM.integers(0, 200, ROWS).astype(float),
    "large counts": RANDOM.integers(0, 2**32, ROWS).astype(float),
    "counts beyond those": RANDOM.integers(2**40, 2**41, ROWS).astype(float),
    "counts below zero": RANDOM.integers(-5, 5, ROWS).astype(float),
    "counts at first": np.concatenate([np.arange(100.0), RANDOM.random(ROWS - 100)]),
    "few": np.where(RANDOM.random(ROWS) < 0.01, RANDOM.random(ROWS), 0.0),
    "any": RANDOM.random(ROWS),
    "not finite": np.where(RANDOM.random(ROWS) < 0.5, np.inf, 0.25),
}


@pytest.fixture
def packed() -> PackedColumns:
    return PackedColumns.of(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_comes_back_to_the_bit(packed: PackedColumns, kind: str) -> None:
    assert packed[kind].tobytes() == KINDS[kind].tobytes()
    assert np.concatenate([part[kind] for part in packed.parts()]).tobytes() == KINDS[kind].tobytes()


def test_counts_take_a_byte_or_two_and_what_is_the_same_takes_nothing() -> None:
    counts = RANDOM.integers(0, 300, PART).astype(float)
    columns = PackedColumns.of({"same": np.full(PART, 7.5), "counts": counts, "few": (counts == 3.0) * 0.3})
    assert len(pickle.dumps(columns)) < 2.2 * PART


def test_chosen_rows_are_shown_part_by_part_and_between_places(packed: PackedColumns) -> None:
    chosen = RANDOM.random(ROWS) < 0.3
    view = packed.chosen(chosen)
    assert view.rows == chosen.sum()
    for kind, values in KINDS.items():
        assert view[kind].tolist() == values[chosen].tolist()
        assert np.concatenate([part[kind] for part in parts_of(view)]).tolist() == values[chosen].tolist()
    middle = view.between(20_000, 30_000)
    assert middle["any"].tolist() == KINDS["any"][chosen][20_000:30_000].tolist()


def test_rows_between_two_places_may_lie_in_several_parts(packed: PackedColumns) -> None:
    for first, last in ((0, 5), (PART - 3, PART + 3), (5, ROWS + 100), (ROWS, ROWS + 1)):
        assert packed.between(first, last)["any"].tolist() == KINDS["any"][first:last].tolist()


def test_it_is_a_mapping_of_its_columns(packed: PackedColumns) -> None:
    assert list(packed) == list(KINDS)
    assert "any" in packed
    assert "none" not in packed
    assert total(packed, "small counts") == KINDS["small counts"].sum()
    assert dict(PackedColumns(("a", "b")))["b"].tolist() == []


def test_a_frame_in_pieces_is_the_frame(packed: PackedColumns) -> None:
    for rows in (PART // 2, PART, 50_000, 10 * ROWS):
        pieces = list(Columns(packed).frames(rows))
        assert {len(piece) for piece in pieces[:-1]} <= {rows}
        assert 0 < len(pieces[-1]) <= rows
        joined = pd.concat(pieces, ignore_index=True)
        pd.testing.assert_frame_equal(joined, Columns(packed).frame())
    assert [len(piece) for piece in Columns(PackedColumns(("a",))).frames(10)] == [0]
    assert [len(piece) for piece in Columns({"a": np.arange(25.0)}).frames(10)] == [10, 10, 5]


@given(
    st.lists(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9)), max_size=20), min_size=1, max_size=5),
    st.lists(st.floats(0, 100), min_size=1, max_size=4),
    st.sampled_from((1, 3, 256)),
)
def test_percentiles_of_parts_are_those_of_all_values_repeated(
    rows: list[list[tuple[float, int]]], percentiles: list[float], sampled: int
) -> None:
    from simulator.results import percentiles as percentiles_module

    parts = [
        (np.array([value for value, _ in part]), np.array([count for _, count in part], dtype=np.int64))
        for part in rows
    ]
    repeated = np.concatenate([np.repeat(values, counts) for values, counts in parts])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(percentiles_module, "_SAMPLED", sampled)
        found = weighted_percentiles(lambda: parts, percentiles)
    expected = np.percentile(repeated, percentiles) if len(repeated) else np.zeros(len(percentiles))
    assert found == pytest.approx(expected.tolist(), rel=1e-12, abs=1e-12)


def test_percentiles_of_very_uneven_values_are_exact() -> None:
    values = RANDOM.pareto(0.3, 50_000)
    counts = RANDOM.integers(1, 5, 50_000)

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(0, 50_000, 999):
            yield values[first : first + 999], counts[first : first + 999]

    expected = np.percentile(np.repeat(values, counts), (1, 50, 99.9))
    assert weighted_percentiles(parts, (1, 50, 99.9)) == pytest.approx(expected.tolist(), rel=1e-12)
    assert weighted_percentile(values, counts, 50.0) == pytest.approx(expected[1], rel=1e-12)


def test_a_part_has_places_of_two_bytes() -> None:
    assert np.iinfo(np.uint16).max + 1 >= module.PART

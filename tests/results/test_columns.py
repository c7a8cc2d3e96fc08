"""Columns become a frame when they are asked for it, once."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd

from simulator.results.columns import Columns


def test_a_frame_is_made_once_and_keeps_what_its_reader_adds() -> None:
    columns = Columns({"start_s": np.array([0.0, 1.0])})
    frame = columns.frame()
    frame["end_s"] = [1.0, 2.0]
    assert list(columns.frame().columns) == ["start_s", "end_s"]


def test_what_a_reader_writes_into_a_frame_does_not_reach_the_run() -> None:
    start = np.array([0.0, 1.0])
    frame = Columns({"start_s": start}).frame()
    frame.loc[0, "start_s"] = 5.0
    assert start.tolist() == [0.0, 1.0]


def test_a_frame_is_taken_as_it_is() -> None:
    frame = pd.DataFrame({"start_s": [0.0]})
    assert Columns(frame).frame() is frame


def test_columns_travel_between_processes_before_and_after_they_are_a_frame() -> None:
    columns = Columns({"start_s": np.array([0.0, 1.0])})
    sent = pickle.loads(pickle.dumps(columns))  # noqa: S301
    pd.testing.assert_frame_equal(sent.frame(), columns.frame())
    again = pickle.loads(pickle.dumps(columns))  # noqa: S301
    pd.testing.assert_frame_equal(again.frame(), columns.frame())

"""The timeline picture of runs that changed their size."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pandas as pd

from dashboard.scaling_timeline import timeline_svg
from simulator.results.values import Scaling, ScalingSummary

SPACE = "{http://www.w3.org/2000/svg}"


def parsed(picture: str) -> ElementTree.Element:
    return ElementTree.fromstring(picture)  # noqa: S314 -- our own text


def scaling(attainment: list[float]) -> Scaling:
    bins = len(attainment)
    edges = np.linspace(0.0, 60.0, bins + 1)
    return Scaling(
        summary=ScalingSummary(
            mechanism="elastic",
            policy="queue",
            changes=1,
            latency_mean_s=2.5,
            latency_max_s=2.5,
            downtime_s=0.0,
            attainment=0.75,
            requests_per_s=3.0,
            size_mean=3.0,
            devices_mean=6.0,
            devices_peak=8,
            memory_peak_bytes=1e9,
            moved_bytes=1e9,
            device_hours=0.1,
            cost_usd=0.1,
        ),
        changes=pd.DataFrame([{"command_s": 20.0, "switched_s": 25.0}]),
        phases=pd.DataFrame(),
        instances=pd.DataFrame(),
        timeline=pd.DataFrame(
            {
                "start_s": edges[:-1],
                "end_s": edges[1:],
                "size": np.full(bins, 3.0),
                "devices": np.linspace(6.0, 8.0, bins),
                "arrivals_per_s": np.full(bins, 3.0),
                "attainment": attainment,
            }
        ),
    )


def test_a_picture_is_well_formed_and_says_what_it_shows() -> None:
    picture = timeline_svg({"one <way>": scaling([1.0, 0.5, 0.0, np.nan])}, "A day & a night")
    root = parsed(picture)
    assert root.tag == f"{SPACE}svg"
    assert root.findtext(f"{SPACE}title") == "A day & a night"
    assert "one <way>: 75 % within the objective, 6.0 devices on average" in root.attrib["aria-label"]
    told = [text.text for text in root.iter(f"{SPACE}text")]
    assert "one <way>" in told
    assert "ready in 2.5 s, down 0 s" in told


def test_missed_objectives_are_as_tall_as_their_share() -> None:
    def missed(picture: str) -> float:
        rects = parsed(picture).iter(f"{SPACE}rect")
        return sum(
            float(r.attrib["height"]) for r in rects if r.attrib["fill"] == "#D55E00" and float(r.attrib["y"]) > 60
        )

    half, all_missed = (missed(timeline_svg({"a": scaling(s)}, "")) for s in ([1.0, 0.5, 1.0], [1.0, 0.0, 1.0]))
    assert missed(timeline_svg({"a": scaling([1.0, 1.0])}, "")) == 0.0
    assert all_missed == 2 * half > 0.0


def test_bins_of_the_same_share_are_one_band() -> None:
    def bands(attainment: list[float]) -> int:
        rects = parsed(timeline_svg({"a": scaling(attainment)}, "")).iter(f"{SPACE}rect")
        return sum(r.attrib["fill"] == "#009E73" and float(r.attrib["y"]) > 60 for r in rects)

    assert bands([1.0] * 50) == 1
    assert bands([1.0, 0.5, 1.0]) == 3

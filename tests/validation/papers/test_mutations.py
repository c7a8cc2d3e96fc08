"""What each check of papers says it rests on is true: its figure follows when that is changed, and only then."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import hardware_profiles
from hardware_profiles.loader import FOLDER_VARIABLE
from hardware_profiles.units import UNITS
from validation.cases.elasticmoe.compute import _change as elastic_change
from validation.papers.papers import case_names
from validation.papers.report import Verdict
from validation.papers.run import run_case
from workloads import streams
from workloads.models import sizes, work

#: Units of figures that halve or double as time does; others are ratios, counts and shares.
ABSOLUTE = {"s", "ms", "us", "GB/s", "req/s", "tok/s"}
#: A figure that moves by less has not moved [1].
LEAST = 1e-9
#: Cases of links, and of processors and memories beside the GPU; and one that compares points with and without links.
OF_LINKS = ("deepep", "duplex", "hybrimoe", "one_sided", "pregated_moe", "tutel")
COMPARED = "trtllm"
#: Path of a quantity in its file, from its kind on, and its unit; what its value is multiplied by [1].
Factor = Callable[[tuple[str, ...], str], float]
#: Case, row and figure of a check.
Key = tuple[str, str, str]
#: Power of time in the dimensions that have one.
_TIME = {"time": 1, "bandwidth": -1, "compute": -1, "frequency": -1}


def slower(_: tuple[str, ...], unit: str) -> float:
    """Double every time: a second becomes two, whether a coefficient is a time or a rate."""
    dimension, _size = UNITS.get(unit, ("one", 1.0))
    return 2.0 ** _TIME.get(dimension, 0)


def narrower(path: tuple[str, ...], _: str) -> float:
    """Halve the bandwidth of links between devices and to the host, and of every processor that is no GPU's own."""
    aside = ("links" in path or "link" in path) or ("processors" in path and "xpu" not in path)
    return 0.5 if aside and path[-1] in {"bandwidth", "memory_bandwidth"} else 1.0


def write_profiles(folder: Path, factor: Factor) -> Path:
    """Write all hardware profiles with their quantities changed; returns the folder."""
    built_in = Path(hardware_profiles.__file__).parent
    for kind in ("devices", "nodes", "clusters", "kernels"):
        (folder / kind).mkdir(parents=True)
        for file in (built_in / kind).glob("*.toml"):
            table = _changed(tomllib.loads(file.read_text(encoding="utf-8")), (kind,), factor)
            (folder / kind / file.name).write_text(tomli_w.dumps(table), encoding="utf-8")
    return folder


def _changed(table: Mapping[str, Any], path: tuple[str, ...], factor: Factor) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in table.items():
        below = (*path, key)
        if not isinstance(value, dict):
            found[key] = value
        elif "value" in value and "unit" in value and not isinstance(value["value"], bool | str):
            found[key] = {**value, "value": value["value"] * factor(below, value["unit"])}
        else:
            found[key] = _changed(value, below, factor)
    return found


def with_profiles(folder: Path, names: Sequence[str] = ()) -> list[float]:
    """Compute checks under other hardware profiles, in a process of its own: much is kept between calls."""
    program = "from simulator.cli.app import app; app()"
    command = [sys.executable, "-c", program, "validate", "papers", *names, "--json"]
    environment = {**os.environ, FOLDER_VARIABLE: str(folder)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in {0, 1}:
        raise AssertionError(done.stderr)
    return [check["predicted"] for check in json.loads(done.stdout)["checks"]]


def larger(patch: pytest.MonkeyPatch) -> None:
    """Count half as many parameters again, and so bytes and FLOPs, for every layer."""
    counted = sizes.layer_parameters

    def more(*args: Any, **options: Any) -> dict[str, sizes.Count]:
        parts = counted(*args, **options)
        return {part: sizes.Count(1.5 * count.matrices, 1.5 * count.vectors) for part, count in parts.items()}

    patch.setattr(sizes, "layer_parameters", more)
    patch.setattr(work, "layer_parameters", more)


def reseeded(patch: pytest.MonkeyPatch) -> None:
    """Open every random stream at another key."""
    patch.setattr(streams, "PURPOSES", ("another", *streams.PURPOSES))


def changed(change: Callable[[pytest.MonkeyPatch], None], names: Iterable[str]) -> dict[Key, float]:
    """Compute cases after a change, and keep nothing of it."""
    with pytest.MonkeyPatch.context() as patch:
        change(patch)
        elastic_change.cache_clear()
        found = {key(v): v.predicted for name in sorted(names) for v in run_case(name)}
    elastic_change.cache_clear()
    return found


def key(verdict: Verdict) -> Key:
    return verdict.case, verdict.check.check_id, verdict.check.figure


def moves(before: Verdict, after: Mapping[Key, float]) -> bool:
    value = after.get(key(before), before.predicted)
    return abs(value - before.predicted) > LEAST * abs(before.predicted)


def ids(verdicts: Iterable[Verdict]) -> list[str]:
    return [f"{v.case}: {v.check.check_id} ({v.check.figure})" for v in verdicts]


@pytest.fixture(scope="module")
def base(paper_verdicts) -> list[Verdict]:
    return [verdict for name in case_names() for verdict in paper_verdicts(name)]


@pytest.fixture(scope="module")
def slowed(base: list[Verdict], tmp_path_factory: pytest.TempPathFactory) -> dict[Key, float]:
    """All checks with every time doubled."""
    predicted = with_profiles(write_profiles(tmp_path_factory.mktemp("profiles") / "slower", slower))
    return {key(v): after for v, after in zip(base, predicted, strict=True)}


@pytest.fixture(scope="module")
def narrowed(base: list[Verdict], tmp_path_factory: pytest.TempPathFactory) -> dict[Key, float]:
    """Checks of links and further processors with the bandwidths of these halved."""
    names = (*OF_LINKS, COMPARED)
    predicted = with_profiles(write_profiles(tmp_path_factory.mktemp("profiles") / "narrower", narrower), names)
    own = [v for name in names for v in base if v.case == name]
    return {key(v): after for v, after in zip(own, predicted, strict=True)}


@pytest.fixture(scope="module")
def enlarged(base: list[Verdict]) -> dict[Key, float]:
    """Cases with checks of sizes and quoted ones, with more parameters."""
    return changed(larger, {v.case for v in base if v.check.evidence in {"identity", "quoted"}})


@pytest.fixture(scope="module")
def redrawn(base: list[Verdict], slowed: dict[Key, float], enlarged: dict[Key, float]) -> dict[Key, float]:
    """Cases with checks that neither times nor sizes move, with other random draws."""
    still = [v for v in base if not moves(v, slowed) and not moves(v, enlarged)]
    return changed(reseeded, {v.case for v in still if v.case not in {"elasticmoe", COMPARED}})


def test_with_every_time_doubled_hardly_an_absolute_figure_of_the_model_stays_within(
    base: list[Verdict], slowed: dict[Key, float]
) -> None:
    model = [v for v in base if v.check.evidence in {"engine", "cost"} and v.check.unit in ABSOLUTE]
    for verdicts in (model, [v for v in model if v.check.counted]):
        stayed = [v for v in verdicts if dataclasses.replace(v, predicted=slowed[key(v)]).within]
        assert len(stayed) <= 0.1 * len(verdicts), ids(stayed)


def test_the_time_of_a_call_doubles_with_the_times_of_its_profile(
    base: list[Verdict], slowed: dict[Key, float]
) -> None:
    factors = {"us": 2.0, "GB/s": 0.5}
    for verdict in base:
        if verdict.case in {"deepep", "one_sided"}:
            expected = factors[verdict.check.unit] * verdict.predicted
            assert slowed[key(verdict)] == pytest.approx(expected, rel=1e-9), verdict.check.check_id


def test_with_links_and_further_processors_halved_the_figures_that_rest_on_them_move(
    base: list[Verdict], narrowed: dict[Key, float]
) -> None:
    model = [v for v in base if v.case in OF_LINKS and v.check.evidence in {"engine", "cost"}]
    assert ids(v for v in model if not moves(v, narrowed)) == []


def test_sizes_and_flops_follow_the_calculators(base: list[Verdict], enlarged: dict[Key, float]) -> None:
    assert ids(v for v in base if v.check.evidence == "identity" and not moves(v, enlarged)) == []


def test_quoted_figures_are_exactly_those_that_nothing_moves(
    base: list[Verdict],
    slowed: dict[Key, float],
    narrowed: dict[Key, float],
    enlarged: dict[Key, float],
    redrawn: dict[Key, float],
) -> None:
    still = [v for v in base if not any(moves(v, after) for after in (slowed, narrowed, enlarged, redrawn))]
    assert ids(still) == ids(v for v in base if v.check.evidence == "quoted")

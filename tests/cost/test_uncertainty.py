"""The 80 % interval: sums, regimes, borrowed kernels, shapes beyond the measured ones, and what it covers."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware_profiles.errors import ProfileError
from hardware_profiles.residuals import load_residuals, load_transfer
from simulator.cost.model import CostModel
from simulator.cost.uncertainty import (
    REGIMES,
    UNMEASURED,
    Z80,
    combine,
    family_of,
    interval,
    op_spread,
    op_spreads,
    regime_numbers,
    step_interval,
    table_spread,
)
from simulator.hardware import load_hardware
from simulator.ops import StepShape, build_ops
from simulator.parallelism import Parallelism
from simulator.stack import load_stack
from validation.fit.residuals import spread_of, write_residuals
from validation.kernels.compare import compare_op
from validation.kernels.formats import measured_files, read_measured
from workloads.models.library import load_model

#: Tables up to this many rows are whole in the samples [1].
WHOLE = 700
MEASUREMENTS = Path(__file__).parents[1] / "data" / "kernels"
GEMM = "gemm.cublas.bfloat16"

times = st.floats(1e-6, 1.0)
sigmas = st.floats(0.0, 0.5)
names = st.sampled_from(["gemm", "moe", "collectives"])
terms = st.lists(st.tuples(times, sigmas, names), min_size=1, max_size=8)


@given(terms)
def test_a_sum_is_between_full_and_no_correlation(parts: list[tuple[float, float, str]]) -> None:
    seconds, spreads, families = zip(*parts, strict=True)
    errors = [t * s for t, s in zip(seconds, spreads, strict=True)]
    found = float(combine(seconds, spreads, families)) * sum(seconds)
    assert np.sqrt(sum(e * e for e in errors)) <= found * (1 + 1e-9) + 1e-15
    assert found <= sum(errors) * (1 + 1e-9) + 1e-15


@given(terms, st.randoms(use_true_random=False))
def test_the_order_of_a_sum_makes_no_difference(parts: list[tuple[float, float, str]], random: object) -> None:
    shuffled = parts.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = (float(combine(*zip(*some, strict=True))) for some in (parts, shuffled))
    assert one == pytest.approx(other)


@given(times, sigmas, st.integers(1, 10))
def test_splitting_a_call_of_one_family_leaves_its_spread(seconds: float, sigma: float, pieces: int) -> None:
    split = combine([seconds / pieces] * pieces, [sigma] * pieces, ["gemm"] * pieces)
    assert float(split) == pytest.approx(sigma)


@given(terms, st.floats(0.0, 1.0))
def test_what_is_shared_by_all_families_adds_up_in_full(parts: list[tuple[float, float, str]], share: float) -> None:
    seconds, spreads, families = zip(*parts, strict=True)
    shared = [share * s for s in spreads]
    found, apart = float(combine(seconds, spreads, families, shared)), float(combine(seconds, spreads, families))
    together = sum(t * s for t, s in zip(seconds, spreads, strict=True)) / sum(seconds)
    assert apart * (1 - 1e-9) - 1e-12 <= found <= together * (1 + 1e-9) + 1e-12
    assert float(combine(seconds, spreads, families, spreads)) == pytest.approx(together)


def test_an_empty_sum_has_no_spread() -> None:
    assert float(combine([], [], [])) == 0.0
    assert float(combine([0.0], [0.3], ["gemm"])) == 0.0


def test_arrays_are_combined_element_by_element() -> None:
    found = combine([np.array([1.0, 0.0]), 1.0], [0.1, 0.2], ["gemm", "moe"])
    assert found.tolist() == pytest.approx([np.hypot(0.1, 0.2) / 2, 0.2])


def test_an_interval_holds_eight_in_ten_of_normal_errors() -> None:
    errors = np.random.default_rng(3).normal(0.0, 0.2, 20_000)
    low, high = interval(1.0, 0.2)
    assert np.mean((low <= np.exp(errors)) & (np.exp(errors) <= high)) == pytest.approx(0.8, abs=0.01)


def test_a_spread_is_that_whose_interval_holds_eight_in_ten() -> None:
    errors = np.random.default_rng(4).standard_t(3, 5_000) * 0.1
    assert np.mean(np.abs(errors) <= Z80 * spread_of(errors)) == pytest.approx(0.8, abs=0.001)


def test_a_few_rows_give_a_wider_spread_than_their_quantile() -> None:
    errors = np.array([0.01, 0.02, 0.03])
    assert spread_of(errors) == pytest.approx(0.03 / Z80)


def test_regimes_cover_all_times() -> None:
    assert regime_numbers([0.0, 1e-5, 2e-5, 1e3]).tolist() == [0, 0, 1, len(REGIMES) - 1]


def test_borrowed_kernels_are_less_certain_and_another_architecture_more_so() -> None:
    own, same, other = (table_spread(load_hardware(name), GEMM, 1e-4) for name in ("h100-sxm", "h200-sxm", "b200-sxm"))
    assert [own.evidence, same.evidence, other.evidence] == ["fitted", "relative's kernels", "relative's kernels"]
    assert float(own.sigma) < float(same.sigma) < float(other.sigma)


def test_shapes_beyond_the_measured_ones_are_marked_and_less_certain() -> None:
    hardware = load_hardware("h100-sxm")
    most = load_residuals("h100-sxm")[GEMM].ranges["n"][1]
    inside = table_spread(hardware, GEMM, 1e-4, {"n": most})
    beyond = table_spread(hardware, GEMM, 1e-4, {"n": np.array([most, 2 * most, 4 * most])})
    assert not inside.extrapolated
    assert beyond.extrapolated.tolist() == [False, True, True]
    assert np.all(np.diff(beyond.sigma) > 0)


def test_a_kernel_that_nobody_measured_has_an_assumed_spread() -> None:
    spread = table_spread(load_hardware("h100-sxm"), "gemm.unheard.of", [1e-6, 1e-3])
    assert spread.evidence == "assumption"
    assert spread.sigma.tolist() == [UNMEASURED, UNMEASURED]


def test_the_regime_decides_the_spread() -> None:
    hardware, residuals = load_hardware("h100-sxm"), load_residuals("h100-sxm")[GEMM]
    for seconds, regime in ((5e-6, "0-10 us"), (5e-5, "30-100 us"), (5e-2, "1 ms and more")):
        assert float(table_spread(hardware, GEMM, seconds).sigma) == pytest.approx(residuals.spread[regime])


def test_libraries_that_share_coefficients_are_one_family() -> None:
    assert family_of("all_reduce.nccl") == family_of("all_gather.nccl")
    assert family_of("dispatch.deepep_normal") == family_of("combine.deepep_normal")
    assert family_of(GEMM) != family_of("moe.triton.fp8")


def test_a_step_is_more_certain_than_its_least_certain_op() -> None:
    hardware = load_hardware("h100-sxm")
    cost = CostModel(hardware=hardware, stack=load_stack("vllm"))
    split = Parallelism(tp=2, dp=1, pp=1, ep=2)
    shape = StepShape(decode_sequences=32.0, decode_context=2048.0)
    op_times = cost.times(build_ops(load_model("mixtral-8x7b"), split, cost.stack, shape))
    low, high = step_interval(op_times, op_spreads(op_times, hardware))
    widest = max(float(op_spread(time, hardware).sigma) for time in op_times if float(time.seconds) > 0)
    assert float(low) < 1.0 < float(high) < np.exp(Z80 * widest)
    assert float(low) == pytest.approx(1.0 / float(high))


def test_residuals_are_read_as_written(tmp_path: Path) -> None:
    tables = dict(load_residuals("h100-sxm"))
    write_residuals(tmp_path / "residuals" / "h100-sxm.toml", tables)
    assert load_residuals("h100-sxm", tmp_path) == tables


def test_the_users_residuals_come_first(tmp_path: Path) -> None:
    wide = {GEMM: dataclasses.replace(load_residuals("h100-sxm")[GEMM], spread={"all": 0.77})}
    write_residuals(tmp_path / "residuals" / "h100-sxm.toml", wide)
    hardware = load_hardware("h100-sxm", folder=tmp_path)
    assert float(table_spread(hardware, GEMM, 1e-4, folder=tmp_path).sigma) == pytest.approx(0.77)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[gemm]\nspread = { all = 0.1 }\n", "missing key '_provenance'"),
        (
            '[gemm]\n_provenance = { rows = 3, source = "a", status = "measured" }\nspread = { x = 1 }\n',
            "no entry 'all'",
        ),
        ('[gemm]\n_provenance = { rows = 3, source = "a", status = "measured" }\nspread = { all = -1 }\n', "from 0 on"),
        ("[gemm\n", "not valid TOML"),
    ],
)
def test_malformed_residuals_say_what_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "residuals").mkdir()
    (tmp_path / "residuals" / "h100-sxm.toml").write_text(text)
    with pytest.raises(ProfileError, match=told):
        load_residuals("h100-sxm", tmp_path)


def test_borrowing_within_an_architecture_adds_less() -> None:
    transfer = load_transfer()
    assert transfer.same_architecture.keys() == transfer.other_architecture.keys()
    assert all(transfer.same_architecture[f] <= transfer.other_architecture[f] for f in transfer.other_architecture)


@pytest.mark.parametrize("device", ["h100-sxm", "a100-sxm"])
def test_intervals_cover_rows_that_gave_no_spread(device: str, tmp_path: Path) -> None:
    """Take the spread from one half of the rows that no fit saw, and count the other half."""
    hardware = load_hardware(device)
    inside = total = 0
    for op, path in measured_files(MEASUREMENTS / device.replace("-", "_"))[0].items():
        frame = read_measured(path)
        if len(frame) <= WHOLE:
            continue  # holds rows that were fitted; of larger tables the samples hold none
        compared = compare_op(op, frame, hardware)
        compared = compared[compared["reason"] == ""]
        ratio = np.log(compared["measured_us"] / compared["predicted_us"]).to_numpy()
        half = np.random.default_rng(5).random(len(ratio)) < 0.5
        for table in compared["table"].unique():
            mine = (compared["table"] == table).to_numpy()
            spread = spread_of(ratio[mine & half])
            inside += int(np.sum(np.abs(ratio[mine & ~half]) <= Z80 * spread))
            total += int(np.sum(mine & ~half))
    assert total > 500
    assert 0.7 <= inside / total <= 0.9


@pytest.mark.parametrize("text", ["range = 'wide'", "spread = []", "spread = { all = 'a' }", "_provenance = 3"])
def test_residuals_of_another_kind_are_an_error_of_their_file(tmp_path: Path, text: str) -> None:
    file = tmp_path / "residuals" / "h100-sxm.toml"
    file.parent.mkdir()
    good = {
        "spread": "spread = { all = 0.1 }",
        "_provenance": "_provenance = { rows = 3, source = 's', status = 'measured' }",
    }
    lines = [line for key, line in good.items() if not text.startswith(key)]
    file.write_text("\n".join(["['gemm.cublas']", *lines, text]), encoding="utf-8")
    with pytest.raises(ProfileError, match=r"residuals/h100-sxm\.toml"):
        load_residuals("h100-sxm", tmp_path)

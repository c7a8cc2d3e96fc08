"""Replaying a routing trace: running sums against counting, token by token."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simulator.placement import Placement, place, rank_sums
from simulator.placement import replay as replay_module
from simulator.placement.rank_sums import RankSums
from simulator.placement.replay import RoutingReplay, decode_order, reordered, replay
from workloads.routing.generators import generate_routing
from workloads.routing.stats import expert_load, imbalance_by_batch
from workloads.routing.trace import RoutingTrace

IntArray = NDArray[np.integer]
TOKENS, LAYERS, EXPERTS, TOP_K = 500, 3, 16, 4


@cache
def routing(kind: str = "sticky") -> RoutingTrace:
    return generate_routing(
        kind, tokens=TOKENS, layers=LAYERS, num_experts=EXPERTS, top_k=TOP_K, seed=1, sequence_tokens=30, exponent=0.8
    )


@cache
def long_routing(tokens: int) -> RoutingTrace:
    return generate_routing(
        "domain", tokens=tokens, layers=24, num_experts=32, top_k=4, seed=2, sequence_tokens=306, stickiness=0.3
    )


def counted(trace: RoutingTrace, tokens: IntArray, ranks: int) -> IntArray:
    """Assignments of these tokens to each rank of a linear placement, shape (ranks, layers), one by one."""
    found = np.zeros((ranks, trace.layers), dtype=np.int64)
    for layer in range(trace.layers):
        rank = trace.expert_ids[tokens, layer].astype(int) * ranks // trace.num_experts
        found[:, layer] = np.bincount(rank.reshape(-1), minlength=ranks)
    return found


@cache
def cached_replay(ranks: int) -> RoutingReplay:
    return on_ranks(routing(), ranks)


def on_ranks(trace: RoutingTrace, ranks: int, concurrency: int = 7) -> RoutingReplay:
    return replay(trace, place("linear", np.ones((trace.layers, trace.num_experts)), ranks), concurrency)


@given(
    ranks=st.sampled_from([1, 2, 4, 8]),
    start=st.integers(0, TOKENS - 1),
    count=st.integers(1, 3 * TOKENS),
    order=st.sampled_from(["prefill", "decode"]),
)
def test_the_load_of_any_window_is_what_counting_gives(ranks: int, start: int, count: int, order: str) -> None:
    replayed = cached_replay(ranks)
    tokens = (start + np.arange(count)) % TOKENS
    sums: RankSums = getattr(replayed, order)
    chosen = replayed.decode_order[tokens] if order == "decode" else tokens
    assert sums.load(start, count).tolist() == counted(routing(), chosen, ranks).tolist()


@settings(max_examples=50)
@given(
    start=st.integers(0, TOKENS),
    count=st.integers(1, 3 * TOKENS),
    order=st.sampled_from(["prefill", "decode"]),
    rows=st.sampled_from([1, 3, 40, 300]),
)
def test_a_load_is_the_same_from_coarse_sums_from_fine_ones_and_from_such_that_have_little_room(
    start: int, count: int, order: str, rows: int
) -> None:
    coarse, fine = (getattr(on_ranks(routing(), 4), order) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_sums, "SUMS_ROOM", rows * 4 * LAYERS * 2)
        tight = getattr(on_ranks(routing(), 4), order)
    fine.refine()
    tight.refine()
    loads = [each.load(start, count).tolist() for each in (coarse, fine, tight)]
    assert loads[0] == loads[1] == loads[2]
    starts, counts = np.array([0, start, TOKENS // 2]), np.array([0, count, TOKENS])
    for each in (coarse, fine, tight):
        assert each.loads(starts, counts)[1].tolist() == loads[0]
        assert each.loads(starts, counts)[[0, 2]].sum() == TOKENS * TOP_K * LAYERS
    assert (coarse.stride > 1, fine.stride) == (True, 1)
    assert tight.nbytes <= rows * 4 * LAYERS * 2 or tight.stride >= TOKENS


def test_sums_are_made_finer_only_for_who_asks_often() -> None:
    sums = on_ranks(routing(), 4).decode
    assert sums.nbytes == 0
    sums.load(3, 5)
    assert sums.stride > 1
    loads = {tuple(sums.load(3, 5).ravel().tolist()) for _ in range(2000)}
    assert (sums.stride, len(loads)) == (1, 1)


def test_two_loads_of_a_turn_can_be_added_whatever_their_type() -> None:
    """All tokens of this trace go to the first of two ranks, whose counts fill 16 bits."""
    tokens = 8192
    trace = RoutingTrace(
        expert_ids=np.tile(np.arange(4), (tokens, 1, 1)), sequence_start=np.array([0]), num_experts=8, source="one rank"
    )
    replayed = on_ranks(trace, 2)
    both = replayed.prefill.load(0, tokens) + replayed.decode.load(0, tokens)
    assert both[:, 0].tolist() == [8 * tokens, 0]
    assert replayed.decode.load(5, 10 * tokens)[:, 0].tolist() == [40 * tokens, 0]


@pytest.mark.parametrize("stop", [TOKENS - 1, TOKENS, TOKENS + 1, 2 * TOKENS, 2 * TOKENS + 1])
def test_windows_that_end_where_the_trace_does_are_counted_right(stop: int) -> None:
    for start in (0, 1, TOKENS - 1):
        tokens = np.arange(start, stop) % TOKENS
        load = cached_replay(4).prefill.load(start, stop - start)
        assert load.tolist() == counted(routing(), tokens, 4).tolist()


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
@pytest.mark.parametrize("batch", [1, 7, 64, 250, 500])
def test_imbalance_of_batches_is_what_counting_gives(ranks: int, batch: int) -> None:
    trace = routing()
    sums = on_ranks(trace, ranks).prefill
    loads = np.stack([sums.load(start, batch) for start in range(0, TOKENS - batch + 1, batch)])
    wanted = imbalance_by_batch(trace, ranks, batch)
    np.testing.assert_allclose(loads.max(axis=1) / loads.mean(axis=1), wanted, rtol=1e-12)


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_a_long_trace_replays_as_counting_gives(ranks: int) -> None:
    trace = long_routing(8_000)
    replayed = on_ranks(trace, ranks, concurrency=64)
    for batch in (1, 32, 900, 8000):
        loads = np.stack([replayed.prefill.load(start, batch) for start in range(0, 8_000 - batch + 1, batch)])
        wanted = imbalance_by_batch(trace, ranks, batch)
        np.testing.assert_allclose(loads.max(axis=1) / loads.mean(axis=1), wanted, rtol=1e-12)
    for start, batch in ((7_990, 32), (5, 8_000), (1_234, 17_000)):
        tokens = replayed.decode_order[(start + np.arange(batch)) % 8_000]
        assert replayed.decode.load(start, batch).tolist() == counted(trace, tokens, ranks).tolist()


@settings(max_examples=40)
@given(count=st.integers(1, 2 * TOKENS), start=st.integers(0, TOKENS - 1), extra=st.sampled_from([0, 8, 16]))
def test_every_assignment_lands_on_one_rank(count: int, start: int, extra: int) -> None:
    placement = place("balanced", expert_load(routing()).astype(float), 8, extra)
    load = replay(routing(), placement, 5).decode.load(start, count)
    assert (load.sum(axis=0) == count * TOP_K).all()


def test_decode_order_holds_every_token_once_and_sets_sequences_side_by_side() -> None:
    trace = routing()
    order = decode_order(trace.sequence_start, TOKENS, concurrency=6)
    assert sorted(order.tolist()) == list(range(TOKENS))
    sequence = np.searchsorted(trace.sequence_start, order, side="right") - 1
    lanes = min(6, len(trace.sequence_start))
    for start in range(0, TOKENS // 2, lanes):
        assert len(set(sequence[start : start + lanes].tolist())) == lanes
    for index in range(len(trace.sequence_start)):
        assert (np.diff(order[sequence == index]) == 1).all()


def test_one_sequence_at_a_time_decodes_in_prompt_order() -> None:
    assert decode_order(routing().sequence_start, TOKENS, concurrency=1).tolist() == list(range(TOKENS))


@settings(max_examples=25)
@given(permutation=st.permutations(range(EXPERTS)), ranks=st.sampled_from([2, 4, 8]))
def test_relabelling_experts_changes_no_load(permutation: list[int], ranks: int) -> None:
    trace, names = routing(), np.asarray(permutation)
    renamed = RoutingTrace(
        expert_ids=names[trace.expert_ids],
        sequence_start=trace.sequence_start,
        num_experts=EXPERTS,
        source="renamed",
    )
    placement = place("linear", np.ones((LAYERS, EXPERTS)), ranks)
    moved = Placement(slot_expert=names[placement.slot_expert], ranks=ranks, num_experts=EXPERTS)
    before, after = replay(trace, placement, 7), replay(renamed, moved, 7)
    for start, count in ((0, 1), (3, 40), (450, 80)):
        np.testing.assert_array_equal(before.prefill.load(start, count), after.prefill.load(start, count))
    np.testing.assert_array_equal(before.slot_ids, after.slot_ids)


@settings(max_examples=25)
@given(permutation=st.permutations(range(8)))
def test_relabelling_ranks_permutes_loads(permutation: list[int]) -> None:
    trace, order = routing(), np.asarray(permutation)
    placement = place("linear", np.ones((LAYERS, EXPERTS)), 8)
    blocks = placement.slot_expert.reshape(LAYERS, 8, -1)[:, order].reshape(LAYERS, -1)
    shuffled = Placement(slot_expert=blocks, ranks=8, num_experts=EXPERTS)
    before = replay(trace, placement, 7).decode.load(40, 100)
    after = replay(trace, shuffled, 7).decode.load(40, 100)
    np.testing.assert_array_equal(after, before[order])


def test_replicas_take_turns() -> None:
    same = RoutingTrace(
        expert_ids=np.tile(np.arange(2), (90, 1, 1)), sequence_start=np.array([0]), num_experts=4, source="all alike"
    )
    placement = Placement(slot_expert=np.array([[0, 1, 0, 2, 0, 3]]), ranks=3, num_experts=4)
    replayed = replay(same, placement, 1)
    assert replayed.prefill.load(0, 90)[:, 0].tolist() == [30 + 90, 30, 30]
    assert replayed.prefill.load(0, 3)[:, 0].tolist() == [1 + 3, 1, 1]


def test_redundant_slots_and_balance_lower_the_hottest_rank_of_a_skewed_trace() -> None:
    trace = generate_routing("zipf", tokens=4000, layers=2, num_experts=16, top_k=2, seed=3, exponent=1.2)
    load = expert_load(trace).astype(float)
    hottest = [
        replay(trace, placement, 8).prefill.load(0, 4000).max()
        for placement in (
            place("linear", np.ones((2, 16)), 4),
            place("balanced", load, 4),
            place("balanced", load, 4, redundant_slots=8),
        )
    ]
    assert hottest[0] > hottest[1] >= hottest[2]
    assert hottest[2] < 1.05 * 4000 * 2 / 4


def test_null_experts_load_no_rank() -> None:
    ids = np.array([[[0, 4]], [[1, 5]], [[4, 5]], [[2, 3]]])
    trace = RoutingTrace(expert_ids=ids, sequence_start=np.array([0]), num_experts=6, source="two null experts")
    replayed = replay(trace, place("linear", np.ones((1, 4)), 2), 1)
    assert replayed.prefill.load(0, 4)[:, 0].tolist() == [2, 2]
    assert replayed.counts("prefill", 4, 1).reshape(-1).tolist() == [1, 1, 1, 1]


@given(
    tokens=st.integers(1, TOKENS),
    windows=st.integers(1, 5),
    order=st.sampled_from(["prefill", "decode"]),
    ranks=st.just(4),
)
def test_counts_of_windows_add_up_to_their_rank_loads(tokens: int, windows: int, order: str, ranks: int) -> None:
    replayed = cached_replay(ranks)
    counts = replayed.counts(order, tokens, windows)  # type: ignore[arg-type]
    assert counts.shape == (windows, LAYERS, ranks, EXPERTS // ranks)
    for window in range(windows):
        start = window * TOKENS // windows
        wanted = getattr(replayed, order).load(start, tokens)
        np.testing.assert_array_equal(counts[window].sum(axis=-1).T, wanted)


def test_counts_that_are_asked_again_are_kept_within_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    replayed = on_ranks(routing(), 4)
    sizes = [(7, 2), (64, 5), (300, 4)]
    first = [replayed.counts("decode", *size) for size in sizes]
    held = replayed.kept.nbytes
    for size, counts in zip(sizes, first, strict=True):
        np.testing.assert_array_equal(replayed.counts("decode", *size), counts)
    assert replayed.kept.nbytes == held > 0
    monkeypatch.setattr(replay_module, "_KEPT_BYTES", held / 2)
    for tokens in range(20, 40):
        replayed.counts("prefill", tokens, 2)
        assert replayed.kept.nbytes <= held / 2
    np.testing.assert_array_equal(replayed.counts("decode", *sizes[0]), first[0])


def test_another_order_of_decoded_tokens_is_what_a_replay_in_it_gives() -> None:
    other = reordered(on_ranks(routing(), 4, concurrency=7), routing(), 3)
    wanted = on_ranks(routing(), 4, concurrency=3)
    for start, count in ((0, 10), (490, 100), (20, 1100)):
        for order in ("prefill", "decode"):
            loads = [getattr(each, order).load(start, count) for each in (other, wanted)]
            np.testing.assert_array_equal(*loads)
    np.testing.assert_array_equal(other.counts("decode", 40, 3), wanted.counts("decode", 40, 3))


def test_counts_beyond_the_trace_scale_it_up() -> None:
    replayed = on_ranks(routing(), 4)
    once, thrice = replayed.counts("prefill", TOKENS, 1), replayed.counts("prefill", 3 * TOKENS, 1)
    np.testing.assert_allclose(thrice, 3 * once)


def test_uniform_routing_of_many_tokens_tends_to_balance() -> None:
    trace = generate_routing("uniform", tokens=16_384, layers=2, num_experts=64, top_k=8, seed=5)
    sums = on_ranks(trace, 8).prefill
    excess = []
    for batch in (16, 256, 4096):
        loads = np.stack([sums.load(start, batch) for start in range(0, 16_384, batch)])
        excess.append(float((loads.max(axis=1) / loads.mean(axis=1)).mean()) - 1.0)
    assert excess[0] > 0.3
    assert excess[2] < 0.03
    # Sixteen times the tokens: a quarter of the excess.
    assert excess[0] / excess[1] == pytest.approx(4.0, rel=0.2)
    assert excess[1] / excess[2] == pytest.approx(4.0, rel=0.2)

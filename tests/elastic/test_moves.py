"""What moves between devices when an instance changes size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.elastic.moves import expert_flow, plan_moves, shard_flow, spread_experts
from simulator.kernels.kernel import Fabric
from simulator.memory import weight_bytes_per_device
from simulator.parallelism import Parallelism
from workloads.models.library import load_model
from workloads.models.sizes import weight_bytes

LITE = load_model("deepseek-v2-lite")
FABRIC = Fabric(
    domain=8, scale_up_bandwidth=100e9, scale_up_latency=1e-6, scale_out_bandwidth=10e9, scale_out_latency=5e-6
)


def moves(before: int, after: int, tp: int = 2):
    return plan_moves(
        LITE,
        Parallelism(tp=tp, dp=before, ep=tp * before),
        Parallelism(tp=tp, dp=after, ep=tp * after),
        expert_tensors=3,
        layer_tensors=8,
    )


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 40))
def test_every_expert_goes_to_one_rank_and_no_more_move_than_must(experts: int, before: int, after: int) -> None:
    flow = expert_flow(experts, before, after)
    most = max(before, after)
    held, wanted = np.zeros(most, dtype=int), np.zeros(most, dtype=int)
    held[:before], wanted[:after] = spread_experts(experts, before), spread_experts(experts, after)
    assert np.array_equal(flow.sum(axis=1), held)
    assert np.array_equal(flow.sum(axis=0), wanted)
    assert flow.sum() - np.trace(flow) == np.maximum(wanted - held, 0).sum()


def test_nothing_moves_where_nothing_changes() -> None:
    same = moves(3, 3)
    assert same.received.sum() == 0
    assert same.messages.sum() == 0
    assert same.seconds(FABRIC, 1e-3) == 0.0


def test_weights_are_all_there_before_and_after() -> None:
    change = moves(2, 4)
    parts = weight_bytes(LITE)
    rest = sum(parts.values()) - parts["routed_experts"] - parts["router"] - parts["norms"]
    for held, devices in ((change.held_before, 4), (change.held_after, 8)):
        repeated = rest * devices / 2 + (parts["router"] + parts["norms"]) * devices
        assert held.sum() == pytest.approx(parts["routed_experts"] + repeated)


@given(st.integers(1, 64), st.integers(1, 64))
def test_every_part_of_a_shared_expert_is_where_it_belongs_before_and_after(before: int, after: int) -> None:
    flow = shard_flow(before, after)
    most = max(before, after)
    assert flow.sum(axis=1) == pytest.approx(np.where(np.arange(most) < before, 1 / before, 0.0))
    assert flow.sum(axis=0) == pytest.approx(np.where(np.arange(most) < after, 1 / after, 0.0))
    if before == after:
        assert np.trace(flow) == pytest.approx(1.0)


@pytest.mark.parametrize("tp", [1, 2])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 4), (4, 2), (2, 3)])
def test_experts_that_all_devices_share_are_there_once_in_all(tp: int, before: int, after: int) -> None:
    change = plan_moves(
        LITE, Parallelism(tp=tp, dp=before), Parallelism(tp=tp, dp=after), expert_tensors=3, layer_tensors=8
    )
    parts = weight_bytes(LITE)
    rest = (sum(parts.values()) - parts["routed_experts"] - parts["router"] - parts["norms"]) / tp
    rest += parts["router"] + parts["norms"]
    assert change.held_before.sum() == pytest.approx(parts["routed_experts"] + rest * tp * before)
    assert change.held_after.sum() == pytest.approx(parts["routed_experts"] + rest * tp * after)
    # What a device has afterwards it had before or was sent.
    assert (change.held_after <= change.held_before + change.received + 1e-3).all()


@pytest.mark.parametrize("stages", [2, 3])
def test_stages_share_the_layers_and_hold_together_what_one_holds(stages: int) -> None:
    whole = moves(2, 4)
    split = plan_moves(
        LITE,
        Parallelism(tp=2, dp=2, ep=4, pp=stages),
        Parallelism(tp=2, dp=4, ep=8, pp=stages),
        expert_tensors=3,
        layer_tensors=8,
    )
    assert split.sent.shape == (8 * stages, 8 * stages)
    assert split.sent.sum() == pytest.approx(whole.sent.sum())
    for name in ("messages", "held_before", "held_after", "held_during"):
        assert getattr(split, name).sum() == pytest.approx(getattr(whole, name).sum()), name


def test_a_device_holds_what_the_memory_model_says() -> None:
    split = Parallelism(tp=2, dp=4, ep=8)
    assert moves(2, 4).held_after.max() == pytest.approx(weight_bytes_per_device(LITE, split))


def test_growing_copies_everything_else_to_new_devices_and_shrinking_moves_experts_alone() -> None:
    parts = weight_bytes(LITE)
    up, down = moves(3, 4), moves(4, 3)
    assert (up.received[:6] == 0).all()
    assert (up.received[6:] > parts["routed_experts"] / 8).all()
    assert down.received.sum() == pytest.approx(parts["routed_experts"] / 4)
    assert (down.received[6:] == 0).all()


def test_old_and_new_mappings_alive_at_once_hold_what_was_there_and_what_came() -> None:
    up = moves(3, 4)
    assert up.held_during == pytest.approx(np.maximum(up.held_before, up.held_during))
    assert up.held_during.sum() == pytest.approx(up.held_before.sum() + up.received.sum())


@given(st.integers(1, 6), st.integers(1, 6), st.floats(1.1, 100.0))
def test_faster_links_and_quicker_messages_take_no_longer(before: int, after: int, factor: float) -> None:
    change = moves(before, after)
    faster = Fabric(
        domain=8,
        scale_up_bandwidth=100e9 * factor,
        scale_up_latency=1e-6,
        scale_out_bandwidth=10e9 * factor,
        scale_out_latency=5e-6,
    )
    assert change.seconds(faster, 1e-3) <= change.seconds(FABRIC, 1e-3)
    assert change.seconds(FABRIC, 1e-3 / factor) <= change.seconds(FABRIC, 1e-3)


def test_a_move_to_another_node_takes_its_slower_links() -> None:
    inside, across = moves(3, 4), moves(4, 5)
    bytes_in, bytes_across = inside.received.max(), across.received.max()
    assert inside.seconds(FABRIC, 0.0) < 1.2 * bytes_in / 100e9
    assert across.seconds(FABRIC, 0.0) >= bytes_across / 10e9


def test_devices_joined_pairwise_have_a_link_for_each_pair() -> None:
    mesh = Fabric(
        domain=8,
        scale_up_bandwidth=70e9,
        scale_up_latency=0.0,
        scale_out_bandwidth=1e9,
        scale_out_latency=0.0,
        switched=False,
    )
    change = moves(3, 4)
    assert change.seconds(mesh, 0.0) == pytest.approx(change.sent.max() / 10e9)

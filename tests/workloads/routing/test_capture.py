"""Hooks on a PyTorch MoE record what its routers choose."""

import numpy as np
import pytest

from workloads.errors import WorkloadError

torch = pytest.importorskip("torch", reason="torch is optional")
from workloads.routing.capture import capture_text, capturing, router_names  # noqa: E402

EXPERTS, TOP_K = 6, 2


class Block(torch.nn.Module):
    def __init__(self, style):
        super().__init__()
        self.gate = Router(style)
        self.mlp = torch.nn.Linear(8, 8)

    def forward(self, x):
        self.gate(x.reshape(-1, 8))
        return x + self.mlp(x)


class Router(torch.nn.Module):
    def __init__(self, style):
        super().__init__()
        self.style, self.linear = style, torch.nn.Linear(8, EXPERTS)

    def forward(self, x):
        logits = self.linear(x)
        weight, ids = logits.topk(TOP_K)
        return {"logits": logits, "ids": (ids, weight), "tuple": (logits, weight)}[self.style]


def model(style="logits"):
    torch.manual_seed(0)
    return torch.nn.Sequential(Block(style), Block(style), Block(style))


def wanted(network, x):
    """What the routers choose, computed from their weights."""
    layers = []
    for block in network:
        layers.append(block.gate.linear(x.reshape(-1, 8)).topk(TOP_K)[1].numpy())
        x = block(x)
    return np.stack(layers, axis=1)


@pytest.mark.parametrize("style", ["logits", "ids", "tuple"])
def test_a_capture_equals_what_the_routers_choose(style):
    network, x = model(style), torch.randn(1, 12, 8)
    with capturing(network, top_k=TOP_K) as recorder, torch.no_grad():
        recorder.sequence(5)
        network(x[:, :5])
        recorder.sequence(7)
        network(x[:, 5:])
    trace = recorder.trace()
    with torch.no_grad():
        np.testing.assert_array_equal(trace.expert_ids, wanted(network, x))
    assert trace.sequence_start.tolist() == [0, 5]
    assert trace.num_experts <= EXPERTS


def test_hooks_are_gone_afterwards_even_after_an_error():
    network = model()
    with pytest.raises(ZeroDivisionError), capturing(network, top_k=TOP_K):
        _ = 1 / 0
    assert not any(block.gate._forward_hooks for block in network)


def test_routers_are_found_by_name():
    assert router_names(model()) == ["0.gate", "1.gate", "2.gate"]
    assert router_names(model(), r"^1\.gate$") == ["1.gate"]
    with pytest.raises(WorkloadError, match="no module matches 'router'"):
        router_names(model(), "router")
    with pytest.raises(WorkloadError, match="is not a regular expression"):
        router_names(model(), "(")


def test_a_capture_without_a_run_or_with_wrong_sequences_says_so():
    network = model()
    with capturing(network, top_k=TOP_K) as recorder:
        pass
    with pytest.raises(WorkloadError, match=r"nothing went through 0\.gate"):
        recorder.trace()
    with capturing(network, top_k=TOP_K) as recorder, torch.no_grad():
        recorder.sequence(4)
        network(torch.randn(1, 3, 8))
    with pytest.raises(WorkloadError, match="sequences of 4 tokens were announced, the routers saw 3"):
        recorder.trace()


def test_top_k_comes_from_the_config_or_must_be_given():
    network = model()
    with pytest.raises(WorkloadError, match="does not say how many experts"), capturing(network):
        pass
    network.config = type("Config", (), {"num_experts_per_tok": 3})()
    with capturing(network) as recorder:
        assert recorder.top_k == 3


def test_a_module_that_is_no_router_is_refused():
    network = model()
    with pytest.raises(WorkloadError, match="expected logits"), capturing(network, top_k=9, pattern="mlp"):
        network(torch.randn(1, 3, 8))


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "t.txt").write_text("text")
    with pytest.raises(WorkloadError, match=r"config\.json is missing"):
        capture_text(tmp_path, tmp_path / "t.txt")

"""How unevenly does a MoE route that was really trained, and what does that cost under expert parallelism?

Trains a small MoE on the bytes of this project's documentation (about a minute on one core; needs torch), captures what
its routers choose with forward hooks, and replays the trace in a scenario. Torch does not promise the same numbers on
every machine, so train_and_capture.out is what one machine printed.
"""

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from simulator import Scenario, simulate
from workloads.routing.capture import capturing
from workloads.routing.dependence import layer_information, token_identity_share
from workloads.routing.files import save_routing_trace
from workloads.routing.stats import expert_load, imbalance, repeat_fraction

HERE = Path(__file__).parent
LAYERS, EXPERTS, TOP_K, WIDTH, HEADS, SPAN = 4, 8, 2, 64, 4, 128
STEPS, BATCH = 250, 8


class Moe(nn.Module):
    """Experts behind a softmax router, with the load-balancing loss of the Switch Transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(WIDTH, EXPERTS, bias=False)
        self.up = nn.Parameter(torch.randn(EXPERTS, WIDTH, 2 * WIDTH) * WIDTH**-0.5)
        self.down = nn.Parameter(torch.randn(EXPERTS, 2 * WIDTH, WIDTH) * (2 * WIDTH) ** -0.5)
        self.balance = torch.zeros(())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shares = self.gate(x).softmax(-1)
        weight, chosen = shares.topk(TOP_K)
        hot = functional.one_hot(chosen, EXPERTS).to(x.dtype)
        self.balance = EXPERTS * (hot.sum(-2).mean((0, 1)) * shares.mean((0, 1))).sum() / TOP_K
        mixed = (hot * weight[..., None]).sum(-2)
        inner = torch.einsum("bsw,ewh->bseh", x, self.up).relu()
        return torch.einsum("bseh,ehw,bse->bsw", inner, self.down, mixed)


class Layer(nn.Module):
    """Causal attention, then the experts."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out, self.mlp = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), Moe()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.qkv(self.before(x)).chunk(3, dim=-1)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.between(x))


class Model(nn.Module):
    """A language model of bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(256, WIDTH), nn.Embedding(SPAN, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids) + self.place(torch.arange(ids.shape[1]))
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


torch.manual_seed(0)
torch.set_num_threads(1)
text = b"".join(path.read_bytes() for path in sorted((HERE.parents[1] / "docs").rglob("*.md")))
data = torch.tensor(list(text))
model = Model()
optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(STEPS):
    starts = torch.randint(len(data) - SPAN - 1, (BATCH,))
    rows = torch.stack([data[start : start + SPAN + 1] for start in starts.tolist()])
    loss = functional.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
    optimiser.zero_grad()
    (loss + 0.01 * sum(layer.mlp.balance for layer in model.layers)).backward()
    optimiser.step()
    if step in (0, STEPS - 1):
        print(f"step {step + 1}: {loss.item():.2f} nats per byte")

rows = data[: len(data) // SPAN * SPAN].view(-1, SPAN)[::8]
with capturing(model, top_k=TOP_K) as recorder, torch.no_grad():
    for row in rows:
        recorder.sequence(SPAN)
        model(row[None])
trace = recorder.trace("captured")
identity = token_identity_share(trace, rows.flatten().numpy(), np.random.default_rng(0))
print(f"captured {trace.tokens} tokens, {trace.layers} layers, top-{trace.top_k} of {trace.num_experts} experts")
print("load, max/mean by layer:      ", np.round(imbalance(expert_load(trace)), 2))
print("shared with the byte before:  ", np.round(repeat_fraction(trace), 2))
print("decided by the byte alone:    ", np.round(identity, 2))
print("information between layers:   ", np.round(layer_information(trace), 2), "bit")

with tempfile.TemporaryDirectory() as folder:
    save_routing_trace(trace, Path(folder) / "captured.npz")
    scenario = Scenario.from_mapping(
        {
            "model": {"name": str(HERE / "small-moe.toml")},
            "hardware": {"device": "h100-sxm", "node": "hgx-h100"},
            "parallelism": {"dp": 4, "ep": 4},
            "requests": {"concurrency": 64, "count": 128, "lengths": {"input": 64, "output": 64}},
            "routing": {"kind": "trace", "trace": str(Path(folder) / "captured.npz")},
        }
    )
    for name, changed in (("captured", scenario), ("uniform", scenario.override("routing.kind=uniform"))):
        result = simulate(changed)
        print(f"{name:9} routing: imbalance over 4 ranks {result.summary.rank_imbalance_mean:.2f}")

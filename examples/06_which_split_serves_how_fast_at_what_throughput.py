"""Which split of DeepSeek-V3 serves most at each speed that a reader sees, among 10,000 splits, lengths and loads?"""

import sys
from itertools import product

from simulator import Scenario, estimate_many

BASE = Scenario.from_mapping(
    {
        "model": {"name": "deepseek-v3"},
        "hardware": {"device": "h200-sxm", "cluster": "hgx-h200-ib"},
        "stack": {"name": "sglang"},
        "requests": {"kind": "closed_loop", "lengths": {"kind": "uniform", "range_ratio": 0.5}},
        "routing": {"tokens": 1024},
    }
)
# Attention in tensor-parallel groups, and how many of them; experts lie on all devices.
SPLITS = [(8, 1), (4, 2), (1, 8), (8, 2), (4, 4), (1, 16), (8, 4), (4, 8), (1, 32), (1, 64)]
LENGTHS = {"chat": (1024, 256), "documents": (8192, 256), "summaries": (4096, 1024), "reasoning": (1024, 4096)}
# Requests in flight per device: all of 1 to 250 for the picture, else a few.
LOADS = range(1, 251) if sys.argv[1:] else (1, 4, 16, 64, 250)

points = list(product(LENGTHS, SPLITS, LOADS))
sweep = estimate_many(
    BASE.override(
        f"parallelism.tp={tp}",
        f"parallelism.dp={dp}",
        f"parallelism.ep={tp * dp}",
        f"requests.concurrency={load * tp * dp}",
        f"requests.count={load * tp * dp}",
        f"requests.lengths.input={LENGTHS[kind][0]}",
        f"requests.lengths.output={LENGTHS[kind][1]}",
    )
    for kind, (tp, dp), load in points
)
table = sweep.frame()
table["kind"], table["split"], table["load"] = zip(*((k, f"TP{s[0]} x DP{s[1]}", n) for k, s, n in points), strict=True)
table["speed"], table["throughput"] = 1 / table["tpot_s"], table["output_tokens_per_s_per_gpu"]

print(sweep)
print("requests     tokens/s that a reader sees   best split   in flight per device   tokens/s per device")
for kind, speed in product(LENGTHS, (10, 25, 50)):
    quick = table[(table["kind"] == kind) & (table["speed"] >= speed)]
    if not quick.empty:
        best = quick.loc[quick["throughput"].idxmax()]
        print(f"{kind:13s}{speed:>26d} +{best['split']:>13s}{best['load']:23d}{best['throughput']:22.0f}")

if sys.argv[1:]:
    import plotly.express as px

    named = {"speed": "tokens/s that a reader sees", "throughput": "tokens/s per device", "kind": "requests"}
    look = {"facet_col_wrap": 2, "facet_row_spacing": 0.12, "template": "simple_white", "render_mode": "svg"}
    figure = px.line(table, x="speed", y="throughput", color="split", facet_col="kind", labels=named, **look)
    figure.update_yaxes(matches=None, rangemode="tozero", showticklabels=True)
    figure.update_xaxes(rangemode="tozero", showticklabels=True)
    figure.for_each_annotation(lambda title: title.update(text=title.text.removeprefix("requests=")))
    figure.write_html(sys.argv[1])

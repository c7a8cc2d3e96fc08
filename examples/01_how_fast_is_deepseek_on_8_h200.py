"""How fast is DeepSeek-V3 on one 8x H200 server, and what bounds it, as more people use it?"""

from pathlib import Path

from simulator import Scenario, explain, simulate

PRESET = Path(__file__).parent / "deepseek-v3-h200.toml"

print("concurrency   TPOT ms   TTFT ms   output tokens/s/GPU   longest part of a step")
for concurrency in (4, 16, 64):
    scenario = Scenario.load(PRESET).override(
        f"requests.concurrency={concurrency}",
        # The steady state is measured: without the first requests, and without the tail in which no new ones arrive.
        f"requests.count={8 * concurrency}",
    )
    summary = simulate(scenario).summary
    step = explain(scenario, phase="decode", batch=concurrency)
    parts = step.ops.groupby("component")["time_s"].sum().sort_values(ascending=False)
    print(
        f"{concurrency:11d}"
        f"{summary.tpot_s.mean * 1e3:10.3g}"
        f"{summary.ttft_s.mean * 1e3:10.3g}"
        f"{summary.output_tokens_per_s_per_gpu:22.3g}"
        f"   {parts.index[0]}, {parts.iloc[0] / step.step_s:.0%}"
    )

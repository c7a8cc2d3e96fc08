"""Ask peers the same question and set the CPU seconds side by side: ``make bench-peers``.

Speed alone: what the answers are worth is no business of this file. Peers are installed from ``peers.txt`` into an
environment of their own; what is not there is left out of the table.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError

from benchmarks.pace import ROOT, Pace, child_seconds
from benchmarks.rows import cells, took
from benchmarks.scenarios import PRESETS

#: Scripts of the environment that peers are installed into.
PEERS = ROOT / ".venv-peers" / "bin"
OURS = Path(sys.executable).parent
REPEATS = 3

#: Decode steps of Mixtral-8x7B on one device as GenZ is asked for them, at so many batch sizes.
_GENZ = """
from GenZ import decode_moddeling
device = {"Flops": 989, "Memory_size": 141, "Memory_BW": 4800, "ICN": 450, "ICN_LL": 1, "real_values": True}
for batch in range(1, 1 + COUNT):
    decode_moddeling(model="mixtral_8x7b", batch_size=batch, input_tokens=1024, output_tokens=256,
                     system_name=device, bits="bf16", tensor_parallel=1)
"""
_MOESIM = """
from simulator import Scenario, estimate_many
base = Scenario.from_mapping({
    "model": {"name": "mixtral-8x7b"}, "hardware": {"device": "h200-sxm"},
    "requests": {"kind": "closed_loop", "lengths": {"input": 1024, "output": 256}},
})
sweep = estimate_many(base.override(f"requests.concurrency={batch}") for batch in range(1, 1 + COUNT))
assert all(outcome.how == "solved" for outcome in sweep)
"""
_AICONFIGURATOR = (
    *("cli", "estimate", "--model-path", "deepseek-ai/DeepSeek-V3", "--system", "h200_sxm", "--backend", "sglang"),
    *("--tp-size", "8", "--moe-tp-size", "1", "--moe-ep-size", "8", "--batch-size", "32"),
    *("--isl", "1024", "--osl", "1024"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A whole process that answers a question."""

    question: str
    who: str
    command: Sequence[str]


def asked() -> list[Asked]:
    """List the questions and who answers them."""
    one, preset = "DeepSeek-V3 on 8x H200, 32 in flight", str(PRESETS / "deepseek-v3-h200.toml")
    found = [
        Asked(question=one, who="moesim", command=[str(OURS / "moesim"), "estimate", preset]),
        Asked(question=one, who="aiconfigurator", command=[str(PEERS / "aiconfigurator"), *_AICONFIGURATOR]),
    ]
    for count in (1, 100):
        question = f"Mixtral-8x7B on one H200, {count} batch size{'s' if count > 1 else ''}"
        for who, python, script in (("moesim", OURS, _MOESIM), ("GenZ", PEERS, _GENZ)):
            command = [str(python / "python"), "-c", script.replace("COUNT", str(count))]
            found.append(Asked(question=question, who=who, command=command))
    return found


def answer(each: Asked, pace: Pace) -> str:
    """Time a process that was started once before, when modules are compiled and caches are filled."""
    if not Path(each.command[0]).exists():
        return "is not installed"
    with tempfile.TemporaryDirectory() as folder:
        start = partial(child_seconds, each.command, Path(folder))
        try:
            start()
            _, value, timeouts, *_ = cells(took("", pace.time(start, REPEATS)))
        except CalledProcessError as error:
            return f"failed with {error.returncode}"
    return f"{value:>8s} {timeouts:>12s} timeouts"


def main() -> None:
    """Measure and print; nothing is written."""
    pace = Pace()
    for each in asked():
        print(f"{each.question:45s} {each.who:15s} {answer(each, pace)}", flush=True)


if __name__ == "__main__":
    main()

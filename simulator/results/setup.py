"""What answered: devices, nodes and pools with their splits, the price, the load and the objectives, as one value."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hardware_profiles.loader import load_price
from simulator.deployment.prices import PRICES
from simulator.hardware import Hardware
from simulator.parallelism import Parallelism
from simulator.scenario import Scenario
from simulator.scenario.features import asks
from simulator.scenario.sections import HardwareChoice, ParallelismChoice
from workloads.requests.trace import RequestTrace
from workloads.requests.turns import mean_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSetup:
    """Identical instances: their number, the devices and nodes of all of them, and how each is split [1].

    ``role`` is ``prefill`` or ``decode`` where prompts have instances of their own, else ``both``.
    """

    role: Literal["both", "prefill", "decode"]
    instances: int
    devices: int
    nodes: int
    tp: int
    dp: int
    pp: int
    ep: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSetup:
    """What was asked.

    Attributes
    ----------
    kind : str
        As ``requests.kind``.
    requests : int
        How many [1].
    concurrency : int or None
        Requests in flight in a closed loop, sessions where they follow each other [1].
    rate : float
        Mean rate of arrivals where they do not wait for answers [1/s]; NaN in a closed loop.
    input_tokens_mean, output_tokens_mean : float
        Mean lengths [tokens].
    fixed : bool
        Whether all requests are as long as each other.
    trace : str
        The recorded trace, by the name in the scenario.
    turns_mean : float
        Requests of a session on average; 1 where none follows another [1].
    """

    kind: str
    requests: int
    concurrency: int | None
    rate: float
    input_tokens_mean: float
    output_tokens_mean: float
    fixed: bool
    trace: str
    turns_mean: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What answered, for the head of every answer.

    Attributes
    ----------
    device_kind : {"gpu", "npu", "cpu"}
        What the devices are, by their profile.
    devices, nodes : int
        Devices of all pools, and nodes that hold them; as many as a run that scales begins with [1].
    node, node_devices : str, int
        The node profile, and how many devices it holds [1].
    pools : tuple of PoolSetup
        The pool of prompts first, where there are two. Each has nodes of its own.
    usd_per_device_hour : float
        Price of a device [USD/h]; NaN where none is known.
    price_offer, price_status : str
        Which of the device's offers that is, and what its evidence is; empty where there is none.
    load : LoadSetup
        What was asked.
    slo : dict of str to float
        Objectives that are set, by ``ttft_s``, ``tpot_s`` and ``e2el_s`` [s].
    """

    device_kind: str
    devices: int
    nodes: int
    node: str
    node_devices: int
    pools: tuple[PoolSetup, ...]
    usd_per_device_hour: float
    price_offer: str
    price_status: str
    load: LoadSetup
    slo: dict[str, float]

    @property
    def device_word(self) -> str:
        """What a device is called: GPU or NPU."""
        return self.device_kind.upper()

    def document(self) -> dict[str, Any]:
        """Return the JSON document."""
        return asdict(self)


def setup_of(scenario: Scenario, hardware: Hardware, trace: RequestTrace) -> Setup:
    """Say what of a scenario answers.

    Parameters
    ----------
    scenario : Scenario
        The question.
    hardware : Hardware
        Where it runs.
    trace : RequestTrace
        Its load.
    """
    held, apart = hardware.node.devices, asks(scenario, "disaggregation")
    pools = [_pool("decode" if apart else "both", scenario.parallelism, held)]
    if apart:
        pools.insert(0, _pool("prefill", scenario.disaggregation.prefill, held))
    slo = scenario.slo
    limits = {"ttft_s": slo.ttft, "tpot_s": slo.tpot, "e2el_s": slo.e2el}
    return Setup(
        device_kind=hardware.device.main.kind,
        devices=sum(pool.devices for pool in pools),
        nodes=sum(pool.nodes for pool in pools),
        node=hardware.node.id,
        node_devices=held,
        pools=tuple(pools),
        usd_per_device_hour=math.nan if hardware.price is None else hardware.price.value * 3600.0,
        price_offer=scenario.hardware.price or _default_offer(scenario.hardware),
        price_status="" if hardware.price is None else hardware.price.status,
        load=_load(scenario, trace),
        slo={name: limit for name, limit in limits.items() if limit is not None},
    )


def _pool(role: Literal["both", "prefill", "decode"], choice: ParallelismChoice, held: int) -> PoolSetup:
    """Count the nodes of a pool whose instances share nodes only where they fit whole."""
    split, count = Parallelism.of(choice), choice.instances
    together = held // split.devices
    nodes = -(-count // together) if together else count * -(-split.devices // held)
    return PoolSetup(
        role=role,
        instances=count,
        devices=count * split.devices,
        nodes=nodes,
        tp=split.tp,
        dp=split.dp,
        pp=split.pp,
        ep=split.ep,
    )


def _default_offer(choice: HardwareChoice) -> str:
    """Name the offer of a device that counts where none is named; empty where it has no price."""
    folder = Path(choice.profiles) if choice.profiles else None
    price = PRICES.loaded("offer", (choice.device, folder), lambda: load_price(choice.device, folder))
    return price.default if price is not None else ""


def _load(scenario: Scenario, trace: RequestTrace) -> LoadSetup:
    inputs, outputs, choice = trace.input_tokens, trace.output_tokens, scenario.requests
    rate = math.nan if trace.concurrency is not None else mean_rate(trace) or math.nan
    return LoadSetup(
        kind=choice.kind,
        requests=len(trace),
        concurrency=trace.concurrency,
        rate=choice.rate or rate,
        input_tokens_mean=float(inputs.mean()),
        output_tokens_mean=float(outputs.mean()),
        fixed=bool((inputs == inputs[0]).all() and (outputs == outputs[0]).all()),
        trace=choice.trace or "",
        turns_mean=1.0 if trace.after is None else len(trace) / float((trace.after < 0).sum()),
    )


def offer_words(offer: str) -> str:
    """Say what a price offer is, from its name.

    Examples
    --------
    >>> offer_words("rental_3yr"), offer_words("on_demand")
    ('3-year rental', 'on demand')
    """
    term = re.fullmatch(r"(.+)_(\d+)yr", offer)
    return f"{term[2]}-year {term[1]}".replace("_", " ") if term else offer.replace("_", " ")

"""What the form offers: the names of the catalogues, and which nodes and clusters go with which device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import streamlit as st

from dashboard.link import Names
from dashboard.uploads import uploads
from hardware_profiles import loader
from simulator.results.setup import offer_words
from simulator.scenario import Scenario
from simulator.scenario.presets import preset_names, preset_path
from simulator.stack import load_stack, stack_names
from simulator.startup import load_startup, startup_names
from workloads.models.library import known_names
from workloads.samples import FITS, SAMPLES

#: How the names of routing samples begin; the others hold requests.
_ROUTING = "routing_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """Names by kind.

    ``presets`` begin with the smallest, ``models`` have their variants behind them, ``request_traces``,
    ``routing_traces`` and ``routing_fits`` are those that ship, ``startups`` the start-up profiles, ``offers`` the
    prices of each device with the words for them, the default first. ``node_device`` gives the device of each node,
    ``cluster_node`` the node of each cluster; ``node_devices`` and ``cluster_nodes`` count what they hold.
    ``spelled`` maps the names that a scenario key takes, in lower case and with aliases, to those that are listed.
    """

    presets: Mapping[str, Scenario]
    models: tuple[str, ...]
    devices: tuple[str, ...]
    stacks: tuple[str, ...]
    node_device: Mapping[str, str]
    node_devices: Mapping[str, int]
    cluster_node: Mapping[str, str]
    cluster_nodes: Mapping[str, int]
    request_traces: tuple[str, ...]
    routing_traces: tuple[str, ...]
    routing_fits: tuple[str, ...]
    startups: tuple[str, ...]
    offers: Mapping[str, Mapping[str, str]]
    spelled: Mapping[str, Mapping[str, str]]

    def names(self) -> Names:
        """Return what a link may name: the catalogues, and what was uploaded to this server."""
        own = uploads()
        by_key = {
            "model.name": self.models,
            "hardware.device": self.devices,
            "hardware.node": tuple(self.node_device),
            "hardware.cluster": tuple(self.cluster_node),
            "stack.name": self.stacks,
            "requests.trace": (*self.request_traces, *own.of("requests.trace")),
            "routing.trace": (*self.routing_traces, *own.of("routing.trace")),
            "routing.fit": self.routing_fits,
            "elastic.startup": self.startups,
            "offload.router": self.models,
            "hardware.price": tuple({offer for offers in self.offers.values() for offer in offers}),
        }
        return Names(presets=self.presets, by_key=by_key, spelled=self.spelled)

    def nodes_of(self, device: str) -> tuple[str, ...]:
        """List the nodes that hold a device."""
        return tuple(node for node, held in self.node_device.items() if held == device)

    def clusters_of(self, device: str, node: str | None) -> tuple[str, ...]:
        """List the clusters of a node, or of any node with the device where no node is chosen."""
        nodes = (node,) if node else self.nodes_of(device)
        return tuple(cluster for cluster, held in self.cluster_node.items() if held in nodes)


def load_catalogue() -> Catalogue:
    """Read the catalogues that ship, and those of the user's profile folder.

    Raises
    ------
    MoesimError
        A profile or preset is malformed.
    """
    nodes = {name: loader.load_node(name) for name in loader.node_names()}
    clusters = {name: loader.load_cluster(name) for name in loader.cluster_names()}
    presets = {name: Scenario.load(preset_path(name)) for name in preset_names()}
    smallest_first = dict(sorted(presets.items(), key=lambda item: (_devices(item[1]), item[0])))
    devices, models = tuple(loader.device_names()), known_names()
    return Catalogue(
        presets=smallest_first,
        models=tuple(sorted(set(models.values()), key=str.lower)),
        devices=devices,
        stacks=stack_names(),
        node_device={name: node.device for name, node in nodes.items()},
        node_devices={name: node.devices for name, node in nodes.items()},
        cluster_node={name: cluster.node for name, cluster in clusters.items()},
        cluster_nodes={name: cluster.nodes for name, cluster in clusters.items()},
        request_traces=tuple(f"sample:{name}" for name in SAMPLES if not name.startswith(_ROUTING)),
        routing_traces=tuple(f"sample:{name}" for name in SAMPLES if name.startswith(_ROUTING)),
        routing_fits=tuple(f"sample:{name}" for name in FITS),
        startups=startup_names(),
        offers={device: _offers(device) for device in devices},
        spelled={
            "model.name": models,
            "offload.router": models,
            **{f"hardware.{kind}": loader.known_names(f"{kind}s") for kind in ("device", "node", "cluster")},
            "stack.name": {name: own for own in stack_names() for name in (own, *load_stack(own).aliases)},
            "elastic.startup": {name: own for own in startup_names() for name in (own, *load_startup(own).aliases)},
        },
    )


def _offers(device: str) -> dict[str, str]:
    """Word what a device costs, the offer that counts where none is chosen first."""
    price = loader.load_price(device)
    if price is None:
        return {}
    ordered = sorted(price.offers.items(), key=lambda item: item[0] != price.default)
    return {name: f"{offer_words(name)}: {offer.stated:.3g} {offer.unit}" for name, offer in ordered}


@st.cache_resource(show_spinner=False)
def the_catalogue() -> Catalogue:
    """Return what the form offers, read once per server."""
    return load_catalogue()


def _devices(scenario: Scenario) -> int:
    """Count the devices of an instance."""
    split = scenario.parallelism
    return split.tp * split.dp * split.pp

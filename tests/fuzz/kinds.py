"""All kinds of hostile input, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tests.fuzz import commands, documents, requests, routing
from tests.fuzz.harness import Case
from tests.fuzz.hostile import Draw

KINDS: Mapping[str, Callable[[Draw], Case]] = {
    each.__name__: each
    for each in (
        documents.scenario_keys,
        documents.scenario_documents,
        documents.scenario_bytes,
        documents.settings,
        documents.model_configs,
        documents.model_config_bytes,
        documents.model_files,
        documents.hardware_files,
        documents.stack_files,
        documents.startup_files,
        documents.fit_files,
        requests.request_records,
        requests.request_bytes,
        requests.request_tables,
        requests.request_parquet,
        routing.routing_archives,
        routing.routing_parquet,
        routing.expert_loads,
        commands.paths,
        commands.arguments,
        commands.measured_kernels,
        commands.baselines,
        commands.recorded_files,
    )
}

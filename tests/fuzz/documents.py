"""Kinds of documents, damaged: scenarios, models, hardware, stacks, start-ups and fits."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from simulator.export.catalogues import list_entries
from tests.fuzz.harness import Case
from tests.fuzz.hostile import (
    Draw,
    damaged,
    damaged_bytes,
    dumps,
    values,
)

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "workloads" / "samples"
PROFILES = ROOT / "hardware_profiles"

SCENARIO: dict[str, Any] = {
    "model": {"name": "gpt-oss-20b"},
    "hardware": {"device": "h100-sxm"},
    "parallelism": {"dp": 2, "ep": 2},
    "requests": {"kind": "poisson", "rate": 20.0, "count": 6, "lengths": {"input": 64, "output": 8}},
    "routing": {"tokens": 128},
}
#: What makes a scenario read keys that others do not.
VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"requests": {"kind": "closed_loop", "concurrency": 4, "count": 8, "priorities": [0.3, 0.7]}},
    {"requests": {"kind": "gamma", "rate": 9.0, "cv": 2.0, "count": 8, "lengths": {"kind": "lognormal", "input": 64}}},
    {"requests": {"kind": "diurnal", "rate": 9.0, "period": "5 s", "profile": [1.0, 2.0], "count": 8}},
    {"requests": {"kind": "trace", "trace": "sample:requests.csv", "count": 5, "repeat": 2}},
    {
        "requests": {"kind": "trace", "trace": "sample:mooncake_like.jsonl", "count": 5},
        "prefix_cache": {"kind": "shared"},
    },
    {"speculation": {"draft_tokens": 2, "acceptance": [0.7, 0.5]}, "slo": {"ttft": "1 s", "tpot": "50 ms"}},
    {"disaggregation": {"enabled": True, "prefill": {"dp": 2, "ep": 2, "instances": 2}}},
    {"faults": [{"at": "0.4 s", "rank": 1, "restart": "1 s", "detection": "0.1 s"}]},
    {"placement": {"policy": "eplb", "redundant_slots": 4, "rebalance": {"every": "0.2 s"}}},
    {"elastic": {"mechanism": "elastic", "events": [{"at": "0.3 s", "size": 4}], "max_size": 4}},
    {"elastic": {"mechanism": "horizontal", "policy": "queue", "max_size": 4, "interval": "1 s"}},
    {
        "routing": {
            "kind": "fitted",
            "fit": "sample:fit_gpt_oss_20b.toml",
            "tokens": 64,
            "router": "top_p",
            "top_p": 0.4,
        }
    },
    {"routing": {"kind": "dirichlet", "alpha": 0.1, "tokens": 64, "capacity_factor": 1.2, "capacity_batch": 32}},
    {"stack": {"name": "vllm", "scheduler": "mixed", "token_budget": 256, "max_running": 8, "overlap": "two_batch"}},
    {"run": {"warmup_requests": 2, "drain": False, "traced_steps": 3}, "name": "small", "seed": 3},
)
COMMANDS = ("check", "check", "check", "estimate", "explain", "timeline", "simulate", "scale", "place")


def scenario_of(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the small scenario, sections of it replaced."""
    return {**SCENARIO, **changes}


@cache
def _keys() -> tuple[str, ...]:
    return tuple(str(row["name"]) for row in list_entries("keys", None))


def asked(**changes: Any) -> dict[str, bytes]:
    """Write the small scenario, sections of it replaced."""
    return {"s.toml": dumps(scenario_of(changes), "toml")}


def _command(draw: Draw) -> tuple[str, ...]:
    command = draw(st.sampled_from(COMMANDS))
    return command, "{}/s.toml"


def scenario_keys(draw: Draw) -> Case:
    """Give one key of a scenario a hostile value."""
    document = json.loads(json.dumps(scenario_of(draw(st.sampled_from(VARIANTS)))))
    *above, key = draw(st.sampled_from(_keys())).replace("[]", "").split(".")
    section = document
    for part in above:
        section = section.setdefault(part, {})
        if isinstance(section, list):
            section = section[0] if section else {}
    section[key] = draw(values("toml"))
    return Case(files={"s.toml": dumps(document, "toml")}, words=_command(draw))


def scenario_documents(draw: Draw) -> Case:
    """Damage a scenario anywhere."""
    document = damaged(draw, scenario_of(draw(st.sampled_from(VARIANTS))), "toml")
    return Case(files={"s.toml": dumps(document, "toml")}, words=_command(draw))


def scenario_bytes(draw: Draw) -> Case:
    """Damage the text of a scenario."""
    content = dumps(scenario_of(draw(st.sampled_from(VARIANTS))), "toml")
    return Case(files={"s.toml": damaged_bytes(draw, content)}, words=_command(draw))


_TEXTS = (
    "1e400",
    "9" * 5000,
    "[" * 3000,
    "{a=" * 500,
    "\x00",
    "'",
    "nan",
    "inf",
    "",
    "\x1b[31m",
    "x" * 4000,
    "[[]]",
    "{}",
)


def settings(draw: Draw) -> Case:
    """Give ``--set`` hostile texts."""
    key = draw(st.sampled_from((*_keys(), "a", "", "a.b.c.d", "model", "model.name.x", ".", "k" * 3000, "faults.0.at")))
    text = draw(st.sampled_from((*_TEXTS, "1 s", "true", "1979-05-27", "[1, 'a']", "=", str(2**1024))))
    sign = draw(st.sampled_from(("=", "=", "=", "", "==", " = ")))
    command = draw(st.sampled_from(COMMANDS))
    return Case(files=asked(), words=(command, "{}/s.toml", "--set", f"{key}{sign}{text}"))


@cache
def _configs() -> tuple[tuple[str, Any], ...]:
    files = sorted((ROOT / "tests/data/models").glob("*.json"))
    return tuple((file.stem, json.loads(file.read_text(encoding="utf-8"))) for file in files)


_QUANTIZATION: tuple[dict[str, Any], ...] = (
    {"quant_method": "fp8", "weight_block_size": [128, 128], "modules_to_not_convert": ["lm_head"]},
    {"quant_method": "awq", "bits": 4, "group_size": 128},
    {"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"-:.*gate.*": {}}},
    {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
    {"quant_method": "bitsandbytes", "load_in_4bit": True, "llm_int8_skip_modules": ["lm_head"]},
    {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}},
    },
    {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"], "kv_cache_quant_algo": "FP8", "group_size": 16},
    {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4"}}, "exclude": ["lm_head"]},
)
_SIDECAR = {
    "producer": {"name": "modelopt"},
    "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]},
}


def model_configs(draw: Draw) -> Case:
    """Damage a ``config.json``, what it says of quantisation, or the file beside it."""
    _, config = draw(st.sampled_from(_configs()))
    whole = {key: value for key, value in config.items() if key != "quantization_config"}
    files = {}
    which = draw(st.integers(0, 3))
    if which == 1:
        whole["quantization_config"] = damaged(draw, draw(st.sampled_from(_QUANTIZATION)), "json")
    elif which == 2:
        files["m/hf_quant_config.json"] = dumps(damaged(draw, _SIDECAR, "json"), "json")
    elif which == 3:
        whole["quantization_config"] = draw(values("json"))
    else:
        whole = damaged(draw, whole, "json")
    files["m/config.json"] = dumps(whole, "json")
    if draw(st.booleans()):
        return Case(files=files, words=("show", "{}/m/config.json"))
    files["s.toml"] = dumps(scenario_of({"model": {"name": "m/config.json"}}), "toml")
    return Case(files=files, words=("check", "{}/s.toml"))


def model_config_bytes(draw: Draw) -> Case:
    """Damage the text of a ``config.json`` or of the file beside it."""
    _, config = draw(st.sampled_from(_configs()))
    content, beside = dumps(config, "json"), dumps(_SIDECAR, "json")
    if draw(st.booleans()):
        return Case(files={"m/config.json": damaged_bytes(draw, content)}, words=("show", "{}/m/config.json"))
    files = {"m/config.json": content, "m/hf_quant_config.json": damaged_bytes(draw, beside)}
    return Case(files=files, words=("show", "{}/m/config.json"))


@cache
def _documents(folder: str) -> tuple[tuple[str, bytes, Any], ...]:
    files = sorted((ROOT / folder).glob("*.toml"))
    small = [file for file in files if file.stat().st_size < 60_000]
    return tuple((file.name, file.read_bytes(), tomllib.loads(file.read_text(encoding="utf-8"))) for file in small)


def _damaged_document(draw: Draw, folder: str) -> tuple[str, bytes]:
    name, content, document = draw(st.sampled_from(_documents(folder)))
    if draw(st.integers(0, 3)):
        return name, dumps(damaged(draw, document, "toml"), "toml")
    return name, damaged_bytes(draw, content)


def model_files(draw: Draw) -> Case:
    """Damage the TOML of a model."""
    _, content = _damaged_document(draw, "workloads/models/catalogue")
    files = {"m.toml": content, **asked(model={"name": "m.toml"})}
    command = draw(st.sampled_from((("show", "{}/m.toml"), ("check", "{}/s.toml"))))
    return Case(files=files, words=command)


def hardware_files(draw: Draw) -> Case:
    """Damage a profile of a device, node, cluster, price, kernel or residual in a user's folder."""
    part = draw(st.sampled_from(("devices", "devices", "nodes", "clusters", "prices", "kernels", "residuals")))
    name, content = _damaged_document(draw, f"hardware_profiles/{part}")
    files = {f"p/{part}/{name}": content}
    owner = name.removesuffix(".toml").partition(".")[0]
    if part in ("nodes", "clusters") or draw(st.booleans()):
        return Case(files=files, words=("show", owner, "--profiles", "{}/p"))
    files["s.toml"] = dumps(scenario_of({"hardware": {"device": owner}, "parallelism": {}}), "toml")
    command = draw(st.sampled_from((("check", "{}/s.toml"), ("explain", "{}/s.toml"), ("simulate", "{}/s.toml"))))
    return Case(files=files, words=(*command, "--profiles", "{}/p"))


def stack_files(draw: Draw) -> Case:
    """Damage a serving stack."""
    _, content = _damaged_document(draw, "simulator/stacks")
    return Case(files={"st.toml": content, **asked(stack={"name": "st.toml"})}, words=_command(draw))


def startup_files(draw: Draw) -> Case:
    """Damage a start-up profile."""
    _, content = _damaged_document(draw, "simulator/startups")
    elastic = {"mechanism": "cold_restart", "startup": "up.toml", "events": [{"at": "0.3 s", "size": 4}], "max_size": 4}
    files = {"up.toml": content, **asked(elastic=elastic)}
    command = draw(st.sampled_from((("check", "{}/s.toml"), ("simulate", "{}/s.toml"), ("scale", "{}/s.toml"))))
    return Case(files=files, words=command)


@cache
def _fit() -> tuple[bytes, Any]:
    content = (SAMPLES / "fit_gpt_oss_20b.toml").read_bytes()
    return content, tomllib.loads(content.decode())


def fit_files(draw: Draw) -> Case:
    """Damage a fitted routing model."""
    content, document = _fit()
    held = dumps(damaged(draw, document, "toml"), "toml") if draw(st.integers(0, 3)) else damaged_bytes(draw, content)
    files = {"f.toml": held, **asked(routing={"kind": "fitted", "fit": "f.toml", "tokens": 64})}
    generate = ("routing", "generate", "--from", "{}/f.toml", "--out", "{}/o.npz", "--tokens", "64")
    return Case(files=files, words=draw(st.sampled_from((generate, ("check", "{}/s.toml")))))

"""What people ask of a simulator of MoE systems and this one does not answer, by the keys that they would try.

A key of this table is refused with its sentence instead of the name of the nearest key, which would invite something
else. The page docs/not-modelled.md shows the same list to those who read before they try.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

#: Sentences by the keys that ask for what they say; ``*`` stands for anything.
UNMODELLED: Mapping[tuple[str, ...], str] = {
    ("train*", "optimizer*", "parallelism.vpp", "parallelism.zero*", "parallelism.fsdp*"): (
        "training is not modelled: there is no backward pass, optimizer, pipeline schedule or checkpoint"
    ),
    ("parallelism.cp", "parallelism.context*", "parallelism.dcp", "parallelism.pcp", "parallelism.sp"): (
        "context and sequence parallelism are not modelled: attention is split over heads (tp) and requests (dp)"
    ),
    ("memory", "memory.*", "offload.*", "stack.cpu_offload*", "stack.swap_space", "model.offload*"): (
        "weights stay in device memory: offloading to host, CXL or disk is modelled for experts of models alone whose "
        "router runs before the step (stack.scheduler = 'expert_aware')"
    ),
    ("prefix_cache.*", "kv_offload*", "kv_cache.*", "stack.kv_offload*", "stack.kv_transfer*", "lmcache*"): (
        "tiers of KV caches on host or disk are not modelled: a prefix cache is each rank's own memory, or besides it "
        "one pool for all instances (prefix_cache.kind, prefix_cache.store)"
    ),
    ("processors*", "pim*", "hardware.processor*", "hardware.pim*", "hardware.host*", "hardware.cpu*"): (
        "further processors of a device (PIM) and host CPUs compute nothing in a scenario: hardware.device answers "
        "with its main processor"
    ),
    ("lora*", "adapters*", "model.lora*", "model.adapter*", "stack.lora*"): "adapters (LoRA) are not modelled",
    ("sampling*", "requests.n", "requests.best_of", "requests.beam*", "requests.temperature", "requests.top_*"): (
        "every request has one answer of known length: sampling, beams and several answers to a prompt are not modelled"
    ),
    ("requests.image*", "requests.audio*", "requests.video*", "requests.multimodal*", "requests.media*"): (
        "prompts are text: encoders of images, audio and video take memory, their work is not modelled"
    ),
    ("requests.timeout", "requests.deadline", "requests.max_queue*", "requests.abort*", "requests.cancel*"): (
        "requests wait as long as it takes: timeouts, refusals and cancelled requests are not modelled"
    ),
    ("energy*", "power*", "carbon*", "hardware.power*", "hardware.clock*", "hardware.energy*"): (
        "energy, power limits and clocks that follow temperature are not modelled: kernels run as they were measured"
    ),
    (
        "disaggregation.prefill.device",
        "disaggregation.device",
        "disaggregation.decode*",
        "disaggregation.prefill.stack",
        "hardware.devices",
        "hardware.prefill*",
        "parallelism.device*",
    ): "all pools and instances run one stack on one kind of device (hardware.device)",
    ("disaggregation.attention*", "disaggregation.experts*", "disaggregation.ffn*", "parallelism.afd*"): (
        "attention and experts of a layer share their devices: attention-FFN disaggregation is not modelled"
    ),
    ("speculation.model", "speculation.draft_model", "speculation.tree*", "speculation.method", "speculation.ngram*"): (
        "drafts are made by one further layer per token (speculation.draft = 'mtp') or cost nothing ('none'): draft "
        "models and trees of drafts are not modelled"
    ),
    ("model.second*", "hardware.shared*", "hardware.mig*", "hardware.tenants*"): (
        "a deployment serves one model and has its devices to itself"
    ),
    ("network*", "hardware.congestion*", "hardware.oversubscription", "hardware.jitter*", "hardware.packet*"): (
        "inside a step messages meet those of their own exchange alone: congestion and traffic of others are not "
        "modelled; moesim exchange --fidelity flow shows links that are shared or slow"
    ),
    ("quality*", "accuracy*", "model.accuracy*", "model.perplexity*"): (
        "how good answers are is not modelled: a format of fewer bits is quicker here and never worse"
    ),
}


def unmodelled(path: Sequence[str]) -> str | None:
    """Say of a key that no scenario has what of it is not modelled; ``None`` where it may be a slip.

    Examples
    --------
    >>> unmodelled(["lora", "rank"])
    'adapters (LoRA) are not modelled'
    >>> unmodelled(["parallelism", "pt"]) is None
    True
    """
    tried = [".".join(path[:length]).lower() for length in range(1, len(path) + 1)]
    for patterns, sentence in UNMODELLED.items():
        if any(fnmatchcase(key, pattern) for key in tried for pattern in patterns):
            return sentence
    return None

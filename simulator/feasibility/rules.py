"""The rules that conditions of stacks name: pure functions of a condition and of what is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from simulator.conditions import Condition, Rule
from simulator.feasibility.asked import Asked, Found, ServerFinding, said
from simulator.feasibility.shards import Shard, scale_block, shards
from simulator.parallelism import Parallelism
from workloads.models.mixers import (
    Attention,
    CompressedAttention,
    GatedDeltaNet,
    GroupedQueryAttention,
    LatentAttention,
    Mamba2,
)
from workloads.models.sizes import part_dtypes
from workloads.models.spec import ModelSpec


def server_findings(asked: Asked, conditions: tuple[Condition, ...]) -> tuple[ServerFinding, ...]:
    """List what a stack says of what is asked: what it refuses first.

    Parameters
    ----------
    asked : Asked
        What is to be served.
    conditions : tuple of Condition
        The conditions of its stack.
    """
    found = [
        said(_softened(condition, asked), each, asked.stack.name)
        for condition in conditions
        if not condition.architectures or asked.architecture in condition.architectures
        for each in RULES[condition.rule](condition, asked)
    ]
    return tuple(sorted(dict.fromkeys(found), key=lambda finding: finding.effect != "refuses"))


def _softened(c: Condition, asked: Asked) -> Condition:
    """Warn of an exchange that nobody asked for where it is refused: a server takes another by itself."""
    if c.rule not in EXCHANGE_RULES or asked.exchange_chosen or c.effect == "warns":
        return c
    note = "stack.exchange says what it takes instead"
    return replace(c, effect="warns", note=f"{c.note}; {note}" if c.note else note)


def _shard_multiple(c: Condition, asked: Asked) -> Iterator[Found]:
    """Shards must hold whole blocks or groups of a scale, or whole tiles of a kernel."""
    wrong = [
        (shard, multiple)
        for shard in shards(asked.model, asked.split)
        if shard.part in c.parts and shard.dtype in c.dtypes and (multiple := _broken(c, shard))
    ]
    for part, multiple in dict.fromkeys((shard.part, multiple) for shard, multiple in wrong):
        alike = [shard for shard, other in wrong if (shard.part, other) == (part, multiple)]
        first = alike[0]
        names = ", ".join(dict.fromkeys(f"{shard.matrices} ({shard.side})" for shard in alike))
        yield Found(
            where="parallelism",
            message=(
                f"{_words(part)} in {first.dtype}: {_divided(first)} wide on each rank, no multiple of {multiple} ("
                f"{names})"
            ),
            remedy=_shard_remedy(c, part, asked),
        )


def _broken(c: Condition, shard: Shard) -> int:
    """Return the multiple that a shard is not; 0 where it is one, or need not be."""
    own = shard.block if c.grouped and shard.block else (c.output, c.input)
    if shard.side == "output":
        multiple = own[0] if shard.ways > 1 or shard.merged else 0
    else:
        multiple = own[1] if shard.ways > 1 else 0
    return multiple if multiple and shard.size % multiple else 0


def _shard_remedy(c: Condition, part: str, asked: Asked) -> str:
    """Say which smaller degrees, or which expert parallelism, leave whole blocks."""
    split, moe, ways = asked.split, asked.model.moe, []
    if part == "routed_experts" and moe is not None:
        slots = moe.num_experts + asked.redundant_slots
        whole = Parallelism(tp=split.tp, dp=split.dp, pp=split.pp, ep=split.group)
        if slots % split.group == 0 and _fits(c, part, asked, whole):
            ways.append(f"ep = {split.group}, which keeps experts whole")
    for tp in range(split.tp - 1, 0, -1):
        group = tp * split.dp
        if split.tp % tp or (split.ep > 1 and group % split.ep):
            continue
        if _fits(c, part, asked, Parallelism(tp=tp, dp=split.dp, pp=split.pp, ep=split.ep)):
            ways.append(f"tp = {tp}")
            break
    return "use " + ", or ".join(ways) if ways else "use weights of another dtype (model.weights)"


def _fits(c: Condition, part: str, asked: Asked, split: Parallelism) -> bool:
    return not any(
        _broken(c, shard) for shard in shards(asked.model, split) if shard.part == part and shard.dtype in c.dtypes
    )


def _scale_blocks(c: Condition, asked: Asked) -> Iterator[Found]:
    """Weights whose scales are shared by other blocks than the kernels take."""
    dtypes, taken = part_dtypes(asked.model.dtypes), (c.output, c.input)
    blocks = {part: scale_block(asked.model.dtypes, part) for part in _held_parts(asked.model)}
    wrong = [part for part, block in blocks.items() if dtypes[part] in c.dtypes and block not in (None, taken)]
    for block in dict.fromkeys(blocks[part] for part in wrong):
        parts = ", ".join(_words(part) for part in wrong if blocks[part] == block)
        yield Found(
            where="model",
            message=f"one scale for {' x '.join(map(str, block or ()))} weights ({parts}); it takes {c.output} x "
            f"{c.input}",
            remedy="use weights of another checkpoint or dtype (model.weights)",
        )


def _quant_methods(c: Condition, asked: Asked) -> Iterator[Found]:
    """Checkpoints whose method of quantisation the server does not read."""
    if asked.model.quant_method in c.methods:
        yield Found(
            where="model",
            message=f"weights quantised by {asked.model.quant_method}",
            remedy="use weights of another checkpoint or dtype (model.weights)",
        )


def _weights_dtype(c: Condition, asked: Asked) -> Iterator[Found]:
    """Formats of weights that a generation of devices computes otherwise, or not at all."""
    dtypes, held = part_dtypes(asked.model.dtypes), _held_parts(asked.model)
    for dtype in c.dtypes:
        parts = [part for part in (c.parts or tuple(held)) if part in held and dtypes[part] == dtype]
        if parts:
            yield Found(
                where="model.weights",
                message=f"{dtype} weights ({', '.join(map(_words, parts))}) on {asked.device} ({asked.architecture})",
            )


def _cache_dtypes(c: Condition, asked: Asked) -> Iterator[Found]:
    """Formats of KV caches that the server knows."""
    dtype = asked.model.dtypes.kv_cache
    if dtype not in c.dtypes and _caches(asked.model):
        yield Found(
            where="model.kv_cache",
            message=f"a KV cache in {dtype}; it knows {', '.join(c.dtypes)}",
            remedy=f"use model.kv_cache = {' or '.join(map(repr, c.dtypes[:2]))}",
        )


def _cache_dtype_on(c: Condition, asked: Asked) -> Iterator[Found]:
    """Formats of KV caches that the attention of a generation of devices cannot read."""
    dtype = asked.model.dtypes.kv_cache
    if dtype in c.dtypes and _kinds(asked.model) & set(c.mixers):
        yield Found(
            where="model.kv_cache",
            message=f"a KV cache in {dtype} on {asked.device} ({asked.architecture})",
            remedy="use model.kv_cache = 'bfloat16'",
        )


def _sparse_attention(c: Condition, asked: Asked) -> Iterator[Found]:  # noqa: ARG001
    """Sparse latent attention has no kernels for some generations."""
    sparse = any(isinstance(mixer, LatentAttention) and mixer.index_top_k for mixer in _mixers(asked.model))
    if sparse:
        yield Found(
            where="hardware.device",
            message=f"sparse latent attention on {asked.device} ({asked.architecture}), for which it has no kernels",
            remedy="take another device",
        )


def _expert_degree(c: Condition, asked: Asked) -> Iterator[Found]:  # noqa: ARG001
    """Experts are spread over all ranks of an instance or over none."""
    split = asked.split
    if asked.model.moe_layers and split.ep not in (1, split.group):
        yield Found(
            where="parallelism.ep",
            message=f"ep = {split.ep} of tp x dp = {split.group} ranks; it spreads experts over all of them or shards "
            "each over all",
            remedy=f"use ep = {split.group} or ep = 1",
        )


def _attention_degree(c: Condition, asked: Asked) -> Iterator[Found]:  # noqa: ARG001
    """Attention is data parallel over all ranks of an instance or over none."""
    split = asked.split
    if split.tp > 1 and split.dp > 1:
        yield Found(
            where="parallelism.dp",
            message=f"tp = {split.tp} with dp = {split.dp}; its attention is divided over all {split.group} ranks or "
            "repeated on each",
            remedy=f"use tp = 1 and dp = {split.group}, or dp = 1 and more instances",
        )


def _linear_heads(c: Condition, asked: Asked) -> Iterator[Found]:  # noqa: ARG001
    """Key heads of linear attention, groups of Mamba and groups of outputs must divide over ranks."""
    tp = asked.split.tp
    for mixer in _mixers(asked.model):
        if isinstance(mixer, GatedDeltaNet) and mixer.num_key_heads % tp:
            counted = f"{mixer.num_key_heads} key heads of linear attention"
        elif isinstance(mixer, Mamba2) and mixer.num_groups > 1 and mixer.num_groups % tp:
            counted = f"{mixer.num_groups} Mamba groups"
        elif isinstance(mixer, CompressedAttention) and mixer.o_groups % tp:
            counted = f"{mixer.o_groups} groups of outputs of compressed attention"
        else:
            continue
        yield Found(
            where="parallelism.tp", message=f"tp = {tp} does not divide the {counted}", remedy="use a smaller tp"
        )


def _redundant_slots(c: Condition, asked: Asked) -> Iterator[Found]:  # noqa: ARG001
    """Redundant experts need expert parallelism."""
    if asked.redundant_slots and asked.split.ep == 1:
        yield Found(
            where="placement.redundant_slots",
            message=f"{asked.redundant_slots} redundant experts with ep = 1",
            remedy=f"use ep = {asked.split.group}, or no redundant slots",
        )


def _pipeline_drafts(c: Condition, asked: Asked) -> Iterator[Found]:
    """Drafted tokens with pipeline stages."""
    if asked.drafts and asked.split.pp > 1 and asked.draft in c.drafts and "decode" in asked.phases:
        yield Found(
            where="speculation",
            message=f"{asked.drafts} drafted tokens per step (draft = {asked.draft!r}) with pp = {asked.split.pp}",
            remedy="use pp = 1 or speculation.draft_tokens = 0",
        )


def _draft_layers(c: Condition, asked: Asked) -> Iterator[Found]:  # noqa: ARG001
    """Multi-token prediction needs layers that were trained for it."""
    if asked.drafts and asked.draft == "mtp" and not asked.model.mtp_layers:
        yield Found(
            where="speculation",
            message=f"{asked.model.name} has no layers of multi-token prediction to draft {asked.drafts} tokens with",
        )


def _two_batch(c: Condition, asked: Asked) -> Iterator[Found]:
    """Two half batches overlap with some exchanges only."""
    exchanges = set(asked.exchanges.values())
    if asked.stack.overlap == "two_batch" and exchanges - set(c.exchanges):
        yield Found(
            where="stack.overlap",
            message=f"two batches with the exchange {', '.join(sorted(exchanges - set(c.exchanges)))}; it takes "
            f"{', '.join(c.exchanges)}",
            remedy=f"use stack.exchange = '{c.exchanges[0]}'",
        )


def _uses(c: Condition, asked: Asked) -> str:
    """Return the exchange of a condition that is used; nothing where none is."""
    return next((name for name in asked.exchanges.values() if name in c.exchanges), "")


def _exchange_hidden(c: Condition, asked: Asked) -> Iterator[Found]:
    """Widths of tokens that the kernels of an exchange were compiled for."""
    widths = {moe.latent or asked.model.hidden for moe in asked.model.moe_layers}
    if (name := _uses(c, asked)) and (wrong := sorted(widths - set(c.sizes))):
        yield Found(
            where="stack.exchange",
            message=f"{name} with a hidden size of {wrong[0]}; its kernels are compiled for "
            f"{', '.join(map(str, c.sizes))}",
            remedy="use stack.exchange = 'deepep_normal' or 'all_gather'",
        )


def _exchange_choices(c: Condition, asked: Asked) -> Iterator[Found]:
    """Experts per token that the kernels of an exchange take."""
    most = max((moe.top_k for moe in asked.model.moe_layers), default=0)
    if (name := _uses(c, asked)) and most > c.most:
        yield Found(
            where="stack.exchange",
            message=f"{name} with {most} experts per token; its kernels take {c.most}",
            remedy="use stack.exchange = 'deepep_normal' or 'all_gather'",
        )


def _exchange_ranks(c: Condition, asked: Asked) -> Iterator[Found]:
    """Numbers of ranks that the kernels of an exchange take."""
    ranks = asked.split.group
    if not (name := _uses(c, asked)):
        return
    inside = ranks in {2**power for power in range(1, c.domain.bit_length())}
    if ranks > c.most or (ranks < c.domain and not inside) or (ranks > c.domain and ranks % c.domain):
        yield Found(
            where="parallelism",
            message=f"{name} over {ranks} ranks; its kernels take 2, 4 or {c.domain}, and multiples of {c.domain} up "
            f"to {c.most}",
            remedy="use another number of ranks (tp x dp) or stack.exchange = 'all_gather'",
        )


def _exchange_degree(c: Condition, asked: Asked) -> Iterator[Found]:
    """Exchanges that need whole experts on every rank."""
    if (name := _uses(c, asked)) and asked.split.ep != asked.split.group:
        yield Found(
            where="parallelism.ep",
            message=f"{name} with ep = {asked.split.ep} of {asked.split.group} ranks",
            remedy=f"use ep = {asked.split.group}",
        )


def _exchange_tokens(c: Condition, asked: Asked) -> Iterator[Found]:
    """Tokens of a rank that an exchange for decoding takes at once."""
    tokens = asked.decoding * (1 + asked.drafts)
    name = asked.exchanges.get("decode", "")
    if name in c.exchanges and tokens > c.most:
        yield Found(
            where="requests",
            message=f"{name} with {tokens} decoded tokens per rank and step; it takes {c.most}",
            remedy="use fewer requests in flight (requests.concurrency) or more ranks",
        )


def _recurrent_prefix(c: Condition, asked: Asked) -> Iterator[Found]:  # noqa: ARG001
    """Prefixes of models that keep a state beside the KV cache."""
    kept = any(mixer.state_bytes(1.0, 1.0) and not mixer.kv_bytes(1.0) for mixer in _mixers(asked.model))
    if asked.prefix_cache and kept:
        yield Found(
            where="prefix_cache", message=f"{asked.model.name} keeps a recurrent state, and prefixes are cached"
        )


def _context(c: Condition, asked: Asked) -> Iterator[Found]:  # noqa: ARG001
    """Requests beyond the positions that the model was made for."""
    if asked.longest > asked.model.max_context:
        yield Found(
            where="requests",
            message=f"the longest request has {asked.longest} tokens, beyond the model's context of "
            f"{asked.model.max_context}",
        )


def _graphs(c: Condition, asked: Asked) -> Iterator[Found]:
    """Steps beyond the largest CUDA graph are launched kernel by kernel."""
    tokens, most = asked.decoding * (1 + asked.drafts), c.most or int(asked.stack.number("graph_max_batch"))
    if tokens > most and "decode" in asked.phases:
        yield Found(
            where="requests",
            message=f"up to {tokens} decoded tokens per rank and step, and the largest CUDA graph that it captures by "
            f"default is of {most}: larger steps run without one",
            remedy="fewer requests in flight, or a stack file of your own with another graph_max_batch",
        )


def _words(part: str) -> str:
    return part.replace("_", " ")


def _divided(shard: Shard) -> str:
    return f"{shard.width}/{shard.ways} = {shard.size:g}" if shard.ways > 1 else f"{shard.width}"


def _held_parts(model: ModelSpec) -> dict[str, None]:
    """Name the parts that a model has and that are quantised."""
    held: dict[str, None] = {}
    for layer in dict.fromkeys(model.layers):
        if layer.attention is not None:
            held["attention"] = None
        if layer.ffn is not None:
            held |= {"dense_ffn": None} if not hasattr(layer.ffn, "num_experts") else {"routed_experts": None}
        if getattr(layer.ffn, "shared_intermediate", 0):
            held["shared_experts"] = None
    return held


def _mixers(model: ModelSpec) -> tuple[Attention, ...]:
    return tuple(dict.fromkeys(layer.attention for layer in model.layers if layer.attention is not None))


def _kinds(model: ModelSpec) -> set[str]:
    """Name the kinds of attention that keep a KV cache, as model files do."""
    kinds = {GroupedQueryAttention: "grouped_query", LatentAttention: "latent", CompressedAttention: "compressed"}
    return {kinds[type(mixer)] for mixer in _mixers(model) if type(mixer) in kinds}


def _caches(model: ModelSpec) -> bool:
    return any(mixer.kv_bytes(1.0) > 0 for mixer in _mixers(model))


#: The function of each rule.
RULES: Mapping[Rule, Callable[[Condition, Asked], Iterator[Found]]] = {
    "shard_multiple": _shard_multiple,
    "scale_blocks": _scale_blocks,
    "quant_methods": _quant_methods,
    "weights_dtype": _weights_dtype,
    "cache_dtypes": _cache_dtypes,
    "cache_dtype_on": _cache_dtype_on,
    "sparse_attention": _sparse_attention,
    "expert_degree": _expert_degree,
    "attention_degree": _attention_degree,
    "linear_heads": _linear_heads,
    "redundant_slots": _redundant_slots,
    "pipeline_drafts": _pipeline_drafts,
    "draft_layers": _draft_layers,
    "two_batch": _two_batch,
    "exchange_hidden": _exchange_hidden,
    "exchange_choices": _exchange_choices,
    "exchange_ranks": _exchange_ranks,
    "exchange_degree": _exchange_degree,
    "exchange_tokens": _exchange_tokens,
    "recurrent_prefix": _recurrent_prefix,
    "context": _context,
    "graphs": _graphs,
}


def condition_words(rule: Rule) -> str:
    """Say in one sentence what a rule asks."""
    return (RULES[rule].__doc__ or "").split("\n")[0].rstrip(".")


#: Rules of an exchange, which a scenario may have chosen or taken from its stack.
EXCHANGE_RULES: frozenset[Rule] = frozenset(
    {"exchange_hidden", "exchange_choices", "exchange_ranks", "exchange_degree", "exchange_tokens"}
)
#: Rules that judge a load; the others judge what a deployment is, whatever it is asked.
LOAD_RULES: frozenset[Rule] = frozenset({"exchange_tokens", "context", "graphs"})

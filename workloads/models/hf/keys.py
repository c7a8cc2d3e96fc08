"""Which keys of a configuration matter: those that a reader looked at, and those that change neither sizes nor work.

Whatever is left may mean something that the reader does not know, so it is told. The list of what was looked at is the
reader's own doing: it cannot fall behind.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hardware_profiles.edge import shown

if TYPE_CHECKING:
    from collections.abc import Collection

    from workloads.models.hf.reader import HfConfig

# Keys that change neither the sizes of a model nor its work: names, tokens, training, generation, positions, scales.
_NEUTRAL = re.compile(
    "|".join(
        (
            r".*token_ids?|.*_id|postnorm|.*_eps|.*_epsilon|eps|architectures|auto_map|_.*|id2label|label2id|problem_type",
            r"rope_.*|.*_rope_(?:theta|interleave|scaling|parameters|type)|.*rotary.*|rope|yarn.*|position_embedding_type|initial_context_length|alibi.*",
            r".*dropout.*|.*_pdrop|.*drop_path.*|init.*|.*_initializer.*|.*_std|.*aux.*|.*loss.*|z_.*|.*jitter.*|.*noise.*",
            r".*_act|.*_act_fn|.*activation.*|act_fn|.*_fn|use_cache|cache_implementation|transformers_version|torch_dtype",
            r"dtype|.*_dtype|torchscript|return_dict.*|output_.*|is_decoder|is_encoder_decoder|add_cross_attention|tf_.*",
            r"temperature|top_p|top_k|typical_p|do_sample|num_beams|num_beam_groups|num_return_sequences|.*_penalty",
            r"max_length|min_length|max_new_tokens|early_stopping|no_repeat.*|.*bad_words.*|chunk_size_feed_forward",
            r".*_multiplier|.*scal(?:e|ing|ar).*|.*_scalar|query_pre_attn.*|.*softcap.*|logit.*|.*clip.*|.*_alpha|.*_beta",
            r".*alpha_factor|.*beta_factor|swiglu_limit|.*_limit|.*lower_bound|.*upper_bound|.*_magnitude|floor_scale",
            r"norm_topk_prob|scoring_func|topk_method|.*score_func.*|gate_type|moe_renormalize|moe_router.*|router_dtype",
            r"expert_selection_fn|moe_norm_min|.*combine.*|.*combination.*|route_norm|use_grouped_topk|moe_grouped.*",
            r"pretraining_tp|ep_size|tp_size|seq_aux|seq_length|time_step_.*|.*safe_gate.*|use_mamba_kernels|chunk_size",
            r"block_size|mamba_chunk_size|mamba_dt_.*|use_associative_scan|use_.*kernels?|attn_implementation|use_.*flash.*|moe_backend",
            r"max_window_layers|max_position.*|model_max_length|.*_max_length|tokenizer.*|vocab_size_per_layer_input",
            r"num_logits_to_keep|rescale_prenorm_residual|residual_in_fp32|.*fp32.*|attn_temperature_tuning|.*_temperature",
            r"gradient_checkpointing|.*_overlap|finetuning_task|task_specific_params|pruned_heads|prefix|name|version",
            r"hc_eps|hc_sinkhorn_iters|index_share_for_mtp_iteration|index_kpool_always_select_tail|sep_.*|norm_type",
            r"use_bidirectional_attention|remove_invalid_values|encoder_no_repeat.*|diversity_.*|exponential_decay.*",
            r"forced_.*|suppress_tokens|begin_suppress_tokens|.*attentions|num_labels|classifier.*|tie_encoder_decoder",
            r"cross_attention_hidden_size|use_bfloat16|license|model_name|base_model.*|unsloth.*|expand|mamba_expand",
            r"mla_use_nope|mup_enabled|load_balance.*|num_limited_groups|num_expert_groups|attention_method|zero_expert_type",
            r"score_function|norm_head|norm_softmax|add_.*sink_bias|spatial_conv_size|temporal_conv_size|pixel_.*|moe_capacity|moe_use_.*|use_correction_bias",
            r"enable_audio_output|use_pos_enc|conv_use_xavier_init|group_norm_size",
            r"pool_type|class_num|dense_list|anyres.*|vit_.*|mask_init.*|org_vocab_size|num_media.*|use_rotary_pos_emb",
            r"moe_drop.*|moe_random.*|use_mixed_mlp_moe|cla_share_factor|moe_gate|fuse_.*|fused_.*|for_llm_compressor",
            r"shared_moe_mode|max_model_len|add_classification_head|learned_pos_emb|resid_.*|emb_.*|original_max.*",
            r"lm_head_bias|ignore_.*|enable_.*fp32.*|moe_dropped.*|moe_token_drop.*|.*_init|use_conv_bias|mamba_conv_bias",
        )
    )
)
# Keys around a language model that describe tokens of images and sound, or how they are joined to those of text.
_AROUND = re.compile(
    r"(?:image|video|audio|vision|visual|speech|mm|projector|multimodal|multi_modal|talker|tts|im|user|assistant|system"
    r"|boi|eoi|boa|eoa|img|media|view|tile|code2wav|token2wav|pixel|downsample|patch|ps|dynamic|select|template"
    r"|projection|merged|position_id|max_value_projector)_?.*"
    r"|quantization_config|compression_config|thinker_config|text_config|.*_config"
)
# Keys that say again what a list of kinds of layers says.
_SAID_BY_KINDS = frozenset(
    {
        "full_attention_interval",
        "global_attn_every_n_layers",
        "layer_group_size",
        "linear_attn_config",
        "no_rope_layer_interval",
        "prefix_dense_sliding_window_pattern",
        "sliding_window_pattern",
        "short_conv_kernel_size",
    }
)
# Keys of softmax attention that latent attention says in its own words.
_SAID_BY_LATENTS = frozenset({"head_dim", "num_key_value_heads", "qk_head_dim"})
# Widths that a reader leaves aside where no layer has them, and second names of what another key says.
_UNUSED = frozenset(
    {
        "dense_intermediate_size",
        "experts_per_token",
        "intermediate_size",
        "intermediate_size_mlp",
        "moe_layers",
        "mtp_transformer_layers",
        "qk_norm_type",
        "sliding_window",
        "topk_group",
        "use_qk_norm",
        "gating",
    }
)
_MOST_NAMED = 8


def unknown_keys(config: HfConfig, *, around: bool = False) -> list[str]:
    """List the keys that nobody looked at and that may change sizes or work.

    Parameters
    ----------
    config : HfConfig
        The configuration, after it was read.
    around : bool
        It only wraps the language model: keys of images and sound say nothing of that.
    """
    said = _UNUSED | (
        _SAID_BY_KINDS if _asked(config, ("layer_types", "layers_block_type", "attn_type_list")) else set()
    )
    if _asked(config, ("kv_lora_rank", "o_lora_rank")):
        said = said | _SAID_BY_LATENTS
    return [
        key
        for key, value in config.keys.items()
        if key not in config.asked
        and key not in said
        and _says_something(key, value)
        and not _NEUTRAL.fullmatch(key)
        and not (_AROUND.fullmatch(key) if around else key.endswith("quantization_config"))
    ]


def _asked(config: HfConfig, keys: Collection[str]) -> bool:
    return any(key in config.asked and config.keys.get(key) is not None for key in keys)


def _says_something(key: str, value: Any) -> bool:
    """Tell whether a value is more than absence; a list of kinds of layers that are all alike says nothing."""
    if value is None or value is False or value in ("", [], {}, 0):
        return False
    return not (
        key in ("layer_types", "mlp_layer_types") and isinstance(value, list) and len(set(map(str, value))) == 1
    )


def warn_of(config: HfConfig, keys: list[str], family: str) -> str | None:
    """Phrase the warning of unknown keys; ``None`` where there are none."""
    if not keys:
        return None
    named = ", ".join(f"{key} = {shown(config.keys[key], 40)}" for key in keys[:_MOST_NAMED])
    more = f" and {len(keys) - _MOST_NAMED} more" if len(keys) > _MOST_NAMED else ""
    return f"{config.where}: the reader of {family!r} does not know {named}{more}; if they change sizes, these are off"

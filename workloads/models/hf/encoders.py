"""Parameters of the vision and audio towers of a configuration, with what joins them to the language model.

They take memory; what they do on images and sound is not described. The formulas follow the classes of transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.errors import ModelError
from workloads.models.hf.hybrids import first_of_two

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from workloads.models.hf.reader import HfConfig


def encoder_parameters(outer: HfConfig, text: HfConfig) -> tuple[int, tuple[str, ...]]:
    """Count the parameters of the towers of a configuration.

    Parameters
    ----------
    outer : HfConfig
        The configuration that holds ``vision_config`` and ``audio_config``.
    text : HfConfig
        The configuration of the language model, to whose width the towers project.

    Returns
    -------
    int
        Parameters [1].
    tuple of str
        Towers that are counted roughly, or not at all.
    """
    total, notes = _image_experts(text), []
    whole, outer = outer, outer.section("thinker_config") if outer.has("thinker_config") else outer
    for key in ("vision_config", "vision_tower_config", "visual_config", "audio_config"):
        if not outer.has(key) or not outer.section(key).keys:
            continue
        tower = outer.section(key)
        kind = tower.model_type if tower.has("model_type") else outer.model_type
        found = next((count for name, count in _TOWERS.items() if _is(kind, outer.model_type, key, name)), None)
        why = f"the tower {kind!r} is not known"
        if found is not None:
            try:
                total += found(tower, text, outer)
                continue
            except ModelError as error:
                why = str(error).removeprefix(f"{tower.where}: ")
        rough = _rough(tower)
        total += rough
        notes.append(
            f"{tower.where}: {why}; its layers are counted as those of a plain transformer "
            f"({rough / 1e9:.2f}e9 parameters)"
            if rough
            else f"{tower.where}: {why}; its weights are not counted"
        )
    notes += [
        f"{whole.where}: {key}: a model of its own, which is not counted"
        for key in ("talker_config", "code2wav_config", "token2wav_config")
        if whole.has(key)
    ]
    return total, tuple(notes)


def _is(kind: str, family: str, key: str, name: str) -> bool:
    tower, modality = name.split(":")
    return key.startswith(modality) and (kind.startswith(tower) or family.startswith(tower))


def _blocks(tower: HfConfig, *, hidden: int, gated: bool = False, bias: bool = True, norms: int = 4) -> int:
    """Count the layers of a tower: four projections, two or three matrices, biases, and vectors for norms."""
    depth = tower.integer("depth", "num_hidden_layers", "encoder_layers")
    width = tower.integer("intermediate_size", "encoder_ffn_dim")
    matrices = 3 if gated else 2
    biases = bias * (4 * hidden + (matrices - 1) * width + hidden)
    return depth * (4 * hidden**2 + matrices * hidden * width + biases + norms * hidden)


def _rough(tower: HfConfig) -> int:
    if not (tower.has("hidden_size") or tower.has("d_model")):
        return 0
    if not any(tower.has(key) for key in ("depth", "num_hidden_layers", "encoder_layers")):
        return 0
    hidden = tower.integer("hidden_size", "d_model")
    width = tower.integer("intermediate_size", "encoder_ffn_dim", default=4 * hidden)
    depth = tower.integer("depth", "num_hidden_layers", "encoder_layers")
    return depth * (4 * hidden**2 + 2 * hidden * width)


def _patches(tower: HfConfig, hidden: int, *, bias: bool, temporal: int = 1) -> int:
    channels = tower.integer("in_channels", "num_channels", "in_chans", default=3)
    frames = tower.integer("temporal_patch_size", default=temporal)
    return channels * frames * tower.integer("patch_size") ** 2 * hidden + bias * hidden


def _merged(tower: HfConfig, hidden: int, out: int, *, norm: int) -> int:
    """Count a merger of patches: a norm and two layers of the merged width."""
    width = hidden * tower.integer("spatial_merge_size", default=2) ** 2
    return 2 * norm + width * width + width + width * out + out


def _qwen3_vision(tower: HfConfig, text: HfConfig, outer: HfConfig) -> int:
    hidden = tower.integer("hidden_size")
    out = tower.integer("out_hidden_size", default=text.integer("hidden_size"))
    merged = hidden * tower.integer("spatial_merge_size", default=2) ** 2
    deep = 3 if not tower.has("deepstack_visual_indexes") else len(tower.integers("deepstack_visual_indexes"))
    if outer.model_type.startswith("qwen3_5"):
        deep = 0
    return (
        _patches(tower, hidden, bias=True, temporal=2)
        + tower.integer("num_position_embeddings", default=2304) * hidden
        + _blocks(tower, hidden=hidden)
        + _merged(tower, hidden, out, norm=hidden)
        + deep * _merged(tower, hidden, out, norm=merged)
    )


def _qwen3_audio(tower: HfConfig, text: HfConfig, outer: HfConfig) -> int:  # noqa: ARG001
    hidden, down = tower.integer("d_model"), tower.integer("downsample_hidden_size", default=480)
    out = tower.integer("output_dim", default=text.integer("hidden_size"))
    # Three convolutions of stride 2 leave an eighth of the mel bins.
    bins = -(-tower.integer("num_mel_bins", default=128) // 8)
    convolutions = 9 * down + down + 2 * (9 * down * down + down) + down * bins * hidden
    return _blocks(tower, hidden=hidden) + 2 * hidden + convolutions + hidden * (hidden + 1) + out * (hidden + 1)


def _llama4(tower: HfConfig, text: HfConfig, outer: HfConfig) -> int:  # noqa: ARG001
    hidden, width = tower.integer("hidden_size"), tower.integer("intermediate_size")
    positions = (tower.integer("image_size") // max(tower.integer("patch_size"), 1)) ** 2 + 1
    inner, joined = tower.integer("projector_input_dim"), tower.integer("projector_output_dim")
    adapter = width * inner + inner * joined
    return (
        hidden * (1 + positions + 4)
        + _patches(tower, hidden, bias=False)
        + _blocks(tower, hidden=hidden)
        + adapter
        + tower.integer("vision_output_dim") * text.integer("hidden_size")
    )


def _glm4v(tower: HfConfig, text: HfConfig, outer: HfConfig) -> int:  # noqa: ARG001
    hidden, out = tower.integer("hidden_size"), tower.integer("out_hidden_size")
    width, depth = tower.integer("intermediate_size"), tower.integer("depth")
    positions = (tower.integer("image_size") // max(tower.integer("patch_size"), 1)) ** 2
    blocks = depth * (4 * hidden**2 + 3 * hidden * out + 2 * hidden)
    merger = out * out + 2 * out + 3 * out * width
    downsample = out * hidden * tower.integer("spatial_merge_size", default=2) ** 2 + out
    return _patches(tower, hidden, bias=True, temporal=2) + hidden * (positions + 2) + blocks + merger + downsample


def _glm5_next(tower: HfConfig, text: HfConfig, outer: HfConfig) -> int:  # noqa: ARG001
    hidden, out = tower.integer("hidden_size"), tower.integer("out_hidden_size")
    heads = 2 * hidden // max(tower.integer("num_heads"), 1) * tower.integer("depth")
    blocks = _blocks(tower, hidden=hidden, gated=True, norms=2) + heads
    merger = out * out + 2 * out + 3 * out * tower.integer("projection_intermediate_size")
    downsample = out * hidden * tower.integer("spatial_merge_size", default=2) ** 2 + out
    return _patches(tower, hidden, bias=True, temporal=2) + hidden + blocks + merger + downsample


def _ernie(tower: HfConfig, text: HfConfig, outer: HfConfig) -> int:  # noqa: ARG001
    hidden, out = tower.integer("hidden_size"), text.integer("hidden_size")
    merged = hidden * tower.integer("spatial_merge_size", default=2) ** 2
    frames = tower.integer("temporal_merge_size", default=text.integer("temporal_conv_size", default=2))
    width = tower.integer("intermediate_size", default=4 * hidden)
    blocks = tower.integer("depth") * (4 * hidden**2 + 2 * hidden * width + 9 * hidden + width)
    joined = 2 * (merged * merged + merged + merged) + 2 * merged
    joined += merged * merged * frames + merged + merged * merged + merged
    return _patches(tower, hidden, bias=False) + blocks + 2 * hidden + joined + merged * out + 2 * out


def _gemma4(tower: HfConfig, text: HfConfig, outer: HfConfig) -> int:  # noqa: ARG001
    hidden = tower.integer("hidden_size")
    positions = 2 * tower.integer("position_embedding_size", default=10240) * hidden
    blocks = _blocks(tower, hidden=hidden, gated=True, bias=False)
    return positions + _patches(tower, hidden, bias=False) + blocks + hidden * text.integer("hidden_size")


def _kimi(tower: HfConfig, text: HfConfig, outer: HfConfig) -> int:  # noqa: ARG001
    names = ("hidden_size", "vt_hidden_size")
    hidden, out = tower.integer(*names), text.integer("hidden_size")
    depth = tower.integer("num_hidden_layers", "vt_num_hidden_layers")
    width = tower.integer("intermediate_size", "vt_intermediate_size")
    positions = tower.integer("pos_emb_height", "init_pos_emb_height") * tower.integer(
        "pos_emb_width", "init_pos_emb_width"
    )
    merged = 4 * hidden
    blocks = depth * (4 * hidden**2 + 2 * hidden * width + 9 * hidden + width)
    joined = 2 * hidden + merged * (merged + 1) + out * (merged + 1)
    return 3 * tower.integer("patch_size") ** 2 * hidden + hidden + positions * hidden + blocks + 2 * hidden + joined


def _minimax_m3(tower: HfConfig, text: HfConfig, outer: HfConfig) -> int:  # noqa: ARG001
    hidden, out = tower.integer("hidden_size"), text.integer("hidden_size")
    merge = tower.integer("spatial_merge_size", default=2) ** 2
    joined = hidden * out + out + (out * out + out) * 2 + merge * out * out + out
    return _patches(tower, hidden, bias=False, temporal=2) + 2 * hidden + _blocks(tower, hidden=hidden) + joined


def _step3(tower: HfConfig, text: HfConfig, outer: HfConfig) -> int:  # noqa: ARG001
    hidden = tower.integer("hidden_size")
    positions = (tower.integer("image_size") // max(tower.integer("patch_size"), 1)) ** 2
    down = 9 * (2 * hidden * hidden + 8 * hidden * hidden) + 6 * hidden
    blocks = _blocks(tower, hidden=hidden, norms=6)
    joined = 4 * hidden * text.integer("hidden_size")
    return _patches(tower, hidden, bias=False) + hidden * (positions + 2) + blocks + down + joined


def _image_experts(text: HfConfig) -> int:
    """Count the experts of ERNIE VL that only image tokens meet."""
    if not text.model_type.startswith("ernie4_5") or not isinstance(text.keys.get("moe_intermediate_size"), list):
        return 0
    if not text.keys["moe_intermediate_size"] or text.keys.get("moe_num_experts") == []:
        return 0
    widths, hidden = text.integers("moe_intermediate_size"), text.integer("hidden_size")
    given = text.keys.get("moe_num_experts")
    number = text.integers("moe_num_experts")[-1] if isinstance(given, list) else first_of_two(text, "moe_num_experts")
    kinds = text.listed("mlp_layer_types")
    layers = text.integer("num_hidden_layers")
    sparse = sum(kind != "dense" for kind in kinds) if kinds else layers - _first_of_images(text)
    return sparse * number * (3 * hidden * widths[-1] + hidden + 1)


def _first_of_images(text: HfConfig) -> int:
    first = text.keys.get("moe_layer_start_index", 1)
    return int(first[-1]) if isinstance(first, list) and first else first_of_two(text, "moe_layer_start_index", 1)


# Each tower by how its type, or its family's, begins, and the section that describes it.
_TOWERS: Mapping[str, Callable[[HfConfig, HfConfig, HfConfig], int]] = {
    "qwen3:vision": _qwen3_vision,
    "qwen3:audio": _qwen3_audio,
    "llama4:vision": _llama4,
    "glm4v:vision": _glm4v,
    "glm5_next:vision": _glm5_next,
    "ernie4_5:vision": _ernie,
    "DFNRope:vision": _ernie,
    "gemma4:vision": _gemma4,
    "kimi_k25:vision": _kimi,
    "moonvit:vision": _kimi,
    "minimax_m3:vision": _minimax_m3,
    "step3:vision": _step3,
}

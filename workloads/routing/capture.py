"""Capturing routing from a real PyTorch MoE: forward hooks on its router modules, found by the pattern of their name.

torch is imported only when something is captured; transformers only by :func:`capture_text`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hardware_profiles.errors import nearest
from workloads.errors import WorkloadError
from workloads.parameters import count
from workloads.routing.routers import trace_from_choices
from workloads.routing.trace import RoutingTrace
from workloads.trace_paths import existing_file

#: Names of router modules in Hugging Face models: Mixtral's ``block_sparse_moe.gate``, Qwen's and DeepSeek's
#: ``mlp.gate``, gpt-oss's and Llama 4's ``router``.
ROUTER_PATTERN = r"(^|\.)(gate|router)$"
#: Where configurations say how many experts a token has.
_TOP_K_NAMES = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "top_k")


class Recorder:
    """Collects what the router modules of a model choose while :func:`capturing`; read it with :meth:`trace`."""

    def __init__(self, names: list[str], top_k: int) -> None:
        self.names = names
        self.top_k = top_k
        self.num_experts = 0
        self._choices: dict[str, list[NDArray[np.int64]]] = {name: [] for name in names}
        self._lengths: list[int] = []

    def sequence(self, tokens: int) -> None:
        """Say that the next ``tokens`` tokens that go through the model are a sequence of their own [tokens]."""
        self._lengths.append(count("tokens", tokens))

    def record(self, name: str, output: Any) -> None:
        """Take the output of one router: its logits, alone or first in a tuple, or the expert ids in a tuple."""
        logits, ids = _read_output(name, output, self.top_k)
        if logits is not None:
            self.num_experts = max(self.num_experts, logits.shape[1])
            ids = np.argsort(-logits, axis=1, kind="stable")[:, : self.top_k]
        self._choices[name].append(np.asarray(ids, np.int64))

    def trace(self, source: str = "captured") -> RoutingTrace:
        """Return everything recorded as a routing trace, layers in the order of the modules.

        Raises
        ------
        WorkloadError
            Nothing was recorded, or the layers saw different numbers of tokens.
        """
        silent = [name for name in self.names if not self._choices[name]]
        if silent:
            raise WorkloadError(f"capture: nothing went through {silent[0]}; call the model inside capturing()")
        layers = [np.concatenate(self._choices[name]) for name in self.names]
        tokens = {len(layer) for layer in layers}
        if len(tokens) > 1:
            raise WorkloadError(f"capture: layers saw different numbers of tokens: {sorted(tokens)}")
        total = tokens.pop()
        lengths = self._lengths or [total]
        if sum(lengths) != total:
            raise WorkloadError(f"capture: sequences of {sum(lengths)} tokens were announced, the routers saw {total}")
        starts = np.cumsum([0, *lengths[:-1]]).astype(np.int64)
        experts = max(self.num_experts, max(int(layer.max()) for layer in layers) + 1)
        return trace_from_choices(layers, starts, experts, source)


def router_names(model: Any, pattern: str | None = None) -> list[str]:
    """Names of a model's router modules, in the model's order.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    pattern : str, optional
        Regular expression that is searched in module names; ``ROUTER_PATTERN`` by default.

    Raises
    ------
    WorkloadError
        The pattern is malformed, or no module has such a name.
    """
    try:
        searched = re.compile(pattern or ROUTER_PATTERN)
    except re.error as error:
        raise WorkloadError(f"capture: pattern {pattern!r} is not a regular expression: {error}") from None
    every = [name for name, _ in model.named_modules() if name]
    found = [name for name in every if searched.search(name)]
    if not found:
        hint = nearest("gate", sorted({name.rsplit(".", 1)[-1] for name in every}))
        raise WorkloadError(f"capture: no module matches {searched.pattern!r}; {hint}")
    return found


@contextmanager
def capturing(model: Any, *, top_k: int | None = None, pattern: str | None = None) -> Iterator[Recorder]:
    """Record what a model's routers choose while the block runs.

    Parameters
    ----------
    model : torch.nn.Module
        A model with one router module per MoE layer, whose output is its logits (tokens, experts), or a tuple that
        holds them or the chosen ids.
    top_k : int, optional
        Experts per token; what the model's ``config`` says by default.
    pattern : str, optional
        As in :func:`router_names`.

    Yields
    ------
    Recorder

    Examples
    --------
    with capturing(model, top_k=2) as recorder:
        recorder.sequence(ids.shape[1])
        model(ids)
    save_routing_trace(recorder.trace(), "trace.npz")
    """
    names = router_names(model, pattern)
    recorder = Recorder(names, _top_k(model, top_k))
    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda _module, _inputs, output, name=name: recorder.record(name, output))
        for name in names
    ]
    try:
        yield recorder
    finally:
        for handle in handles:
            handle.remove()


def capture_text(
    model: str | Path, text: str | Path, *, pattern: str | None = None, top_k: int | None = None, length: int = 512
) -> RoutingTrace:
    """Run the paragraphs of a text file through a Hugging Face model in a local folder, and record its routing.

    Parameters
    ----------
    model : str or Path
        Folder with the model and its tokenizer. Code inside it is not run.
    text : str or Path
        UTF-8 text; paragraphs are apart by an empty line.
    pattern, top_k
        As in :func:`capturing`.
    length : int
        Most tokens of a sequence [tokens].
    """
    folder, file = Path(model), existing_file(text)
    if not (folder / "config.json").is_file():
        raise WorkloadError(f"{folder}: is no folder of a Hugging Face model: config.json is missing")
    torch, transformers = (_optional(name) for name in ("torch", "transformers"))
    try:
        paragraphs = [part for part in file.read_text(encoding="utf-8").split("\n\n") if part.strip()]
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        network = transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    except (OSError, ValueError) as error:
        raise WorkloadError(f"{folder}: cannot be loaded: {str(error).splitlines()[0]}") from error
    with capturing(network, top_k=top_k, pattern=pattern) as recorder, torch.no_grad():
        for paragraph in paragraphs:
            ids = tokenizer(paragraph, return_tensors="pt", truncation=True, max_length=length)["input_ids"]
            if ids.shape[1]:
                recorder.sequence(ids.shape[1])
                network(ids)
    return recorder.trace(f"captured: {folder.name} on {file.name}")


def _optional(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise WorkloadError(f"capture needs {module}: pip install {module}") from None


def _top_k(model: Any, given: int | None) -> int:
    if given is not None:
        return count("top_k", given)
    config = getattr(model, "config", None)
    for name in _TOP_K_NAMES:
        value = getattr(config, name, None)
        if isinstance(value, int):
            return count(f"config.{name}", value)
    raise WorkloadError("capture: the model's config does not say how many experts a token has; give top_k")


def _read_output(name: str, output: Any, top_k: int) -> tuple[NDArray[np.float64] | None, NDArray[np.int64] | None]:
    """Find ids or logits in a router's output: whole numbers of ``top_k`` columns are ids, and come first."""
    parts = output if isinstance(output, tuple | list) else (output,)
    arrays = [part.detach().cpu() for part in parts if hasattr(part, "detach") and part.ndim >= 2]
    for array in arrays:
        if not array.is_floating_point() and array.shape[-1] == top_k:
            return None, array.reshape(-1, top_k).numpy()
    wide = [array for array in arrays if array.is_floating_point() and array.shape[-1] >= top_k]
    if not wide:
        shapes = [tuple(array.shape) for array in arrays]
        raise WorkloadError(f"capture: {name} returns tensors of shapes {shapes}, expected logits (tokens, experts)")
    widest = max(wide, key=lambda array: int(array.shape[-1]))
    return widest.reshape(-1, widest.shape[-1]).double().numpy(), None

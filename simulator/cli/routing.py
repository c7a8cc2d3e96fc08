"""``moesim routing``: look at routing traces, fit a generator to them, generate, convert and capture them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from simulator.cli.answer import answering, print_json, tell
from simulator.cli.lists import ListCommand, whole_numbers
from simulator.cli.scenario_argument import Json

if TYPE_CHECKING:
    from workloads.routing.trace import RoutingTrace

routing = typer.Typer(
    name="routing",
    help="Look at routing traces, fit generators to them, generate, convert and capture them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Trace = Annotated[str, typer.Argument(metavar="TRACE", help="Routing trace or recording, or 'sample:NAME'.")]
Experts = Annotated[
    int | None, typer.Option("--experts", min=1, help="Experts per layer, if the file does not state them.")
]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write; the extension says which format.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all random draws.")]


@routing.command(cls=ListCommand)
def stats(
    trace: Trace,
    experts: Experts = None,
    ep: Annotated[list[str] | None, typer.Option(metavar="N,...", help="Degrees of expert parallelism.")] = None,
    batch: Annotated[list[str] | None, typer.Option(metavar="N,...", help="Tokens of a batch.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Sequences decoded side by side.")] = 256,
    token_ids: Annotated[
        Path | None, typer.Option(metavar="FILE", help=".npy with the vocabulary id of every token.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the load by layer and expert as an SVG heat map.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Show who is loaded, how unevenly by batch, how long it lasts, and what depends on what."""
    with answering(as_json=as_json):
        from hardware_profiles.outputs import check_output_file, write_file
        from simulator.cli.console import console
        from simulator.cli.routing_text import heat_map_svg, print_stats
        from simulator.errors import OutputError
        from workloads.routing.convert import read_token_ids
        from workloads.routing.report import routing_report

        if picture is not None:
            check_output_file(picture, OutputError)
        found = read_trace(trace, experts)
        report = routing_report(
            found,
            ranks=tuple(whole_numbers("--ep", ep, 2)) if ep else (),
            batches=tuple(whole_numbers("--batch", batch, 1)) if batch else (),
            concurrency=concurrency,
            token_ids=None if token_ids is None else read_token_ids(token_ids),
            seed=seed,
        )
        if picture is not None:
            write_file(picture, heat_map_svg(report), OutputError)
        if as_json:
            print_json(report.document())
            return
        text = console()
        print_stats(text, report)
        if picture is not None:
            text.print(f"written: {picture}")
        text.print(f"next: moesim routing fit {trace} --out fit.toml", style="dim")


@routing.command()
def fit(trace: Trace, out: Out, experts: Experts = None, seed: Seed = 0, as_json: Json = False) -> None:
    """Fit generator parameters to a recorded trace and write them as TOML."""
    with answering(as_json=as_json):
        from simulator.cli.console import console
        from simulator.cli.progress import progress_bar
        from simulator.cli.routing_text import print_fit
        from workloads.routing.fit import fit_routing, moment_errors
        from workloads.routing.fit_files import check_fit_path, save_routing_fit

        check_fit_path(out)
        found = read_trace(trace, experts)
        with progress_bar("fitting", enabled=not as_json) as progress:
            model = fit_routing(found, seed=seed, progress=progress)
        errors = moment_errors(model, found, seed=seed + 1)
        save_routing_fit(model, out, errors)
        if as_json:
            print_json({"written": str(out), "trace": found.source, "error": errors})
            return
        text = console()
        print_fit(text, model, errors)
        text.print(f"written: {out}")
        text.print(f"next: moesim routing generate --from {out} --tokens 100000 --out trace.npz", style="dim")


@routing.command(cls=ListCommand)
def generate(
    out: Out,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="FIT", help="Fit that 'routing fit' wrote, or 'sample:NAME'.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Generator, where there is no fit: zipf, domain, sticky ...")] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Parameter of the kind; may be repeated.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to generate.")] = 100_000,
    layers: Annotated[int | None, typer.Option(min=1, help="MoE layers; those of the fit if not given.")] = None,
    experts: Annotated[int | None, typer.Option(min=1, help="Experts per layer, likewise.")] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Experts per token, likewise.")] = None,
    router: Annotated[str | None, typer.Option(help="Router that turns a fit's logits into choices.")] = None,
    router_set: Annotated[
        list[str] | None, typer.Option("--router-set", metavar="KEY=VALUE", help="Parameter of the router.")
    ] = None,
    capacity_factor: Annotated[
        float | None, typer.Option(help="Drop what exceeds this many times the mean load of a batch.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Tokens that share a capacity.")] = 4096,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Generate a routing trace of any length, layers and experts, from a fit or a kind of generator."""
    with answering(as_json=as_json):
        from simulator.cli.progress import progress_bar
        from simulator.cli.routing_text import parameters
        from workloads.routing.convert import check_writable, write_recording
        from workloads.routing.fit_files import read_routing_fit
        from workloads.routing.generators import generate_routing
        from workloads.routing.latent import generate_fitted
        from workloads.routing.routers import drop_trace

        check_writable(out)
        if (from_ is None) == (kind is None):
            raise typer.BadParameter("give either --from FIT or --kind KIND")
        if from_ is not None and parameter:
            raise typer.BadParameter(
                "--set is for a --kind; what a fit says stays as it is (--router-set changes routers)"
            )
        if router is None and router_set:
            raise typer.BadParameter("--router-set needs a --router")
        if from_ is not None:
            model = read_routing_fit(_path(from_))
            wide = (layers or len(model.probability), experts or model.probability.shape[1], top_k or model.top_k)
            _require_room(tokens, *wide)
            with progress_bar("generating", enabled=not as_json) as progress:
                made = generate_fitted(
                    model,
                    tokens=tokens,
                    seed=seed,
                    layers=layers,
                    num_experts=experts,
                    top_k=top_k,
                    router=router,
                    router_parameters=parameters(router_set),
                    progress=progress,
                )
        else:
            if layers is None or experts is None or top_k is None:
                raise typer.BadParameter("a kind needs --layers, --experts and --top-k")
            if router is not None:
                raise typer.BadParameter("--router works on the logits of a fit; give --from")
            _require_room(tokens, layers, experts, top_k)
            sizes = {"tokens": tokens, "layers": layers, "num_experts": experts, "top_k": top_k}
            made = generate_routing(str(kind), seed=seed, **sizes, **parameters(parameter))
        if capacity_factor is not None:
            made = drop_trace(made, capacity_factor, batch)
        write_recording(made, out)
        _report_written(made, out, as_json=as_json)


def _require_room(tokens: int, layers: int, experts: int, top_k: int) -> None:
    """Refuse a trace, or its experts, that no memory holds, before anything is drawn."""
    from workloads.memory import require_memory
    from workloads.parameters import count
    from workloads.routing.trace import MOST_EXPERTS

    count("--experts", experts, most=MOST_EXPERTS)
    # A slot is drawn from floats and kept in a byte or two; an expert has a chance in every layer.
    require_memory("--tokens", tokens * layers * top_k, 16.0)
    require_memory("--layers", layers * experts, 64.0)


@routing.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="FROM", help=".npz, .parquet, .npy, or SGLang's .pt or .json.")],
    target: Annotated[Path, typer.Argument(metavar="TO", help=".npz, .parquet, .npy or .json.")],
    experts: Experts = None,
    as_json: Json = False,
) -> None:
    """Convert between routing traces and what serving stacks record."""
    with answering(as_json=as_json):
        from workloads.routing.convert import check_writable, write_recording

        check_writable(target)
        found = read_trace(source, experts)
        write_recording(found, target)
        _report_written(found, target, as_json=as_json)


@routing.command()
def capture(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a Hugging Face MoE model.")],
    text: Annotated[Path, typer.Argument(metavar="TEXT", help="Text file, a sequence per paragraph.")],
    out: Out,
    pattern: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Names of the router modules; usual names if not given.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1, help="Experts per token, if the model does not say.")] = None,
    length: Annotated[int, typer.Option(min=1, help="Most tokens of a sequence.")] = 512,
    as_json: Json = False,
) -> None:
    """Run text through a real PyTorch MoE and record what its routers choose (needs torch and transformers)."""
    with answering(as_json=as_json):
        from workloads.routing.capture import capture_text
        from workloads.routing.convert import check_writable, write_recording

        check_writable(out)
        made = capture_text(model, text, pattern=pattern, top_k=top_k, length=length)
        write_recording(made, out)
        _report_written(made, out, as_json=as_json)


def read_trace(name: str, experts: int | None) -> RoutingTrace:
    """Read the trace, recording or sample that a command names."""
    from workloads.routing.convert import read_recording

    return read_recording(_path(name), experts)


def _path(name: str) -> Path:
    """Find the file or sample that a command names."""
    from workloads.samples import sample_path

    return sample_path(name.removeprefix("sample:")) if name.startswith("sample:") else Path(name)


def _report_written(trace: RoutingTrace, path: Path, *, as_json: bool) -> None:
    shape = {
        "tokens": trace.tokens,
        "sequences": len(trace.sequence_start),
        "layers": trace.layers,
        "experts": trace.num_experts,
        "top_k": trace.top_k,
        "padded": trace.padded,
    }
    if as_json:
        print_json({"written": str(path), **shape})
        return
    tell(f"written: {path}: " + ", ".join(f"{value} {key}" for key, value in shape.items() if key != "padded"))
    tell(f"next: moesim routing stats {path}")

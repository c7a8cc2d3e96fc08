"""``moesim cache``: what is kept on disk for the next start, and how to be rid of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from simulator.cli.answer import answering, print_json, tell
from simulator.cli.scenario_argument import Json

if TYPE_CHECKING:
    from rich.console import Console

    from simulator.deployment.disk import DiskStore

cache = typer.Typer(
    name="cache",
    help="Show what is kept on disk so that the next start is quick, or clear it.",
    add_completion=False,
    rich_markup_mode=None,
)


@cache.callback(invoke_without_command=True)
def _show(context: typer.Context, as_json: Json = False) -> None:
    """Show the folder, what it holds by kind, and how much it may hold."""
    if context.invoked_subcommand is not None:
        return
    with answering(as_json=as_json):
        from simulator.cli.console import console
        from simulator.deployment.disk import disk_store

        document = _document(disk_store())
        if as_json:
            print_json(document)
        else:
            _print(console(), document)


@cache.command()
def clear(as_json: Json = False) -> None:
    """Remove all that is kept; the next start makes it anew."""
    with answering(as_json=as_json):
        from hardware_profiles.units import format_bytes
        from simulator.deployment.disk import disk_store

        store = disk_store()
        removed = [] if store is None else store.clear()
        size = sum(entry.bytes for entry in removed)
        if as_json:
            print_json({"folder": store and str(store.folder), "removed": len(removed), "bytes": size})
        elif store is None:
            print(_OFF)
        else:
            tell(f"files removed from {store.folder}: {len(removed)} ({format_bytes(size)})")


_OFF = "nothing is kept on disk: MOESIM_CACHE_DIR says so, or there is no home folder"


def _document(store: DiskStore | None) -> dict[str, Any]:
    if store is None:
        return {"folder": None, "most_bytes": 0, "bytes": 0, "kinds": [], "fault": None}
    entries = store.entries()
    kinds: dict[str, list[int]] = {}
    for entry in entries:
        kinds.setdefault(entry.kind, []).append(entry.bytes)
    return {
        "folder": str(store.folder),
        "most_bytes": store.most_bytes,
        "bytes": sum(entry.bytes for entry in entries),
        "kinds": [{"kind": kind, "files": len(sizes), "bytes": sum(sizes)} for kind, sizes in sorted(kinds.items())],
        "fault": store.fault(),
    }


def _print(out: Console, document: dict[str, Any]) -> None:
    from hardware_profiles.units import format_bytes
    from simulator.cli.console import pairs, table
    from simulator.cli.tables import print_table

    if document["folder"] is None:
        out.print(_OFF)
        return
    held = f"{format_bytes(document['bytes'])} of at most {format_bytes(document['most_bytes'])}"
    out.print(pairs([("folder", document["folder"]), ("held", held)]))
    if document["fault"]:
        out.print(f"warning: nothing new is kept, as the folder cannot be written: {document['fault']}")
    if not document["kinds"]:
        return
    grid = table("kind", "files", "size", right=("files", "size"))
    for row in document["kinds"]:
        grid.add_row(row["kind"], f"{row['files']:,}", format_bytes(row["bytes"]))
    print_table(out, grid)
    out.print("next: moesim cache clear", style="dim")

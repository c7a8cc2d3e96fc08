"""The validation page of the documentation, made of the accuracy that a baseline records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hardware_profiles.outputs import write_file
from simulator.errors import OutputError
from validation.papers.report import PaperReport, Verdict
from validation.regression.charts import Bar, coverage_chart, error_chart
from validation.regression.stated import marked

#: What is aimed for by op and part: median and 90th percentile on unseen shapes of a fitted device, and on a device
#: that was never fitted [1].
AIMS: Mapping[str, tuple[float, float, float, float]] = {
    "gemm": (0.05, 0.18, 0.08, 0.25),
    "attention_prefill": (0.07, 0.20, 0.12, 0.30),
    "mla_prefill": (0.07, 0.20, 0.12, 0.30),
    "attention_decode": (0.07, 0.20, 0.12, 0.30),
    "mla_decode": (0.07, 0.20, 0.12, 0.30),
    "moe/balanced": (0.08, 0.30, 0.12, 0.40),
    "moe/power_law": (0.12, 0.40, 0.16, 0.50),
    "moe_wide_ep_prefill": (0.08, 0.20, 0.12, 0.30),
    "moe_wide_ep_decode": (0.08, 0.20, 0.12, 0.30),
    "nccl": (0.08, 0.20, 0.12, 0.30),
    "custom_allreduce": (0.08, 0.20, 0.12, 0.30),
    "deepep_low_latency": (0.08, 0.20, 0.12, 0.30),
    "deepep_normal": (0.08, 0.20, 0.12, 0.30),
    "gated_delta_net": (0.10, 0.25, 0.15, 0.35),
    "mamba2": (0.10, 0.25, 0.15, 0.35),
}
#: Of an op that is not listed.
AIM = (0.08, 0.20, 0.12, 0.30)
#: Between a device and the one whose kernels it is predicted with, in the keys of accuracy.
LENT = "<-"
_INTRODUCTION = """\
# Validation

This page is made by `moesim regress --update`; nobody writes its figures by hand, and `moesim regress` fails when one
of them no longer holds.

**Fitted on.** The kernel tables of H100 and A100 are fitted on four fifths of the rows of the kernel tables that
aiconfigurator publishes for these two GPUs (Apache-2.0). No row is counted below against coefficients that were
fitted on it.

**Validated on.** Three kinds of data that no coefficient has seen:

1. *Unseen shapes*: the fifth of the rows that the fits leave out, drawn by a fixed seed for each kernel table.
2. *A device never fitted*: all rows of a device, predicted from its datasheet and another device's kernels, its own
   set aside.
3. *Papers*: figures that papers print, computed from what they state, by [rules](calibration.md#papers) that say
   which of them count.

An error is |predicted / measured - 1|. The 80 % interval comes from the spread of held-out errors by kernel table and
by time of the call, so that on unseen shapes its coverage is near 80 % by construction; what borrowing adds is taken
from the very comparison of the second kind, and judges itself there. Points were measured once, which leaves about
3 % of noise. To repeat it with the tables at hand:

```console
$ moesim validate kernels --device h100-sxm --measurements kernels/h100_sxm --held-out
$ moesim validate kernels --device a100-sxm --measurements kernels/a100_sxm --kernels-of h100-sxm
$ moesim validate papers
```
"""


def write_page(accuracy: Mapping[str, float], papers: PaperReport, path: Path) -> list[Path]:
    """Write the page and its charts beside it; returns the files.

    Parameters
    ----------
    accuracy : Mapping of str to float
        As recorded in a baseline [1].
    papers : PaperReport
        What became of the papers' checks and rows.
    path : Path
        The Markdown file; charts go to ``images/`` beside it.
    """
    files = {path: page_text(accuracy, papers), **{path.parent / name: svg for name, svg in charts(accuracy).items()}}
    for file, text in files.items():
        write_file(file, text, OutputError)
    return list(files)


def page_text(accuracy: Mapping[str, float], papers: PaperReport) -> str:
    """Write the page as Markdown, from recorded accuracy [1] and what became of the papers."""
    lines = [_INTRODUCTION]
    for subject in subjects(accuracy):
        device, _, lender = subject.partition(LENT)
        if lender:
            heading = f"## {device}, predicted with the kernels of {lender}"
            told = f"No row of {device} was fitted on. A kernel that {lender} does not have is replaced by the nearest."
        else:
            heading = f"## {device}, unseen shapes"
            told = "Rows held out of the fits."
        lines += [heading, "", told, ""]
        for kind in ("errors", "coverage"):
            alt = _finding(accuracy, subject) if kind == "errors" else _coverage_finding(accuracy, subject)
            lines += [f"![{alt}]({chart_name(subject, kind)})", ""]
        lines += [*_table(accuracy, subject), ""]
    lines += _papers(papers)
    return "\n".join(lines) + "\n"


def subjects(accuracy: Mapping[str, float]) -> list[str]:
    """Devices that accuracy is recorded of, those with kernels of their own first."""
    found = {key.partition("/")[0] for key in accuracy} - {"papers"}
    return sorted(found, key=lambda subject: (LENT in subject, subject))


def rows_of(accuracy: Mapping[str, float], subject: str) -> list[str]:
    """Ops, and parts with an aim of their own, that were compared for a subject."""
    suffix = "/median_ape"
    found = [key[len(subject) + 1 : -len(suffix)] for key in accuracy if key.startswith(f"{subject}/")]
    in_parts = {name.partition("/")[0] for name in AIMS if "/" in name}
    others = [name for name in found if "/" not in name and name not in AIMS and name not in in_parts]
    return [name for name in (*AIMS, *others) if f"{subject}/{name}{suffix}" in accuracy]


def chart_name(subject: str, kind: str) -> str:
    """File of a chart, relative to the page."""
    return f"images/validation-{subject.replace(LENT, '-from-')}-{kind}.svg"


def charts(accuracy: Mapping[str, float]) -> dict[str, str]:
    """Draw the charts of all subjects, by file name."""
    found: dict[str, str] = {}
    for subject in subjects(accuracy):
        names = rows_of(accuracy, subject)
        bars = [
            Bar(
                label=_label(name),
                median=accuracy[f"{subject}/{name}/median_ape"],
                p90=accuracy[f"{subject}/{name}/p90_ape"],
                aim_median=_aims(name, subject)[0],
                aim_p90=_aims(name, subject)[1],
            )
            for name in names
        ]
        shares = [(_label(name), accuracy[f"{subject}/{name}/coverage_80"]) for name in names]
        title = subject.replace(LENT, " with kernels of ")
        found[chart_name(subject, "errors")] = error_chart(
            f"{title}: median and 90th percentile of the error; ticks are aims", bars, _finding(accuracy, subject)
        )
        found[chart_name(subject, "coverage")] = coverage_chart(
            f"{title}: rows inside the 80 % interval", shares, _coverage_finding(accuracy, subject)
        )
    return found


def _aims(name: str, subject: str) -> tuple[float, float]:
    aims = AIMS.get(name, AIM)
    return aims[2:] if LENT in subject else aims[:2]


def _label(name: str) -> str:
    return name.replace("/", ", ").replace("_", " ")


def _finding(accuracy: Mapping[str, float], subject: str) -> str:
    names = rows_of(accuracy, subject)
    met = sum(accuracy[f"{subject}/{name}/median_ape"] <= _aims(name, subject)[0] for name in names)
    return f"{subject.replace(LENT, ' with kernels of ')}: the median error meets its aim for {met} of {len(names)} ops"


def _coverage_finding(accuracy: Mapping[str, float], subject: str) -> str:
    shares = [accuracy[f"{subject}/{name}/coverage_80"] for name in rows_of(accuracy, subject)]
    inside = sum(0.7 <= share <= 0.9 for share in shares)
    title = subject.replace(LENT, " with kernels of ")
    return f"{title}: 70 to 90 % of the rows lie in the 80 % interval for {inside} of {len(shares)} ops"


def _table(accuracy: Mapping[str, float], subject: str) -> Iterator[str]:
    yield "| op | rows | median error | aim | p90 | aim | bias | in 80 % interval |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|"
    for name in rows_of(accuracy, subject):
        key = f"{subject}/{name}"
        median, p90 = _aims(name, subject)
        cells = [
            _label(name),
            marked(f"{key}/rows", f"{accuracy[f'{key}/rows']:,.0f}"),
            marked(f"{key}/median_ape", f"{100 * accuracy[f'{key}/median_ape']:.1f} %"),
            f"{100 * median:.0f} %",
            marked(f"{key}/p90_ape", f"{100 * accuracy[f'{key}/p90_ape']:.1f} %"),
            f"{100 * p90:.0f} %",
            marked(f"{key}/bias", f"{100 * accuracy[f'{key}/bias']:.1f} %"),
            marked(f"{key}/coverage_80", f"{100 * accuracy[f'{key}/coverage_80']:.0f} %"),
        ]
        yield f"| {' | '.join(cells)} |"


def _papers(papers: PaperReport) -> Iterator[str]:
    summary = papers.summary()
    yield "## Papers"
    yield ""
    yield (
        f"**{papers.headline()}.** The rows are all that stand in the tables of figures of {summary['papers']} papers "
        f"and systems; {summary['rows_missed']} are missed, {summary['rows_off']} contradict themselves, "
        f"{summary['rows_fitted']} were fitted to, {summary['rows_quoted']} only repeat what their paper prints, and "
        f"{summary['rows_not_expressible']} have no check yet, or not for all of the row. Serving systems publish "
        "further figures, which are checked too and are no rows."
    )
    yield ""
    yield "| evidence | within | missed | off | fitted, not counted |"
    yield "|---|--:|--:|--:|--:|"
    for evidence, counts in papers.by_evidence().items():
        label = f"{evidence}, not counted" if evidence == "quoted" else evidence
        yield f"| {label} | {' | '.join(map(str, counts))} |"
    yield from _checks("Checks that count", papers.counted)
    yield from _checks("Checks that do not count", [v for v in papers.verdicts if not v.check.counted])
    yield from ("", "### Rows without a check", "", "| paper | rows | what | needs |", "|---|---|---|---|")
    for (paper, reason, needs), rows in papers.without_check().items():
        yield f"| {paper} | {', '.join(rows)} | {reason} | {needs} |"


def _checks(heading: str, verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield from ("", f"### {heading}", "")
    yield "| paper | check | quantity | evidence | published | predicted | unit | error | |"
    yield "|---|---|---|---|--:|--:|---|--:|---|"
    for v in verdicts:
        yield _paper_row(v)
    if any(v.outcome != "within" for v in verdicts):
        yield from ("", "What is known of those that are not met; it moves no count:", "")
    for v in verdicts:
        if v.outcome != "within":
            yield f"* {v.check.check_id}, {v.check.quantity}: {v.check.off or v.check.missed or 'nothing'}."


def _paper_row(v: Verdict) -> str:
    bound = {"equal": "", "at_least": "at least ", "at_most": "at most "}[v.check.kind]
    evidence = f"{v.check.evidence}, fitted" if v.check.fitted else v.check.evidence
    figures = f"{bound}{v.check.published:,.6g} | {v.predicted:,.4g} | {v.check.unit} | {100 * v.error:+.1f} %"
    return f"| {v.paper} | {v.check.check_id} | {v.check.quantity} | {evidence} | {figures} | {v.outcome} |"

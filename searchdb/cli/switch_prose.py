"""Describes a change of the model in sentences: what it would take, how far it is, and what it did."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from searchdb.cli.output import printable
from searchdb.plurals import counted

if TYPE_CHECKING:
    from searchdb.switch.abort import AbortReport
    from searchdb.switch.plan import SwitchPlan
    from searchdb.switch.report import SwitchReport
    from searchdb.switch.state import SwitchStatus

PHASES = {
    "fill": "embedding images",
    "texts": "embedding texts",
    "index": "building the index",
    "change": "changing over",
    "finish": "finishing",
    "abort": "ending the switch",
}
"""What is being done in each phase of a switch."""


def duration(seconds: float) -> str:
    """Return a duration for people, in its two largest units."""
    minutes, hours = round(seconds / 60), int(seconds // 3600)
    if seconds < 60:
        return f"{seconds:,.0f} s"
    if seconds < 3600:
        return f"{minutes} min"
    return f"{hours:,} h {round(seconds % 3600 / 60)} min"


def describe_plan(plan: SwitchPlan) -> str:
    """Return what a switch would take, in a few lines."""
    space = plan.space
    lines = [
        f"model     {printable(plan.model)}: {plan.dimension:,} numbers",
        f"from      {printable(plan.from_model or 'none yet')}",
        f"images    {plan.images:,}, {plan.to_embed:,} of them to embed",
    ]
    if plan.seconds is not None:
        failed = f"; {plan.sample_failed:,} could not be read" if plan.sample_failed else ""
        lines.append(f"time      {duration(plan.seconds)} with one worker, by {counted(plan.sampled, 'image')}{failed}")
    lines.append(
        f"space     {_mb(space.column)} of vectors and {_mb(space.index)} of index; up to {_mb(space.peak)} until "
        "VACUUM has run" + ("" if space.free is None else f"; {_mb(space.free)} are free")
    )
    if not space.fits:
        lines.append("          NOT ENOUGH: free some space first")
    if plan.missing_files:
        which = counted(plan.missing_files, "image has", "images have")
        lines.append(f"missing   {which} no file now, and would leave the search")
    lines += [f"obstacle  {printable(name)}: drop it before, and create it again after" for name in plan.obstacles]
    return "\n".join(lines)


def describe_switch(status: SwitchStatus) -> str:
    """Return how far a switch is, in one line."""
    parts = [
        f"from {printable(status.from_model)} to {printable(status.model)}: {PHASES.get(status.phase, status.phase)}",
        f"{status.done:,} of {counted(status.images, 'image')} done",
    ]
    if status.failed:
        parts.append(f"{status.failed:,} failed")
    if status.seconds_left is not None and status.missing:
        parts.append(f"{status.rate_per_s:,.1f} per second, {duration(status.seconds_left)} left")
    run_by = f"run by process {status.pid} on {printable(status.host)}"
    if not status.alive:
        ends = status.phase == "abort"
        again = "searchdb model switch --abort" if ends else _switch_to(status.model)
        run_by = f"NOT RUNNING since {status.seen_at:%Y-%m-%d %H:%M}: `{again}` goes on"
    return ", ".join([*parts, run_by])


def describe_switched(report: SwitchReport) -> str:
    """Return what a switch did, in one line."""
    if not report.changed:
        return "stopped: the same command goes on with the switch, and --abort ends it"
    if not report.images:
        return (
            f"the collection is empty, and made for {printable(report.model)} now: set SEARCHDB_MODEL="
            f"{_quoted(report.model)} for the first ingest, which otherwise takes the default model"
        )
    moved = f"; {len(report.unembedded):,} could not be embedded and left the search" if report.unembedded else ""
    back = f"; `{_switch_to(report.from_model)}` goes back" if report.from_model else ""
    which = counted(report.images, "image has", "images have")
    return f"{which} the vectors of {printable(report.model)} now{moved}{back}"


def describe_aborted(report: AbortReport) -> str:
    """Return what became of a switch that was ended, in one line."""
    ended = f"the switch to {printable(report.model.name)} was ended"
    if not report.kept:
        return f"{ended}, and its vectors were dropped"
    forget = f"searchdb model forget {_quoted(report.model.name)}"
    return f"{ended}; its vectors are kept, because the collection had them before: `{forget}` drops them"


def _switch_to(model: str) -> str:
    """Return the command that switches to a model."""
    return f"searchdb model switch {_quoted(model)}"


def _quoted(argument: str) -> str:
    return printable(shlex.quote(argument))


def _mb(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"

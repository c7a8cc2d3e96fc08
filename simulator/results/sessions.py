"""What users of conversations see: first tokens by turn, and how long a session takes."""

from __future__ import annotations

import numpy as np

from simulator.arrays import FloatArray
from simulator.results.summary import Records, distribution
from simulator.results.values import SessionSummary
from simulator.results.window import Window
from workloads.requests.trace import RequestTrace
from workloads.requests.turns import follows, own_times, session_columns


def session_summary(trace: RequestTrace, records: Records, window: Window) -> SessionSummary | None:
    """Condense the sessions of a run; ``None`` where no request follows another.

    Parameters
    ----------
    trace : RequestTrace
        Who follows whom.
    records : Records
        When each request was sent and answered.
    window : Window
        What of the run counts: requests for first tokens, and sessions whose first request is among them.
    """
    if not follows(trace):
        return None
    session, turn = session_columns(trace)
    count = int(session.max()) + 1
    begin, end = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(begin, session, records.arrival)
    np.maximum.at(end, session, records.finish)
    turns = np.bincount(session, minlength=count)
    begun = np.zeros(count, np.bool_)
    begun[session[window.requests & (turn == 1)]] = True
    ttft, chosen = records.first_token - records.arrival, window.requests
    return SessionSummary(
        sessions=int(begun.sum()),
        turns_mean=float(turns.mean()),
        ttft_first_s=distribution(ttft[chosen & (turn == 1)]),
        ttft_later_s=distribution(ttft[chosen & (turn > 1)]),
        session_s=distribution((end - begin)[begun]),
        late_turns=late_turns(trace, records.arrival),
    )


def late_turns(trace: RequestTrace, sent: FloatArray) -> int:
    """Count the turns that were sent later than their own times, as the answer before them had not ended [1]."""
    if trace.concurrency is not None or trace.after is None:
        return 0
    later = own_times(trace) & (trace.after >= 0)
    return int((sent[later] > trace.arrival[later] * (1.0 + 1e-12)).sum())

"""What shadow rules would have decided: counted for each rule, and told where it differs from what was decided.

One event on standard error for each rule and decision, at most once a minute, with how often it happened since: a rule
that would shut everybody out must not fill a disk to say so.
"""

from collections.abc import Iterator
from typing import Final

from gateway.errors import Refusal
from gateway.gate.admission import Admission, RequestHead
from gateway.observability.access_log import loggable_path
from gateway.observability.events import Repeats, event
from gateway.policy.route import Route
from gateway.samples import Sample, Tally

ALLOWED: Final = "allowed"
UNKNOWN: Final = "unknown"  # too many lookups were running
# What only the enforced policy says: limits are not tried.
_NOT_TRIED: Final = "rate_limited"


class ShadowLog:
    """The shadow decisions of one process."""

    def __init__(self) -> None:
        self._tally = Tally("gateway_shadow_decisions_total")
        self._repeats = Repeats()

    def samples(self) -> Iterator[Sample]:
        """How often each rule has decided what: `allowed`, or the code of its refusal."""
        return self._tally.samples()

    def undecided(self, rule: Route) -> None:
        self._tally.add(rule.name, UNKNOWN)

    def decided(
        self, rule: Route, request: RequestHead, enforced: Admission | Refusal, verdict: Admission | Refusal
    ) -> None:
        """Count what a rule would have decided, and tell it where it would have made a difference."""
        would = _code(verdict)
        self._tally.add(rule.name, would)
        is_ = _code(enforced)
        passes = is_ in (ALLOWED, _NOT_TRIED)
        if passes == (would == ALLOWED):
            return
        before = self._repeats.admit((rule.name, would))
        if before is None:
            return
        caller = verdict.caller if isinstance(verdict, Refusal) else verdict.principal
        event(
            "shadow",
            "would refuse an allowed request" if passes else "would allow a refused request",
            route=rule.name,
            would=would,
            decided=is_,
            by=enforced.route if isinstance(enforced, Refusal) else enforced.route.name,
            method=request.method.decode("latin-1"),
            path=loggable_path(request.target).decode("latin-1"),
            user=None if caller is None else caller.id,
            request_id=request.request_id.decode("latin-1"),
            repeated=before or None,
        )


def _code(decision: Admission | Refusal) -> str:
    return decision.code if isinstance(decision, Refusal) else ALLOWED

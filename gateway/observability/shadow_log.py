"""Decisions of shadow rules: counted by rule, and logged where they differ from the enforced decision.

Events are limited to one per rule and decision in a minute, with the number of repetitions, because a rule that would
refuse all requests must not fill the disk.
"""

from collections.abc import Iterator
from typing import Final

from gateway.errors import Refusal
from gateway.gate.admission import Admission, RequestHead
from gateway.observability.access_log import loggable_path
from gateway.observability.events import RateLimitedLog, event
from gateway.policy.route import Route
from gateway.samples import LabeledCounter, Sample

ALLOWED: Final = "allowed"
UNKNOWN: Final = "unknown"  # too many lookups were in progress
# Refusals that shadow rules do not model: limits are not evaluated for them.
_NOT_TRIED: Final = "rate_limited"


class ShadowLog:
    """The shadow decisions of one process."""

    def __init__(self) -> None:
        self._tally = LabeledCounter("gateway_shadow_decisions_total")
        self._repeats = RateLimitedLog()

    def samples(self) -> Iterator[Sample]:
        """The number of decisions by rule and outcome: `allowed`, or the code of the refusal."""
        return self._tally.samples()

    def undecided(self, rule: Route) -> None:
        self._tally.add(rule.name, UNKNOWN)

    def decided(
        self, rule: Route, request: RequestHead, enforced: Admission | Refusal, verdict: Admission | Refusal
    ) -> None:
        """Count the decision of a rule, and log it if it would make a difference."""
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

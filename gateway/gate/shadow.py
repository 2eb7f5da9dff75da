"""Evaluate shadow rules beside the gate. Their result never reaches a client.

The enforced policy decides the request first. A second gate, over the same credentials and users, then decides the same
request under the policy that enforces the shadow rules. A lookup that this needs runs beside the request and never
delays it.
"""

import asyncio
import logging
from typing import Final, Protocol

from gateway.errors import Refusal
from gateway.gate.admission import Admission, DirectResponse, PendingDecision, RequestHead
from gateway.gate.gate import Decider, Decision
from gateway.gate.rate_limits import Limits
from gateway.policy.route import Route
from gateway.policy.shadow import Shadows
from gateway.wire.paths import canonical_target

# Concurrent lookups for shadow rules. They use the stores that requests need.
_MOST_LOOKUPS: Final = 32

log: Final = logging.getLogger("gateway.shadowed_gate")


class ShadowListener(Protocol):
    """Receives the decisions of shadow rules."""

    def decided(
        self, rule: Route, request: RequestHead, enforced: Admission | Refusal, verdict: Admission | Refusal
    ) -> None: ...

    def undecided(self, rule: Route) -> None:
        """A decision that was skipped, because too many lookups were running."""


class ShadowEvaluation:
    """A Decider that returns the decisions of `decider` and reports those of the shadow rules.

    `trial` decides under `shadows.shadow_policy`. It counts no rate limits: the enforced gate has counted the request.
    """

    def __init__(self, decider: Decider, trial: Decider, shadows: Shadows, listener: ShadowListener) -> None:
        self.limits: Final[Limits] = decider.limits
        self._decider = decider
        self._trial = trial
        self._shadows = shadows
        self._listener = listener
        self._lookups: set[asyncio.Task[None]] = set()

    def admit(self, request: RequestHead) -> Decision | PendingDecision:
        decision = self._decider.admit(request)
        if not isinstance(decision, PendingDecision):
            self._try(request, decision)
        return decision

    async def resolve(self, waiting: PendingDecision) -> Decision:
        decision = await self._decider.resolve(waiting)
        self._try(waiting.request, decision)
        return decision

    def reevaluate(self, admission: Admission) -> Admission | Refusal | PendingDecision:
        return self._decider.reevaluate(admission)

    def recheck(self, admission: Admission) -> Refusal | PendingDecision | None:
        return self._decider.recheck(admission)

    async def resolve_recheck(self, waiting: PendingDecision) -> Refusal | None:
        return await self._decider.resolve_recheck(waiting)

    def _try(self, request: RequestHead, decision: Decision) -> None:
        """Decide under the shadow rules. An error here must not affect the request."""
        if isinstance(decision, DirectResponse):
            return
        try:
            verdict = self._trial.admit(request)
            if not isinstance(verdict, PendingDecision):
                self._report(request, decision, verdict)
            elif self._shadows.rule(verdict.route.name) is not None:
                self._look_up(request, decision, verdict)
        except Exception:
            log.exception("trying shadow rules failed")

    def _look_up(self, request: RequestHead, decision: Admission | Refusal, waiting: PendingDecision) -> None:
        if len(self._lookups) >= _MOST_LOOKUPS:
            self._listener.undecided(waiting.route)
            return
        task = asyncio.get_running_loop().create_task(self._resolve(request, decision, waiting))
        self._lookups.add(task)
        task.add_done_callback(self._lookups.discard)

    async def _resolve(self, request: RequestHead, decision: Admission | Refusal, waiting: PendingDecision) -> None:
        self._report(request, decision, await self._trial.resolve(waiting))

    def _report(self, request: RequestHead, decision: Admission | Refusal, verdict: Decision) -> None:
        if isinstance(verdict, DirectResponse):
            return
        rule = self._rule_behind(request, verdict)
        if rule is not None:
            self._listener.decided(rule, request, decision, verdict)

    def _rule_behind(self, request: RequestHead, verdict: Admission | Refusal) -> Route | None:
        if isinstance(verdict, Admission):
            return self._shadows.rule(verdict.route.name)
        if verdict.route is not None:
            return self._shadows.rule(verdict.route)
        if verdict.code not in ("no_route", "method_not_allowed"):
            return None
        target = canonical_target(request.target, relaxed=self._shadows.shadow_policy.relaxed)
        return self._shadows.rule_causing_miss(verdict.code, request.fields.canonical_host, target)

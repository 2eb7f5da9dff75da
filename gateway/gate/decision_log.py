"""Wrap the gate to record decisions. Not installed when the decision log is off."""

from typing import Final, Protocol

from gateway.errors import Refusal
from gateway.gate.admission import Admission, PendingDecision, RequestHead
from gateway.gate.gate import Decider, Decision
from gateway.gate.rate_limits import Limits
from gateway.policy.policy import Policy
from gateway.policy.route import Route


class DecisionListener(Protocol):
    """Receives final decisions. `route` is the route that refused, if any; `ended` marks the end of a request that was
    admitted before."""

    def allowed(self, admission: Admission) -> None: ...

    def refused(self, refusal: Refusal, request: RequestHead, route: Route | None, *, ended: bool = False) -> None: ...


class DecisionLogging:
    """A Decider that reports each decision of `decider` once it is final."""

    def __init__(self, decider: Decider, listener: DecisionListener, policy: Policy) -> None:
        self.limits: Final[Limits] = decider.limits
        self._decider = decider
        self._listener = listener
        self._routes: dict[str, Route] = {route.name: route for route in (*policy.own, *policy.routes)}

    def admit(self, request: RequestHead) -> Decision | PendingDecision:
        decision = self._decider.admit(request)
        self._report(decision, request)
        return decision

    async def resolve(self, waiting: PendingDecision) -> Decision:
        decision = await self._decider.resolve(waiting)
        self._report(decision, waiting.request)
        return decision

    def reevaluate(self, admission: Admission) -> Admission | Refusal | PendingDecision:
        decision = self._decider.reevaluate(admission)
        if isinstance(decision, Refusal):
            self._listener.refused(decision, admission.request, self._routes.get(decision.route or ""), ended=True)
        return decision

    def recheck(self, admission: Admission) -> Refusal | PendingDecision | None:
        verdict = self._decider.recheck(admission)
        if isinstance(verdict, Refusal):
            self._listener.refused(verdict, admission.request, admission.route, ended=True)
        return verdict

    async def resolve_recheck(self, waiting: PendingDecision) -> Refusal | None:
        refusal = await self._decider.resolve_recheck(waiting)
        if refusal is not None:
            self._listener.refused(refusal, waiting.request, waiting.route, ended=True)
        return refusal

    def _report(self, decision: Decision | PendingDecision, request: RequestHead) -> None:
        if isinstance(decision, Admission):
            self._listener.allowed(decision)
        elif isinstance(decision, Refusal):
            self._listener.refused(decision, request, self._routes.get(decision.route or ""))

"""A gate that tells the decision log what it decides. Where there is no such log, requests meet the plain one, and pay
for nothing."""

from functools import partial
from typing import Any, Protocol

from gateway.admission import Admission, RequestHead, Waiting
from gateway.errors import Refusal
from gateway.gate import Decision, Gate
from gateway.identity.credentials import Credentials
from gateway.identity.directory import Directory
from gateway.limits.limits import Limits
from gateway.operations.decision_log import DecisionLog
from gateway.operations.shadow_log import ShadowLog
from gateway.policy.matcher import Policy
from gateway.policy.route import Route
from gateway.policy.shadows import shadows_of
from gateway.shadowed_gate import ShadowedGate


class GateMaker(Protocol):
    """Makes the gate of one policy."""

    def __call__(
        self, *, policy: Policy, credentials: Credentials, directory: Directory, limits: Limits, relaxed: bool
    ) -> Gate: ...


class LoggedGate(Gate):
    """The gate, with every decision noted once it is final."""

    def __init__(self, log: DecisionLog, *, policy: Policy, **others: Any) -> None:
        super().__init__(policy=policy, **others)
        self._log = log
        self._routes: dict[str, Route] = {route.name: route for route in (*policy.own, *policy.routes)}

    def admit(self, request: RequestHead) -> Decision | Waiting:
        decision = super().admit(request)
        self._note(decision, request)
        return decision

    async def conclude(self, waiting: Waiting) -> Decision:
        decision = await super().conclude(waiting)
        self._note(decision, waiting.request)
        return decision

    def readmit(self, admission: Admission) -> Admission | Refusal | Waiting:
        decision = super().readmit(admission)
        if isinstance(decision, Refusal):
            self._log.refused(decision, admission.request, self._routes.get(decision.route or ""), ended=True)
        return decision

    def reconsider(self, admission: Admission) -> Refusal | Waiting | None:
        verdict = super().reconsider(admission)
        if isinstance(verdict, Refusal):
            self._log.refused(verdict, admission.request, admission.route, ended=True)
        return verdict

    async def reconclude(self, waiting: Waiting) -> Refusal | None:
        refusal = await super().reconclude(waiting)
        if refusal is not None:
            self._log.refused(refusal, waiting.request, waiting.route, ended=True)
        return refusal

    def _note(self, decision: Decision | Waiting, request: RequestHead) -> None:
        if isinstance(decision, Admission):
            self._log.allowed(decision)
        elif isinstance(decision, Refusal):
            self._log.refused(decision, request, self._routes.get(decision.route or ""))


def gate_maker(log: DecisionLog | None) -> GateMaker:
    """What makes the gates of a process: with a decision log, those that tell it."""
    return Gate if log is None else partial(LoggedGate, log)


def shadowing(make: GateMaker, shadow_log: ShadowLog) -> GateMaker:
    """What makes gates that ask shadow rules as well, where a policy has some."""

    def made(**parts: Any) -> Gate:
        enforced = make(**parts)
        shadows = shadows_of(parts["policy"])
        return enforced if shadows is None else ShadowedGate(enforced, shadows, shadow_log, **parts)

    return made

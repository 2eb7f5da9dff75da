"""Wraps the gate to record decisions. Not installed when the decision log is off."""

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
    """A factory for the gate of a policy."""

    def __call__(
        self, *, policy: Policy, credentials: Credentials, directory: Directory, limits: Limits, relaxed: bool
    ) -> Gate: ...


class LoggedGate(Gate):
    """A gate that records every final decision."""

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
    """The gate factory of a process, with a decision log if configured."""
    return Gate if log is None else partial(LoggedGate, log)


def shadowing(make: GateMaker, shadow_log: ShadowLog) -> GateMaker:
    """A gate factory that adds shadow evaluation for policies with shadow rules."""

    def made(**parts: Any) -> Gate:
        enforced = make(**parts)
        shadows = shadows_of(parts["policy"])
        return enforced if shadows is None else ShadowedGate(enforced, shadows, shadow_log, **parts)

    return made

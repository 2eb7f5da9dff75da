"""Build what decides under a policy: the gate, and around it the decision log and shadow rules where configured."""

from gateway.gate.decision_log import DecisionListener, DecisionLogging
from gateway.gate.gate import Decider, Gate
from gateway.gate.rate_limits import Limits
from gateway.gate.shadow import ShadowEvaluation, ShadowListener
from gateway.identity.credentials import Authenticator
from gateway.identity.directory import Directory
from gateway.identity.session_verifier import SessionVerifier
from gateway.policy.policy import Policy
from gateway.policy.shadow import Shadows


class GateFactory:
    """Builds deciders over the credentials and the users of one process. `sessions` is None without sessions,
    `decisions` without a decision log."""

    def __init__(
        self,
        credentials: Authenticator,
        directory: Directory,
        *,
        sessions: SessionVerifier | None,
        decisions: DecisionListener | None,
        shadow_decisions: ShadowListener,
    ) -> None:
        self._credentials = credentials
        self._directory = directory
        self._sessions = sessions
        self._decisions = decisions
        self._shadow_decisions = shadow_decisions

    def build(self, policy: Policy, shadows: Shadows | None, limits: Limits) -> Decider:
        decider: Decider = self._gate(policy, limits)
        if self._decisions is not None:
            decider = DecisionLogging(decider, self._decisions, policy)
        if shadows is not None:
            # The trial counts no rate limits: each request would use up its limit twice.
            trial = self._gate(shadows.shadow_policy, Limits(()))
            decider = ShadowEvaluation(decider, trial, shadows, self._shadow_decisions)
        return decider

    def _gate(self, policy: Policy, limits: Limits) -> Gate:
        return Gate(
            policy=policy,
            credentials=self._credentials,
            directory=self._directory,
            limits=limits,
            sessions=self._sessions,
        )

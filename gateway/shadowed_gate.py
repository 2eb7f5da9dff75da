"""A gate that also evaluates shadow rules and logs their decisions, which never affect a response.

The enforced gate decides the request alone. Afterwards a second gate, with the same credentials and users, decides the
same request under the policy with shadow rules enforced. Its store lookups run in the background and do not delay the
request.
"""

import asyncio
import logging
from typing import Any, Final

from gateway.admission import Admission, Answered, RequestHead, Waiting
from gateway.errors import Refusal
from gateway.gate import Decision, Gate
from gateway.limits.limits import Limits
from gateway.operations.shadow_log import UNKNOWN, ShadowLog
from gateway.policy.route import Route
from gateway.policy.shadows import Shadows
from gateway.wire.paths import canonical_target

# Concurrent lookups for shadow rules, which compete with requests for the stores.
_AT_ONCE: Final = 32

log: Final = logging.getLogger("gateway.shadowed_gate")


class ShadowedGate(Gate):
    """Decides like `enforced`, shares its limits, and logs the decisions of the trial policy."""

    def __init__(self, enforced: Gate, shadows: Shadows, shadow_log: ShadowLog, **parts: Any) -> None:
        super().__init__(**parts)
        self._enforced = enforced
        self._shadows = shadows
        self._log = shadow_log
        self._relaxed = shadows.trial.relaxed
        # The trial has no rate limits: counting a request twice would consume the quota twice.
        self._trial = Gate(**{**parts, "policy": shadows.trial, "limits": Limits(())})
        self._lookups: set[asyncio.Task[None]] = set()

    def admit(self, request: RequestHead) -> Decision | Waiting:
        decision = self._enforced.admit(request)
        if not isinstance(decision, Waiting):
            self._try(request, decision)
        return decision

    async def conclude(self, waiting: Waiting) -> Decision:
        decision = await self._enforced.conclude(waiting)
        self._try(waiting.request, decision)
        return decision

    def readmit(self, admission: Admission) -> Admission | Refusal | Waiting:
        return self._enforced.readmit(admission)

    def reconsider(self, admission: Admission) -> Refusal | Waiting | None:
        return self._enforced.reconsider(admission)

    async def reconclude(self, waiting: Waiting) -> Refusal | None:
        return await self._enforced.reconclude(waiting)

    def _try(self, request: RequestHead, decision: Decision) -> None:
        """Evaluate the shadow rules. Errors here do not affect the request."""
        if isinstance(decision, Answered):
            return
        try:
            verdict = self._trial.admit(request)
            if not isinstance(verdict, Waiting):
                self._tell(request, decision, verdict)
            elif self._shadows.rule(verdict.route.name) is not None:
                self._look_up(request, decision, verdict)
        except Exception:
            log.exception("evaluating shadow rules failed")

    def _look_up(self, request: RequestHead, decision: Decision, waiting: Waiting) -> None:
        if len(self._lookups) >= _AT_ONCE:
            self._log.tried(waiting.route, UNKNOWN)
            return
        task = asyncio.get_running_loop().create_task(self._conclude(request, decision, waiting))
        self._lookups.add(task)
        task.add_done_callback(self._lookups.discard)

    async def _conclude(self, request: RequestHead, decision: Decision, waiting: Waiting) -> None:
        self._tell(request, decision, await self._trial.conclude(waiting))

    def _tell(self, request: RequestHead, decision: Decision, verdict: Decision) -> None:
        rule = self._due_to(request, verdict)
        if rule is None or isinstance(verdict, Answered) or isinstance(decision, Answered):
            return
        self._log.decided(rule, request, decision, verdict)

    def _due_to(self, request: RequestHead, verdict: Decision) -> Route | None:
        if isinstance(verdict, Admission):
            return self._shadows.rule(verdict.route.name)
        if not isinstance(verdict, Refusal):
            return None
        if verdict.route is not None:
            return self._shadows.rule(verdict.route)
        if verdict.code not in ("no_route", "method_not_allowed"):
            return None
        target = canonical_target(request.target, relaxed=self._relaxed)
        return self._shadows.without_route(verdict.code, request.fields.canonical_host, target)

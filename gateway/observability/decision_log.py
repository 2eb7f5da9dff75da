"""The decision log: one line per refusal, and for a share of the allowed requests.

A line is JSON on standard output among those of the access log; only decisions have the key `decision`. It contains the
same facts as `gateway explain`: the route and its requirements, the caller with its roles, the code, and the reason,
which clients never see. Values of clients are escaped. Lines contain no query, token or header.
"""

import secrets
from collections.abc import Callable
from typing import Final

from gateway.errors import Caller, Refusal
from gateway.gate.admission import Admission, RequestHead
from gateway.observability.access_log import NO_ROLES, json_host, json_method, json_roles, loggable_path
from gateway.observability.escaping import quoted, without_tokens
from gateway.policy.route import Route
from gateway.settings.model import DecisionLogSettings

_FINE: Final = 1 << 30


def _by_chance() -> float:
    """A number from 0 to 1, from an unpredictable source (CVE-2024-21495)."""
    return secrets.randbelow(_FINE) / _FINE


class DecisionLog:
    """Formats the lines of decisions and passes them to `say`, without the time. `version` returns the version of the
    policy in force, `draw` numbers from 0 to 1."""

    def __init__(
        self,
        settings: DecisionLogSettings,
        say: Callable[[str], None],
        *,
        version: Callable[[], str],
        draw: Callable[[], float] = _by_chance,
    ) -> None:
        self._refusals = settings.refusals
        self._share = settings.allows
        self._say = say
        self._version = version
        self._draw = draw

    def refused(self, refusal: Refusal, request: RequestHead, route: Route | None, *, ended: bool = False) -> None:
        """Log a refusal. `ended`: an admitted request or connection was ended."""
        if self._refusals:
            self._say(
                f'"decision":"{"ended" if ended else "refused"}"{_of(request, loggable_path(request.target))}'
                f"{_outcome(refusal.route or '', refusal)}{_caller(refusal.caller)}{_requirement(route)}"
                f',"policy":{quoted(self._version())}'
            )

    def endpoint_refused(self, refusal: Refusal, admission: Admission) -> None:
        """Log a refusal by a built-in endpoint, after the gate admitted the request."""
        refusal.route, refusal.caller = admission.route.name, admission.principal
        self.refused(refusal, admission.request, admission.route)

    def allowed(self, admission: Admission) -> None:
        """Log an allowed request if it is sampled."""
        if self._share and self._draw() < self._share:
            self._say(
                f'"decision":"allowed"{_of(admission.request, admission.target.path)}'
                f"{_outcome(admission.route.name, None)}{_caller(admission.principal)}"
                f'{_requirement(admission.route)},"policy":{quoted(self._version())}'
            )


def _of(request: RequestHead, path: bytes) -> str:
    return (
        f',"request_id":{quoted(without_tokens(request.request_id.decode("latin-1")))}'
        f',"client":{quoted(request.client)}{json_host(request.fields.canonical_host)}'
        f"{json_method(request.method)}{quoted(without_tokens(path.decode('latin-1')))}"
    )


def _outcome(route: str, refusal: Refusal | None) -> str:
    if refusal is None:
        return f',"route":{quoted(route)},"status":null,"code":"","reason":""'
    return (
        f',"route":{quoted(route)},"status":{refusal.status},"code":{quoted(refusal.code)}'
        f',"reason":{quoted(refusal.reason or refusal.detail)}'
    )


def _caller(caller: Caller | None) -> str:
    if caller is None:
        return f',"user":""{json_roles(NO_ROLES)}'
    return f',"user":{quoted(caller.id)}{json_roles(caller.own_roles)}'


def _requirement(route: Route | None) -> str:
    """The requirements of the route, in the words of the configuration."""
    if route is None:
        return ',"asks":null'
    requirement = route.requirement
    roles = "".join(
        f',"{name}":[{",".join(map(quoted, sorted(group)))}]'
        for name, group in (("any", requirement.any), ("all", requirement.all))
        if group is not None
    )
    owner = "" if requirement.owner is None else f',"owner":{quoted(requirement.owner)}'
    return f',"asks":{{"auth":{quoted(route.authentication)}{roles}{owner}}}'

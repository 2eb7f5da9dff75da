"""Policies for tests, built from a configuration file or from routes alone."""

from collections.abc import Mapping, Sequence

import yaml

from gateway.errors import ConfigurationError, Refusal
from gateway.policy.loader import compile_policy
from gateway.policy.policy import Match, Policy
from gateway.settings.loader import read_content
from gateway.settings.model import Settings
from gateway.wire.paths import canonical_target

Routes = Sequence[Mapping[str, object]]


def settings_of(routes: Routes = (), **others: object) -> Settings:
    """Settings of a file with these routes (upstream `web`) and other sections."""
    listed = [{"upstream": "web", **route} for route in routes]
    document = {"upstreams": {"web": "http://127.0.0.1:9000"}, "routes": listed, **others}
    draft = read_content(yaml.safe_dump(document, sort_keys=False).encode(), "gateway.yaml", {})
    assert draft.settings is not None, draft.problems
    return draft.settings


def policy_of(routes: Routes = (), *, relaxed: bool = False, **others: object) -> Policy:
    """The policy of these routes."""
    paths = "relaxed" if relaxed else "strict"
    return compile_policy(settings_of(routes, server={"paths": paths}, **others))


def patterns(*texts: str, **others: object) -> Policy:
    """A policy of open routes for these patterns, each named by its pattern."""
    return policy_of([{"path": text, "auth": "none"} for text in texts], **others)  # type: ignore[arg-type]


def problems_of(routes: Routes, **others: object) -> list[str]:
    """The problems of the policy of these routes, as `KEY.PATH: message`."""
    try:
        compile_policy(settings_of(routes, **others))
    except ConfigurationError as error:
        return [f"{problem.key}: {problem.message}" for problem in error.problems]
    return []


def matched(
    policy: Policy, target: bytes, method: bytes = b"GET", *, host: bytes | None = None, relaxed: bool = False
) -> Match:
    """The match for a raw request target. Raises the refusals of path and policy."""
    return policy.match(host, canonical_target(target, relaxed=relaxed), method)


def outcome(
    policy: Policy, target: bytes, method: bytes = b"GET", *, host: bytes | None = None, relaxed: bool = False
) -> str:
    """The name of the matching route, or the error code."""
    try:
        return matched(policy, target, method, host=host, relaxed=relaxed).route.name
    except Refusal as refusal:
        return refusal.code

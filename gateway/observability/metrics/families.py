"""All metrics: name, kind, description, labels, and the aggregation over workers.

The metrics page is generated from this table. Tests check the list in docs/operations.md and the queries in deploy/
(dashboard and alert rules) against it.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]


class Family(NamedTuple):
    """A metric. `together` aggregates a gauge over workers; counters and histograms are added."""

    name: str
    kind: Kind
    about: str
    labels: tuple[str, ...] = ()
    together: Callable[[float, float], float] = float.__add__


_TARGET: Final = ("upstream", "target")

_ALL: Final = (
    Family(
        "gateway_requests_total",
        "counter",
        "Finished requests by status class; 499: the client disconnected before the response. The code is that "
        "of the refusal.",
        ("route", "method", "status", "code"),
    ),
    Family(
        "gateway_request_duration_seconds",
        "histogram",
        "From the request head to the end of the response, without WebSockets.",
        ("route",),
    ),
    Family(
        "gateway_own_duration_seconds",
        "histogram",
        "From the request head until the request was forwarded to an upstream, or answered by the gateway itself.",
        ("route",),
    ),
    Family(
        "gateway_upstream_duration_seconds",
        "histogram",
        "From the request forwarded to an upstream to the head of its response.",
        ("route",),
    ),
    Family("gateway_connections", "gauge", "Client connections."),
    Family("gateway_upstream_requests_total", "counter", "Requests given to a target, with retries.", _TARGET),
    Family("gateway_upstream_connections", "gauge", "Connections to a target.", (*_TARGET, "state")),
    Family("gateway_upstream_waiting", "gauge", "Requests waiting for a connection to a target.", _TARGET),
    Family(
        "gateway_upstream_target_up",
        "gauge",
        "1 while the target passes the health checks of every worker, or has none.",
        _TARGET,
        min,
    ),
    Family(
        "gateway_upstream_target_ejected",
        "gauge",
        "1 while a worker ejects the target after failed requests. It receives requests during panic only.",
        _TARGET,
        max,
    ),
    Family(
        "gateway_upstream_target_failing",
        "gauge",
        "1 while enough consecutive requests have failed in a worker to eject the target, even if it stays as "
        "the last usable one.",
        _TARGET,
        max,
    ),
    Family(
        "gateway_upstream_panic",
        "gauge",
        "1 while fewer than half of the targets are usable for a worker, which then ignores ejections.",
        ("upstream",),
        max,
    ),
    Family(
        "gateway_upstream_failures_total",
        "counter",
        "Failures of a target: connect errors, time-outs, responses that are not HTTP, and statuses listed in `eject`.",
        _TARGET,
    ),
    Family(
        "gateway_cross_site_refused_total",
        "counter",
        "Requests with a cookie that did not prove to come from an own page.",
        ("route",),
    ),
    Family("gateway_upstream_ejections_total", "counter", "Ejections of a target.", _TARGET),
    Family("gateway_upstream_retries_total", "counter", "Retried requests.", ("upstream",)),
    Family(
        "gateway_upstream_retries_refused_total",
        "counter",
        "Requests that were not retried because the retry budget was exhausted.",
        ("upstream",),
    ),
    Family(
        "gateway_upstream_cookies_dropped_total",
        "counter",
        "Fields by which an upstream tried to set or clear cookies of the gateway.",
        ("upstream",),
    ),
    Family(
        "gateway_cache_lookups_total",
        "counter",
        "Lookups by level (token, session, local, redis, database) and result (hit, miss). Each miss continues at the "
        "next level.",
        ("level", "result"),
    ),
    Family("gateway_store_up", "gauge", "1 while every worker can use the store.", ("store",), min),
    Family(
        "gateway_revocation_lag_seconds",
        "histogram",
        "From the announcement of a user's change to its effect in a worker, by Redis's clock.",
    ),
    Family(
        "gateway_redis_feed_lag_seconds",
        "gauge",
        "The delay of change messages, of the slowest worker. Above 0.1 the gateway bypasses its copies of records.",
        (),
        max,
    ),
    Family(
        "gateway_redis_rejected_total",
        "counter",
        "Records and messages in Redis that no key of the gateway authenticates, by kind (record, message).",
        ("kind",),
    ),
    Family(
        "gateway_shadow_decisions_total",
        "counter",
        "Decisions of shadow rules: allowed, the code of a refusal, or unknown.",
        ("route", "decision"),
    ),
    Family("gateway_policy_info", "gauge", "The version of the policy in force; always 1.", ("version",), max),
    Family("gateway_sessions_begun_total", "counter", "Sessions of browsers that began, by kind.", ("kind",)),
    Family("gateway_sign_ins_total", "counter", "Sign-ins, by method and outcome.", ("method", "outcome")),
    Family("gateway_logins_total", "counter", "Logins: success, or the code of the refusal.", ("outcome",)),
    Family(
        "gateway_lockouts_total",
        "counter",
        "Bans after failed logins, by account and address together (account) or by address.",
        ("scope",),
    ),
    Family("gateway_passwords_waiting", "gauge", "Passwords waiting for a bcrypt thread."),
    Family("gateway_password_wait_seconds", "histogram", "The time that passwords waited for a bcrypt thread."),
    Family("gateway_password_work_seconds", "histogram", "The time that bcrypt took for a password."),
    Family(
        "gateway_mail_total",
        "counter",
        "Attempts to send mail by kind and outcome: sent, retried, refused (by the server, permanently), expired.",
        ("kind", "outcome"),
    ),
    Family("gateway_mail_waiting", "gauge", "Mails that wait in the outbox.", (), max),
    Family("gateway_mail_oldest_seconds", "gauge", "The age of the oldest mail that waits in the outbox.", (), max),
    Family(
        "gateway_links_used_total",
        "counter",
        "Presented links by kind and outcome (used, invalid).",
        ("kind", "outcome"),
    ),
    Family("gateway_event_loop_lag_seconds", "histogram", "The delay of the event loop's tick."),
    Family("gateway_tasks", "gauge", "Tasks of the event loops. A proxied request needs none."),
    Family("gateway_access_log_dropped_total", "counter", "Dropped lines of the access log."),
    Family("gateway_workers", "gauge", "Running worker processes."),
    Family("gateway_build_info", "gauge", "The running version; always 1.", ("version", "python", "build"), max),
    Family("process_start_time_seconds", "gauge", "The start of the first worker, since the epoch.", (), min),
    Family("process_cpu_seconds_total", "counter", "CPU time used by the workers, user and system."),
    Family("process_resident_memory_bytes", "gauge", "Resident memory of the workers."),
)

FAMILIES: Final[Mapping[str, Family]] = {family.name: family for family in _ALL}

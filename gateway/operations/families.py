"""Every metric there is: its name, kind and text, its labels, and what the values of several workers are together.

This table is what the page is made by, what docs/operations.md lists, and what the queries of the dashboard and the
alert rules in deploy/ are checked against.
"""

from collections.abc import Callable, Mapping
from typing import Final, Literal, NamedTuple

Kind = Literal["counter", "gauge", "histogram"]


class Family(NamedTuple):
    """`together` makes one gauge of those of several workers; counters and histograms are always added."""

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
        "Finished requests by class of status; 499: the caller left before an answer was made. "
        "The code is that of the refusal.",
        ("route", "method", "status", "code"),
    ),
    Family(
        "gateway_request_duration_seconds",
        "histogram",
        "From the request head to the end of the answer, WebSockets apart.",
        ("route",),
    ),
    Family(
        "gateway_own_duration_seconds",
        "histogram",
        "From the request head until it was sent to an upstream, or answered by the gateway itself.",
        ("route",),
    ),
    Family(
        "gateway_upstream_duration_seconds",
        "histogram",
        "From the request sent to an upstream to the head of its answer.",
        ("route",),
    ),
    Family("gateway_connections", "gauge", "Connections of callers."),
    Family("gateway_upstream_connections", "gauge", "Connections to a target.", (*_TARGET, "state")),
    Family("gateway_upstream_waiting", "gauge", "Requests that wait for a connection to a target.", _TARGET),
    Family(
        "gateway_upstream_target_up",
        "gauge",
        "1 while the health checks of every worker find the target well, or there are none.",
        _TARGET,
        min,
    ),
    Family(
        "gateway_upstream_target_ejected",
        "gauge",
        "1 while a worker ejects the target because too many requests failed. It gets requests during panic only.",
        _TARGET,
        max,
    ),
    Family(
        "gateway_upstream_target_failing",
        "gauge",
        "1 while so many requests in a row have failed in a worker that the target is ejected, or would be if it were "
        "not the last usable one.",
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
        "Failures of a target: connect errors, time-outs, answers that are not HTTP, and statuses that `eject` names.",
        _TARGET,
    ),
    Family("gateway_upstream_ejections_total", "counter", "How often a target was ejected.", _TARGET),
    Family("gateway_upstream_retries_total", "counter", "Requests that were sent once more.", ("upstream",)),
    Family(
        "gateway_upstream_retries_refused_total",
        "counter",
        "Requests that were not sent once more because the retry budget was spent.",
        ("upstream",),
    ),
    Family(
        "gateway_cache_lookups_total",
        "counter",
        "Look-ups by level (token, local, redis, database) and result (hit, miss). Each miss goes to the next level.",
        ("level", "result"),
    ),
    Family("gateway_store_up", "gauge", "1 while every worker can use the store.", ("store",), min),
    Family(
        "gateway_revocation_lag_seconds",
        "histogram",
        "From a change of a user being announced to its being applied by a worker, by Redis's clock.",
    ),
    Family(
        "gateway_redis_feed_lag_seconds",
        "gauge",
        "How late messages about changes arrive, of the slowest worker. Over 0.1 no copy of a record is used.",
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
        "What shadow rules would have decided: allowed, the code of a refusal, or unknown.",
        ("route", "decision"),
    ),
    Family("gateway_policy_info", "gauge", "The version of the policy in force; always 1.", ("version",), max),
    Family("gateway_logins_total", "counter", "Logins: success, or the code of the refusal.", ("outcome",)),
    Family(
        "gateway_lockouts_total",
        "counter",
        "Bans that began after failed logins, by account and address together (account) or by address.",
        ("scope",),
    ),
    Family("gateway_passwords_waiting", "gauge", "Passwords that wait for a bcrypt thread."),
    Family("gateway_password_wait_seconds", "histogram", "How long passwords waited for a bcrypt thread."),
    Family("gateway_password_work_seconds", "histogram", "How long bcrypt took for a password."),
    Family("gateway_event_loop_lag_seconds", "histogram", "How late the event loop comes to its tick."),
    Family("gateway_tasks", "gauge", "Tasks of the event loops. A proxied request needs none."),
    Family("gateway_access_log_dropped_total", "counter", "Lines of the access log that nobody took."),
    Family("gateway_workers", "gauge", "Worker processes that serve."),
    Family("gateway_build_info", "gauge", "The version that runs; always 1.", ("version", "python"), max),
    Family("process_start_time_seconds", "gauge", "When the first worker started, since the epoch.", (), min),
    Family("process_cpu_seconds_total", "counter", "CPU time that the workers used, user and system."),
    Family("process_resident_memory_bytes", "gauge", "Memory that the workers hold."),
)

FAMILIES: Final[Mapping[str, Family]] = {family.name: family for family in _ALL}

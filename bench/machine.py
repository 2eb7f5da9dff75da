"""The circumstances of a measurement: machine, versions and load. Without them, figures cannot be compared."""

import datetime
import os
import platform
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import psutil

PACKAGES = ("gateway", "uvicorn", "uvloop", "httptools", "starlette", "httpx", "pyjwt", "cryptography")


def facts() -> dict[str, object]:
    """The machine and the interpreter, without host name, user or paths."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cpus": os.cpu_count() or 1,
        "virtual": _is_virtual(),
        "memory_mib": psutil.virtual_memory().total // (1024 * 1024),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        # Only True is meaningful: distributions can optimise without leaving a trace in CONFIG_ARGS.
        "python_optimised": "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or "") or None,
    }


def package_versions() -> dict[str, str]:
    """Versions of the Python packages on the measured path."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def commit() -> str | None:
    """The measured commit, with `+changes` for a modified work tree; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent
    described = _output(["git", "-C", str(root), "rev-parse", "--short", "HEAD"])
    if not described:
        return None
    dirty = _output(["git", "-C", str(root), "status", "--porcelain", "--", "gateway", "bench"])
    return f"{described}+changes" if dirty else described


def load_average() -> float:
    """The load average of the last minute. Above the number of CPUs, other work disturbed the measurement."""
    return round(os.getloadavg()[0], 2)


def split_cpus() -> tuple[frozenset[int] | None, frozenset[int] | None]:
    """CPUs for the proxy, and for load and upstream; (None, None) if pinning is impossible."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    cpus = sorted(os.sched_getaffinity(0))
    return (frozenset(cpus[:1]), frozenset(cpus[1:2])) if len(cpus) > 1 else (None, None)


def first_line(command: list[str]) -> str:
    """The first line of a program's version output, on either stream."""
    return (_output(command) or "unknown").splitlines()[0]


def _output(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout.strip() or done.stderr.strip()) if done.returncode == 0 else ""


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or "unknown")


def _is_virtual() -> bool | None:
    info = Path("/proc/cpuinfo")
    return " hypervisor" in info.read_text() if sys.platform == "linux" and info.exists() else None

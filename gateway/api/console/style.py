"""The style sheet of the console, and the Content Security Policy that allows browsers nothing else."""

import base64
import hashlib
from typing import Final

STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --dim: #888; --good: #2a7d2a; --bad: #c0392b; --some: #b7791f }
* { box-sizing: border-box }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1rem 1.5rem 3rem }
header { display: flex; gap: 1.5rem; align-items: baseline; padding-bottom: .5rem;
  border-bottom: 1px solid var(--line) }
header b { font-size: 1.1rem } header form { margin-left: auto }
nav { display: flex; gap: 1rem } nav a { color: inherit }
nav a[aria-current] { font-weight: 600; text-decoration: none }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { color: var(--dim); font-weight: 500 } td.n, th.n { text-align: right }
code, td:first-child { font-family: ui-monospace, monospace; font-size: .92em; overflow-wrap: anywhere }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem } dt { color: var(--dim) } dd { margin: 0; font-size: 1.25rem }
label { display: block; margin: .5rem 0 }
input, select { font: inherit; padding: .3rem .5rem; width: 24rem; max-width: 100% }
button { font: inherit; padding: .3rem .9rem; cursor: pointer }
.good { color: var(--good) } .bad { color: var(--bad) } .some { color: var(--some) } .dim { color: var(--dim) }
.scroll { overflow-x: auto }
"""

_DIGEST: Final = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

HEADERS: Final = {
    "content-security-policy": f"default-src 'none'; style-src 'sha256-{_DIGEST}'; img-src data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",  # without a referrer the Origin of the console's own form would be null
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

"""What docs/configuration.md says before its tables."""

from typing import Final

INTRODUCTION: Final = r"""# Configuration

<!-- Made by `python -m gateway.settings.reference`. Change the model and gateway/settings/reference_text.py. -->

One YAML file says everything: `config/gateway.yaml`, else what `--config FILE` or the environment variable
`GATEWAY_CONFIG` names. A file that works and shows most of it is [config/gateway.yaml](../config/gateway.yaml).
Relative paths in it are taken from the working directory.

Editors complete and check it with [config/schema.json](../config/schema.json), which `gateway schema` prints too:

```yaml
# yaml-language-server: $schema=schema.json
```

## Problems

`gateway check` finds every problem at once, each with the line and column of its value:

```text
config/gateway.yaml:2:3: server.prot: is not a key that is known here, found 'prot' (did you mean port?)
config/gateway.yaml:3:13: server.max_body: must be a size from 1B to 1TiB, or 0 for no limit, found '10MB' (10MiB)
config/gateway.yaml:14:15: routes[2].upstream: 'billing' is not defined (known: api, web)
```

A file with a problem is never served. Secrets do not appear in problems: not the value of a secret key, not what came
from a file or from a variable with a name like `DB_PASSWORD`, and no password of an address.

## YAML

The rules are those of YAML 1.2, and stricter where they leave room for accidents:

- Strings stay strings: `no`, `on`, `off`, `12:30` and `1.2.3` are never turned into something else. Only `true` and
  `false` are booleans, only decimal numbers are numbers (`010` is ten; `0x1F` and `0o17` are strings), and `null`,
  `~` or nothing is null.
- What is in quotes is a string. Where a string is due, a number or a boolean without quotes is a problem.
- A key that stands twice in one mapping is a problem, and so is a second document, a tag, a merge key (`<<`), text
  that is not UTF-8, and aliases that contain themselves or stand for more than 100,000 values.

**Durations** are a whole number and a unit: `250ms`, `10s`, `15m`, `1h`, `14d`; at most `3650d`.
**Sizes** are a whole number and a unit, `512B`, `64KiB`, `10MiB`, `1GiB`, `1TiB`, or a number of bytes.

## Placeholders

In any value (not in keys):

| Placeholder | Stands for |
|---|---|
| `${NAME}` | The environment variable. If it is not set, that is a problem at this line. |
| `${NAME:-default}` | The same, or the default if it is not set or empty. |
| `${file:PATH}` | The content of a file of at most 1 MiB, without the white space around it. |
| `$${` | A literal `${`. |

A value that is put in is not searched for placeholders again. In the user and password of an address it is
percent-encoded, so `postgresql://gateway:${file:/run/secrets/db-password}@db/gateway` works with any password.

A value without quotes may become a number, a boolean or null: `port: ${PORT:-8000}`, `redis: ${REDIS_URL:-null}`.
Inside of `[ ]` and `{ }`, YAML asks for quotes around a placeholder: `targets: ["${ORDERS_URL}"]`.

**Files that hold keys** (`tokens.keys`, `tls.client_key`) must not be readable by others than their owner (`chmod
600`), or the gateway does not start. Files below `/run/secrets` are exempt: there, container runtimes mount secrets
with mode 0444 into a container that runs this one service.

## What is refused, and what is warned of

The gateway does not start with settings that are insecure or contradict each other, among them:

- `server.trusted_proxies` that together are every IPv4 address or every global IPv6 address;
- more than one of `server.workers` without `storage.redis`, or with a database in memory;
- a secret of fewer bytes than its algorithm's hash has (32 for `HS256`), a key file readable by others, two keys with
  the same `kid`;
- identity headers that differ only in case, `_`, `.` and `-`, or that mean something to HTTP or to the gateway itself
  (`Host`, `Cookie`, `Authorization`, `Content-*`, `X-Forwarded-For`…);
- routes that name an upstream, a role (where `roles` is present) or a capture that is not there, roles that imply
  themselves, `auth: none` with `roles` or `owner`, and `cors` with the origin `*` and credentials.

Warnings are for what is legal, but dangerous; `gateway check --strict` fails on them: bcrypt rounds below 10, passwords
shorter than 8, `tls.verify: false`, `tls` for an upstream without an https target, secrets written into the file
itself, an administrator's role for everyone who registers, metrics for everyone, very wide `trusted_proxies`, a
`leeway` over a minute, `refresh_ttl` below `access_ttl`, a `roles_claim` without `role_map`, a database in memory, and
`auth: optional` with `roles` or `owner`.

Routes are described with their paths below; how a request finds its route is told in
[request-flow.md](request-flow.md)."""

"""HAProxy: plain, and verifying JWTs without a cache of verified tokens."""

import shutil
from typing import ClassVar

from bench.machine import first_line
from bench.peers.peer import Launch, Peer, Place
from bench.peers.signer import AUDIENCE, ISSUER

CONFIGURATION = """\
global
    nbthread 1
    maxconn 4096
defaults
    mode http
    timeout connect 3s
    timeout client 1h
    timeout server 1h
    timeout http-request 10s
    timeout http-keep-alive 1h
    option http-keep-alive
    http-reuse always
frontend callers
    bind 127.0.0.1:%(port)d
    option forwardfor
    unique-id-format %%{+X}o%%ci%%cp%%Ts%%rt%%pid
    unique-id-header X-Request-Id
    http-request set-header X-Forwarded-Proto http
%(rules)s
    default_backend api
backend api
    server api 127.0.0.1:%(upstream_port)d pool-max-conn 256
"""

RULES = """\
    http-request set-var(txn.token) http_auth_bearer
    http-request deny deny_status 401 unless { var(txn.token) -m found }
    http-request deny deny_status 401 unless { var(txn.token),jwt_header_query('$.alg') -m str %(algorithm)s }
    http-request deny deny_status 401 unless { var(txn.token),jwt_verify("%(algorithm)s","%(key)s") 1 }
    http-request deny deny_status 401 unless { var(txn.token),jwt_payload_query('$.iss') -m str %(issuer)s }
    http-request deny deny_status 401 unless { var(txn.token),jwt_payload_query('$.aud') -m str %(audience)s }
    http-request set-var(txn.now) date()
    http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int')
    http-request deny deny_status 401 if { var(txn.exp),sub(txn.now) -m int lt 0 }
    http-request set-var(txn.roles) var(txn.token),jwt_payload_query('$.role')
    http-request deny deny_status 403 if { path_beg /api/audit/ } !{ var(txn.roles) -m sub auditor }
    http-request deny deny_status 403 unless { var(txn.roles) -m sub user auditor }
    http-request set-header X-User-Id %%[var(txn.token),jwt_payload_query('$.sub')]
    http-request set-header X-User-Email %%[var(txn.token),jwt_payload_query('$.email')]
    http-request set-header X-User-Roles %%[var(txn.roles)]
    http-request del-header Authorization
"""


class Haproxy(Peer):
    name = "haproxy"
    title = "HAProxy"
    does = "plain proxying"
    algorithm: ClassVar[str | None] = None

    def missing(self) -> str | None:
        return None if find_haproxy() else "haproxy"

    def version(self) -> str:
        words = first_line([find_haproxy() or "haproxy", "-v"]).split()
        return words[2] if len(words) > 2 else "unknown"

    def launch(self, place: Place) -> Launch:
        values = {"port": place.port, "upstream_port": place.upstream_port, "rules": self._rules(place)}
        configuration = place.write("haproxy.cfg", CONFIGURATION % values)
        return Launch([find_haproxy() or "haproxy", "-db", "-f", str(configuration)])

    def _rules(self, place: Place) -> str:
        if self.algorithm is None:
            return ""
        pem = str(place.write("public.pem", place.signer.public_pem()))
        key = place.signer.secret if self.algorithm == "HS256" else pem
        return RULES % {"algorithm": self.algorithm, "key": key, "issuer": ISSUER, "audience": AUDIENCE}

    def credential(self, place: Place) -> str:
        return place.signer.token(roles=["user"], algorithm=self.algorithm or "ES256")


class HaproxyHs256(Haproxy):
    name = "haproxy-hs256"
    title = "HAProxy, HS256"
    does = "HS256, role, identity headers; no token cache"
    identity = True
    algorithm = "HS256"


class HaproxyEs256(Haproxy):
    name = "haproxy-es256"
    title = "HAProxy, ES256"
    does = "ES256, role, identity headers; no token cache"
    identity = True
    algorithm = "ES256"


def find_haproxy() -> str | None:
    return shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin:/usr/local/sbin")

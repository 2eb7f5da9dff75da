# The gateway's image: Python, the locked dependencies, the compiled package. No build tools, not root, read-only root
# supported.
#
#   docker build -t gateway .
#   docker run --rm -p 8000:8000 -v ./config:/etc/gateway:ro -v state:/var/lib/gateway gateway

# This image has a C compiler, and the same Python as the slim one.
FROM python:3.13-trixie AS build
WORKDIR /build
COPY requirements.lock requirements-build.lock ./
RUN python -m venv /opt/gateway \
 && /opt/gateway/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements.lock \
 && python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements.lock -r requirements-build.lock
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY gateway gateway
RUN GATEWAY_NATIVE=1 /opt/build/bin/hatchling build -t wheel \
 && /opt/gateway/bin/pip install --no-cache-dir --no-deps --no-index dist/*.whl \
 && /opt/gateway/bin/pip uninstall --yes pip

FROM python:3.13-slim-trixie
LABEL org.opencontainers.image.title="gateway" org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/gateway /opt/gateway
# A numeric user: Kubernetes cannot verify that a named user is not root. The folder is for SQLite and generated keys.
RUN install --directory --owner=10001 --group=10001 --mode=0700 /var/lib/gateway
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GATEWAY_CONFIG=/etc/gateway/gateway.yaml \
    GATEWAY_HEALTH_URL=http://127.0.0.1:8000/_gateway/health
WORKDIR /var/lib/gateway
USER 10001:10001
EXPOSE 8000
# On SIGTERM, serve stops accepting connections and finishes running requests (server.drain).
STOPSIGNAL SIGTERM
# The health check bypasses HTTP_PROXY: a proxy cannot reach the container's own loopback address.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
  CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(os.environ['GATEWAY_HEALTH_URL'], timeout=2)"]
ENTRYPOINT ["gateway"]
CMD ["serve", "--host", "0.0.0.0"]

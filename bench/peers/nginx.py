"""nginx as a plain reverse proxy: keep-alive to the upstream, no access log, one worker."""

from bench.machine import first_line
from bench.peers.peer import Launch, Peer, Place
from bench.upstream import find_nginx

CONFIGURATION = """\
daemon off;
worker_processes 1;
pid %(directory)s/nginx.pid;
error_log %(directory)s/nginx.log error;
events { worker_connections 4096; }
http {
    access_log off;
    client_body_temp_path %(directory)s;
    proxy_temp_path %(directory)s;
    client_max_body_size 0;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    tcp_nodelay on;
    upstream api {
        server 127.0.0.1:%(upstream_port)d;
        keepalive 256;
        keepalive_requests 1000000000;
        keepalive_timeout 1h;
    }
    server {
        listen 127.0.0.1:%(port)d backlog=4096;
        location / {
            proxy_pass http://api;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header X-Request-Id $request_id;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto $scheme;
            proxy_set_header X-Forwarded-Host $host;
            proxy_request_buffering off;
            proxy_max_temp_file_size 0;
            proxy_buffers 8 256k;
            proxy_busy_buffers_size 512k;
            client_body_buffer_size 256k;
        }
    }
}
"""


class Nginx(Peer):
    name = "nginx"
    title = "nginx"
    does = "plain proxying"
    quick = True
    traffic = ("varying", "repeated")

    def missing(self) -> str | None:
        return None if find_nginx() else "nginx"

    def version(self) -> str:
        return first_line([find_nginx() or "nginx", "-v"]).rpartition("/")[2]

    def launch(self, place: Place) -> Launch:
        values = {"directory": place.directory, "port": place.port, "upstream_port": place.upstream_port}
        configuration = place.write("nginx.conf", CONFIGURATION % values)
        log = str(place.directory / "nginx.log")
        return Launch([find_nginx() or "nginx", "-p", str(place.directory), "-e", log, "-c", str(configuration)])

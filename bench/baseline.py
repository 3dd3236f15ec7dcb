"""The other side of every ratio: nginx and Envoy as reverse proxies, and the mock that all proxies forward to."""

from __future__ import annotations

import json
import os
from pathlib import Path

from bench.exchange import PATH, answer_body


class Ports:
    """Fixed ports above one base, so that a server started by hand can be pointed at the mocks."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.plain_mocks = (base + 1, base + 2)
        self.stream_mocks = (base + 3, base + 4)
        self.mock_status = base + 5
        self.nginx_plain, self.nginx_stream = base + 11, base + 12
        self.envoy_plain, self.envoy_stream = base + 21, base + 22
        self.waypost, self.waypost_metrics = base + 31, base + 32
        self.litellm, self.portkey = base + 41, base + 51


def _nginx(folder: Path, connections: int, http: str) -> str:
    user = "user root;" if os.geteuid() == 0 else ""  # else the worker could not enter our private folder
    temporary = "".join(
        f"  {name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""
{user}
daemon off;
worker_processes 1;
worker_rlimit_nofile {connections * 2 + 1024};
pid {folder}/nginx.pid;
error_log {folder}/nginx.log warn;
events {{ worker_connections {connections * 2 + 1024}; }}
http {{
  access_log off;
  keepalive_requests 100000000;
  keepalive_timeout 600s;
{temporary}{http}}}
"""


def mock_config(folder: Path, ports: Ports, connections: int) -> str:
    """The plain mock: nginx answers every call from memory and counts calls (`stub_status`)."""
    listen = "".join(f" listen 127.0.0.1:{port} backlog=4096;" for port in ports.plain_mocks)
    body = answer_body().decode()
    assert not {"'", "$"} & set(body), "they mean something to nginx"
    return _nginx(
        folder,
        connections,
        f"""  server {{{listen}
    location / {{ default_type application/json; return 200 '{body}'; }}
  }}
  server {{ listen 127.0.0.1:{ports.mock_status}; location / {{ stub_status; }} }}
""",
    )


def nginx_config(folder: Path, ports: Ports, connections: int) -> str:
    """nginx as a reverse proxy with kept upstream connections; unbuffered where streams pass."""

    def upstream(name: str, targets: tuple[int, ...]) -> str:
        servers = " ".join(f"server 127.0.0.1:{port};" for port in targets)
        keep = f"keepalive {connections}; keepalive_requests 100000000; keepalive_timeout 600s;"
        return f"  upstream {name} {{ {servers} {keep} }}\n"

    def server(port: int, name: str, more: str) -> str:
        return f"""  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://{name}; proxy_http_version 1.1; proxy_set_header Connection ""; {more} }}
  }}
"""

    return _nginx(
        folder,
        connections,
        upstream("plain", ports.plain_mocks)
        + upstream("stream", ports.stream_mocks)
        + server(ports.nginx_plain, "plain", "")
        + server(ports.nginx_stream, "stream", "proxy_buffering off; proxy_read_timeout 600s;"),
    )


def envoy_config(ports: Ports, connections: int) -> str:
    """Envoy's defaults for HTTP/1, with circuit breakers wide enough for the streams and no route timeout (JSON)."""
    many = connections * 2 + 1024
    thresholds = [{"max_connections": many, "max_pending_requests": many, "max_requests": many}]

    def cluster(name: str, targets: tuple[int, ...]) -> dict[str, object]:
        endpoints = [{"endpoint": {"address": _address(port)}} for port in targets]
        return {
            "name": name,
            "type": "STATIC",
            "connect_timeout": "3s",
            "circuit_breakers": {"thresholds": thresholds},
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        }

    return json.dumps(
        {
            "static_resources": {
                "listeners": [
                    _envoy_listener(ports.envoy_plain, "plain"),
                    _envoy_listener(ports.envoy_stream, "stream"),
                ],
                "clusters": [cluster("plain", ports.plain_mocks), cluster("stream", ports.stream_mocks)],
            }
        }
    )


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _envoy_listener(port: int, cluster: str) -> dict[str, object]:
    types = "type.googleapis.com/envoy.extensions.filters"
    route = {"match": {"path": PATH}, "route": {"cluster": cluster, "timeout": "0s"}}
    manager = {
        "@type": f"{types}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": cluster,
        "codec_type": "HTTP1",
        "route_config": {"virtual_hosts": [{"name": cluster, "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{types}.http.router.v3.Router"}}
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    return {"name": cluster, "address": _address(port), "filter_chains": [chain]}

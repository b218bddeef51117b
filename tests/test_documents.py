"""Documents that agree with the code: the example configuration, the settings table, the help, the image."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import sse_broadcast
from sse_broadcast.cli import main
from sse_broadcast.cli.common import Exit
from sse_broadcast.config.schema import Config, Endpoint, Overflow
from sse_broadcast.config.sources import RESTART_ONLY, RULES, SETTINGS, load
from tests.conftest import PROGRAMS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def value(name: str) -> str:
    return json.dumps(SETTINGS[name].default)


TABLES = """
# Settings of the channels that match a pattern; what is not said here is as above. The first rule that
# matches a channel is the one.
# [[channel]]
# match = "prices.*"
# history_size = 1
# history_age = 86400.0
# history_bytes = 65536
# overflow = "conflate"
# retry = 1000

# A caller with a token of its own, and the channels in which it may do what. Its token is at least 16 of
# A-Z a-z 0-9 - . _ ~ + /, and is in a file, in an environment variable (token_env) or here (token).
# [[caller]]
# name = "shop"
# token_file = "/run/secrets/shop"
# publish = ["orders.*", "news"]
# subscribe = ["orders.*"]
# inspect = ["*"]
# admin = ["*"]

# Places to listen, instead of host, port, certificate and key above, which must go then. Each serves
# some endpoints: subscribe is /events, publish /send, inspect what tells of the server (/status, /channels,
# /subscribers, /metrics, /openapi.json), admin what changes it (/tokens, /revoke, /reload, DELETE
# /subscribers/ID); without the line, all of them. /healthz and /readyz are everywhere.
# [[listener]]
# host = "0.0.0.0"
# port = 8443
# certificate = "/etc/ssl/push.pem"
# key = "/etc/ssl/push.key"
# endpoints = ["subscribe"]

# A socket that systemd hands down is that of the listener with its name there (FileDescriptorName).
# name = "public"

# A UNIX socket has a mode and an owner: "user", "user:group" or ":group".
# [[listener]]
# host = "unix:/run/sse-broadcast.sock"
# mode = "0660"
# owner = ":www-data"
# endpoints = ["publish", "inspect", "admin"]
"""


def example_lines() -> str:
    head = "# Every setting with its default. Use it with: sse-broadcast serve --config FILE\n"
    settings = (f"\n# {setting.sentence}\n{name} = {value(name)}\n" for name, setting in SETTINGS.items())
    return head + "".join(settings) + TABLES


def table() -> str:
    rows = "".join(f"| `{name}` | `{value(name)}` | {setting.help} |\n" for name, setting in SETTINGS.items())
    return f"| setting | default | meaning |\n|---|---|---|\n{rows}"


def test_the_example_configuration_is_every_default() -> None:
    """Each setting with its help, and loading it changes nothing."""
    assert (ROOT / "config.example.toml").read_text() == example_lines()
    assert load({}, environ={}, file=ROOT / "config.example.toml").config == Config()


def uncommented() -> str:
    lines = [line.removeprefix("# ") for line in TABLES.splitlines()]
    return "\n".join(line for line in lines if re.match(r"\[\[\w+\]\]$|\w+ = ", line))


def test_the_example_tables_load_and_say_all_there_is_to_say(tmp_path: Path) -> None:
    """Uncommented, with every key of each kind; of the three ways to give a token, one."""
    file = tmp_path / "config.toml"
    file.write_text(uncommented())
    config = load({}, environ={}, file=file).config
    tables = tomllib.loads(file.read_text())
    assert list(tables) == list(RULES)
    for name, kind in RULES.items():
        keys = {key for table in tables[name] for key in table}
        assert keys == set(kind.__struct_fields__) - {"token", "token_env"}
    assert [rule.overflow for rule in config.channel] == [Overflow.CONFLATE]
    assert [rule.name for rule in config.caller] == ["shop"]
    assert [rule.path for rule in config.listeners] == [None, "/run/sse-broadcast.sock"]
    assert {each for rule in config.listeners for each in rule.endpoints} == set(Endpoint)


def test_the_example_has_every_table_once_or_more_and_nothing_uncommented() -> None:
    settings = example_lines().removesuffix(TABLES)
    assert all(line.startswith("#") for line in TABLES.splitlines() if line)
    assert not any(line.startswith("# [[") for line in settings.splitlines())


def test_the_readme_has_every_setting() -> None:
    assert table() in README


def test_the_help_has_every_setting() -> None:
    shown = " ".join(CliRunner().invoke(main, ["serve", "--help"], terminal_width=400).output.split())
    for setting in SETTINGS.values():
        if setting.secret:
            assert f" {setting.flag} " not in shown
            assert f"{setting.variable} ({setting.name})" in shown.partition("Secrets have no flag")[2]
            continue
        metavar = "" if setting.switch else "VALUE,... " if setting.several else "VALUE "
        assert f" {setting.flag} {metavar}{setting.sentence}" in shown


def test_the_exit_codes_are_told() -> None:
    for code in Exit:
        assert re.search(rf"^\| {code.value} \|", README, re.MULTILINE), code


def test_the_changelog_knows_this_version() -> None:
    """What changed for users is said before it is released."""
    assert f"will be {sse_broadcast.__version__}." in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_names_every_public_name() -> None:
    missing = [name for name in sse_broadcast.__all__ if f"`{name}`" not in README and name not in README]
    assert missing == []


HELD = re.compile(r"^- `(tests/[\w/]+\.py)::(?:\w+::)?(test_\w+)`$", re.MULTILINE)


@pytest.mark.parametrize("name", ["guarantees.md", "SECURITY.md", "operations.md"])
def test_what_is_said_to_be_held_is_held_by_tests_that_there_are(name: str) -> None:
    page = (ROOT / "docs" / name).read_text()
    held = HELD.findall(page)
    assert 0 < len(held) == page.count("::test_")
    for file, test in held:
        assert re.search(rf"def {test}\(", (ROOT / file).read_text()), f"{file}::{test}"


@pytest.mark.parametrize(
    ("name", "unheld"), [("guarantees.md", ["What is not promised?"]), ("SECURITY.md", [])]
)
def test_every_guarantee_is_held(name: str, unheld: list[str]) -> None:
    guarantees = (ROOT / "docs" / name).read_text()
    questions = re.split(r"^\*\*", guarantees, flags=re.MULTILINE)[1:]
    without = [question.split("**")[0] for question in questions if "\nHeld by\n" not in question]
    assert without == unheld


def test_the_operations_page_names_what_needs_a_restart() -> None:
    reload = (ROOT / "docs" / "operations.md").read_text().partition("\n## Reload\n")[2].partition("\n## ")[0]
    (named,) = re.findall(r"until the server is started again: (.*?)\. All", reload, re.DOTALL)
    assert re.findall(r"`(\w+)`", named) == sorted(RESTART_ONLY)


def test_ci_installs_every_program_that_tests_use() -> None:
    """There a missing program is a failure."""
    pairs, _, _ = (ROOT / ".ci" / "run").read_text().partition("; do")
    named = re.findall(r"([\w./-]+):([\w-]+)", pairs.partition("for pair in")[2])
    assert dict(named) == PROGRAMS


def dockerfile() -> list[str]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_image_is_run_by_nobody_and_can_be_looked_after() -> None:
    """Not root, exec form, a stop signal the server knows, and a health check through the command line."""
    lines = dockerfile()
    assert "USER 10001:10001" in lines
    assert 'ENTRYPOINT ["sse-broadcast", "serve"]' in lines
    assert "STOPSIGNAL SIGTERM" in lines
    (check,) = [line for line in lines if line.startswith("HEALTHCHECK")]
    assert check.endswith('CMD ["sse-broadcast", "health"]')
    assert lines[0].split()[1] == [line for line in lines if line.startswith("FROM")][1].split()[1]


def test_what_the_image_copies_is_what_its_build_needs() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == {"pyproject.toml", "README.md", "LICENSE", "sse_broadcast"}
    assert all((ROOT / name).exists() for name in kept)


@pytest.mark.timeout(300)
def test_the_images_commands_install_a_server_that_runs(tmp_path: Path) -> None:
    """The Dockerfile's own RUN lines, in a folder with no more than its context."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "sse_broadcast"):
        subprocess.run(["cp", "-r", ROOT / name, source], check=True)
    programs = {"python": sys.executable, "pip": f"{sys.executable} -m pip"}
    for line in dockerfile():
        if not line.startswith("RUN "):
            continue
        command = line.removeprefix("RUN ").replace("/opt/sse-broadcast", str(target))
        first, rest = command.split(" ", 1)
        subprocess.run(
            ["bash", "-c", f"{programs[first]} {rest}"], check=True, cwd=source, capture_output=True
        )
    version = subprocess.run(
        [target / "bin/sse-broadcast", "--version"], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert version.stdout == f"sse-broadcast, version {sse_broadcast.__version__}\n"
    loop = "import uvloop, sse_broadcast; print(sse_broadcast.__file__)"
    where = subprocess.run(
        [target / "bin/python", "-c", loop], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert where.stdout.startswith(str(target))


def test_toml_of_the_example_has_no_unknown_key() -> None:
    assert list(tomllib.loads(example_lines())) == list(SETTINGS)


def test_ci_runs_the_readmes_test_command() -> None:
    script = f"source <(sed -n '/^readme()/,/^}}/p' {shlex.quote(str(ROOT / '.ci/run'))}); readme test"
    shown = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True, cwd=ROOT)
    assert shown.stdout.strip().endswith("-m pytest")
    assert shown.stdout in README


def test_every_logger_is_in_the_table() -> None:
    """By a name of its own and not a module's, so that filters outlive a move."""
    code = "".join(path.read_text() for path in (ROOT / "sse_broadcast").rglob("*.py"))
    page = (ROOT / "docs" / "operations.md").read_text()
    made = set(re.findall(r'getLogger\("(sse_broadcast\.[a-z]+)"\)', code))
    assert made == set(re.findall(r"^\| `(sse_broadcast\.[a-z]+)` \|", page, re.MULTILINE))
    assert "getLogger(__name__)" not in code

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
from sse_broadcast.config import SETTINGS, Config, Overflow, load

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def value(name: str) -> str:
    return json.dumps(SETTINGS[name].default)


RULES = """
# Settings of the channels that match a pattern; what is not said here is as above. The first rule that
# matches a channel is the one.
# [[channel]]
# match = "prices.*"
# history_size = 1
# history_age = 86400.0
# history_bytes = 65536
# overflow = "conflate"
# retry = 1000
"""


def example_lines() -> str:
    head = "# Every setting with its default. Use it with: sse-broadcast serve --config FILE\n"
    settings = (f"\n# {setting.sentence}\n{name} = {value(name)}\n" for name, setting in SETTINGS.items())
    return head + "".join(settings) + RULES


def table() -> str:
    rows = "".join(f"| `{name}` | `{value(name)}` | {setting.help} |\n" for name, setting in SETTINGS.items())
    return f"| setting | default | meaning |\n|---|---|---|\n{rows}"


def test_the_example_configuration_is_every_default() -> None:
    """Each setting with its help, and loading it changes nothing."""
    assert (ROOT / "config.example.toml").read_text() == example_lines()
    assert load({}, environ={}, file=ROOT / "config.example.toml").config == Config()


def test_the_example_rule_is_one_and_says_all_there_is_to_say(tmp_path: Path) -> None:
    """Uncommented, it loads, and has every key."""
    file = tmp_path / "config.toml"
    lines = [line.removeprefix("# ") for line in RULES.splitlines()]
    file.write_text("\n".join(lines[lines.index("[[channel]]") :]))
    (rule,) = load({}, environ={}, file=file).config.channel
    assert set(tomllib.loads(file.read_text())["channel"][0]) == set(rule.__struct_fields__)
    assert rule.overflow is Overflow.CONFLATE


def test_the_readme_has_every_setting() -> None:
    """Name, default and meaning, as the code has them."""
    assert table() in README


def test_the_help_has_every_setting() -> None:
    """A flag each, with its help and default."""
    shown = " ".join(CliRunner().invoke(main, ["serve", "--help"], terminal_width=400).output.split())
    for setting in SETTINGS.values():
        assert f"{setting.flag} VALUE {setting.sentence}" in shown


def test_the_exit_codes_are_told() -> None:
    """In the README, each with its number."""
    for code in Exit:
        assert re.search(rf"^\| {code.value} \|", README, re.MULTILINE), code


def test_the_changelog_knows_this_version() -> None:
    """What changed for users is said before it is released."""
    assert f"\n## {sse_broadcast.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_readme_names_every_public_name() -> None:
    """A name that is promised is shown."""
    missing = [name for name in sse_broadcast.__all__ if f"`{name}`" not in README and name not in README]
    assert missing == []


HELD = re.compile(r"^- `(tests/[\w/]+\.py)::(?:\w+::)?(test_\w+)`$", re.MULTILINE)


def test_every_guarantee_is_held_by_tests_that_there_are() -> None:
    """Each answer names some, and each that is named is defined where it says."""
    guarantees = (ROOT / "docs" / "guarantees.md").read_text()
    for file, name in HELD.findall(guarantees):
        assert re.search(rf"def {name}\(", (ROOT / file).read_text()), f"{file}::{name}"
    questions = re.split(r"^\*\*", guarantees, flags=re.MULTILINE)[1:]
    without = [question.split("**")[0] for question in questions if "\nHeld by\n" not in question]
    assert without == ["What is not promised?"]


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
    assert check.endswith('CMD ["sse-broadcast", "status"]')
    assert lines[0].split()[1] == [line for line in lines if line.startswith("FROM")][1].split()[1]


def test_what_the_image_copies_is_what_its_build_needs() -> None:
    """Everything else stays out of the context."""
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
    """And misses none."""
    assert list(tomllib.loads(example_lines())) == list(SETTINGS)


def test_ci_runs_the_readmes_test_command() -> None:
    """The one a reader copies."""
    script = f"source <(sed -n '/^readme()/,/^}}/p' {shlex.quote(str(ROOT / '.ci/run'))}); readme test"
    shown = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True, cwd=ROOT)
    assert shown.stdout.strip().endswith("-m pytest")
    assert shown.stdout in README

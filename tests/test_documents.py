"""Documents that agree with the code: example configuration, settings tables, help and image."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

import sse_broadcast
from sse_broadcast.cli import main
from sse_broadcast.config.schema import Config, Endpoint, Overflow
from sse_broadcast.config.sources import RESTART_ONLY, RULES, SETTINGS, load
from tests.conftest import PROGRAMS
from tests.support import documents

ROOT = Path(__file__).parent.parent
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
LIBRARY = (ROOT / "docs" / "library.md").read_text()


def test_generated_documents_are_up_to_date() -> None:
    """`python -m tests.support.documents` writes the example file and the tables of settings."""
    for path, text in documents.generated().items():
        assert path.read_text() == text, path.name


def test_every_setting_is_in_one_group() -> None:
    """Its table so has its name, default and meaning from the code."""
    grouped = [name for names in documents.GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(SETTINGS)
    assert all(row in CONFIGURATION for row in map(documents.row, SETTINGS))


def test_the_example_configuration_has_the_defaults() -> None:
    """Loading it changes nothing."""
    assert load({}, environ={}, file=ROOT / "config.example.toml").config == Config()


def uncommented() -> str:
    lines = [line.removeprefix("# ") for line in documents.TABLES.splitlines()]
    return "\n".join(line for line in lines if re.match(r"\[\[\w+\]\]$|\w+ = ", line))


def test_the_example_tables_load_with_every_key(tmp_path: Path) -> None:
    """The test uncomments them. A token has one of its three sources."""
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


def test_the_example_has_every_table_commented_out() -> None:
    settings = documents.example().removesuffix(documents.TABLES)
    assert all(line.startswith("#") for line in documents.TABLES.splitlines() if line)
    assert not any(line.startswith("# [[") for line in settings.splitlines())


def test_the_help_has_every_setting() -> None:
    shown = " ".join(CliRunner().invoke(main, ["serve", "--help"], terminal_width=400).output.split())
    for setting in SETTINGS.values():
        if setting.secret:
            assert f" {setting.flag} " not in shown
            assert f"{setting.variable} ({setting.name})" in shown.partition("Secrets have no flag")[2]
            continue
        metavar = "" if setting.switch else r"\S+,\.\.\. " if setting.several else r"\S+ "
        assert re.search(f" {setting.flag} {metavar}{re.escape(setting.sentence)}", shown), setting.flag


def test_the_library_page_names_every_public_name() -> None:
    missing = [name for name in sse_broadcast.__all__ if not re.search(rf"\b{name}\b", LIBRARY)]
    assert missing == []


HELD = re.compile(r"^- `(tests/[\w/]+\.py)::(?:\w+::)?(test_\w+)`$", re.MULTILINE)


@pytest.mark.parametrize("name", ["guarantees.md", "SECURITY.md", "operations.md", "backends.md"])
def test_claims_name_existing_tests(name: str) -> None:
    page = (ROOT / "docs" / name).read_text()
    held = HELD.findall(page)
    assert 0 < len(held) == page.count("::test_")
    for file, test in held:
        assert re.search(rf"def {test}\(", (ROOT / file).read_text()), f"{file}::{test}"


@pytest.mark.parametrize(
    ("name", "unheld"), [("guarantees.md", ["What is not promised?"]), ("SECURITY.md", [])]
)
def test_every_guarantee_has_a_test(name: str, unheld: list[str]) -> None:
    guarantees = (ROOT / "docs" / name).read_text()
    questions = re.split(r"^\*\*", guarantees, flags=re.MULTILINE)[1:]
    without = [question.split("**")[0] for question in questions if "\nHeld by\n" not in question]
    assert without == unheld


def test_the_operations_page_names_the_restart_only_settings() -> None:
    reload = (ROOT / "docs" / "operations.md").read_text().partition("\n## Reload\n")[2].partition("\n## ")[0]
    (named,) = re.findall(r"until the server is started again: (.*?)\. All", reload, re.DOTALL)
    assert re.findall(r"`(\w+)`", named) == sorted(RESTART_ONLY)


def test_ci_installs_every_program_that_tests_use() -> None:
    """In CI a missing program fails its test."""
    pairs, _, _ = (ROOT / ".ci" / "run").read_text().partition("; do")
    named = re.findall(r"([\w./-]+):([\w-]+)", pairs.partition("for pair in")[2])
    assert dict(named) == PROGRAMS


def dockerfile() -> list[str]:
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_image_runs_without_root_and_has_a_health_check() -> None:
    """Its command is in exec form, with a stop signal that the server handles. `health` is the check."""
    lines = dockerfile()
    assert "USER 10001:10001" in lines
    assert 'ENTRYPOINT ["sse-broadcast", "serve"]' in lines
    assert "STOPSIGNAL SIGTERM" in lines
    (check,) = [line for line in lines if line.startswith("HEALTHCHECK")]
    assert check.endswith('CMD ["sse-broadcast", "health"]')
    assert lines[0].split()[1] == [line for line in lines if line.startswith("FROM")][1].split()[1]


def test_the_image_copies_exactly_what_its_build_needs() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == {"pyproject.toml", "README.md", "LICENSE", "sse_broadcast"}
    assert all((ROOT / name).exists() for name in kept)


@pytest.mark.timeout(300)
def test_the_images_commands_install_a_server_that_runs(tmp_path: Path) -> None:
    """The test runs the RUN lines of the Dockerfile in a folder with its context only."""
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
    assert list(tomllib.loads(documents.example())) == list(SETTINGS)


def test_every_logger_is_in_the_table() -> None:
    """Its name is not a module's, so that filters survive a move of the code."""
    code = "".join(path.read_text() for path in (ROOT / "sse_broadcast").rglob("*.py"))
    page = (ROOT / "docs" / "operations.md").read_text()
    made = set(re.findall(r'getLogger\("(sse_broadcast\.[a-z]+)"\)', code))
    assert made == set(re.findall(r"^\| `(sse_broadcast\.[a-z]+)` \|", page, re.MULTILINE))
    assert "getLogger(__name__)" not in code

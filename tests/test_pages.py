"""Rules for every page of the documentation, and for `.github`: links, contents and blocks."""

import re
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest
import yaml

import sse_broadcast
from tests.support.pages import ROOT, Page, page
from tests.test_architecture import PACKAGE

PATHS = sorted(
    str(path.relative_to(ROOT))
    for folder in (ROOT, ROOT / "docs", ROOT / ".github", ROOT / "benchmarks")
    for path in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
)
PAGES = [page(path) for path in PATHS]
CONTRIBUTING = page(".github/CONTRIBUTING.md")
SCRIPTS = sysconfig.get_path("scripts")

LONG = 100
"""Lines from which on a page needs a table of contents."""

WITHOUT_CONTENTS = {
    "README.md",  # It is read from its beginning to its end.
    "CHANGELOG.md",
    "docs/guarantees.md",  # Its questions are its contents.
    "benchmarks/README.md",  # Its table is.
}

UNRUN = {
    "docs/operations.md",
    "docs/metrics.md",
    "docs/clients.md",
    "docs/deploy/README.md",
    "benchmarks/README.md",
}
"""Pages with blocks of output, and of commands that take minutes, or a machine of its own."""


@pytest.mark.parametrize("each", PAGES, ids=PATHS)
def test_links_lead_to_an_existing_file_and_heading(each: Page) -> None:
    for link in each.links:
        if re.match(r"https?://", link):
            continue
        path, _, fragment = link.partition("#")
        target = (ROOT / each.path).parent / path if path else ROOT / each.path
        assert target.exists(), link
        if fragment:
            assert fragment in page(str(target.resolve().relative_to(ROOT))).anchors, link


@pytest.mark.parametrize("each", PAGES, ids=PATHS)
def test_a_long_page_has_a_table_of_contents(each: Page) -> None:
    """It has the sections in order, before the first of them."""
    if each.path in WITHOUT_CONTENTS or each.text.count("\n") <= LONG:
        return
    before = each.text.partition("\n## ")[0]
    listed = re.findall(r"^(?:- |\d\. )\[(.*?)\]\(#(.*?)\)$", before, re.MULTILINE)
    sections = [title for level, title in each.headings if level == 2]
    assert [title for title, _ in listed] == [re.sub(r"^\d\. ", "", title) for title in sections]


@pytest.mark.parametrize(
    "each", [each for each in PAGES if each.path not in UNRUN], ids=lambda each: each.path
)
def test_every_block_is_run(each: Page) -> None:
    """The test names it."""
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    for block in each.every_block:
        assert block.name, block.code
        assert f'"{block.name}"' in tests, block.name


def test_the_index_has_every_page() -> None:
    """It leaves out itself. A folder has a page for its files."""
    index = page("docs/README.md")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(index.links)
    assert "deploy/README.md" in index.links


def test_the_changelog_has_this_version() -> None:
    """By Keep a Changelog it has a date, or is unreleased."""
    changelog = page("CHANGELOG.md")
    version = sse_broadcast.__version__
    released = re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog.text, re.MULTILINE)
    assert released or version in changelog.section("[Unreleased]")
    kinds = {title for level, title in changelog.headings if level == 3}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_authors_are_those_of_the_license() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (name,) = re.findall(r"^Copyright \(c\) \d{4} (.+)$", (ROOT / "LICENSE").read_text(), re.MULTILINE)
    assert project["authors"] == [{"name": name}]


def test_the_sdist_has_the_files_of_its_tests() -> None:
    """It has all files of git except git's own and the lock files."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    included = {name.strip("/") for name in build["sdist"]["include"]}
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    top = {name.split("/")[0] for name in names.splitlines()} - {".gitignore", "pyproject.toml"}
    assert included == top


def test_contributors_install_as_in_the_readme() -> None:
    """It is the test command without the tests."""
    setup = CONTRIBUTING.blocks["setup"].code.strip()
    assert page("README.md").blocks["test"].code.startswith(f"{setup} && ")


def test_contributors_run_existing_files() -> None:
    """They are those of .ci/run."""
    commands = CONTRIBUTING.blocks["tests"].code
    files = set(re.findall(r"tests/[\w/]+\.py", commands))
    assert files
    assert all((ROOT / name).exists() for name in files)
    *_, checks = commands.strip().splitlines()
    script = (ROOT / ".ci" / "run").read_text().replace('  "$1/', ".venv/bin/").replace('"', "")
    assert all(
        f"\n{command.replace('format .', 'format --check .')}\n" in script for command in checks.split(" && ")
    )


def test_the_contributing_page_has_every_folder() -> None:
    """Each path on it exists."""
    table = CONTRIBUTING.section("How the code is laid out")
    listed = set(re.findall(r"`(\w+(?:/\w+)?)/`", table))
    folders = {str(path.parent.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")} - {"."}
    outer = {folder for folder in folders if folder.count("/") == 0} - {"server"}
    inner = {folder for folder in folders if folder.startswith("server/")} - {"server/process"}
    assert outer | inner <= listed
    assert listed <= folders
    for named in re.findall(r"`((?:sse_broadcast|tests|docs)/[\w./-]+)`", CONTRIBUTING.text):
        assert (ROOT / named).exists(), named


@pytest.mark.parametrize(
    ("schema", "names"),
    [
        ("vendor.github-workflows", ["workflows/ci.yml"]),
        ("vendor.github-issue-forms", ["ISSUE_TEMPLATE/bug.yml", "ISSUE_TEMPLATE/idea.yml"]),
        ("vendor.github-issue-config", ["ISSUE_TEMPLATE/config.yml"]),
    ],
)
def test_the_files_for_github_are_valid(schema: str, names: list[str]) -> None:
    """They are checked with GitHub's own schemas."""
    files = [str(ROOT / ".github" / name) for name in names]
    command = [str(Path(SCRIPTS, "check-jsonschema")), "--builtin-schema", schema, *files]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_workflow_runs_everything() -> None:
    """It uses the oldest supported Python and a newer one."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f">={job['strategy']['matrix']['python'][0]}" == project["requires-python"]

"""What holds for every page of the documentation: its links, contents and blocks; and for `.github`."""

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
"""Lines of a page that needs a list of its contents."""

WITHOUT_CONTENTS = {
    "README.md",  # read from its beginning to its end
    "CHANGELOG.md",
    "docs/guarantees.md",  # its questions are its contents
    "benchmarks/README.md",  # its table is
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
def test_links_lead_somewhere(each: Page) -> None:
    """To a file that there is, and to a heading in it."""
    for link in each.links:
        if re.match(r"https?://", link):
            continue
        path, _, fragment = link.partition("#")
        target = (ROOT / each.path).parent / path if path else ROOT / each.path
        assert target.exists(), link
        if fragment:
            assert fragment in page(str(target.resolve().relative_to(ROOT))).anchors, link


@pytest.mark.parametrize("each", PAGES, ids=PATHS)
def test_a_long_page_has_a_list_of_its_contents(each: Page) -> None:
    """Its sections, in their order, before the first of them."""
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
    """By a test that names it."""
    tests = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    for block in each.every_block:
        assert block.name, block.code
        assert f'"{block.name}"' in tests, block.name


def test_the_index_has_every_page() -> None:
    """But itself; what is in a folder of its own is told by that folder's page."""
    index = page("docs/README.md")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(index.links)
    assert "deploy/README.md" in index.links


def test_the_changelog_tells_of_this_version() -> None:
    """By Keep a Changelog: its date, or, before it is released, that it will be."""
    changelog = page("CHANGELOG.md")
    version = sse_broadcast.__version__
    released = re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog.text, re.MULTILINE)
    assert released or version in changelog.section("[Unreleased]")
    kinds = {title for level, title in changelog.headings if level == 3}
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_authors_are_those_of_the_license() -> None:
    """One name in both."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (name,) = re.findall(r"^Copyright \(c\) \d{4} (.+)$", (ROOT / "LICENSE").read_text(), re.MULTILINE)
    assert project["authors"] == [{"name": name}]


def test_the_sdist_has_what_its_tests_need() -> None:
    """All that git has but its own files and the lock files."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    included = {name.strip("/") for name in build["sdist"]["include"]}
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    top = {name.split("/")[0] for name in names.splitlines()} - {".gitignore", "pyproject.toml"}
    assert included == top


def test_contributors_set_up_as_the_readme_does() -> None:
    """The test command without the tests."""
    setup = CONTRIBUTING.blocks["setup"].code.strip()
    assert page("README.md").blocks["test"].code.startswith(f"{setup} && ")


def test_contributors_run_what_there_is() -> None:
    """Files that there are, and the commands of .ci/run."""
    commands = CONTRIBUTING.blocks["tests"].code
    files = set(re.findall(r"tests/[\w/]+\.py", commands))
    assert files
    assert all((ROOT / name).exists() for name in files)
    *_, checks = commands.strip().splitlines()
    script = (ROOT / ".ci" / "run").read_text().replace('  "$1/', ".venv/bin/").replace('"', "")
    assert all(
        f"\n{command.replace('format .', 'format --check .')}\n" in script for command in checks.split(" && ")
    )


def test_contributors_are_told_of_every_folder() -> None:
    """And each path that is named is there."""
    table = CONTRIBUTING.section("How the code is laid out")
    told = set(re.findall(r"`(\w+(?:/\w+)?)/`", table))
    folders = {str(path.parent.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")} - {"."}
    outer = {folder for folder in folders if folder.count("/") == 0} - {"server"}
    inner = {folder for folder in folders if folder.startswith("server/")} - {"server/process"}
    assert outer | inner <= told
    assert told <= folders
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
def test_github_takes_its_files(schema: str, names: list[str]) -> None:
    """By its own schemas."""
    files = [str(ROOT / ".github" / name) for name in names]
    command = [str(Path(SCRIPTS, "check-jsonschema")), "--builtin-schema", schema, *files]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_workflow_runs_everything() -> None:
    """On the oldest Python that is promised, and a newer one."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f">={job['strategy']['matrix']['python'][0]}" == project["requires-python"]

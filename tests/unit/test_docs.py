"""docs/README.md is the index of all pages, and what the pages link to, or name as a file of ours, is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    (ROOT / "docs").glob("*.md")
)
OURS = {path.name for folder in ("src", "tests", "workflow", "bench", "demo") for path in (ROOT / folder).rglob("*.*")}


def test_the_index_links_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w./]+\.md)\)", (ROOT / "docs/README.md").read_text()))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_of_a_page_lead_to_files(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).is_file()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_source_files_that_a_page_names_exist(page: Path) -> None:
    """`plan/cost/work.py` is below src/cogtune, `tests/…` and the like below the root; a bare `file.py` is anywhere."""
    named = set(re.findall(r"`(?:python (?:-m )?)?((?:[\w.]+/)*\w+\.(?:py|smk))", page.read_text()))
    missing = [
        name
        for name in named - {"my_samplers.py"}
        if not any((root / name).is_file() for root in (ROOT, ROOT / "src/cogtune"))
        and ("/" in name or name not in OURS)
    ]
    assert missing == []


def test_messages_of_the_troubleshooting_page_are_printed_by_the_source() -> None:
    table = re.findall(r"^\| `([^`]+)`", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(table) > 15
    source = "\n".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", source)  # one message over several lines
    unknown = [text for text in table if text not in joined]
    assert set(unknown) == {
        "unknown key; did you mean",  # of two parts
        "was killed by SIGKILL",
    }

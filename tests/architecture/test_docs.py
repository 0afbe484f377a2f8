"""Docs that fail: what the code knows, the pages must say."""

import inspect
import re
from pathlib import Path

from luthier import errors

ROOT = Path(__file__).parents[2]


def test_every_error_code_is_documented():
    page = (ROOT / "docs/reference/errors.md").read_text("utf-8")
    codes = {cls.code for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.LuthierError)}
    assert [code for code in sorted(codes) if f"`{code}`" not in page] == []


def test_every_link_between_pages_leads_somewhere():
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    links = [(page, target) for page in pages for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8"))]
    broken = [f"{page.relative_to(ROOT)} -> {target}" for page, target in links if not (page.parent / target).exists()]
    assert broken == []


def test_every_file_that_the_tour_names_exists():
    tour = (ROOT / "docs/tour.md").read_text("utf-8")
    named = set(re.findall(r"`([a-z_/]+\.py)[`:]", tour)) | {
        f"{name}.py" for name in re.findall(r"`([a-z_]+/[a-z_]+)\.py:", tour)
    }
    assert named
    assert [name for name in sorted(named) if not (ROOT / "src/luthier" / name).exists()] == []

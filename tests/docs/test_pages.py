"""Every link of every page leads somewhere, and the book has every page."""

import posixpath
import re

import pages
import pytest

BOOK = pages.Page(pages.ROOT / "docs" / "SUMMARY.md")


def wrong_links(page: pages.Page) -> list[str]:
    wrong = []
    for link in page.links():
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page.name), path)) if path else page.name
        if target not in pages.tracked():
            wrong.append(f"{page.name}: {link}: there is no {target}")
        elif anchor and anchor not in pages.Page(pages.ROOT / target).anchors():
            wrong.append(f"{page.name}: {link}: {target} has no such heading")
    return wrong


@pytest.mark.parametrize("page", pages.all_pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert not wrong_links(page)


def test_the_book_has_every_page_once():
    listed = [posixpath.join("docs", link) for link in BOOK.links()]
    there = {page.name for page in pages.all_pages() if page.name.startswith("docs/") and page != BOOK}
    assert len(listed) == len(set(listed))
    assert set(listed) == there


def test_paths_in_backticks_are_there():
    folders = {name.split("/")[0] for name in pages.tracked() if "/" in name}
    wrong = []
    for page in pages.all_pages():
        for text in page.code():
            if re.fullmatch(r"[\w.-]+/[\w./-]+", text) and text.split("/")[0] in folders:
                here = posixpath.normpath(posixpath.join(posixpath.dirname(page.name), text))
                # Objects of a cluster are named like files: deploy/kernelbox-gateway.
                if not {here, posixpath.normpath(text)} & pages.tracked() and not text.startswith("deploy/kernelbox-"):
                    wrong.append(f"{page.name}: {text}")
    assert not wrong

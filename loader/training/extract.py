"""Plain text of the pages of manuals: a line a paragraph, heading, list item or table row; code as
it stands. What leads to other pages (navigation, contents, indexes) is left out."""

from __future__ import annotations

import re
import subprocess

from lxml import etree, html

#: where a page's own text stands, by the tools that make such pages; the first that is there
MAIN = (
    '//*[@role="main"]',
    "//main",
    '//*[@id="main-content"]',
    '//*[@id="page-content"]',
    '//div[@class="body"]',
    '//*[@id="apicontent"]',
    '//*[@id="content"]',
    "//body",
)
SKIPPED_TAGS = frozenset(
    "script style nav footer form button select svg img iframe noscript template head title".split()
)
SKIPPED_CLASSES = frozenset(
    """navheader navfooter toc contents toctree-wrapper sphinxsidebar related headerlink linenos
    indextable footer breadcrumb breadcrumbs spirit-nav editsection fancy_toc nosearch viewcode-link
    manual-toc sidebar sidenav src srclink source-link hidden lineno doc-anchor mw-jump copyright
    mark toc-backref-link foot head navigation langs pagenav top prevnext erlang-nav
    """.split()
)
SKIPPED_ROLES = frozenset(("navigation", "search", "contentinfo", "banner"))
LISTS = frozenset("ul ol dl table p div".split())
BLOCKS = frozenset(
    """address article aside blockquote body caption center dd details div dl dt fieldset
    figcaption figure h1 h2 h3 h4 h5 h6 header hr li main ol p pre section summary table tbody tfoot
    thead tr ul
    """.split()
)
#: a list whose text is for this part links is navigation
MOST_LINKS = 0.8
#: stand for line ends, and for the blanks and line ends of code, until all others are one blank
BREAK, BLANK, NEWLINE = "\x01", "\x02", "\x03"
KEPT = str.maketrans({" ": BLANK, "\n": NEWLINE, "\t": BLANK * 4, "\r": None})


def text_of_html(page: bytes | str) -> str:
    """The text of an HTML page; empty where there is none."""
    if isinstance(page, bytes):
        page = page.decode("utf-8", "replace")
    page = re.sub(r"^\s*<\?xml[^>]*>", "", page)
    if not page.strip():
        return ""
    try:
        root = html.document_fromstring(page)
    except etree.ParserError:
        return ""
    main = next((found[0] for path in MAIN if (found := root.xpath(path))), root)
    pieces: list[str] = []
    _walk(main, pieces)
    return _lines("".join(pieces))


def text_of_man(page: bytes) -> str:
    """The text of a manual page, by mandoc's HTML of it."""
    made = subprocess.run(
        ["mandoc", "-K", "utf-8", "-T", "html", "-O", "fragment"], input=page, capture_output=True
    )
    return text_of_html(b"<body>" + made.stdout + b"</body>")


def text_of_wrapped(page: bytes) -> str:
    """The text of a file whose paragraphs are wrapped and stand between empty lines."""
    paragraphs = re.split(r"\n\s*\n", page.decode("utf-8", "replace"))
    return "\n".join(" ".join(paragraph.split()) for paragraph in paragraphs if paragraph.strip())


def _walk(node: etree._Element, pieces: list[str]) -> None:
    """Appends the text of an element, without what stands behind it."""
    if not isinstance(node.tag, str) or _is_skipped(node):
        return
    if node.tag == "pre":
        code = node.text_content().strip("\n").rstrip()
        pieces += [BREAK, code.translate(KEPT), BREAK]
        return
    edge = BREAK if node.tag in BLOCKS else ""
    if node.tag == "br":
        edge = BREAK
    elif node.tag in ("td", "th"):
        edge = " "
    pieces += [edge, node.text or ""]
    for child in node:
        _walk(child, pieces)
        pieces.append(child.tail or "")
    pieces.append(edge)


def _is_skipped(node: etree._Element) -> bool:
    return (
        node.tag in SKIPPED_TAGS
        or node.get("role") in SKIPPED_ROLES
        or not SKIPPED_CLASSES.isdisjoint((node.get("class") or "").lower().split())
        or (node.tag in LISTS and _is_navigation(node))
    )


def _is_navigation(node: etree._Element) -> bool:
    """Whether next to all text of a list, table or paragraph is of at least three links."""
    links = node.findall(".//a[@href]")
    if len(links) < 3:
        return False
    linked = sum(len("".join(link.text_content().split())) for link in links)
    return linked > MOST_LINKS * len("".join(node.text_content().split()))


def _lines(text: str) -> str:
    lines = (re.sub(r"\s+", " ", line).strip() for line in text.split(BREAK))
    text = "\n".join(line for line in lines if line)
    text = text.replace(BLANK, " ").replace(NEWLINE, "\n")
    text = text.replace("\N{PILCROW SIGN}", "").replace("\N{SOFT HYPHEN}", "")
    return re.sub(r"\n\s*\n", "\n", re.sub(r"[ \t]+\n", "\n", text)).strip()

#!/usr/bin/env python3
"""Makes the training text of the bundled model from documentation that Debian packages ship.

What it does: unpacks five documentation packages, takes the running prose out of their HTML
(paragraphs only: no tables, no listings, no navigation), and writes one JSON line per page:
    {"source": "sqlite3-doc", "page": "atomiccommit.html", "sections": [["Heading", ["para", ...]], ...]}
What it never does: keep a sentence that is mostly code, or a page twice.

    corpus.py DIR            download what is missing with `apt-get download`, write DIR/corpus.jsonl
"""
import hashlib
import html.parser
import json
import pathlib
import re
import subprocess
import sys

# Package, version it was trained on, the folder or files of it that hold prose, SPDX licence.
SOURCES = [
    ("postgresql-doc-15", "15.20-0+deb12u1", ["usr/share/doc/postgresql-doc-15/html"],
     "PostgreSQL"),
    ("sqlite3-doc", "3.40.1-2+deb12u2", ["usr/share/doc/sqlite3"], "public domain"),
    ("apache2-doc", "2.4.71-1~deb12u1", ["usr/share/doc/apache2-doc/manual/en"], "Apache-2.0"),
    ("rust-doc", "1.63.0+dfsg1-2",
     ["usr/share/doc/rust-doc/html/book", "usr/share/doc/rust-doc/html/nomicon",
      "usr/share/doc/rust-doc/html/embedded-book", "usr/share/doc/rust-doc/html/edition-guide",
      "usr/share/doc/rust-doc/html/rustc"],
     "MIT or Apache-2.0"),
    ("python3.11-doc", "3.11.2-6+deb12u9",
     ["usr/share/doc/python3.11/html/tutorial", "usr/share/doc/python3.11/html/howto",
      "usr/share/doc/python3.11/html/faq", "usr/share/doc/python3.11/html/reference",
      "usr/share/doc/python3.11/html/library", "usr/share/doc/python3.11/html/whatsnew"],
     "PSF-2.0"),
]

# Pages that are lists, release notes, generated tables or licence texts rather than prose.
SKIP_PAGE = re.compile(
    r"(^|/)(release-\d|release-prior|bookindex|biblio|acronyms|sql-keywords|features|errcodes|"
    r"catalog-|infoschema-|view-pg|keyword_index|toc_db|doclist|sitemap|changes|releaselog|"
    r"cves|vulnerabilities|hp1|news|oldnews|print|genindex|license|copyright|crew|"
    r"mod/quickreference|mod/directive|contributors|sql-features|unsupported-features)"
    r"|releaselog/|c3ref/|syntax/|changelog|style/|/print\.html$")

SKIP_TAGS = {"table", "pre", "script", "style", "nav", "header", "footer", "svg", "select",
             "button", "figure", "sup"}
SKIP_CLASSES = {"navheader", "navfooter", "sphinxsidebar", "related", "fancy_toc", "nosearch",
                "toc", "nav-wrapper", "sidebar", "footer", "quickview", "top", "comments_section",
                "up", "toplang", "bottomlang", "page-header", "versionadded", "versionchanged",
                "deprecated", "nav-chapters", "preface", "TOC", "highlight", "synopsis", "menu",
                "desktoponly", "mobileonly", "warning-classes", "refnamediv", "refsynopsisdiv",
                "indexterm", "headerlink", "buttons", "lst-kix", "modeline", "category"}
# The title of a SQLite page sits inside a class that is skipped otherwise.
KEEP_CLASSES = {"fancy_title"}
VOID_TAGS = {"br", "hr", "img", "input", "link", "meta", "col", "wbr", "area", "base"}
HEADINGS = {"h1", "h2", "h3", "h4"}


class Prose(html.parser.HTMLParser):
    """Collects (heading, paragraphs) from one page; a stack remembers which open tag began a skip."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.sections = [["", []]]
        self.stack = []           # (tag, starts_skip, keeps)
        self.text, self.code_chars, self.kind = [], 0, None

    def flush(self):
        text = clean("".join(self.text))
        if self.kind == "h" and text:
            self.sections.append([re.sub(r"^([A-Z]\.|\d+\.)(\d+\.?)*\s*", "", text), []])
        elif self.kind == "p" and is_prose(text, self.code_chars):
            self.sections[-1][1].append(text)
        self.text, self.code_chars, self.kind = [], 0, None

    def skipping(self):
        for tag, starts_skip, keeps in reversed(self.stack):
            if keeps:
                return False
            if starts_skip:
                return True
        return False

    def handle_starttag(self, tag, attrs):
        if tag in VOID_TAGS:
            if tag == "br":
                self.text.append(" ")
            return
        classes = set((dict(attrs).get("class") or "").split())
        if tag in HEADINGS or tag in ("p", "div", "ul", "ol", "li", "dl", "dd", "dt", "section",
                                      "table", "pre", "blockquote"):
            self.flush()
        if tag == "p" and self.stack and self.stack[-1][0] == "p":
            self.stack.pop()      # HTML lets <p> end where the next one starts
        self.stack.append((tag, tag in SKIP_TAGS or bool(classes & SKIP_CLASSES),
                           bool(classes & KEEP_CLASSES)))
        if not self.skipping():
            if tag in HEADINGS or classes & KEEP_CLASSES:
                self.kind = "h"
            elif tag in ("p", "dd", "li", "blockquote"):
                self.kind = "p"

    def handle_endtag(self, tag):
        if tag in HEADINGS or tag in ("p", "div", "li", "dd", "dt", "section", "blockquote"):
            self.flush()
        for at in range(len(self.stack) - 1, max(-1, len(self.stack) - 12), -1):
            if self.stack[at][0] == tag:
                del self.stack[at:]
                return

    def handle_data(self, data):
        if self.kind and not self.skipping():
            self.text.append(data)
            if any(tag in ("code", "tt", "var", "kbd", "samp") for tag, _, _ in self.stack):
                self.code_chars += len(data)


def clean(text):
    """Plain ASCII-leaning text: one kind of quote, dash and space, no permalink marks."""
    for old, new in (("’", "'"), ("‘", "'"), ("“", '"'), ("”", '"'), ("\u00a0", " "), ("¶", ""),
                     ("—", " - "), ("–", "-"), ("…", "..."), ("\u200b", ""), ("→", "->")):
        text = text.replace(old, new)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s+([.,;:!?)])", r"\1", text)
    text = re.sub(r"\((see|See)[^()]{0,80}\)", "", text)
    text = re.sub(r"\[\d+\]", "", text)
    return re.sub(r"\s+", " ", text).replace(" .", ".").replace(" ,", ",").strip()


def is_prose(text, code_chars):
    """A paragraph worth learning from: whole sentences, mostly letters, little code."""
    if len(text) < 80 or text[-1] not in ".!?:" or not (text[0].isupper() or text[0] in "\"'("):
        return False
    letters = sum(c.isalpha() or c == " " for c in text)
    if letters < 0.93 * len(text) or code_chars > 0.18 * len(text):
        return False
    if any(ord(c) > 126 for c in text) or re.search(r"[{}<>|\\^~`@#$%&=_]", text):
        return False
    words = text.split()
    return sum(w.isupper() and len(w) > 2 for w in words) < 0.12 * len(words)


def pages_of(package, folders, root):
    seen = set()
    for folder in folders:
        for path in sorted((root / folder).rglob("*.html")):
            name = str(path.relative_to(root / folder))
            if SKIP_PAGE.search(name):
                continue
            parser = Prose()
            parser.feed(path.read_text("utf-8", "replace"))
            parser.close()
            parser.flush()
            sections = []
            for heading, paragraphs in parser.sections:
                fresh = [p for p in paragraphs if p not in seen]
                seen.update(fresh)
                if fresh:
                    sections.append([heading, fresh])
            if sum(len(p) for _, ps in sections for p in ps) >= 300:
                yield {"source": package, "page": f"{pathlib.Path(folder).name}/{name}",
                       "sections": sections}


def unpack(package, version, work):
    root = work / "unpacked" / package
    if root.exists():
        return root
    debs = sorted(work.glob(f"{package}_*.deb"))
    if not debs:
        subprocess.run(["apt-get", "download", package], cwd=work, check=True)
        debs = sorted(work.glob(f"{package}_*.deb"))
    got = subprocess.run(["dpkg-deb", "-f", debs[0], "Version"], check=True, text=True,
                         stdout=subprocess.PIPE).stdout.strip()
    if got != version:
        print(f"{package}: version {got}, the committed model was trained on {version}",
              file=sys.stderr)
    subprocess.run(["dpkg-deb", "-x", debs[0], root], check=True)
    return root


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    work = pathlib.Path(sys.argv[1]).absolute()
    work.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with open(work / "corpus.jsonl", "w") as out:
        for package, version, folders, licence in SOURCES:
            n_pages = n_bytes = 0
            for page in pages_of(package, folders, unpack(package, version, work)):
                line = json.dumps(page, ensure_ascii=True) + "\n"
                out.write(line)
                digest.update(line.encode())
                n_pages += 1
                n_bytes += sum(len(p) for _, ps in page["sections"] for p in ps)
            print(f"{package} {version} ({licence}): {n_pages} pages, {n_bytes} bytes of prose")
    print("corpus.jsonl sha256", digest.hexdigest())


if __name__ == "__main__":
    main()

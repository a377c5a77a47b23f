"""Finishes the rendered pages, a Sphinx extension: nothing of other hosts, pictures that keep their place, light.

MathJax lies beside the pages (from the package sphinx-mathjax-offline) instead of being fetched from another host. What
the theme loads in vain goes: Thebe, Jupyter's widgets, Font Awesome's script of 1.5 MB (its font draws the same icons),
its rules for icons that no page has, the search's index but where one searches, the looks of tabs and cards where there
are none. Addresses of earlier editions (moved.json) lead to the chapters' new ones. Pictures become lossless WebP, about
half of PNG's bytes, and say their size, so that text below them does not jump when they arrive. A link to a page that is
shared elsewhere has a title, a sentence and a picture: the Open Graph protocol, https://ogp.me. The site's address
follows from the repository's in _config.yml, unless `baseurl` is set.
"""

import importlib.util
import json
import re
import shutil
import textwrap
from html import escape
from pathlib import Path

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx
from sphinx.config import Config

MATHJAX = ("tex-mml-chtml.js", "output/chtml/fonts/woff-v2/*")
UNUSED = re.compile(r"thebe|widget|require\.min\.js", re.IGNORECASE)
SEARCH, DESIGN = r"searchtools\.js|language_data\.js|searchindex\.js", r"sphinx-design[\w.]*\.css|design-tabs\.js"
PREVIEW = "_static/diagrams/social.png"  # drawn by draw.py
PREVIEW_SAYS = "A generated street scene, and its segments at three granularities."
MOVED = json.loads(Path(__file__).with_name("moved.json").read_text(encoding="utf8"))
# no picture, style or script to load: the address changes before anything is drawn
REDIRECT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Moved: {new}</title><link rel="canonical" href="{new}.html">
<script>const moved = {sections}, at = location.hash.slice(1), [page, section = at] = (moved[at] ?? "{new}").split("#");
location.replace(page + ".html" + (section && "#" + section));</script>
<noscript><meta http-equiv="refresh" content="0; url={new}.html"></noscript></head>
<body><p>This chapter is now at <a href="{new}.html">{new}.html</a>.</p></body></html>
"""
ICON = re.compile(r'(?:\.fa-[\w-]+:before,?)+\{content:"[^"]*"\}')


def drop_unused(app: Sphinx, pagename: str, templatename: str, context: dict, doctree) -> None:
    """Takes the scripts and styles that no page uses out of a page's lists."""
    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context[kind] if not UNUSED.search(
            f"{file} {getattr(file, 'filename', '')} {getattr(file, 'attributes', '')}"[:400])]


def describe(app: Sphinx, pagename: str, templatename: str, context: dict, doctree: nodes.document | None) -> None:
    """Says in a page's head what those show who link to it: title, first paragraph, address, picture."""
    if doctree is None:  # the index, the search
        return
    first = next(doctree.findall(nodes.paragraph), None)
    says = textwrap.shorten(first.astext() if first else app.config.project, 200, placeholder=" …")
    base = app.config.html_baseurl
    title = re.sub(r"<[^>]+>", "", context["title"])
    if pagename != app.config.root_doc:
        title += f" | {app.config.html_title}"
    said = {"description": says, "og:type": "website", "og:site_name": app.config.html_title, "og:title": title,
            "og:description": says, "og:url": f"{base}{pagename}.html", "og:image": base + PREVIEW,
            "og:image:width": "1200", "og:image:height": "630", "og:image:alt": PREVIEW_SAYS,
            "twitter:card": "summary_large_image"}
    context["metatags"] = context.get("metatags", "") + "".join(
        f'<meta {"property" if name.startswith("og:") else "name"}="{name}" content="{escape(content)}" />\n'
        for name, content in said.items())


def copy_mathjax(static: Path) -> None:
    """Puts what the pages need of MathJax into `static`/mathjax."""
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None:
        raise ModuleNotFoundError("MathJax is not here, which draws the formulas: pip install sphinx-mathjax-offline")
    source = Path(package.origin).parent / "static/mathjax"
    for path in (path for pattern in MATHJAX for path in source.glob(pattern)):
        target = static / "mathjax" / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def to_webp(path: Path) -> Path:
    """A PNG as lossless WebP beside it; the PNG goes."""
    target = path.with_suffix(".webp")
    with Image.open(path) as image:
        opaque = image.mode == "RGBA" and image.getextrema()[3] == (255, 255)
        (image.convert("RGB") if opaque else image).save(target, lossless=True, method=4)
    path.unlink()
    return target


def size_of(path: Path) -> tuple[int, int] | None:
    """Width and height of a picture in pixels; of an SVG, its viewBox's; None where it does not say."""
    if path.suffix == ".svg":
        box = re.search(r'viewBox="[\d.-]+ [\d.-]+ ([\d.]+) ([\d.]+)"', path.read_text(encoding="utf8"))
        return box and tuple(round(float(side)) for side in box.groups())
    with Image.open(path) as image:
        return image.size


def drop_icons(style: Path, named: set[str]) -> None:
    """Leaves out of a style sheet the icons that are not among the named ones, such as `fa-sun`."""
    css = style.read_text(encoding="utf8")
    css = ICON.sub(lambda rule: rule.group() if named & set(re.findall(r"fa-[\w-]+", rule.group())) else "", css)
    style.write_text(css, encoding="utf8")


def finish_page(page: Path) -> None:
    """Rewrites a page's pictures (WebP, their size, fetched when near) and references; drops what it loads in vain."""
    html = page.read_text(encoding="utf8")
    vain = [r"fontawesome\.js"]
    vain += [] if page.name == "search.html" else [SEARCH]
    vain += [] if re.search(r'class="[^"]*\bsd-', html) else [DESIGN]
    html = re.sub(rf"""\s*<(?:script|link)\b[^>]*["/](?:{'|'.join(vain)})[^>]*>(?:</script>)?""", "", html)
    html = html.replace('role="doc-biblioentry"', 'role="listitem"')  # as their list, role="list", wants them
    html = re.sub(r'(>([^<]+)</a><details[^>]*>)<summary>', r'\1<summary aria-label="Pages below \2">', html)
    html = re.sub(r'(_images/[^"/]+)\.png"', r'\1.webp"', html)

    def sized(match: re.Match) -> str:
        tag, source = match.group(), re.search(r'src="([^"?]+)', match.group())
        path = page.parent / source.group(1) if source else None
        if " width=" in tag or path is None or not path.is_file() or not (size := size_of(path)):
            return tag
        return tag.replace("<img", f'<img width="{size[0]}" height="{size[1]}" loading="lazy"', 1)

    page.write_text(re.sub(r"<img\b[^>]*>", sized, html), encoding="utf8")


def redirects() -> dict[str, str]:
    """For each old name of a chapter the page that leads to its new address, with the section if one was asked for."""
    return {old: REDIRECT.format(new=new, sections=json.dumps(MOVED["sections"].get(old, {})))
            for old, new in MOVED["pages"].items()}


def finish(app: Sphinx, exception: Exception | None) -> None:
    """After the build: MathJax, pictures, pages."""
    if exception or app.builder.format != "html":
        return
    out = Path(app.outdir)
    copy_mathjax(out / "_static")
    for path in (out / "_images").glob("*.png"):
        to_webp(path)
    pages = [page for page in out.rglob("*.html") if "_static" not in page.parts]
    for page in pages:
        finish_page(page)
    scripts = [path for path in (out / "_static").rglob("*.js") if path.name != "fontawesome.js"]
    named = {name for path in pages + scripts for name in re.findall(r"\bfa-[\w-]+", path.read_text(encoding="utf8"))}
    drop_icons(out / "_static/styles/pydata-sphinx-theme.css", named)
    (out / "notebooks").mkdir(exist_ok=True)
    for old, page in redirects().items():
        (out / f"notebooks/{old}.html").write_text(page, encoding="utf8")


def address(app: Sphinx, config: Config) -> None:
    """The site's address on GitHub Pages, from the repository's."""
    if not config.html_baseurl:
        owner, name = config.html_theme_options["repository_url"].rstrip("/").split("/")[-2:]
        config.html_baseurl = f"https://{owner}.github.io/{name}/"


def unnumbered(app: Sphinx, config: Config) -> None:
    """No "Fig. 3" before captions: diagrams have none. sphinx-jupyterbook-latex turns it on, whatever is built."""
    config["numfig"] = False


def setup(app: Sphinx) -> dict:
    app.config.mathjax_path = f"mathjax/{MATHJAX[0]}"
    app.connect("config-inited", unnumbered, priority=900)
    app.connect("config-inited", address, priority=900)
    app.connect("html-page-context", describe)
    app.connect("html-page-context", drop_unused, priority=900)  # after those that add them
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""What mkdocs needs to know of this repository: plots that lie beside the tests, and that no page asks the network."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

CODE = re.compile(r"`[^`\n]+`")
RESULTS = "tests/benchmarks/results/"
ASKS = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?https?:[^>]*|<link[^>]*stylesheet[^>]*https?:[^>]*")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the plots, where links of pages find them."""
    for plot in sorted((Path(config.config_file_path).parent / RESULTS).glob("*.png")):
        files.append(File.generated(config, f"results/{plot.name}", abs_src_path=str(plot)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to plots, which hold in the repository, to their place in the site; mend bars in code in tables.

    GitHub wants them escaped there, Python-Markdown prints the backslash.
    """
    markdown = markdown.replace(f"](../{RESULTS}", "](results/")
    return CODE.sub(lambda found: found[0].replace("\\|", "|"), markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Fail if opening a page would load anything from elsewhere."""
    if found := ASKS.search(output):
        raise PluginError(f"{page.file.src_uri}: it loads from the network: {found[0][:200]}")
    return output

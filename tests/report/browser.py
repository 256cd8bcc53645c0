"""Opens a page in headless Chromium: ``python tests/report/browser.py PAGE`` fails unless its plots are drawn."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

# What the page cannot say of itself: how many pictures have an extent on screen, and how many marks they hold.
PROBE = """<script>
const box = e => e.getBoundingClientRect();
const drawn = [...document.querySelectorAll('svg')].filter(s => box(s).width > 100 && box(s).height > 60
  && [...s.querySelectorAll('path')].filter(p => p.getBBox().width + p.getBBox().height > 0).length > 10);
document.title = 'drawn ' + drawn.length + ' of ' + document.querySelectorAll('svg').length
  + ' tables ' + document.querySelectorAll('table').length;
</script>"""
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--enable-logging=stderr", "--v=0"),
    "--host-resolver-rules=MAP * ~NOTFOUND",  # a self-contained page needs no network
]


class Page(NamedTuple):
    drawn: int
    pictures: int
    tables: int
    console: list[str]


def chromium() -> str | None:
    """The browser's path, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def inspect(page: Path) -> Page:
    """What Chromium shows of a page on disk, and what its console says."""
    title, console = run_script(page, PROBE)
    found = re.fullmatch(r"drawn (\d+) of (\d+) tables (\d+)", title)
    if found is None:
        raise RuntimeError(f"Chromium did not render {page}: {title}")
    return Page(*map(int, found.groups()), console)


def run_script(page: Path, script: str) -> tuple[str, list[str]]:
    """(title, console) of a page on disk after a <script> that sets document.title."""
    with tempfile.TemporaryDirectory() as folder:
        probed = Path(folder) / "page.html"
        probed.write_text(page.read_text() + script)
        command = [chromium(), *FLAGS, f"--user-data-dir={folder}/profile", "--dump-dom", f"file://{probed}"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>(.*?)</title>", result.stdout)
    if title is None:
        raise RuntimeError(f"Chromium did not render {page}: {result.stderr[-500:]}")
    return title[1], [line for line in result.stderr.splitlines() if ":CONSOLE" in line]


if __name__ == "__main__":
    seen = inspect(Path(sys.argv[1]).resolve())
    print(f"{seen.drawn} of {seen.pictures} plots drawn, {seen.tables} tables, {len(seen.console)} console messages")
    if seen.console or seen.drawn < seen.pictures or not seen.pictures:
        sys.exit("\n".join(["the report is broken", *seen.console]))

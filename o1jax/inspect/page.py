"""Self-contained HTML pages, from a template, a style and a script beside this module.

In: NAME.html, NAME.css and NAME.js, with page.css, the colours of all. Out: one text
with everything inside. By its policy (CSP) nothing runs but the page's own script, and
nothing loads; what is put in later is data, and must be escaped.
"""

import base64
import hashlib
import os
import tempfile
from importlib.resources import files
from pathlib import Path


def template(name: str) -> str:
    """The page with its style and its script, still without data."""
    page = _read(f"{name}.html")
    owns = {"css": style(name), "js": _read(f"{name}.js")}
    for kind, own in owns.items():
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        page = page.replace(f"{kind}-hash", f"sha256-{digest}")
        page = page.replace(f"/* {name}.{kind} */", own)
    return page


def style(name: str) -> str:
    """The style of a page without a script, after the colours of all."""
    return _read("page.css") + _read(f"{name}.css")


def write_whole(file: str | Path, text: str) -> Path:
    """Write the file whole or not at all; ValueError where there can't be one."""
    file, content = Path(file), text.encode("utf-8", "xmlcharrefreplace")
    if not file.parent.is_dir() or file.is_dir():
        raise ValueError(f"{file} can't be written: not a file in an existing folder")
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(content)
        os.chmod(temporary, 0o644)  # mkstemp's files are private
        os.replace(temporary, file)
    except BaseException:
        os.unlink(temporary)
        raise
    return file


def _read(name: str) -> str:
    return files("o1jax.inspect").joinpath(name).read_text("utf-8")

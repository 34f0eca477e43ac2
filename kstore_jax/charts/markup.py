"""HTML put together from parts, escaped unless it is HTML already."""

import html
from collections.abc import Iterable


class Html(str):
    """Text that is HTML already."""


def tag(name: str, *inside, **attributes) -> Html:
    """An element; strings inside it and in its attributes are escaped. An attribute that is None is
    left out."""
    attributes_text = "".join(
        f' {k.rstrip("_").replace("_", "-")}="{html.escape(str(v))}"'
        for k, v in attributes.items()
        if v is not None
    )
    return Html(f"<{name}{attributes_text}>{join(inside)}</{name}>")


def join(parts: Iterable) -> Html:
    """Parts of a page one after another, escaped where they are not `Html`."""
    return Html("".join(p if isinstance(p, Html) else html.escape(str(p)) for p in parts))

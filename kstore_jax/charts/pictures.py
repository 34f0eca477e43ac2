"""A drawing as files: SVG, PNG and PDF, each with a signature by which `is_ours` knows it again."""

import hashlib
import pathlib
import re
import struct
import zlib

import vl_convert

_PPI = 216  # pixels an inch of a PNG, three a point of the drawing
_SOFTWARE = b"kstore_jax"
SUFFIXES = (".svg", ".png", ".pdf")


def pictures(svg: str) -> dict[str, bytes]:
    """The files of a drawing by suffix; the same drawing gives the same bytes."""
    return {suffix: _signed(picture(svg, suffix), suffix) for suffix in SUFFIXES}


def picture(svg: str, suffix: str) -> bytes:
    """A drawing as a file of one of `SUFFIXES`, without a signature: no page removes it."""
    if suffix == ".png":
        return vl_convert.svg_to_png(svg, ppi=_PPI)
    return vl_convert.svg_to_pdf(svg) if suffix == ".pdf" else svg.encode()


def is_ours(path: pathlib.Path) -> bool:
    """Whether this package drew a picture, and nobody has changed it since."""
    content = path.read_bytes()
    if not (found := re.search(_SOFTWARE + rb" ([0-9a-f]{64})", content)):
        return False
    drawn = content.replace(_signature(found[1], path.suffix), b"", 1)
    return _digest(drawn) == found[1]


def _signed(content: bytes, suffix: str) -> bytes:
    """A picture with its signature: in a PNG after the header, in a PDF before its last lines."""
    ends = {".svg": b"</svg>", ".pdf": b"startxref"}
    at = content.rindex(ends[suffix]) if suffix in ends else 33
    return content[:at] + _signature(_digest(content), suffix) + content[at:]


def _signature(digest: bytes, suffix: str) -> bytes:
    """The name of this package and a digest as a text chunk or a comment."""
    text = _SOFTWARE + b" " + digest
    if suffix == ".png":
        chunk = b"tEXtSoftware\0" + text
        return struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return b"<!-- %s -->" % text if suffix == ".svg" else b"%% %s\n" % text


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()

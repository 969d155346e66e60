"""Makes blocks of metadata as programs write them into images and sidecar files."""

from __future__ import annotations

import struct

from searchdb.media.written.xmp_packet import NAMESPACES

UTF_8 = (1, 90, b"\x1b%G")
"""The dataset that declares an IPTC block to be in UTF-8."""


def xmp(properties: str = "", attributes: str = "", *, wrapped: bool = True) -> bytes:
    """Return a packet whose one description has these properties as elements, and these as attributes."""
    declared = " ".join(
        f'xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items() if prefix not in ("xml", "MicrosoftPhoto_1")
    )
    rdf = f'<rdf:RDF {declared}><rdf:Description rdf:about="" {attributes}>{properties}</rdf:Description></rdf:RDF>'
    packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{rdf}</x:xmpmeta>'
    begin = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    return (begin + packet + "\n<?xpacket end='w'?>" if wrapped else packet).encode()


def array(name: str, *values: str, kind: str = "Bag") -> str:
    """Return a property with several values."""
    return f"<{name}><rdf:{kind}>{''.join(f'<rdf:li>{value}</rdf:li>' for value in values)}</rdf:{kind}></{name}>"


def languages(name: str, **texts: str) -> str:
    """Return a property with a text in each language; `x_default` is the default one."""
    items = (f'<rdf:li xml:lang="{key.replace("_", "-")}">{text}</rdf:li>' for key, text in texts.items())
    return f"<{name}><rdf:Alt>{''.join(items)}</rdf:Alt></{name}>"


def iptc(*datasets: tuple[int, int, bytes]) -> bytes:
    """Return an IPTC-IIM block."""
    return b"".join(
        struct.pack(">BBBH", 0x1C, record, number, len(value)) + value for record, number, value in datasets
    )


def with_iptc(jpeg: bytes, block: bytes) -> bytes:
    """Return a JPEG with an IPTC block in a Photoshop segment."""
    resource = b"8BIM" + struct.pack(">HHI", 0x0404, 0, len(block)) + block + bytes(len(block) % 2)
    body = b"Photoshop 3.0\0" + resource
    return jpeg[:2] + b"\xff\xed" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]

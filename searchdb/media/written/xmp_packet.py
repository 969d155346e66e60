"""Parses XMP, RDF in XML, to the values of the properties that are used."""

from __future__ import annotations

import codecs
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element, ParseError, TreeBuilder

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import DefusedXMLParser

from searchdb.errors import MetadataError

MAX_PACKET_BYTES = 2_000_000
"""Larger packets are not read: one with a caption has 5 to 50 kB, and one with many masks or a long history 1 MB."""
MAX_ELEMENTS = 20_000
MAX_ATTRIBUTES = 20_000
"""Counted before the packet is parsed, generously: by its `<` and `=`. A packet with many masks has some thousands; at
the limits, parsing takes a third of a second."""
MAX_DEPTH = 100
"""Nested elements; XMP has about 10."""
MAX_NAMESPACE_CHARACTERS = 120
"""The parser repeats the namespace in the name of each element and attribute: a long one would take gigabytes. Those in
use have up to 60."""

NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xml": "http://www.w3.org/XML/1998/namespace",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "MicrosoftPhoto": "http://ns.microsoft.com/photo/1.0/",
    "MicrosoftPhoto_1": "http://ns.microsoft.com/photo/1.0",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}

_LONG = MAX_NAMESPACE_CHARACTERS + 1
_LONG_NAMESPACE = re.compile(rf"(?<=\s)xmlns[^=<>\s]*\s*=\s*(?:\"[^\"]{{{_LONG}}}|'[^']{{{_LONG}}})")
_NOT_IN_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (b"<\0\0\0", "utf-32-le"),
    (b"\0\0\0<", "utf-32-be"),
    (b"<\0", "utf-16-le"),
    (b"\0<", "utf-16-be"),
)
"""What a packet begins with in each of the character sets that XMP may be in, beside UTF-8."""


def tag(name: str) -> str:
    """Return a name like `dc:title` as the parser gives it, with its namespace."""
    prefix, _, local = name.partition(":")
    return f"{{{NAMESPACES[prefix]}}}{local}"


_RDF, _DESCRIPTION, _VALUE, _ITEM = tag("rdf:RDF"), tag("rdf:Description"), tag("rdf:value"), tag("rdf:li")
_ARRAYS = tag("rdf:Alt"), tag("rdf:Bag"), tag("rdf:Seq")
_LANGUAGE, _DEFAULT_LANGUAGE = tag("xml:lang"), "x-default"


class Properties:
    """The values of properties, each a text (from an attribute) or an element, in the order of the packet."""

    def __init__(self, values: dict[str, list[str | Element]]) -> None:
        self._values = values

    def texts(self, name: str) -> list[str]:
        """Return the texts of a property: one of a simple property, those of its elements of an array."""
        return [value for each in self._values.get(tag(name), ()) for _, value in _texts(each)]

    def is_array(self, name: str) -> bool:
        """Whether a property is an array, as it should be where there may be several values."""
        return any(not isinstance(each, str) and _array(each) is not None for each in self._values.get(tag(name), ()))

    def text(self, *names: str) -> str:
        """Return the first text that is not blank of the first property that has one; empty if none has.

        Of a text in several languages it is the default one.
        """
        for name in names:
            found = [pair for each in self._values.get(tag(name), ()) for pair in _texts(each) if pair[1].strip()]
            if found:
                return next((value for language, value in found if language == _DEFAULT_LANGUAGE), found[0][1])
        return ""

    def field(self, name: str, field: str) -> str:
        """Return the first text of a field in a structure, or an array of structures; empty if there is none."""
        for each in self._values.get(tag(name), ()):
            for found in () if isinstance(each, str) else _fields(each, tag(field)):
                if found.strip():
                    return found
        return ""


def parse(packet: bytes, names: frozenset[str]) -> Properties:
    """Return the values of the properties in `names`, such as `dc:title`.

    Raises:
        MetadataError: it is too large, too deeply nested, or not well-formed, or declares a DTD.
    """
    if len(packet) > MAX_PACKET_BYTES:
        raise MetadataError(f"the XMP is {len(packet):,} bytes, the limit is {MAX_PACKET_BYTES:,}")
    text = _decoded(packet)
    for kind, count, limit in (
        ("elements", text.count("<"), 2 * MAX_ELEMENTS),  # most have an end of their own
        ("attributes", text.count("="), MAX_ATTRIBUTES),
    ):
        if count > limit:
            raise MetadataError(f"the XMP has too many {kind}")
    if _LONG_NAMESPACE.search(text):
        raise MetadataError(f"the XMP has a namespace of more than {MAX_NAMESPACE_CHARACTERS} characters")
    collector = _Collector({tag(name) for name in names})
    parser: Any = DefusedXMLParser(target=collector, encoding="utf-8", forbid_dtd=True)
    try:
        parser.feed(text.encode())
        parser.close()
    except ParseError as exc:
        raise MetadataError(f"the XMP is not well-formed XML ({exc})") from exc
    except DefusedXmlException as exc:
        raise MetadataError("the XMP declares a DTD or entities, which XMP does not have") from exc
    if not collector.found_rdf:
        raise MetadataError("the XML is no XMP: it has no rdf:RDF")
    return Properties(collector.values)


def _decoded(packet: bytes) -> str:
    stripped = packet.strip(b" \t\r\n") if packet[:1] != b"\0" else packet
    encoding = next((name for start, name in _ENCODINGS if stripped.startswith(start)), "utf-8")
    return _NOT_IN_XML.sub("", stripped.decode(encoding, "replace")).strip()


class _Collector:
    """Keeps the wanted properties of the descriptions directly in rdf:RDF; the parser calls its methods."""

    def __init__(self, wanted: set[str]) -> None:
        self.values: dict[str, list[str | Element]] = defaultdict(list)
        self.found_rdf = False
        self._wanted = wanted
        self._path: list[str] = []
        self._builder: TreeBuilder | None = None
        self._begins_at = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._path) == MAX_DEPTH:
            raise MetadataError(f"the XMP is nested more than {MAX_DEPTH} deep")
        parents = self._path[-2:]
        self._path.append(name)
        if self._builder is None and name in self._wanted and parents == [_RDF, _DESCRIPTION]:
            self._builder = TreeBuilder()
            self._begins_at = len(self._path)
        if self._builder is not None:
            self._builder.start(name, attributes)
        elif name == _RDF:
            self.found_rdf = True
        elif name == _DESCRIPTION and parents[-1:] == [_RDF]:
            for key in self._wanted & attributes.keys():
                self.values[key].append(attributes[key])

    def data(self, text: str) -> None:
        if self._builder is not None:
            self._builder.data(text)

    def end(self, name: str) -> None:
        if self._builder is not None:
            self._builder.end(name)
            if len(self._path) == self._begins_at:
                self.values[name].append(self._builder.close())
                self._builder = None
        self._path.pop()

    def close(self) -> None:
        """Do nothing: the values are read from `values`."""


# --- The values of an element ---------------------------------------------------------------------


def _array(element: Element) -> Element | None:
    return next((child for child in element if child.tag in _ARRAYS), None)


def _texts(value: str | Element) -> Iterator[tuple[str | None, str]]:
    """Yield the language, if it is given, and the text of each value."""
    if isinstance(value, str):
        yield None, value
        return
    array = _array(value)
    for each in [value] if array is None else array.findall(_ITEM):
        yield each.get(_LANGUAGE), _text(each)


def _text(element: Element) -> str:
    """Return an element's text, which is in an rdf:value where it has qualifiers."""
    holder = _holder(element)
    inner = holder.find(_VALUE)
    return (element.text if inner is None else inner.text) or holder.get(_VALUE) or ""


def _fields(value: Element, field: str) -> Iterator[str]:
    array = _array(value)
    for each in [value] if array is None else array.findall(_ITEM):
        holder = _holder(each)
        yield holder.get(field, "")
        yield from (text for child in holder.findall(field) for _, text in _texts(child))


def _holder(element: Element) -> Element:
    """Return the element that has the fields of a structure: itself, or an rdf:Description in it."""
    inner = element.find(_DESCRIPTION)
    return element if inner is None else inner

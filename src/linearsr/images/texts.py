"""Text blocks in image files: XMP packets (ISO 16684-1), and IPTC-IIM records in Adobe's image resources."""

import re
import struct
from collections.abc import Sequence
from xml.sax.saxutils import escape

XMP_KEYWORD = "XML:com.adobe.xmp"
"""The keyword of the text chunk that holds an XMP packet in PNG."""

_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
{description}</rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
_DESCRIPTION = """<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject>
</rdf:Description>
"""
_SUBJECTS = re.compile(r"(<dc:subject\b[^>]*>\s*<rdf:Bag\b[^>]*?)(?:/>|>(.*?)</rdf:Bag>)", re.DOTALL)
_END = "</rdf:RDF>"
_WIDTH_AND_HEIGHT = (
    ("http://ns.adobe.com/tiff/1.0/", "ImageWidth", "ImageLength"),
    ("http://ns.adobe.com/exif/1.0/", "PixelXDimension", "PixelYDimension"),
)
_TIFF = _WIDTH_AND_HEIGHT[0][0]
# Properties that refer to the rest of a long packet in JPEG, which is not kept, or that describe a place.
_EXTENSION, _PLACES = r"xmpNote:HasExtendedXMP", r"[\w.-]+:[Gg][Pp][Ss]\w*"

IPTC_KEYWORD = "Raw profile type iptc"
RECORDS = 0x0404  # number of the image resource that holds IPTC records
_RESOURCE = b"8BIM"
_JPEG_NAME = b"Photoshop 3.0\0"


def keyword_packet(keywords: Sequence[str], packet: bytes | None = None) -> bytes:
    """Add keywords to a packet, or to a new one, in UTF-8; characters that XML cannot hold are left out."""
    items = "".join(f"<rdf:li>{escape(_NO_XML.sub('', keyword))}</rdf:li>" for keyword in keywords)
    text = packet.decode("utf-8", "replace") if packet else _PACKET.format(description="")
    if found := _SUBJECTS.search(text):
        bag = f"{found[1]}>{found[2] or ''}{items}</rdf:Bag>"
        return (text[: found.start()] + bag + text[found.end() :]).encode("utf-8")
    head, end, tail = text.rpartition(_END)
    if not end:
        return keyword_packet(keywords)
    return (head + _DESCRIPTION.format(items=items) + end + tail).encode("utf-8")


def packet_for_upright(packet: bytes, size: tuple[int, int]) -> bytes | None:
    """Set orientation 1 and dimensions `size` (width, height) in a packet; return None if it is broken."""
    try:
        text = packet.rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError:
        return None
    if _END not in text and not re.search(r"<\w+:RDF\b", text):
        return None
    text = _set(text, _TIFF, "Orientation", 1)
    for namespace, *names in _WIDTH_AND_HEIGHT:
        for name, length in zip(names, size, strict=True):
            text = _set(text, namespace, name, length)
    return _without(text, _EXTENSION).encode("utf-8")


def packet_without_places(packet: bytes) -> bytes:
    """Return the packet without GPS properties, such as cameras, drones and phones write."""
    return _without(packet.decode("utf-8", "replace"), _PLACES).encode("utf-8")


def _set(text: str, namespace: str, name: str, value: int) -> str:
    """Change the value of a property wherever the text has it, as an attribute or an element."""
    for prefix in set(re.findall(rf"xmlns:([\w.-]+)\s*=\s*[\"']{re.escape(namespace)}[\"']", text)):
        full = rf"{re.escape(prefix)}:{name}"
        text = re.sub(rf"(\s{full}\s*=\s*[\"'])[^\"']*", rf"\g<1>{value}", text)
        text = re.sub(rf"(<{full}\b[^>]*>)[^<]*(</{full}\s*>)", rf"\g<1>{value}\g<2>", text)
    return text


def _without(text: str, name: str) -> str:
    """Return the text without the properties, attributes and elements, that match the pattern `name`."""
    text = re.sub(rf"\s({name})\s*=\s*(\"[^\"]*\"|'[^']*')", "", text)
    text = re.sub(rf"<({name})\b[^>]*/>", "", text)
    return re.sub(rf"<({name})(\s[^>]*)?>.*?</\1\s*>", "", text, flags=re.DOTALL)


def records_in(resources: bytes) -> bytes | None:
    """Return the records among image resources, or the bytes themselves if they are records; else None."""
    if not resources.startswith(_RESOURCE):
        return resources if resources[:1] == b"\x1c" else None
    at = 0
    while resources[at : at + 4] == _RESOURCE and at + 12 <= len(resources):
        number, name = struct.unpack_from(">HB", resources, at + 4)
        at += 6 + (name + 2) // 2 * 2
        (length,) = struct.unpack_from(">I", resources, at)
        if number == RECORDS:
            return resources[at + 4 : at + 4 + length]
        at += 4 + (length + 1) // 2 * 2
    return None


def as_resources(records: bytes) -> bytes:
    """Return the records as one image resource."""
    padding = bytes(len(records) % 2)
    return _RESOURCE + struct.pack(">HHI", RECORDS, 0, len(records)) + records + padding


def as_jpeg_segment(records: bytes) -> bytes:
    """Return the records, of which at most 65,506 bytes fit, as the segment APP13 of a JPEG."""
    data = _JPEG_NAME + as_resources(records)
    return b"\xff\xed" + struct.pack(">H", 2 + len(data)) + data


def as_raw_profile(records: bytes) -> str:
    """Return the records as the text of a PNG "raw profile", a convention of ImageMagick and ExifTool."""
    data = as_resources(records)
    rows = [data[at : at + 36].hex() for at in range(0, len(data), 36)]
    return "\n".join(["", "iptc", f"{len(data):8}", *rows, ""])


def raw_profile(text: str) -> bytes | None:
    """Return the bytes in the text of a PNG "raw profile"; None if it is broken."""
    found = re.fullmatch(r"\s*\w+\s+(\d+)\s+([0-9a-fA-F\s]*)", text)
    try:
        return bytes.fromhex(found[2]) if found else None
    except ValueError:
        return None

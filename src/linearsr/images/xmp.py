"""Keywords of a picture as an XMP packet, where photo managers look for them (ISO 16684-1; Dublin Core subject)."""

import re
from collections.abc import Sequence
from xml.sax.saxutils import escape

PNG_KEYWORD = "XML:com.adobe.xmp"
"""The keyword of the text chunk that holds a packet in PNG."""

_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/">
<dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject>
</rdf:Description>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def keyword_packet(keywords: Sequence[str]) -> bytes:
    """The packet in UTF-8; characters that XML cannot hold are left out."""
    items = "".join(f"<rdf:li>{escape(_NO_XML.sub('', keyword))}</rdf:li>" for keyword in keywords)
    return _PACKET.format(items=items).encode("utf-8")

"""Tags in XMP sidecars, as digiKam and Adobe's programs read them: `dc:subject`.

    photo.jpg.xmp   sidecars=digikam: digiKam's and darktable's name
    photo.xmp       sidecars=adobe: Adobe's, which Lightroom reads beside raw files only

A picture's own file is never written to. In a sidecar that is there, what others wrote stays: only
entries are added to `dc:subject`, and to digiKam:TagsList and lr:hierarchicalSubject where a
program keeps its tags there as well, since it may read those first. What was added is noted in
`c2srt:tags`, so that the next run takes its own tags back before it writes others, and
`c2srt:run` says of which run they are: a picture that has it is done, also if somebody has taken
tags away since.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.dom import Node, minidom
from xml.parsers.expat import ExpatError

from c2srt.errors import UserError
from c2srt.files import whole_file
from c2srt.predict.sources import Source

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
DC = "http://purl.org/dc/elements/1.1/"
OURS = "urn:c2srt:tags/"
OTHERS = {
    ("http://www.digikam.org/ns/1.0/", "TagsList"): "/",
    ("http://ns.adobe.com/lightroom/1.0/", "hierarchicalSubject"): "|",
}
"""Further lists of tags that programs keep, and what parts the levels of one of theirs: a tag that
has it would become two.
"""
MOST_BYTES = 16 << 20
BOM = b"\xef\xbb\xbf"
DECLARATION = b'<?xml version="1.0" encoding="UTF-8"?>\n'
XMLNS = "http://www.w3.org/2000/xmlns/"
EMPTY = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="c2srt">
 <rdf:RDF xmlns:rdf="{RDF}">
  <rdf:Description rdf:about=""/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


class NotOurs(Exception):
    """A sidecar that is left as it is: `str` says why."""


@dataclass(frozen=True)
class Sidecars:
    """The sidecars of a run, which is known by what decides its tags."""

    adobe: bool
    run: str

    def path_of(self, file: str) -> Path:
        path = Path(file)
        return path.with_suffix(".xmp") if self.adobe else path.with_name(f"{path.name}.xmp")

    def is_done(self, file: str) -> bool:
        """Whether the picture's sidecar is of this run."""
        try:
            content = self.path_of(file).read_bytes()
        except OSError:
            return False
        return f'{OURS}"'.encode() in content and f':run="{self.run}"'.encode() in content

    def write(self, file: str, tags: list[str]) -> str | None:
        """Adds tags to a picture's sidecar, which is made if need be; what stands in the way, if
        it is left as it is. Raises UserError where nothing can be written.
        """
        path = self.path_of(file)
        try:
            old = path.read_bytes() if path.exists() else EMPTY.encode()
            new = tagged(old, tags, self.run)
        except NotOurs as error:
            return f"its sidecar {path.name} was left as it is: {error}"
        except OSError as error:
            return f"its sidecar {path.name} cannot be read: {error.strerror}"
        if new != old:
            with whole_file(path) as temporary:
                temporary.write_bytes(new)
        return None


def check_names(sidecars: Sidecars, sources: list[Source]) -> None:
    """Raises UserError if a picture is no file, or two would have one sidecar."""
    first: dict[Path, str] = {}
    for source in sources:
        if not source.is_file:
            raise UserError(
                f"out=xmp writes beside pictures, and {source.name} is no file of its own: write"
                " out=x.jsonl, x.csv or x.parquet"
            )
        path = sidecars.path_of(source.path)
        if (other := first.setdefault(path, source.path)) != source.path:
            raise UserError(
                f"{other} and {source.path} would both have the sidecar {path}: take"
                " sidecars=digikam, or rename one"
            )


def tagged(content: bytes, tags: list[str], run: str) -> bytes:
    """A sidecar with these tags in the place of those that another run put there. Raises NotOurs
    if it is none, or has lists of another form.
    """
    document = parsed(content)
    described = descriptions(document)
    own = next((each for each in described if each.getAttributeNS(OURS, "run")), None)
    before = texts(find_list(described, OURS, "tags")) if own else []
    subject = find_list(described, DC, "subject")
    theirs = [text for text in texts(subject) if text not in before]
    known = {text.casefold() for text in theirs}
    added = [tag for tag in tags if tag.casefold() not in known]
    home = own or described[0]
    subject = subject or new_list(document, home, DC, "dc", "subject")
    fill(document, subject, before, added)
    for (namespace, name), parting in OTHERS.items():
        if (more := find_list(described, namespace, name)) is not None:
            fill(document, more, before, [tag for tag in added if parting not in tag])
    note = find_list(described, OURS, "tags") or new_list(document, home, OURS, "c2srt", "tags")
    fill(document, note, texts(note), added)
    home.setAttributeNS(XMLNS, "xmlns:c2srt", OURS)
    home.setAttributeNS(OURS, "c2srt:run", run)
    declared = DECLARATION if content.removeprefix(BOM).startswith(b"<?xml ") else b""
    # twice, since the parser moves namespaces to the front: the next run's bytes are the same
    return declared + serialised(parsed(serialised(document)))


def serialised(document: minidom.Document) -> bytes:
    return "\n".join(node.toxml() for node in document.childNodes).encode() + b"\n"


def parsed(content: bytes) -> minidom.Document:
    """Raises NotOurs on what is no XML, or has a document type: entities can be anything."""
    if len(content) > MOST_BYTES:
        raise NotOurs(f"it has more than {MOST_BYTES >> 20} MiB")
    if b"<!DOCTYPE" in content:
        raise NotOurs("it has a document type, which XMP never has")
    try:
        return minidom.parseString(content)
    except (ExpatError, ValueError, LookupError) as error:
        raise NotOurs(f"it is no XML ({error})") from None


def descriptions(document: minidom.Document) -> list[Any]:
    """The rdf:Descriptions at the top. Raises NotOurs if there is none."""
    found = [
        each
        for root in document.getElementsByTagNameNS(RDF, "RDF")
        for each in root.childNodes
        if each.nodeType == Node.ELEMENT_NODE
        and (each.namespaceURI, each.localName) == (RDF, "Description")
    ]
    if not found:
        raise NotOurs("it has no rdf:Description")
    return found


def find_list(described: list[Any], namespace: str, name: str) -> Any:
    """The Bag, Seq or Alt of a property; None without the property. Raises NotOurs if it is no
    list.
    """
    for each in described:
        if each.hasAttributeNS(namespace, name):
            raise NotOurs(f"its {name} is no list")
        for child in each.childNodes:
            if (child.namespaceURI, child.localName) == (namespace, name):
                lists = [one for one in child.childNodes if one.nodeType == Node.ELEMENT_NODE]
                if len(lists) != 1 or lists[0].namespaceURI != RDF:
                    raise NotOurs(f"its {name} is no list")
                return lists[0]
    return None


def texts(entries: Any) -> list[str]:
    """The entries of a list; none without one."""
    found = entries.getElementsByTagNameNS(RDF, "li") if entries is not None else []
    return [text_of(entry) for entry in found]


def text_of(entry: Any) -> str:
    return "".join(node.data for node in entry.childNodes if node.nodeType == Node.TEXT_NODE)


def new_list(document: Any, home: Any, namespace: str, prefix: str, name: str) -> Any:
    """An empty Bag as a property of `home`."""
    of_property = document.createElementNS(namespace, f"{prefix}:{name}")
    of_property.setAttributeNS(XMLNS, f"xmlns:{prefix}", namespace)
    rdf = document.getElementsByTagNameNS(RDF, "RDF")[0].prefix or "rdf"
    bag = document.createElementNS(RDF, f"{rdf}:Bag")
    of_property.appendChild(bag)
    home.appendChild(of_property)
    return bag


def fill(document: Any, entries: Any, before: list[str], added: list[str]) -> None:
    """Takes `before` out of a list and puts `added` at its end; blanks between stay."""
    for entry in list(entries.getElementsByTagNameNS(RDF, "li")):
        if text_of(entry) in before:
            entries.removeChild(entry)
    there = texts(entries)
    rdf = entries.prefix or "rdf"
    for tag in added:
        if tag not in there:
            entry = document.createElementNS(RDF, f"{rdf}:li")
            entry.appendChild(document.createTextNode(tag))
            entries.appendChild(entry)

"""`c2srt predict out=xmp`: tags in sidecars; what others wrote stays, and no picture is touched."""

import hashlib
import re
from xml.dom import minidom

import pytest
from PIL import Image

from c2srt.cluster.cli import main
from c2srt.predict.sources import Source
from c2srt.predict.xmp import DC, RDF, NotOurs, Sidecars, check_names, tagged, texts
from tests.tiny import tiny_export

NAMES = ("Dog", "Cat", "Tree", "Car", "Cloud", "Boat", "Zebra", "Dog")
DIGIKAM = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:digiKam="http://www.digikam.org/ns/1.0/"
    xmlns:lr="http://ns.adobe.com/lightroom/1.0/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
   xmp:Rating="4" digiKam:PickLabel="0">
   <!-- somebody's remark -->
   <digiKam:TagsList><rdf:Seq><rdf:li>Places/Rome</rdf:li></rdf:Seq></digiKam:TagsList>
   <lr:hierarchicalSubject><rdf:Bag><rdf:li>Places|Rome</rdf:li></rdf:Bag></lr:hierarchicalSubject>
   <dc:subject>
    <rdf:Bag>
     <rdf:li>Rome</rdf:li>
     <rdf:li>dog</rdf:li>
    </rdf:Bag>
   </dc:subject>
   <dc:title><rdf:Alt><rdf:li xml:lang="x-default">A &amp; b</rdf:li></rdf:Alt></dc:title>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>""".encode()


def listed(content: bytes, namespace: str, name: str) -> list[str]:
    document = minidom.parseString(content)
    (found,) = document.getElementsByTagNameNS(namespace, name)
    return texts(found)


def subjects(content: bytes) -> list[str]:
    return listed(content, DC, "subject")


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sidecars")
    tiny_export(folder / "run/model", folder, NAMES, ["a {}."])
    return folder / "run"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("a.jpg", "red"), ("b.png", "green")):
        Image.new("RGB", (40, 30), colour).save(folder / name)
    (folder / "c.jpg").write_bytes(b"no picture")
    return folder


def predict(export, *arguments) -> int:
    return main(["predict", f"checkpoint={export}", "out=xmp", *map(str, arguments)])


def hashes(folder) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_pictures_get_sidecars_and_stay_as_they_are(export, photos, capsys):
    before = hashes(photos)
    assert predict(export, f"images={photos}", "labels=[cat,red car,boat]", "topk=2") == 1
    assert "c.jpg: cannot be read as an image" in capsys.readouterr().err
    assert {name: digest for name, digest in hashes(photos).items() if name in before} == before
    assert sorted(set(hashes(photos)) - set(before)) == ["a.jpg.xmp", "b.png.xmp"]
    content = (photos / "a.jpg.xmp").read_bytes()
    assert (
        content.startswith(b'<?xpacket begin="\xef\xbb\xbf"') and b'<?xpacket end="w"?>' in content
    )
    assert len(subjects(content)) == 2 and set(subjects(content)) < {"cat", "red car", "boat"}


def test_again_changes_nothing_and_other_labels_replace_our_own(export, photos):
    (photos / "c.jpg").unlink()
    common = [f"images={photos}/*.[jp]*g"]
    assert predict(export, *common, "labels=[cat,dog]") == 0
    first = hashes(photos)
    assert predict(export, *common, "labels=[cat,dog]") == 0 and hashes(photos) == first
    for path in photos.glob("*.xmp"):
        path.write_bytes(
            path.read_bytes().replace(b"</rdf:Bag>", b"<rdf:li>mine</rdf:li></rdf:Bag>", 1)
        )
    assert predict(export, *common, "labels=[tree]") == 0
    assert {tuple(subjects(path.read_bytes())) for path in photos.glob("*.xmp")} == {
        ("mine", "tree")
    }


def test_what_a_person_took_away_stays_away(export, photos):
    common = [f"images={photos}/a.jpg", "labels=[cat,dog]"]
    assert predict(export, *common) == 0
    path = photos / "a.jpg.xmp"
    path.write_bytes(path.read_bytes().replace(b"<rdf:li>cat</rdf:li>", b"", 1))
    assert predict(export, *common) == 0 and subjects(path.read_bytes()) == ["dog"]


def test_a_run_that_was_interrupted_goes_on(export, photos, monkeypatch):
    """What is tagged is neither read nor written again."""
    common = [f"images={photos}/*.[jp]*g", "labels=[cat,dog]"]
    (photos / "c.jpg").unlink()
    real = Sidecars.write

    def interrupted(self, file, tags):
        if file.endswith("b.png"):
            raise KeyboardInterrupt
        return real(self, file, tags)

    monkeypatch.setattr(Sidecars, "write", interrupted)
    assert predict(export, *common) == 130
    first = hashes(photos)
    assert "a.jpg.xmp" in first and "b.png.xmp" not in first
    written = []
    monkeypatch.setattr(
        Sidecars, "write", lambda self, *given: written.append(given[0]) or real(self, *given)
    )
    assert predict(export, *common) == 0
    assert [name.rpartition("/")[2] for name in written] == ["b.png"]
    assert hashes(photos)["a.jpg.xmp"] == first["a.jpg.xmp"] and "b.png.xmp" in hashes(photos)


def test_what_others_wrote_stays(export, photos):
    made = tagged(DIGIKAM, ["Dog", "red car", "a/b|c"], "1")
    assert subjects(made) == ["Rome", "dog", "red car", "a/b|c"]  # Dog is there, in other letters
    assert listed(made, "http://www.digikam.org/ns/1.0/", "TagsList") == ["Places/Rome", "red car"]
    assert listed(made, "http://ns.adobe.com/lightroom/1.0/", "hierarchicalSubject") == [
        "Places|Rome",
        "red car",
    ]
    for kept in (b'xmp:Rating="4"', b"<!-- somebody's remark -->", b"A &amp; b", b"x-default"):
        assert kept in made
    assert tagged(made, ["Dog", "red car", "a/b|c"], "1") == made
    back = tagged(made, [], "2")
    assert subjects(back) == ["Rome", "dog"]

    def without_ours(content: bytes) -> str:
        text = re.sub(r"<c2srt:tags.*?</c2srt:tags>", "", content.decode(), flags=re.DOTALL)
        text = re.sub(r'\s+(xmlns:c2srt|c2srt:run)="[^"]*"', "", text)
        return minidom.parseString(text.encode()).documentElement.toxml()

    assert without_ours(back) == minidom.parseString(DIGIKAM).documentElement.toxml()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is no XML"),
        (b"<a>", "is no XML"),
        (b"<a/>", "has no rdf:Description"),
        (b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "has a document type"),
        (DIGIKAM.replace(b"<rdf:Bag>\n", b"<rdf:Bag/><rdf:Bag>\n"), "its subject is no list"),
        (DIGIKAM.replace(b"xmp:Rating", b"dc:subject"), "its subject is no list"),
    ],
)
def test_a_sidecar_that_is_none_is_left_as_it_is(export, photos, capsys, content, sentence):
    with pytest.raises(NotOurs, match=sentence):
        tagged(content, ["dog"], "1")
    (photos / "a.jpg.xmp").write_bytes(content)
    assert predict(export, f"images={photos}/a.jpg", "labels=dog") == 1
    assert "its sidecar a.jpg.xmp was left as it is: it" in capsys.readouterr().err
    assert (photos / "a.jpg.xmp").read_bytes() == content


def test_adobes_names_and_pictures_that_would_share_one(export, photos, capsys):
    assert predict(export, f"images={photos}/a.jpg", "labels=dog", "sidecars=adobe") == 0
    assert (photos / "a.xmp").exists() and not (photos / "a.jpg.xmp").exists()
    (photos / "a.png").write_bytes((photos / "b.png").read_bytes())
    assert predict(export, f"images={photos}/a.*g", "labels=dog", "sidecars=adobe") == 2
    assert "would both have the sidecar" in capsys.readouterr().err
    assert predict(export, "images=http://127.0.0.1/a.jpg", "labels=dog") == 2
    assert "out=xmp writes beside pictures, and http://127.0.0.1/a.jpg" in capsys.readouterr().err
    check_names(Sidecars(False, ""), [Source("a.jpg"), Source("a.png")])


def test_empty_lists_of_ours_leave_an_empty_subject():
    """A picture without a tag is done as well."""
    made = tagged(DIGIKAM, [], "7")
    assert subjects(made) == ["Rome", "dog"] and b'c2srt:run="7"' in made and RDF.encode() in made

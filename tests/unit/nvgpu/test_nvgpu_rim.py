"""Manifests: the XML profile, its canonical form, the one shape of signature, and what the SWID tag says."""

import base64
import io
import xml.etree.ElementTree as ElementTree

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from attest.errors import MalformedInput, Unsupported, VerificationError, VitrineError
from attest.nvgpu import rim, xmldsig, xmltree
from tests.fakes.authority import SIGNER, issue, key
from tests.fakes.mutate import MUTATIONS, mutated
from tests.fakes.nvgpu import DRIVER, INFO, SWID, entry, manifest_chain, signed, tag, value

CHAIN = manifest_chain()
GOOD = signed(tag(DRIVER, (1, 2)), CHAIN)


def parse(text: str | bytes) -> xmltree.Element:
    return xmltree.parse(text.encode() if isinstance(text, str) else text, "x")


def canonical(text: str) -> str:
    return xmltree.canonical(parse(text)).decode()


# The canonical form: examples in the manner of Canonical XML 1.1, section 3.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<a/>", "<a></a>"),
        ("<?xml version='1.0' encoding='utf-8'?>\n<a >  </a >\n", "<a>  </a>"),
        ("<a b='2' a='1'/>", '<a a="1" b="2"></a>'),
        ("<a>\r\nx</a>", "<a>\nx</a>"),
        ("<a>&#13;&amp;&lt;&gt;&quot;</a>", '<a>&#xD;&amp;&lt;&gt;"</a>'),
        ("<a b='&#9;&#10;&#13;&amp;&lt;>\"'/>", '<a b="&#x9;&#xA;&#xD;&amp;&lt;>&quot;"></a>'),
        ("<a b='x\ny'/>", '<a b="x y"></a>'),
        ("<a><![CDATA[<&]]></a>", "<a>&lt;&amp;</a>"),
        ("<a xmlns='u' xmlns:p='v'><b xmlns='u'/></a>", '<a xmlns="u" xmlns:p="v"><b></b></a>'),
        ("<a xmlns='u'><b xmlns=''/></a>", '<a xmlns="u"><b xmlns=""></b></a>'),
        ("<a xmlns=''/>", "<a></a>"),
        ("<a xmlns:p='v'><b xmlns:p='w' p:c='1'/></a>", '<a xmlns:p="v"><b xmlns:p="w" p:c="1"></b></a>'),
        (
            "<a xmlns:z='a' xmlns:y='b' z:q='1' y:q='2' q='3'/>",
            '<a xmlns:y="b" xmlns:z="a" q="3" z:q="1" y:q="2"></a>',
        ),
        ("<a xmlns:p='x&amp;y'/>", '<a xmlns:p="x&amp;y"></a>'),
        ("<a>\u00e9\U0001f600</a>", "<a>\u00e9\U0001f600</a>"),
    ],
)
def test_canonical_form(text: str, expected: str) -> None:
    assert canonical(text) == expected


NAMES = st.sampled_from(["a", "b", "p:a", "q:b"])
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), include_characters="\t\n\r"), max_size=8)


@st.composite
def documents(draw: st.DrawFn, depth: int = 3) -> str:
    name = draw(NAMES)
    escape = str.maketrans({c: f"&#{ord(c)};" for c in "&<>\"'\t\n\r\ufffe\uffff"})
    attributes = draw(st.dictionaries(st.sampled_from(["x", "p:x", "q:x", "y"]), TEXTS, max_size=3))
    written = "".join(f" {key}='{text.translate(escape)}'" for key, text in attributes.items())
    inner = "".join(draw(st.lists(documents(depth - 1) if depth else st.just(""), max_size=2))) + draw(TEXTS).translate(
        escape
    )
    return f"<{name} xmlns:p='P' xmlns:q='Q'{written}>{inner}</{name}>"


@MUTATIONS
@given(documents())
def test_another_canonicaliser_agrees(text: str) -> None:
    # The standard library's version 2 writes a namespace where it is used; ours where it is declared: here on the root.
    try:
        ours = canonical(text)
    except MalformedInput:
        return
    assert canonical(ours) == ours
    theirs = ElementTree.canonicalize(text)
    out = io.StringIO()
    ElementTree.canonicalize(ours, out=out)
    assert out.getvalue() == theirs


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no element"),
        ("<a>", "no element|unclosed"),
        ("<a/><b/>", "junk"),
        ("<!DOCTYPE a><a/>", "document type"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document type"),
        ("<a>&undefined;</a>", "undefined entity"),
        ("<?go?><a/>", "processing instruction"),
        ("<a><?go?></a>", "processing instruction"),
        ("<!-- --><a/>", "comment"),
        ("<a>1<!-- -->2</a>", "comment"),
        ("<a xml:lang='en'/>", "declared prefix"),
        ("<xml:a/>", "declared prefix"),
        ("<p:a/>", "declared prefix"),
        ("<a p:b='1'/>", "declared prefix"),
        ("<a xmlns:p='u' p:b:c='1'/>", "local name"),
        ("<a xmlns:p:q='u'/>", "local name"),
        ("<a xmlns:='u'/>", "local name"),
        ("<a xmlns='u' :b='1'/>", "local name"),
        ("<:a xmlns='u'/>", "local name"),
        ("<a xmlns:p='u'><p:/></a>", "local name"),
        ("<a xmlns:p=''/>", "no declaration"),
        ("<a xmlns:xml='u'/>", "no declaration"),
        ("<a xmlns:xmlns='u'/>", "no declaration"),
        ("<a xmlns:p='u' xmlns:q='u' p:b='1' q:b='2'/>", "once"),
        ("<a b='1' b='2'/>", "duplicate"),
        ("<a>" * 17 + "</a>" * 17, "16 levels"),
        ("<?xml version='1.0' encoding='iso-8859-1'?><a/>", "UTF-8"),
        ("<?xml version='1.0' standalone='no'?><a/>", "UTF-8"),
        ("<?xml version='1.1'?><a/>", "XML 1.0|XML declaration"),
        ("<a>\ud800</a>", None),
    ],
)
def test_other_xml_is_refused(text: str, problem: str | None) -> None:
    with pytest.raises(MalformedInput, match=problem):
        parse(text.encode("utf-8", "surrogatepass"))


def test_xml_is_bounded() -> None:
    parse("<a>" * 16 + "</a>" * 16)
    parse("<a>" + "x" * (xmltree.MAX_BYTES - 7) + "</a>")
    with pytest.raises(MalformedInput, match="at most"):
        parse("<a>" + "x" * (xmltree.MAX_BYTES - 6) + "</a>")
    many = "".join(f" xmlns:p{number}='u'" for number in range(32))
    parse(f"<a{many}><b xmlns:p0='v'/><b/></a>")
    with pytest.raises(MalformedInput, match="at most 32 namespaces"):
        parse(f"<a{many}><b xmlns:q='u'/></a>")


# Signatures.


def verify(data: bytes) -> rim.Rim:
    return rim.read(xmldsig.verify(xmldsig.read(data, "x"), layer="nvgpu"))


def code(data: bytes) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(data)
    assert caught.value.layer == "nvgpu"
    return caught.value.code


def test_a_signed_manifest() -> None:
    found = verify(GOOD)
    assert (found.version, found.product, found.tag_id) == (DRIVER, "GH100", "t")
    assert found.values == {block: (value(block, "older"), value(block)) for block in (1, 2)}


def test_whitespace_and_quotes_outside_the_canonical_form_are_free() -> None:
    assert verify(GOOD.replace(b"<Payload>", b"<Payload  >")) == verify(GOOD)


def test_content_changed_after_signing() -> None:
    assert code(GOOD.replace(b'index="0"', b'index="9"')) == "rim_digest"
    assert code(GOOD.replace(b"<Payload>", b"<Payload> ")) == "rim_digest"


def test_signed_by_another_key() -> None:
    assert code(signed(tag(DRIVER, (1,)), CHAIN, own=key("attacker"))) == "rim_signature"


def test_the_digest_is_signed() -> None:
    other = signed(tag("1", (1,)), CHAIN)
    start, end = b"<ds:DigestValue>", b"</ds:DigestValue>"
    digest = other.split(start)[1].split(end)[0]
    swapped = other.replace(DRIVER.encode(), b"1")
    moved = GOOD.split(start)[0] + start + digest + end + GOOD.split(end)[1]
    assert code(moved) == "rim_digest"
    content = swapped.split(b"<ds:Signature ")[0]
    assert code(content + moved[moved.index(b"<ds:Signature ") :]) == "rim_signature"


def test_a_signature_of_another_size() -> None:
    start, end = b"<ds:SignatureValue>", b"</ds:SignatureValue>"
    text = GOOD.split(start)[1].split(end)[0]
    raw = base64.b64decode(text)
    padded = base64.b64encode(raw[:48] + b"\0" + raw[48:])
    for wrong in (b"AAAA", text[:-4] + b"AAAAAAAA", padded):
        assert code(GOOD.replace(text, wrong)) == "rim_signature"


def test_a_key_of_another_curve_or_kind() -> None:
    for public in (key("p256", ec.SECP256R1).public_key(), rsa.generate_private_key(65537, 2048).public_key()):
        leaf = issue("signer", CHAIN[1], ca=False, key_usage=SIGNER, public=public)
        assert code(signed(tag(DRIVER, (1,)), [leaf, *CHAIN[1:]], own=CHAIN[0].key)) == "rim_key"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("2006/12/xml-c14n11", "2001/10/xml-exc-c14n#"),
        ("ecdsa-sha384", "hmac-sha384"),
        ("xmldsig-more#sha384", "xmldsig-more#sha512"),
        ("#enveloped-signature", "#base64"),
        ('URI=""', 'URI="#t"'),
        (' URI=""', ""),
        ('URI=""', 'URI="" Id="x"'),
        ("<ds:DigestValue>", "<ds:DigestValue/><ds:DigestValue>"),
        ("ds:KeyInfo", "ds:KeyInfos"),
        ("ds:X509Data", "ds:KeyValue"),
        ('c14n11"/>', 'c14n11" Other="1"/>'),
        ('c14n11"/><ds:Sig', 'c14n11"><ds:More/></ds:CanonicalizationMethod><ds:Sig'),
        ("<ds:SignedInfo>", "<ds:SignedInfo><ds:Object/>"),
    ],
)
def test_other_shapes_are_unsupported(old: str, new: str) -> None:
    with pytest.raises(Unsupported):
        verify(signed(tag(DRIVER, (1,)), CHAIN, change=lambda text: text.replace(old, new)))


def test_a_second_transform_of_another_form() -> None:
    info = INFO.replace('<ds:Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"/>', "", 1)
    with pytest.raises(Unsupported):
        verify(signed(tag(DRIVER, (1,)), CHAIN, info=info))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ds:X509Certificate", "ds:X509Name"),
        ("<ds:X509Certificate>", "<ds:X509Certificate>!"),
        ("<ds:X509Certificate>", "<ds:X509Certificate>AAAA"),
        ("<ds:DigestValue>", "<ds:DigestValue>\u00e9"),
        ("ds:Signature", "ds:Signed"),
    ],
)
def test_contents_that_are_none_are_malformed(old: str, new: str) -> None:
    with pytest.raises(MalformedInput):
        verify(signed(tag(DRIVER, (1,)), CHAIN, change=lambda text: text.replace(old, new)))


def test_what_was_signed_is_all_but_the_signature() -> None:
    root = xmldsig.verify(xmldsig.read(GOOD, "x"), layer="nvgpu")
    assert [child.name[1] for child in root.elements()] == ["Meta", "Payload"]


def test_the_number_of_certificates() -> None:
    verify(signed(tag(DRIVER, (1,)), CHAIN[:1] * 8))
    for chain in ([], CHAIN * 3):
        with pytest.raises(MalformedInput, match="1 to 8"):
            verify(signed(tag(DRIVER, (1,)), chain, own=CHAIN[0].key))


def test_two_signatures_and_none() -> None:
    with pytest.raises(MalformedInput, match="found 2"):
        xmldsig.read(signed(GOOD.decode(), CHAIN), "x")
    with pytest.raises(MalformedInput, match="found 0"):
        xmldsig.read(tag(DRIVER, (1,)).encode(), "x")


def test_a_signature_moved_below_another_root() -> None:
    wrapped = b"<root>" + GOOD + b"</root>"
    with pytest.raises(MalformedInput, match="found 0"):
        xmldsig.read(wrapped, "x")


# SWID tags.


def read(text: str) -> rim.Rim:
    return rim.read(parse(text))


def test_inactive_entries_do_not_count() -> None:
    assert read(tag("1", (1,), entries=entry(7, [value(8)], active=False))).values.keys() == {1}


def test_text_is_of_elements_without_others() -> None:
    assert [parse(text).text() for text in ("<a>x</a>", "<a/>", "<a>x<b/></a>")] == ["x", "", ""]


def test_alternatives_are_bounded() -> None:
    with pytest.raises(MalformedInput, match="0 values"):
        read(tag("1", (1,), entries=entry(5, [])))
    assert len(read(tag("1", (), entries=entry(0, [value(1)] * 64))).values[1]) == 64
    with pytest.raises(MalformedInput, match="65 values"):
        read(tag("1", (), entries=entry(0, [value(1)] * 65)))


def test_entries_are_bounded() -> None:
    read(tag("1", range(1, 257)))
    for entries in (range(1, 258), ()):
        with pytest.raises(MalformedInput, match="1 to 256"):
            read(tag("1", entries))


GOOD_TAG = tag("1", (1,), entries=entry(5, [value(6)]))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("SoftwareIdentity", "Software"),
        ("schema.xsd", "schema2.xsd"),
        ("<Meta", "<Other/><Meta2"),
        ("<Payload>", "<Payload/><Payload>"),
        ("Payload", "Load"),
        ('type="Measurement"', 'type="File"'),
        ("<Resource", "<File"),
        ('index="5"', 'index="0"'),
        ('index="5"', 'index="05"'),
        ('index="5"', 'index="-5"'),
        ('index="5"', 'index="55555"'),
        ('index="5"', 'index="\u0665"'),
        ('index="5" ', ""),
        ('active="True"', 'active="true"'),
        ('active="True" ', ""),
        ('size="48"', 'size="32"'),
        ('size="48"', ""),
        ('alternatives="2"', 'alternatives="1"'),
        ('alternatives="2"', 'alternatives="3"'),
        ('alternatives="1"', 'alternatives="0"'),
        ("ns2:Hash1", "ns2:Hash2"),
        ("ns2:Hash1", "Hash1"),
        ("xmlenc#sha384", "xmlenc#sha256"),
        (value(1).hex(), value(1).hex().upper()),
        (value(1).hex(), value(1).hex()[2:]),
        (value(1).hex(), value(1).hex() + "00"),
        ('tagId="t"', ""),
        ('tagId="t"', 'tagId=""'),
        ('tagId="t"', 'tagId="&#10;"'),
        ('tagId="t"', f'tagId="{"t" * 257}"'),
        ('colloquialVersion="1"', ""),
        ('product="GH100"', ""),
    ],
)
def test_tags_that_are_none(old: str, new: str) -> None:
    assert old in GOOD_TAG
    changed = GOOD_TAG.replace(old, new)
    if new == "<File":
        changed = changed.replace("</Resource>", "</File>")
    with pytest.raises(MalformedInput):
        read(changed)


def test_a_tag_that_is_good() -> None:
    assert read(GOOD_TAG).values.keys() == {1, 6}
    assert read(GOOD_TAG.replace('tagId="t"', f'tagId="{"t" * 256}"')).tag_id == "t" * 256
    assert "{entries}" in SWID


@MUTATIONS
@given(st.data())
def test_a_mutated_manifest_is_refused_or_says_the_same(random: st.DataObject) -> None:
    try:
        signer = xmldsig.read(random.draw(mutated(GOOD)), "x")
        found = rim.read(xmldsig.verify(signer, layer="nvgpu"))
    except VitrineError:
        return
    assert found == verify(GOOD)

"""The tree of RFC 6962: published roots, and properties of proofs over every size."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attest import merkle
from attest.errors import VerificationError

# The test data of RFC 6962's reference implementation: eight leaves, and the root after each.
LEAVES = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
LEAVES.append(bytes(range(0x60, 0x70)))
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_what_is_outside_the_tree() -> None:
    tree = merkle.Tree(leaves(1))
    assert [list(tree.nodes(level)) for level in (0, 1, 2)] == [leaves(1), [], []]
    for size in (-1, 2):
        with pytest.raises(IndexError, match=f"not {size}"):
            tree.root(size)
    for grown in (tree, merkle.Tree([])):
        with pytest.raises(TypeError, match="leaf hashes of 32 bytes"):
            grown.append("x" * merkle.HASH_BYTES)  # type: ignore[arg-type]
    # A path that the walk from a negative index would follow up to this root.
    leaf, one, two = leaves(3)
    root = merkle.node_hash(two, merkle.node_hash(one, leaf))
    with pytest.raises(VerificationError, match="index below"):
        merkle.verify_inclusion(leaf, -1, 1, [one, two], root)
    # A proof that the walk from a negative size would follow up to both roots.
    with pytest.raises(VerificationError, match="at least -1"):
        merkle.verify_consistency(-1, leaf, 2, merkle.node_hash(leaf, one), [leaf, one])


def leaves(count: int) -> list[bytes]:
    return [merkle.leaf_hash(index.to_bytes(4, "big")) for index in range(count)]


def recursive_root(hashes: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, word for word."""
    if not hashes:
        return merkle.EMPTY_ROOT
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return merkle.node_hash(recursive_root(hashes[:split]), recursive_root(hashes[split:]))


def refuses_inclusion(*arguments: object) -> None:
    with pytest.raises(VerificationError) as caught:
        merkle.verify_inclusion(*arguments)  # type: ignore[arg-type]
    assert (caught.value.layer, caught.value.code) == ("merkle", "inclusion")


def refuses_consistency(*arguments: object) -> None:
    with pytest.raises(VerificationError) as caught:
        merkle.verify_consistency(*arguments)  # type: ignore[arg-type]
    assert (caught.value.layer, caught.value.code) == ("merkle", "consistency")


def test_published_roots() -> None:
    hashes = [merkle.leaf_hash(leaf) for leaf in LEAVES]
    assert merkle.root([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert [merkle.root(hashes[:size]).hex() for size in range(1, 9)] == ROOTS


def test_published_proofs() -> None:
    hashes = [merkle.leaf_hash(leaf) for leaf in LEAVES]
    assert [node.hex() for node in merkle.inclusion_path(hashes, 5)] == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert [node.hex() for node in merkle.consistency_proof(hashes, 6)] == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def test_every_small_tree() -> None:
    hashes = leaves(40)
    whole = merkle.Tree(hashes)
    for size in range(41):
        tree = merkle.Tree(hashes[:size])
        root = recursive_root(hashes[:size])
        assert tree.root() == whole.root(size) == merkle.root(hashes[:size]) == root
        for index in range(size):
            path = tree.inclusion_path(index)
            assert path == whole.inclusion_path(index, size)
            merkle.verify_inclusion(hashes[index], index, size, path, root)
        for old in range(size + 1):
            proof = tree.consistency_proof(old)
            merkle.verify_consistency(old, recursive_root(hashes[:old]), size, root, proof)


@given(st.integers(1, 300), st.data())
def test_a_changed_inclusion_proof_is_refused(size: int, data: st.DataObject) -> None:
    hashes = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    root, path = merkle.root(hashes), merkle.inclusion_path(hashes, index)
    merkle.verify_inclusion(hashes[index], index, size, path, root)
    refuses_inclusion(merkle.leaf_hash(b"other"), index, size, path, root)
    refuses_inclusion(hashes[index], index, size, path, merkle.leaf_hash(b"other"))
    refuses_inclusion(hashes[index], index, size, [*path, root], root)
    if path:
        refuses_inclusion(hashes[index], index, size, path[:-1], root)
        position = data.draw(st.integers(0, len(path) - 1))
        changed = bytes([path[position][0] ^ 1]) + path[position][1:]
        refuses_inclusion(hashes[index], index, size, [*path[:position], changed, *path[position + 1 :]], root)
        refuses_inclusion(hashes[index], index, size, [*path[:position], b"short", *path[position + 1 :]], root)
        other = data.draw(st.integers(0, size - 1).filter(lambda other: other != index))
        refuses_inclusion(hashes[index], other, size, path, root)


@given(st.integers(2, 300), st.data())
def test_a_changed_consistency_proof_is_refused(size: int, data: st.DataObject) -> None:
    hashes = leaves(size)
    old = data.draw(st.integers(1, size - 1))
    tree = merkle.Tree(hashes)
    old_root, root, proof = tree.root(old), tree.root(), tree.consistency_proof(old)
    merkle.verify_consistency(old, old_root, size, root, proof)
    refuses_consistency(old, merkle.leaf_hash(b"other"), size, root, proof)
    refuses_consistency(old, old_root, size, merkle.leaf_hash(b"other"), proof)
    refuses_consistency(old, old_root, size, root, [*proof, root])
    refuses_consistency(old, old_root, size, root, proof[:-1])
    position = data.draw(st.integers(0, len(proof) - 1))
    changed = bytes([proof[position][0] ^ 1]) + proof[position][1:]
    refuses_consistency(old, old_root, size, root, [*proof[:position], changed, *proof[position + 1 :]])
    refuses_consistency(old, old_root, size, root, [*proof[:position], b"short", *proof[position + 1 :]])


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=12), st.integers(-2, 40), st.integers(-2, 40))
def test_made_up_proofs_raise_nothing_else(proof: list[bytes], first: int, second: int) -> None:
    root = merkle.leaf_hash(b"root")
    refuses_inclusion(merkle.leaf_hash(b"leaf"), first, second, proof, root)
    try:
        merkle.verify_consistency(first, root, second, merkle.leaf_hash(b"new"), proof)
    except VerificationError as error:
        assert error.code == "consistency"
    else:
        pytest.fail("a made-up proof was accepted")


def test_the_ends_of_consistency() -> None:
    tree = merkle.Tree(leaves(5))
    merkle.verify_consistency(0, merkle.EMPTY_ROOT, 5, tree.root(), [])
    merkle.verify_consistency(5, tree.root(), 5, tree.root(), [])
    refuses_consistency(0, tree.root(), 5, tree.root(), [])
    refuses_consistency(5, tree.root(4), 5, tree.root(), [])
    refuses_consistency(0, merkle.EMPTY_ROOT, 5, tree.root(), [tree.root()])
    refuses_consistency(6, tree.root(), 5, tree.root(), [])
    refuses_consistency(-1, tree.root(), 5, tree.root(), [])
    refuses_consistency(3, tree.root(3), 5, tree.root(), [])
    refuses_consistency(4, tree.root(4), 5, tree.root(), [])


def test_a_proof_for_another_size_is_refused_though_its_hashes_fit() -> None:
    """Size and index are no part of a hash: only the proof's length speaks for them."""
    hashes = leaves(16)
    tree = merkle.Tree(hashes)
    two = merkle.root(hashes[:2])
    merkle.verify_inclusion(hashes[0], 0, 2, [hashes[1]], two)
    for size in (1, 3, 100):
        refuses_inclusion(hashes[0], 0, size, [hashes[1]], two)
    with pytest.raises(VerificationError, match="an index below"):
        merkle.verify_inclusion(hashes[0], 2, 2, [hashes[1]], two)
    with pytest.raises(VerificationError, match="a path of 1 hashes of 32 bytes"):
        merkle.verify_inclusion(hashes[0], 0, 2, [hashes[1] + b"x"], two)
    proof = tree.consistency_proof(4, 8)
    merkle.verify_consistency(4, tree.root(4), 8, tree.root(8), proof)
    refuses_consistency(4, tree.root(4), 16, tree.root(8), proof)
    proof = tree.consistency_proof(4, 16)
    refuses_consistency(4, tree.root(4), 8, tree.root(16), proof)
    # Left neighbours at the top of the tree: the walk would go on above the root of the smaller sizes.
    proof = tree.consistency_proof(7, 8)
    merkle.verify_consistency(7, tree.root(7), 8, tree.root(8), proof)
    with pytest.raises(VerificationError, match="a shorter proof"):
        merkle.verify_consistency(3, tree.root(7), 4, tree.root(8), proof)
    with pytest.raises(VerificationError, match="at least 6"):
        merkle.verify_consistency(6, tree.root(6), 5, tree.root(5), [])
    with pytest.raises(VerificationError, match="hashes of 32 bytes"):
        merkle.verify_consistency(3, tree.root(3), 5, tree.root(5), [b"short"])


def test_callers_mistakes() -> None:
    tree = merkle.Tree(leaves(3))
    with pytest.raises(TypeError, match="leaf_hash"):
        tree.append(b"data, not a hash")
    for wrong in (
        lambda: tree.root(4),
        lambda: tree.inclusion_path(3),
        lambda: tree.inclusion_path(-1),
        lambda: tree.consistency_proof(4),
        lambda: tree.consistency_proof(-1),
        lambda: tree.consistency_proof(1, 4),
    ):
        with pytest.raises(IndexError, match=r"lea(f|ves)"):
            wrong()


def test_the_layer_is_the_callers() -> None:
    with pytest.raises(VerificationError, match="transcript/inclusion"):
        merkle.verify_inclusion(b"", 1, 1, [], b"", layer="transcript")


def test_a_large_tree_is_quick() -> None:
    start = time.process_time()
    tree = merkle.Tree(leaves(50_000))
    for index in range(0, 50_000, 500):
        merkle.verify_inclusion(
            merkle.leaf_hash(index.to_bytes(4, "big")), index, 50_000, tree.inclusion_path(index), tree.root()
        )
    assert time.process_time() - start < 5
    assert len(tree) == 50_000

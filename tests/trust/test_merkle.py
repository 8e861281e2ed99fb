"""The Merkle tree: the public vectors of Certificate Transparency, and every proof against every forgery."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsfed.trust.merkle import EMPTY_ROOT, Tree, extends, includes, leaf_hash, node_hash

# The test vectors of RFC 6962 implementations (certificate-transparency, merkletree_test).
ENTRIES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
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
L01 = ROOTS[1]
L0123 = ROOTS[3]
L0 = ROOTS[0]
L1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
L23 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
L4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
L45 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
L67 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
L4567 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
INCLUSION = {(0, 1): [], (0, 8): [L1, L23, L4567], (5, 8): [L4, L67, L0123], (2, 3): [L01], (1, 5): [L0, L23, L4]}
CONSISTENCY = {(1, 1): [], (1, 8): [L1, L23, L4567], (6, 8): [L45, L67, L0123], (2, 5): [L23, L4]}


def tree_of(entries):
    tree = Tree()
    for entry in entries:
        tree.append(leaf_hash(entry))
    return tree


def hexes(proof):
    return [part.hex() for part in proof]


def naive_root(entries):
    """RFC 6962, section 2.1, word by word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    k = 1
    while 2 * k < len(entries):
        k *= 2
    return hashlib.sha256(b"\x01" + naive_root(entries[:k]) + naive_root(entries[k:])).digest()


def test_roots_are_those_of_the_public_vectors():
    tree = tree_of(ENTRIES)
    assert [tree.root(size).hex() for size in range(1, 9)] == ROOTS
    assert Tree().root() == EMPTY_ROOT == tree.root(0)


def test_proofs_are_those_of_the_public_vectors():
    tree = tree_of(ENTRIES)
    assert {key: hexes(tree.inclusion(*key)) for key in INCLUSION} == INCLUSION
    assert {key: hexes(tree.consistency(*key)) for key in CONSISTENCY} == CONSISTENCY


def test_what_the_list_does_not_have_cannot_be_proved():
    tree = tree_of(ENTRIES)
    for ask, *wrong in (
        (tree.root, 9),
        (tree.inclusion, 8, 8),
        (tree.inclusion, 0, 9),
        (tree.consistency, 0, 3),
        (tree.consistency, 4, 3),
        (tree.consistency, 3, 9),
    ):
        with pytest.raises(ValueError, match="no such entries"):
            ask(*wrong)


LISTS = st.integers(1, 70).map(lambda n: [f"entry {i}".encode() for i in range(n)])


@given(st.data(), LISTS)
def test_every_inclusion_and_consistency_proof_holds(data, entries):
    tree, size = tree_of(entries), data.draw(st.integers(1, len(entries)))
    assert tree.root(size) == naive_root(entries[:size])
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    assert includes(leaf_hash(entries[index]), index, size, tree.inclusion(index, size), tree.root(size))
    assert extends(old, tree.root(old), size, tree.root(size), tree.consistency(old, size))


@given(st.data(), LISTS)
def test_a_proof_with_anything_changed_does_not_hold(data, entries):
    tree, size = tree_of(entries), data.draw(st.integers(1, len(entries)))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    leaf, root, proof = leaf_hash(entries[index]), tree.root(size), tree.inclusion(index, size)
    assert not includes(leaf_hash(entries[index] + b"!"), index, size, proof, root)
    assert not includes(leaf, index, size, proof, leaf_hash(root))
    assert not includes(leaf, index, size, [*proof, root], root)
    assert not includes(leaf, index, 4 * size, proof, root)
    other = data.draw(st.integers(-1, size + 1).filter(lambda value: value != index))
    assert not includes(leaf, other, size, proof, root)
    for forged in forgeries(data, proof):
        assert not includes(leaf, index, size, forged, root)
    old_root, proof = tree.root(old), tree.consistency(old, size)
    assert not extends(old, leaf_hash(old_root), size, root, proof)
    assert not extends(old, old_root, size, leaf_hash(root), proof)
    assert not extends(old, old_root, size, root, [*proof, root])
    assert not extends(size + 1, old_root, size, root, proof)
    assert not extends(old, old_root, 4 * size, root, proof)
    assert not extends(0, EMPTY_ROOT, size, root, proof)
    for forged in forgeries(data, proof):
        assert not extends(old, old_root, size, root, forged)


def forgeries(data, proof):
    """The proof with one part missing, changed, or two exchanged."""
    if not proof:
        return
    place = data.draw(st.integers(0, len(proof) - 1))
    yield proof[:place] + proof[place + 1 :]
    yield [*proof[:place], leaf_hash(proof[place]), *proof[place + 1 :]]
    if len(proof) > 1:
        yield [proof[1], proof[0], *proof[2:]]


@given(st.data(), st.integers(2, 60))
def test_a_list_that_was_rewritten_is_no_continuation_whatever_proof_it_offers(data, count):
    old = data.draw(st.integers(1, count - 1))
    changed = data.draw(st.integers(0, old - 1))
    entries = [f"entry {i}".encode() for i in range(count)]
    rewritten = [*entries[:changed], b"rewritten", *entries[changed + 1 :]]
    before, after = tree_of(entries[:old]), tree_of(rewritten)
    for proof in (after.consistency(old, count), tree_of(entries).consistency(old, count)):
        assert not extends(old, before.root(), count, after.root(), proof)


def test_an_inner_node_cannot_be_passed_off_as_an_entry():
    tree = tree_of([b"a", b"b"])
    assert leaf_hash(leaf_hash(b"a") + leaf_hash(b"b")) != node_hash(leaf_hash(b"a"), leaf_hash(b"b")) == tree.root()

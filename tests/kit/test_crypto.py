from __future__ import annotations

from waypost.kit.crypto import hmac_sha256, same


def test_a_keyed_hash_is_that_of_rfc_4231() -> None:
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"

    assert hmac_sha256(b"Jefe", b"what do ya want for nothing?").hex() == expected
    assert same(hmac_sha256(b"k", b"a"), hmac_sha256(b"k", b"a"))
    assert not same(hmac_sha256(b"k", b"a"), hmac_sha256(b"k", b"b"))

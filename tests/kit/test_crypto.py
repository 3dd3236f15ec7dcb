from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from waypost.kit.crypto import HmacSha256, hmac_sha256


def test_a_keyed_hash_is_that_of_rfc_4231() -> None:
    expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"

    assert hmac_sha256(b"Jefe", b"what do ya want for nothing?").hex() == expected


@given(secret=st.binary(max_size=200), messages=st.lists(st.binary(max_size=200), min_size=1, max_size=3))
def test_a_prepared_key_gives_the_same_hashes_time_after_time(secret: bytes, messages: list[bytes]) -> None:
    prepared = HmacSha256(secret)
    assert [prepared.digest(message) for message in messages] == [hmac_sha256(secret, message) for message in messages]

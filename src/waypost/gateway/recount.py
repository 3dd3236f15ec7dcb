"""A hold made tighter before a caller is told that the balance does not cover it: by counting the input's tokens, where
its bytes were the bound until then.
"""

from __future__ import annotations

from functools import partial

from waypost.dispatch.counting import Counting
from waypost.dispatch.ports import Admission, Offer
from waypost.kit.values import replace
from waypost.metering.estimate import upper_bound
from waypost.metering.tokens import TokenCounter, prompt_texts, text_bytes
from waypost.policy.ceiling import tools_tokens
from waypost.wire.request import ChatRequest

_MARGIN_PERCENT = 125  # other vocabularies count some per cent more than ours, and templates add to each turn
_TEMPLATE_TOKENS = 256
_BYTES_MIN = 1_024  # of a request; the bound of a shorter one is near enough


async def recounted(admission: Admission, counting: Counting) -> Admission:
    """The same request with a ceiling of input from a count of its texts; as it was, where too many are counted."""
    request = admission.request
    if request.text_bytes < _BYTES_MIN:
        return admission
    count = await counting.before_call(partial(_count, request=request))
    if count is None:
        return admission
    counted, uncounted_bytes = count
    text_tokens_max = counted * _MARGIN_PERCENT // 100 + uncounted_bytes + _TEMPLATE_TOKENS + tools_tokens(request)

    def tighter(offer: Offer) -> Offer:
        tokens_max = text_tokens_max + request.image_count * offer.model.image_tokens_max
        tokens = min(tokens_max, offer.ceiling.input_tokens_max)
        ceiling = replace(offer.ceiling, input_tokens_max=tokens)
        return replace(offer, ceiling=ceiling)

    offers = tuple(tighter(offer) for offer in admission.offers)
    at = [offer is admission.first.offer for offer in admission.offers].index(True)
    return replace(
        admission,
        offers=offers,
        first=replace(admission.first, offer=offers[at]),
        hold_nanos=max(upper_bound(offer.ceiling, offer.prices) for offer in offers),
    )


def _count(counter: TokenCounter, request: ChatRequest) -> tuple[int, int]:
    """Tokens of the texts, and how many bytes are none: names, sounds and inline files keep counting as bytes."""
    texts = prompt_texts(request.fields)
    return counter.count(texts), max(0, request.text_bytes - text_bytes(texts))

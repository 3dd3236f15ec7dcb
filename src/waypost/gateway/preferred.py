"""Admission of a request that says who may answer it: constraints first, then order, then what is left to us."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from waypost.dispatch.fleet import LiveRoute
from waypost.dispatch.ports import Admission, Candidate, Offer
from waypost.gateway.admission import INPUT_BYTES_PER_TOKEN_MOST, first_of, make_offer, refuse_too_long
from waypost.gateway.offering import Offering, cannot_carry, losses
from waypost.kit.errors import ErrorCode, NoEligibleRoute, Refusal
from waypost.metering.estimate import upper_bound
from waypost.policy.eligibility import excluded_by, place_in_order
from waypost.wire.preferences import Preferences
from waypost.wire.request import ChatRequest

_NEVER_MEASURED = -1.0  # tried before the others: how else would it ever be


class _Preferred:
    """One request's way of choosing."""

    def __init__(self, request: ChatRequest, preferences: Preferences) -> None:
        self._request = request
        self._preferences = preferences
        self.excluded: Counter[str] = Counter()
        self.refusal: Refusal | None = None  # of a request that only providers of the caller's own format can be given
        self.lost: dict[str, None] = {}  # of the request, by any of the eligible routes

    def eligible(self, offering: Offering) -> list[LiveRoute]:
        """The routes of a model that satisfy every constraint, in our order of preference."""
        eligible = []
        for live in offering.in_order():
            constraint = excluded_by(self._preferences, offering.model, live.provider)
            if constraint is None and not self._carries(live):
                constraint = "require_parameters"
            if constraint is None:
                eligible.append(live)
            else:
                self.excluded[constraint] += 1
        return eligible

    def _carries(self, live: LiveRoute) -> bool:
        """Whether this route can be given the request, less what may be dropped."""
        try:
            lost = losses(self._request, live)
        except Refusal as refusal:
            self.refusal = refusal
            return False
        self.lost |= dict.fromkeys(lost)
        return not lost or self._preferences.drops_parameters

    def ordered(self, candidates: list[Candidate]) -> list[Candidate]:
        """In the caller's order; where that says nothing, as they came."""
        preferences = self._preferences
        ordered = sorted(candidates, key=lambda each: place_in_order(preferences, each.live.provider))
        if preferences.sort:
            ordered.sort(key=self._sort_key)
        if not preferences.sorts_across_models:
            places = {id(offer): place for place, offer in enumerate(_offers_of(candidates))}
            ordered.sort(key=lambda each: places[id(each.offer)])
        if not preferences.allows_fallbacks:
            firsts: dict[int, Candidate] = {}
            for each in ordered:
                firsts.setdefault(id(each.offer), each)
            ordered = list(firsts.values())
        return ordered

    def _sort_key(self, candidate: Candidate) -> float:
        pace, price = candidate.live.pace, candidate.offer.prices
        match self._preferences.sort:
            case "latency":
                return _NEVER_MEASURED if pace.first_content_s is None else pace.first_content_s
            case "throughput":
                return float("-inf") if pace.tokens_per_s is None else -pace.tokens_per_s
            case _:
                return price.input + price.output


def admit_preferred(request: ChatRequest, models: Sequence[Offering], *, now_s: float, at_ms: int) -> Admission:
    """`models` is the one asked for, and those to fall back to. Raises Refusal: 503 when no route works at all, 400
    when every route would lose something of the request, 409 when other constraints leave none."""
    preferences = request.preferences
    assert preferences is not None
    choice = _Preferred(request, preferences)
    widest = max((each.model for each in models), key=lambda model: model.context_window)
    if request.text_bytes > widest.context_window * INPUT_BYTES_PER_TOKEN_MOST:
        refuse_too_long(request, widest)
    offers = tuple(make_offer(request, each.model, at_ms) for each in models)
    routes = [(each.model.slug, choice.eligible(each)) for each in models]

    def ranked(_: ChatRequest, offered: tuple[Offer, ...]) -> list[Candidate]:
        by_slug = {offer.model.slug: offer for offer in offered}
        candidates = [
            Candidate(live, by_slug[slug]) for slug, eligible in routes if slug in by_slug for live in eligible
        ]
        return choice.ordered(candidates)

    candidates = ranked(request, offers)
    if not candidates:
        raise _refusal(choice)
    first = first_of([each.live for each in candidates], now_s)
    able = tuple(offer for offer in offers if any(each.offer is offer for each in candidates))
    return Admission(
        request=request,
        price_version=models[0].version,
        first=next(each for each in candidates if each.live is first),
        offers=able,
        ranked=ranked,
        hold_nanos=max(upper_bound(offer.ceiling, offer.prices) for offer in able),
        dropped=tuple(choice.lost) if preferences.drops_parameters else (),
    )


def _refusal(choice: _Preferred) -> Refusal:
    if not choice.excluded:
        return Refusal(ErrorCode.MODEL_UNAVAILABLE)
    if set(choice.excluded) == {"require_parameters"}:
        return choice.refusal or cannot_carry(tuple(choice.lost))
    return NoEligibleRoute(dict(choice.excluded))


def _offers_of(candidates: Sequence[Candidate]) -> list[Offer]:
    offers: list[Offer] = []
    for each in candidates:
        if all(each.offer is not offer for offer in offers):
            offers.append(each.offer)
    return offers

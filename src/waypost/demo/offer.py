"""What the demo sells: one provider on this machine, one model, its price and its cost."""

from __future__ import annotations

import msgspec

from waypost.demo.embedding_model import CONTEXT_TOKENS as EMBEDDED_TOKENS
from waypost.demo.local_model import API_KEY_VARIABLE, CONTEXT_TOKENS
from waypost.policy.catalogue import Catalogue
from waypost.policy.document import read_catalogue

ALIAS = "gpt-4o-mini"  # so that a program written for it runs with the address changed and nothing else


class Offer(msgspec.Struct, frozen=True):
    """A model as it is called here and at its provider."""

    slug: str
    provider: str
    upstream_model: str
    title: str


LOCAL = Offer("gemma-3-270m", "this-machine", "gemma-3-270m", "Gemma 3 270M, a small real model, on this machine")
SIMULATED = Offer("sim-large", "simulator", "sim-large", "a simulated model; its answers are made up by rule")


LOCAL_VECTORS = Offer("e5-small", "vectors-here", "e5-small", "multilingual-e5-small, real embeddings, on this machine")
SIMULATED_VECTORS = Offer("e5-small", "vectors-simulated", "sim-vectors", "simulated embeddings")


def catalogue_of(offer: Offer, port: int, vectors: Offer | None = None, vectors_port: int = 0) -> Catalogue:
    """The catalogue with that one model, served on a loopback port, and an embedding model where there is one."""
    providers, models = [_provider(offer, port)], []
    if vectors is not None:
        providers.append(_provider(vectors, vectors_port))
        deployment = {"provider": vectors.provider, "upstream_model": vectors.upstream_model, "cost": {"input": "0.01"}}
        models.append(
            {
                "slug": vectors.slug,
                "modality": "embedding",
                "context_window": EMBEDDED_TOKENS,
                "max_output": 1,
                "price": {"input": "0.02"},
                "deployments": [deployment],
            }
        )
    return read_catalogue(
        {
            "providers": providers,
            "models": [
                *models,
                {
                    "slug": offer.slug,
                    "aliases": [ALIAS],
                    "modality": "chat",
                    "context_window": CONTEXT_TOKENS,
                    "max_output": CONTEXT_TOKENS // 2,
                    "price": {"input": "0.10", "output": "0.40"},
                    "deployments": [
                        {
                            "provider": offer.provider,
                            "upstream_model": offer.upstream_model,
                            "cost": {"input": "0.05", "output": "0.20"},
                        }
                    ],
                },
            ],
        }
    )


def _provider(offer: Offer, port: int) -> dict[str, object]:
    return {
        "id": offer.provider,
        "kind": "openai",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "api_keys": [f"env:{API_KEY_VARIABLE}"],
        "training": False,
        "retention_days": 0,
        "cancel_stops_billing": "yes",
    }

"""What a newcomer reads when the demo is ready: lines to paste, plain, so that nothing is wrapped."""

from __future__ import annotations

import shlex
from pathlib import Path

from waypost.demo.account import Account
from waypost.demo.offer import ALIAS, Offer
from waypost.kit.money import Nanos, format_usd_floor
from waypost.supervisor.up import Deployment

_QUESTION = "What is the capital of France?"
_MESSAGES = f'"messages": [{{"role": "user", "content": "{_QUESTION}"}}]'


def render_card(deployment: Deployment, account: Account, offer: Offer, balance: Nanos, notes: list[str]) -> str:
    """The text, with the ready line first."""
    return "\n".join(
        [
            f"waypost ready {deployment.url}",
            "",
            f"  model    {offer.slug}: {offer.title}",
            f"  alias    {ALIAS}",
            f"  key      {account.api_key}",
            f"  credit   {format_usd_floor(balance)} USD of {account.org_id}",
            f"  metrics  {deployment.metrics_url}/metrics",
            *(f"  {note}" for note in notes),
            "",
            "Ask, with curl:",
            "",
            _curl(deployment, account, offer, is_stream=False),
            "",
            "The same, streamed:",
            "",
            _curl(deployment, account, offer, is_stream=True),
            "",
            "As an execution, which goes on without you; ten seconds of it are waited for:",
            "",
            _execution(deployment, account, offer),
            "",
            "With the OpenAI SDK for Python (pip install openai; in a checkout: ./run python):",
            "",
            _python(deployment, account),
            "",
            "Ctrl-C ends it; the next run finds the same key and what is left of the credit.",
            "",
        ]
    )


def set_aside_note(version: int, data_dir: Path) -> str:
    """Tells of a catalogue that the demo's own took the place of, and how to get it back."""
    back = f"waypost catalog rollback {version} --data-dir {shlex.quote(str(data_dir))}"
    return f"before   version {version} of the catalogue gave way to the demo's; it comes back by: {back}"


def _curl(deployment: Deployment, account: Account, offer: Offer, *, is_stream: bool) -> str:
    stream = ', "stream": true' if is_stream else ""
    body = f'{{"model": "{offer.slug}"{stream}, {_MESSAGES}}}'
    return f"curl {'-N ' if is_stream else ''}{deployment.url}/v1/chat/completions{_headers(account)} -d '{body}'"


def _execution(deployment: Deployment, account: Account, offer: Offer) -> str:
    body = f'{{"model": "{offer.slug}", "input": {{{_MESSAGES}}}}}'
    return f"curl {deployment.url}/v1/executions{_headers(account)} -H \"Prefer: wait=10\" -d '{body}'"


def _headers(account: Account) -> str:
    return f' -H "Authorization: Bearer {account.api_key}" -H "Content-Type: application/json"'


def _python(deployment: Deployment, account: Account) -> str:
    messages = f'messages = [{{"role": "user", "content": "{_QUESTION}"}}]'
    return f"""\
from openai import OpenAI

client = OpenAI(base_url="{deployment.url}/v1", api_key="{account.api_key}")
{messages}
print(client.chat.completions.create(model="{ALIAS}", messages=messages).choices[0].message.content)
for chunk in client.chat.completions.create(model="{ALIAS}", messages=messages, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)"""

"""The local model as a provider: llama.cpp's own server, on a loopback port, speaking OpenAI's chat format.

A program of its own: `python -m waypost.demo.local_model WEIGHTS PORT`, with its API key in the environment.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from waypost.supervisor.hardening import keep_memory_private
from waypost.supervisor.inheritance import die_with_supervisor

API_KEY_VARIABLE = "WAYPOST_DEMO_UPSTREAM_KEY"
HEALTH_PATH = "/health"
CONTEXT_TOKENS = 8192
ANSWER_TOKENS_MAX = 512  # a small base model that did not stop by then repeats itself
_PARALLEL = 4

# The model is a base model: it continues text. Three answered questions show it what an answer looks like here, and
# an empty line is where it stops. Jinja, as llama.cpp reads it.
_TEMPLATE = """\
{%- for message in messages if message.role in ('system', 'developer') -%}
{{ message.content }}

{% endfor -%}
Question: Hello!
Answer:
Hello! How can I help you today?

Question: What is the capital of Japan?
Answer:
The capital of Japan is Tokyo.

Question: Why does ice float on water?
Answer:
Ice floats because it is less dense than liquid water.

{% for message in messages -%}
{%- if message.role == 'user' -%}
Question: {{ message.content }}
{% elif message.role == 'assistant' -%}
Answer:
{{ message.content or '' }}

{% elif message.role == 'tool' -%}
Known: {{ message.content }}
{% endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
Answer:
{% endif -%}
"""
_STOPS = ["\n\n", "\nQuestion:", "\nAnswer:"]


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM or the end of the supervisor."""
    die_with_supervisor(os.environ, signal.SIGKILL)
    keep_memory_private()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server = _start(arguments[0], int(arguments[1]), os.environ[API_KEY_VARIABLE])
    ended.wait()
    del server  # joins its threads


def _start(weights: str, port: int, api_key: str) -> object:
    import xllamacpp  # noqa: PLC0415 - an optional extra; its absence was told by `assemble_weights`

    parameters = xllamacpp.CommonParams()
    parameters.model.path = weights
    parameters.port = port
    parameters.api_keys = [api_key]
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = _PARALLEL
    parameters.kv_unified = True  # one conversation may use the whole context
    parameters.n_predict = ANSWER_TOKENS_MAX
    parameters.use_jinja = True
    parameters.chat_template = _TEMPLATE
    parameters.antiprompt = _STOPS
    parameters.sampling.temp = 0.0
    parameters.sampling.penalty_repeat = 1.05
    # Half the cores: its threads wait for one another busily, so one that has to share its core holds up all of them.
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 2) // 2)
    parameters.cpuparams.poll = parameters.cpuparams_batch.poll = 0
    parameters.verbosity = 0  # it would log prompts
    parameters.endpoint_slots = False  # shows prompts
    parameters.ui = False
    parameters.cache_ram_mib = 0
    parameters.warmup = False
    return xllamacpp.Server(parameters)


if __name__ == "__main__":
    main(sys.argv[1:])

"""The offline model: a Messages API endpoint that answers by a few rules, for the demo and for people without a key.

Only the model is replaced: the SDK, its tools, its sessions and the container are the real ones. It understands what is
listed in ``HELP`` and repeats everything else; it is no model and says so.
"""

from __future__ import annotations

import html
import posixpath
import re
import shlex
from typing import Any

from nanoclaw.gateway.endpoint import Endpoint
from nanoclaw.gateway.messages_api import Block, Text, ToolUse, tool_results, user_texts

HELP = (
    'I understand: "write FILE: TEXT", "remember TEXT", "what do you remember", "what did I say", "run COMMAND", '
    '"say TEXT", "internal TEXT". Everything else I repeat.'
)
NAME = "I am the offline model"
MEMORY_FILE = "CLAUDE.md"

_MESSAGE = re.compile(r"<message\b[^>]*>(.*?)</message>", re.DOTALL)
_QUOTED = re.compile(r"<quoted_message\b.*?</quoted_message>", re.DOTALL)
_TRIGGER = re.compile(r"^@\w+[,:]?\s+")


class OfflineModel(Endpoint):
    """``start`` returns the base URL on 127.0.0.1 of an endpoint that lives until ``stop``."""

    def __init__(self) -> None:
        super().__init__(lambda request: answer(request.body))


def answer(body: dict[str, Any]) -> list[Block]:
    """The answer to a request of the Messages API: a pure function of its body."""
    if not body.get("tools"):
        return [Text("offline")]  # what the CLI asks for its own use
    messages = body["messages"]
    answered = max((n for n, message in enumerate(messages, 1) if message["role"] == "assistant"), default=0)
    earlier, said = conversation(messages[:answered]), conversation(messages[answered:])
    results = tool_results(body)
    blocks: list[Block] = [_after_tool(messages[answered - 1], result) for result in results]
    if said or not results:  # both: a message that came in while the tool ran
        blocks.append(_respond(said[-1] if said else "", earlier + said[:-1]))
    texts = [block.text for block in blocks if isinstance(block, Text)]
    # One block where all are text: the CLI takes only the last block for its result.
    return [Text("\n".join(texts))] if len(texts) == len(blocks) else blocks


def conversation(messages: list[dict[str, Any]]) -> list[str]:
    """What people said, oldest first: the texts inside the prompts' envelopes, unescaped and without the trigger."""
    inner = [one for text in user_texts({"messages": messages}) for one in _MESSAGE.findall(text) or [text]]
    said = [_TRIGGER.sub("", html.unescape(_QUOTED.sub("", one)).strip(), count=1) for one in inner]
    return [one for one in said if one]


def _respond(last: str, earlier: list[str]) -> Block:
    verb, _, rest = last.partition(" ")
    verb, rest, asked = verb.lower(), rest.strip(), last.lower().strip(" ?!.")
    file, colon, text = rest.partition(":")
    if verb == "write" and colon and " " not in file:
        directory = shlex.quote(posixpath.dirname(file) or ".")
        command = f"mkdir -p {directory} && printf '%s\\n' {shlex.quote(text.strip())} > {shlex.quote(file)}"
        return _shell(command, f"I wrote {file}.")
    if verb == "remember" and rest:
        line = shlex.quote(f"- {_to_remember(last)}")
        return _shell(f"printf '%s\\n' {line} >> {MEMORY_FILE}", f"I noted it in {MEMORY_FILE}.")
    if verb == "run" and rest:
        return _shell(rest, "The command said:")
    if verb == "say" and rest:
        return ToolUse("mcp__nanoclaw__send_message", {"text": rest})
    if verb == "internal":
        return Text(f"<internal>{rest}</internal>{NAME}. I kept something to myself.")
    if asked.startswith("what did i say"):
        return _quote("Earlier you said", earlier[-5:])
    if asked.startswith("what do you remember"):
        return _quote("You asked me to remember", [fact for text in earlier if (fact := _to_remember(text))])
    if asked in ("help", "hello", "hi", ""):
        return Text(f"{NAME}: a few rules, no intelligence. {HELP}")
    return Text(f'{NAME}. You said: "{last}"')


def _to_remember(text: str) -> str:
    """What a message asks to remember, on one line; empty where it asks nothing of that kind."""
    verb, _, fact = " ".join(text.split()).partition(" ")
    return fact.removeprefix("that ") if verb.lower() == "remember" else ""


def _shell(command: str, afterwards: str) -> ToolUse:
    """A command in the agent's working directory; the words for afterwards wait in its description."""
    return ToolUse("Bash", {"command": command, "description": afterwards})


def _after_tool(asking: dict[str, Any], result: dict[str, Any]) -> Text:
    """The words after a command or another tool, which the assistant's message ``asking`` had ordered."""
    if result["is_error"]:
        return Text(f"{NAME}. The command failed: {result['text']}")
    orders = [block["input"] for block in asking["content"] if block.get("id") == result["tool_use_id"]]
    afterwards = orders[0].get("description", "I said it.") if orders else ""
    return Text(f"{NAME}. {afterwards}" + (f" {result['text'] or 'nothing'}" if afterwards.endswith(":") else ""))


def _quote(what: str, texts: list[str]) -> Text:
    if not texts:
        return Text(f"{NAME}. I find nothing of that in this conversation.")
    return Text(f"{NAME}. {what}: " + "; ".join(f'"{text}"' for text in texts))

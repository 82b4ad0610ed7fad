"""The audit's look at what cannot be had from keys: what Telegram got again, whether people, agent and journal know of
what was given up, and the journal's first and last word on each message and reply.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.crash.scene import GROUPS, TELEGRAM
from tests.crash.traces import Traces


def sent_again(traces: Traces) -> tuple[list[str], int]:
    """Texts that Telegram got more often than the journal explains, and how many repeats it does explain: one for each
    line ``uncertain`` with the policy "resend". "hold" explains none."""
    said = {line["id"]: line["text"] for line in traces.transcripts[TELEGRAM] if line["is_bot"]}
    kept = {reply["id"]: reply["text"] for reply in traces.given_up(TELEGRAM)}
    unsure = traces.scene.house.journal("uncertain", TELEGRAM)
    resent = Counter(line["reply"] for line in unsure if line["policy"] == "resend")
    held = {line["reply"] for line in unsure if line["policy"] == "hold"}
    explained: Counter[str] = Counter()
    for reply, text in (kept | said).items():
        explained[text] += (reply in said or reply in held) + resent[reply]
    sent = Counter(message["text"] for message in traces.far_side(TELEGRAM))
    wrong = [f"{text!r} was sent to {TELEGRAM} {sent[text]} times, not {explained[text]}" for text in sent - explained]
    return wrong, sum((sent - Counter(said.values())).values()) - sum((sent - explained).values())


def untold(traces: Traces) -> Iterator[str]:
    """Of each reply that was given up: the owner's notice in main, the note in a prompt that was answered, and the
    journal's line. Of a notice nobody is told; the agent only of what it said itself."""
    owner = {line["id"] for line in traces.transcripts["main"]}
    journal = {line["reply"] for line in traces.scene.house.journal("failed", TELEGRAM)}
    answered = [p.text for p in traces.prompts if p.run["folder"] == TELEGRAM and p.claim["state"] == "finished"]
    for reply in traces.given_up(TELEGRAM):
        if reply["id"] not in journal:
            yield f"journal: {reply['id']} was given up, and no line says failed"
        if reply["id"].startswith("notice-"):
            continue
        if f"notice-{reply['id']}-undelivered" not in owner:
            yield f"main never heard that {reply['id']} was given up"
        if reply["run"] and not any(reply["text"] in text for text in answered):
            yield f"no answered prompt says that {reply['id']} was given up"


def unwritten(traces: Traces) -> Iterator[str]:
    """Each message of a transcript has a line ``received``, each reply one ``delivered``. A crash may repeat them."""
    house = traces.scene.house
    for folder in GROUPS:
        received = {line["message"] for line in house.journal("received", folder)}
        delivered = {line["reply"] for line in house.journal("delivered", folder)}
        for line in traces.transcripts[folder]:
            if line["id"] not in (delivered if line["is_bot"] else received):
                event = "delivered" if line["is_bot"] else "received"
                yield f"journal: no line says that {line['id']} of {folder} was {event}"

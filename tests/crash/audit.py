"""The audit: what was put, against what is left on disk and at the far sides (``traces``)."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from nanoclaw.router import visible
from tests.crash.outgoing import sent_again, untold, unwritten
from tests.crash.scene import GROUPS, MARKER, TELEGRAM, Scene
from tests.crash.traces import UNDER_WAY, Traces

_ANSWER = re.compile(r"answer #\d+: ")


@dataclass
class Report:
    """One line for each finding. ``counts`` for people; ``repeated``: answers that a channel without keys got again
    after a crash, and refusals that are kept twice: neither can be helped there."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    disorder: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    repeated: Counter[str] = field(default_factory=Counter)

    @property
    def ok(self) -> bool:
        return not (self.lost or self.duplicated or self.disorder or self.other)

    def __str__(self) -> str:
        verdict = f"lost {len(self.lost)}, duplicated {len(self.duplicated)}, "
        verdict += f"order {'broken ' + str(len(self.disorder)) if self.disorder else 'kept'}"
        counts = ", ".join(f"{name} {number}" for name, number in self.counts.items())
        again = ", ".join(f"{name} {number}" for name, number in self.repeated.items()) or "none"
        found = (("LOST", self.lost), ("DUPLICATED", self.duplicated), ("ORDER", self.disorder), ("OTHER", self.other))
        lines = [f"{name}: {text}" for name, texts in found for text in texts[:30]]
        return "\n".join([*lines, counts, f"repeated where nobody can know: {again}", verdict])


def audit(scene: Scene) -> Report:
    """Everything at once, after a clean host has settled and ended."""
    report, traces = Report(), Traces(scene)
    for folder in GROUPS:
        _transcribed(report, traces, folder)
        _answered(report, traces, folder)
        _delivered(report, traces, folder)
        _in_order(report, traces, folder)
    _requested(report, traces)
    _settled(report, traces)
    report.counts.update(
        messages=sum(map(len, scene.messages.values())),
        runs=len(traces.runs),
        prompts=len(traces.prompts),
        answers=sum(map(len, traces.results.values())),
        cancelled=len(traces.cancelled),
        requests=len(scene.script_notes) + len(scene.refusals) + scene.errands,
    )
    return report


def _count(report: Report, what: str, found: int, wanted: int = 1) -> None:
    if found < wanted:
        report.lost.append(f"{what}: {found} times, not {wanted}")
    elif found > wanted:
        report.duplicated.append(f"{what}: {found} times, not {wanted}")


def _transcribed(report: Report, traces: Traces, folder: str) -> None:
    """Each message stands in the transcript once, in the order of arrival."""
    put = traces.scene.messages[folder]
    own = [line for line in traces.transcripts[folder] if not line["is_bot"]]
    stored = [marker for line in own for marker in MARKER.findall(line["text"])]
    for marker in put:
        _count(report, f"message {marker} in the transcript of {folder}", stored.count(marker))
    if stored != put and sorted(stored) == sorted(put):
        report.disorder.append(f"messages in the transcript of {folder}: {stored} were put as {put}")
    seqs = [line["seq"] for line in traces.transcripts[folder]]
    if seqs != sorted(set(seqs)):
        report.disorder.append(f"seqs of {folder} do not increase")


def _answered(report: Report, traces: Traces, folder: str) -> None:
    """Each message stands in one finished prompt; the answer that finished that names it, and no other answer does."""
    prompts = [p for p in traces.prompts if p.run["folder"] == folder and not p.is_errand]
    finished = Counter(m for p in prompts if p.claim["state"] == "finished" for m in p.markers)
    for marker in traces.scene.messages[folder]:
        if not finished[marker] and marker in traces.cancelled:
            continue
        _count(report, f"message {marker} of {folder} in a finished prompt", finished[marker])
    for marker in {m for p in prompts if p.claim["state"] == "cancelled" for m in p.markers if finished[m]}:
        report.other.append(f"message {marker} of {folder} was cancelled and answered")
    for prompt in prompts:
        if prompt.claim["state"] != "finished" or prompt.claim["broken"]:
            continue
        where = f"{prompt.run['id']} in/{prompt.claim['n']}"
        if prompt.answer is None:
            report.lost.append(f"{where} is finished without a result")
        for marker in set(prompt.markers) - set(MARKER.findall(prompt.answer or "")):
            report.lost.append(f"the answer to {where} does not name {marker}")
    errands = {p.claim["uuid"] for p in traces.prompts if p.is_errand}
    delivered = {line["id"] for line in traces.transcripts[folder]}
    named: Counter[str] = Counter()
    for run in [run for run in traces.runs if run["folder"] == folder]:
        for event in traces.results[run["id"]]:
            if _reply_id(run, event) in delivered and not errands & set(event.get("uuids") or ()):
                named.update(set(MARKER.findall(event["text"])))
    for marker in [marker for marker, number in named.items() if number > 1]:
        report.duplicated.append(f"message {marker} of {folder}: {named[marker]} answers name it")


def _reply_id(run: dict[str, Any], event: dict[str, Any]) -> str:
    return f"{run['id']}-{event['n']:06d}"


def _delivered(report: Report, traces: Traces, folder: str) -> None:
    """Each result reached the far side and the transcript once, and so did everything else that was said."""
    spoken = [line for line in traces.transcripts[folder] if line["is_bot"]]
    ids = Counter(line["id"] for line in spoken)
    settled = ids + Counter(reply["id"] for reply in traces.given_up(folder))
    far = traces.far_side(folder)
    for run in [run for run in traces.runs if run["folder"] == folder]:
        for event in traces.results[run["id"]]:
            if visible(event["text"]) and not traces.discarded(run, event):
                _count(report, f"answer {_reply_id(run, event)} in the transcript", settled[_reply_id(run, event)])
        if any(claim["broken"] for claim in run["claims"]):
            report.counts["broken off"] += 1
            _count(report, f"the word that {run['id']} broke off", settled[f"notice-{run['id']}-broken-off"])
    for reply, number in ids.items():
        if number > 1:
            report.duplicated.append(f"{reply} stands {number} times in the transcript of {folder}")
    report.counts["replies"] += len(spoken)
    if folder != TELEGRAM:
        keys = [line["key"] for line in far]
        for key in ids.keys() | set(keys):
            _count(report, f"reply {key} at the far side of {folder}", keys.count(key))
            if key not in ids:
                report.lost.append(f"reply {key} was delivered to {folder} and is not in its transcript")
        if keys != [line["id"] for line in spoken] and sorted(keys) == sorted(ids.elements()):
            report.disorder.append(f"{folder}: transcript and far side differ in their order")
        return
    kept = Counter(reply["text"] for reply in traces.given_up(folder))
    said, sent = Counter(line["text"] for line in spoken), Counter(message["text"] for message in far)
    report.lost += [f"{text!r} was not sent to {folder}" for text in said - sent if not sent[text]]
    report.lost += [
        f"{text!r} was sent to {folder} and is not in its transcript" for text in sent if not (said + kept)[text]
    ]
    wrong, explained = sent_again(traces)
    report.duplicated += wrong
    report.repeated["sent to Telegram again"] += explained


def _in_order(report: Report, traces: Traces, folder: str) -> None:
    """Answers in the order of their runs and numbers; what an agent said while it worked before its answer."""
    known = {_reply_id(run, event) for run in traces.runs for event in traces.results[run["id"]]}
    spoken = [line for line in traces.transcripts[folder] if line["is_bot"]]
    answers = [line["id"] for line in spoken if line["id"] in known]
    if answers != sorted(answers):
        wrong = [f"{one} before {two}" for one, two in pairwise(answers) if one > two]
        report.disorder.append(f"answers of {folder}: {', '.join(wrong)}")
    texts = [line["text"] for line in spoken]
    notes = {text: number for number, text in enumerate(texts) if text.startswith("note ")}
    failed = [reply["text"] for reply in traces.given_up(folder)]
    noted = Counter(text for text in [*texts, *failed] if text.startswith("note "))
    answered = {m for p in traces.prompts if p.run["folder"] == folder and p.answer for m in p.markers}
    for marker in traces.scene.messages[folder]:
        if traces.scene.kinds[marker] != "tool":
            continue
        note = f"note {marker}"
        if noted[note] != 1 and (marker in answered or noted[note] > 1):
            _count(report, f"{note!r} in {folder}", noted[note])
        behind = [n for n, text in enumerate(texts) if _ANSWER.match(text) and marker in text]
        if note in notes and behind and behind[0] < notes[note]:
            report.disorder.append(f"{note!r} in {folder} stands behind its answer")


def _requested(report: Report, traces: Traces) -> None:
    """Each request of a script has its effect once. A refusal may be kept twice: its reason comes before its end."""
    scene = traces.scene
    for text, folder in scene.script_notes.items():
        said = [line["text"] for line in traces.far_side(folder)]
        _count(report, f"{text!r} at the far side of {folder}", said.count(text))
    kept = [path.read_text() for path in (traces.home.ipc / "errors").glob("*.json")]
    for text in scene.refusals:
        found = sum(text in content for content in kept)
        if not found:
            report.lost.append(f"{text!r} was not kept in ipc/errors")
        report.repeated["refusals kept twice"] += max(0, found - 1)
    errands = [prompt for prompt in traces.prompts if prompt.is_errand]
    done = Counter(_first_errand(traces, p.run) for p in errands if p.claim["state"] == "finished")
    tried = {
        _first_errand(traces, p.run) for p in errands if p.claim["state"] == "consumed"
    }  # once; the chat hears of it
    begun = {_first_errand(traces, prompt.run) for prompt in errands}
    for errand in begun:
        if done[errand] or errand not in tried:
            _count(report, f"errand {errand} finished", done[errand])
    _count(report, "errands begun", len(begun), scene.errands)


def _first_errand(traces: Traces, run: dict[str, Any]) -> str:
    """The errand that a request made. One that its run did not begin waits on as ``again-RUN``."""
    by_id = {one["id"]: one for one in traces.runs}
    errand = str(run["errand"])
    while errand.startswith("again-"):
        errand = str(by_id[errand.removeprefix("again-")]["errand"])
    return errand


def _settled(report: Report, traces: Traces) -> None:
    """Nothing is on its way any more, and who must know of what became of things was told."""
    home, house = traces.home, traces.scene.house
    patterns = (*UNDER_WAY, "outbox/failed/*", "runs/.new-*")
    known = {f"{reply['id']}.json" for reply in traces.given_up(TELEGRAM)}
    left = [path for pattern in patterns for path in home.state.glob(pattern) if path.name not in known]
    report.counts["given up"] = len(known)
    report.other += [f"left behind: {path.relative_to(home.root)}" for path in left]
    for run in traces.runs:
        if run["status"] != "judged":
            report.other.append(f"{run['id']} is {run['status']}, not judged")
    report.other += [f"container left: {name}" for name in house.containers()]
    report.lost += [*untold(traces), *unwritten(traces)]
    report.counts["held"] = sum(line["policy"] == "hold" for line in house.journal("uncertain"))
    report.counts["stops"] = len(house.journal("stopped"))
    if bugs := re.findall(r".*(?:Traceback|by a bug)(?:.*\n){0,25}", house.log()):
        report.other.append(f"a bug in the log: {bugs[0]}")

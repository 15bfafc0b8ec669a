"""Twenty annotators vote at once on the labelling page, and the server is killed in the middle.

`python benchmarks/label_load.py [--store postgresql://...]` serves a store of its own (10,000 comparisons) in a child
process, lets 20 annotators vote over HTTP, sends SIGKILL to the server while they do, starts it again, and compares
what the annotators were told with what the store holds: no acknowledged judgement lost, none doubled.
"""

import argparse
import http.client
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from trivium.preferences.audit import write_settings
from trivium.preferences.comparisons import fill
from trivium.preferences.judgement import Sample
from trivium.preferences.people import add_person, open_session
from trivium.preferences.store import PreferenceStore
from trivium.preferences.votes import LabelSettings
from trivium.preferences.web.server import DEFAULT_PORT

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = LabelSettings(overlap_share=0.1, overlap=2, repeat_share=0.05, gold_share=0)


@dataclass
class Voter:
    """One annotator: votes through the page's forms, sending a request again until it is answered."""

    name: str
    cookie: str
    port: int
    votes: int
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Assignment to the request that was acknowledged."""
    seconds: list[float] = field(default_factory=list)
    """From sending a vote to having the next comparison, where no attempt failed."""
    resent: int = 0
    problems: list[str] = field(default_factory=list)

    def work(self) -> None:
        """Vote so many times, or until nothing is left."""
        page = self._until_answered("GET", "/label", {})
        while len(self.acknowledged) < self.votes and '<form id="vote"' in page:
            form = dict(
                re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.split('<form id="vote"')[1])
            )
            choice = ("A", "B", "tie", "both_bad")[len(self.acknowledged) % 4]
            before, started = self.resent, time.perf_counter()
            page = self._until_answered("POST", "/label", form | {"choice": choice, "seconds": "3"})
            if "Saved:" not in page:
                self.problems.append(re.sub(r"<[^>]+>|\s+", " ", page)[-200:])
                return
            if self.resent == before:
                self.seconds.append(time.perf_counter() - started)
            self.acknowledged[form["assignment"]] = form["request"]

    def _until_answered(self, method: str, path: str, form: dict[str, str]) -> str:
        for _ in range(600):
            try:
                return self._request(method, path, form)
            except (OSError, http.client.HTTPException):
                self.resent += 1
                time.sleep(0.1)
        raise TimeoutError("the server did not come back within a minute")

    def _request(self, method: str, path: str, form: dict[str, str]) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Cookie": f"trivium_{self.port}={self.cookie}", "Content-Type": "application/x-www-form-urlencoded"}
        try:
            connection.request(method, path, urlencode(form) if form else None, headers)
            answer = connection.getresponse()
            text = answer.read().decode()
        finally:
            connection.close()
        location = answer.getheader("Location")
        return self._request("GET", location, {}) if location else text


def prepare(location: str, comparisons: int, voters: int, votes: int, port: int) -> list[Voter]:
    """A store full of comparisons, and people with sessions."""
    with PreferenceStore(location) as store:
        with store.transaction():
            names = store.add_prompts((f"def f{at}(x):\n", "", "") for at in range(comparisons))
            store.add_samples(
                (name, Sample(text=f"    y = x + {at}\n    return y * {side}\n" * 3, model="m", sample=side))
                for at, name in enumerate(names)
                for side in range(2)
            )
        write_settings(store, SETTINGS, "")
        fill(store)
        people = [f"annotator {number:02}" for number in range(voters)]
        for name in people:
            add_person(store, name, "annotator")
        return [Voter(name, open_session(store, name), port, votes) for name in people]


def serve(location: str, port: int) -> subprocess.Popen[bytes]:
    """The page in a process of its own."""
    command = [sys.executable, "-m", "trivium", "prefs", "label", "nothing.db", "--store", location, "--no-open"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, env=environment)


def check(location: str, voters: list[Voter]) -> dict[str, Any]:
    """What was told against what is there."""
    with PreferenceStore(location) as store:
        rows = store.db.rows("SELECT id, person, comparison, purpose, state, judgement FROM assignments")
        judged = {row["id"]: row for row in rows if row["state"] == "judged"}
        keys = {stored.key for stored in store.judgements(history=True)}
        told = [name for voter in voters for name in voter.acknowledged]
        per_pair: dict[str, int] = {}
        for row in judged.values():
            if row["purpose"] == "first":
                per_pair[row["comparison"]] = per_pair.get(row["comparison"], 0) + 1
        wanted = {row["id"]: row["wanted"] for row in store.db.rows("SELECT id, wanted FROM comparisons")}
        return {
            "acknowledged": len(told),
            "lost": sum(name not in judged or judged[name]["judgement"] not in keys for name in told),
            "doubled": len(keys) - len(judged) + sum(n > wanted[pair] for pair, n in per_pair.items()),
            "judgements": len(keys),
            "written but not told": len(judged) - len(set(told) & set(judged)),
        }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the test and print its figures; 0 if nothing was lost or doubled."""
    parser = argparse.ArgumentParser(description="20 annotators at once, and SIGKILL in the middle.")
    parser.add_argument("--store", help="an empty postgresql:// database to use instead of a SQLite file")
    parser.add_argument("--comparisons", type=int, default=10_000)
    parser.add_argument("--voters", type=int, default=20)
    parser.add_argument("--votes", type=int, default=25, help="of each")
    parser.add_argument("--alone", type=int, default=40, help="votes of one annotator alone, at the end")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT + 1)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        location = options.store or str(Path(folder) / "preferences.db")
        voters = prepare(location, options.comparisons, options.voters, options.votes, options.port)
        server = serve(location, options.port)
        threads = [threading.Thread(target=voter.work) for voter in voters]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        half = options.voters * options.votes // 2
        while sum(len(voter.acknowledged) for voter in voters) < half and any(map(threading.Thread.is_alive, threads)):
            time.sleep(0.01)
        server.send_signal(signal.SIGKILL)
        server.wait()
        killed_at = sum(len(voter.acknowledged) for voter in voters)
        server = serve(location, options.port)
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - started
        alone = Voter("annotator 00", voters[0].cookie, options.port, options.alone)
        alone.work()
        voters.append(alone)
        server.send_signal(signal.SIGINT)
        clean = server.wait(timeout=30) == 0
        figures = check(location, voters)
    times = sorted(second for voter in voters[:-1] for second in voter.seconds)
    figures |= {
        "voters": options.voters,
        "comparisons": options.comparisons,
        "acknowledged when killed": killed_at,
        "requests sent again": sum(voter.resent for voter in voters),
        "seconds": round(elapsed, 1),
        "vote to next pair, 20 at once, ms (median, p95)": _milliseconds(times),
        "vote to next pair, alone, ms (median, p95)": _milliseconds(sorted(alone.seconds)),
        "ended cleanly": clean,
        "problems": [problem for voter in voters for problem in voter.problems],
    }
    print(json.dumps(figures, indent=2))
    return int(bool(figures["lost"] or figures["doubled"] or figures["problems"] or not clean))


def _milliseconds(times: list[float]) -> list[float]:
    return [round(1000 * statistics.median(times), 1), round(1000 * times[int(0.95 * (len(times) - 1))], 1)]


if __name__ == "__main__":
    sys.exit(main())

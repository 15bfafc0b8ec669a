"""Every attack is contained: its verdict, the state of the host afterwards, and the next program."""

import os

import pytest
from hostile_programs import CORPUS, Attack
from sandbox_host import Host, descendants

from trivium.sandbox import Job, Sandbox

TESTS = ["assert attack() == 'refused', str(attack())"]
GOOD = Job("import os\ndef f(x):\n    return [x, os.listdir('.')]", ["assert f(1) == [1, []]"])


def test_corpus_is_large_and_names_are_unique() -> None:
    assert len({attack.name for attack in CORPUS}) == len(CORPUS) >= 60
    rows = {"time", "memory", "processes", "files", "network", "others", "kernel", "crashes", "output", "secrets"}
    assert {attack.row for attack in CORPUS} == rows


@pytest.fixture(scope="module")
def results(sandbox: Sandbox, host: Host) -> dict[str, object]:
    """Two at a time, each attack followed by a good program."""
    before = set(descendants(os.getpid()))
    jobs = []
    for attack in CORPUS:
        jobs += [Job(host.fill(attack.program), TESTS, limits=attack.limits), GOOD]
    outcomes = sandbox.run_many(jobs)
    workers = 2 * sandbox.workers  # a process outside of its namespace and one inside, each perhaps new
    assert len(set(descendants(os.getpid())) - before) <= workers + 2 * sandbox.workers  # and the next pairs
    return {attack.name: (outcomes[2 * i], outcomes[2 * i + 1]) for i, attack in enumerate(CORPUS)}


@pytest.mark.parametrize("attack", CORPUS, ids=lambda attack: attack.name)
def test_attack_is_contained(attack: Attack, results: dict, host: Host, sandbox: Sandbox) -> None:
    result, after = results[attack.name]
    assert result.verdict in attack.verdicts, result
    assert after.verdict == "passed", after
    assert result.max_rss_bytes < attack.limits.memory_bytes + (128 << 20)
    assert result.wall_seconds < 4 * attack.limits.wall_seconds + 1
    assert len(result.stdout) <= attack.limits.output_bytes and len(result.stderr) <= attack.limits.output_bytes
    host.check()

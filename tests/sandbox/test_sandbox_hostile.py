"""Every attack is contained: its verdict, the state of the host afterwards, and the next program."""

import pytest
from hostile_programs import CORPUS, Attack
from sandbox_host import FAST, Host

from trivium.sandbox import Job, Sandbox

TESTS = ["assert attack() == 'refused'"]
GOOD = Job("import os\ndef f(x):\n    return [x, os.listdir('.')]", ["assert f(1) == [1, []]"])


def test_corpus_is_large_and_names_are_unique() -> None:
    assert len({attack.name for attack in CORPUS}) == len(CORPUS) >= 60


@pytest.fixture(scope="module")
def results(sandbox: Sandbox, host: Host) -> dict[str, object]:
    """Two at a time, each attack followed by a good program."""
    jobs = []
    for attack in CORPUS:
        jobs += [Job(host.fill(attack.program), TESTS, limits=FAST), GOOD]
    outcomes = sandbox.run_many(jobs)
    return {attack.name: (outcomes[2 * i], outcomes[2 * i + 1]) for i, attack in enumerate(CORPUS)}


@pytest.mark.parametrize("attack", CORPUS, ids=lambda attack: attack.name)
def test_attack_is_contained(attack: Attack, results: dict, host: Host, sandbox: Sandbox) -> None:
    result, after = results[attack.name]
    assert result.verdict in attack.verdicts, result
    assert after.verdict == "passed", after
    assert result.max_rss_bytes < FAST.memory_bytes + (128 << 20)
    assert result.wall_seconds < 4 * FAST.wall_seconds + 1
    assert len(result.stdout) <= FAST.output_bytes and len(result.stderr) <= FAST.output_bytes
    host.check()

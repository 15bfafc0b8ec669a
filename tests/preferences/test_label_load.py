"""Twenty annotators at once and SIGKILL in the middle, on both databases: the benchmark, made small."""

import json
import socket

import pytest

pytest.importorskip("fastapi", reason="the `label` extra is not installed")

import label_load


def test_no_acknowledged_judgement_is_lost_and_none_is_doubled(
    location: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    sizes = ["--comparisons", "150", "--voters", "20", "--votes", "4", "--alone", "5"]
    assert label_load.main([*sizes, "--port", str(port), "--store", location]) == 0, capsys.readouterr().out
    figures = json.loads(capsys.readouterr().out)
    assert (figures["lost"], figures["doubled"], figures["problems"]) == (0, 0, [])
    assert figures["acknowledged"] == 85 and 40 <= figures["acknowledged when killed"] < 80
    assert figures["requests sent again"] > 0, "the server was gone while they voted"

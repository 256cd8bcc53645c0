"""The service: the same curator as in the loop, refusals are clear and change nothing, and nothing is ever lost."""

import http.client
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from curbench import cli
from curbench.curators import curator_class
from curbench.integrations.client import Client, Refusal
from curbench.loop import step
from curbench.signals import SIGNALS
from curbench.sim.learner import LearnerActor, make_learner

for needed in ("starlette", "uvicorn", "uvloop", "httptools"):
    pytest.importorskip(needed)
msgspec = pytest.importorskip("msgspec")

from curbench.serve.bank import read_bank  # noqa: E402
from curbench.serve.journal import HEAD, Journal  # noqa: E402
from curbench.serve.messages import Observe, Select  # noqa: E402
from curbench.serve.start import Question, make_service, token_of  # noqa: E402
from curbench.serve.web import Limits, Server, describe_api, is_loopback  # noqa: E402

TOKEN = "a-token-for-the-tests"
ROOT = Path(__file__).parents[1]


@pytest.fixture
def bank_file(tmp_path):
    path = tmp_path / "bank.jsonl"
    path.write_text("\n".join(json.dumps({"key": f"p{i}", "stratum": f"s{i % 3}"}) for i in range(30)))
    return path


def question(path, curator="sec", **change):
    known = {"batch": 4, "group": 2, "horizon": 50, "seed": 1, "signal": None, "estimator": "grpo", "max_open": 3}
    return Question(str(path), curator, **(known | {"hyper": {}} | change))


class Running:
    """A server in a thread."""

    def __init__(self, service, **limits):
        self.service, ready = service, threading.Event()
        self.server = Server(service, TOKEN, limits=Limits(**limits), ready=lambda address: ready.set())
        self.thread = threading.Thread(target=self.server.serve_until_stopped)
        self.thread.start()
        assert ready.wait(30)
        self.client = Client(self.server.address, TOKEN)

    def raw(self, method, path, body=b"", **header):
        """(status, headers, content) of any request."""
        connection = http.client.HTTPConnection(self.server.address.removeprefix("http://"), timeout=30)
        known = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        chunked = "Transfer_Encoding" in header
        known |= {name.replace("_", "-"): value for name, value in header.items()}
        known = {name: value for name, value in known.items() if value is not None}
        connection.request(method, path, body, known, encode_chunked=chunked)
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()

    def stop(self):
        self.server.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


@pytest.fixture
def serve(tmp_path, bank_file):
    running = []

    def start(*, limits=None, **change):
        service = make_service(question(bank_file, **change), tmp_path / "served")
        running.append(Running(service, **(limits or {})))
        return running[-1]

    yield start
    for one in running:
        one.stop()


def outcome(selected, seed=0):
    success = np.random.default_rng([seed, selected["ticket"]]).random(sum(selected["rollouts"])) < 0.5
    return {"reward": success.astype(float).tolist(), "success": success.tolist(), "length": [3] * success.size}


def test_the_loop_and_the_service_make_the_same_selections(tmp_path):
    """One learner under THE loop; its rewards go to a server whose curator has the same seed."""
    learner, signal = make_learner("plain"), SIGNALS["mean_abs_advantage"]
    bank, path = learner.bank(), tmp_path / "bank.jsonl"
    path.write_text(
        "\n".join(json.dumps({"key": str(k), "stratum": int(c)}) for k, c in zip(bank.key, bank.stratum, strict=True))
    )
    common = {"batch": 8, "horizon": 20, "group": 4}
    curator, actor = curator_class("osmd")(bank, seed=5, **common), LearnerActor(learner, 3)
    served = Running(make_service(question(path, "osmd", seed=5, **common), tmp_path / "served"))
    try:
        for _ in range(12):
            result = step(curator, actor, batch=8, signal=signal)
            selected = served.client.select(8)
            for name in ("problem", "propensity", "rollouts", "ticket", "step", "design"):
                np.testing.assert_array_equal(selected[name], getattr(result.selection, name))
            reward = actor.reward(result.rollouts)
            length = result.rollouts.length.tolist()
            served.client.observe(selected["ticket"], reward.reward.tolist(), reward.success.tolist(), length)
        np.testing.assert_equal(served.service.ledger.curator.state(), curator.state())
    finally:
        served.stop()


def test_an_observation_counts_once(serve):
    served = serve()
    selected = served.client.select(4, keys=True)
    assert selected["key"] == [f"p{i}" for i in selected["problem"]]
    said = outcome(selected)
    assert served.client.observe(selected["ticket"], **said)["status"] == "applied"
    before = served.client.state(full=True)
    assert served.client.observe(selected["ticket"], **said)["status"] == "already applied"
    with pytest.raises(Refusal, match="with other content") as refusal:
        served.client.observe(selected["ticket"], **(said | {"length": [4] * 8}))
    assert refusal.value.status == 409
    assert served.client.state(full=True) == before
    assert served.client.metrics()["tickets_observed"] == 1.0


def test_refusals_are_clear_and_change_nothing(serve):
    served = serve(limits={"body_bytes": 2000})
    for _ in range(4):  # one more than may be open: ticket 0 expires
        selected = served.client.select(4)
    said = outcome(selected) | {"ticket": selected["ticket"]}
    before = served.client.state(full=True)
    whole = json.dumps(said).encode()

    def observe(**change):
        return json.dumps(said | change).encode()

    refused = [
        (401, "give the token", "POST", "/v1/select", b'{"batch": 2}', {"Authorization": None}),
        (401, "give the token", "GET", "/v1/state", b"", {"Authorization": f"Bearer {TOKEN}x"}),
        (400, "not application/json", "POST", "/v1/select", b'{"batch": ', {}),
        (400, "not application/json", "POST", "/v1/observe", b"\xff\xfe", {}),
        (400, "not application/msgpack", "POST", "/v1/select", b"\xc1", {"Content_Type": "application/msgpack"}),
        (415, "content-type must be", "POST", "/v1/select", b'{"batch": 2}', {"Content_Type": "text/plain"}),
        (413, "2000 bytes", "POST", "/v1/observe", b" " * 2001 + whole, {}),
        (422, "Expected `int` >= 1", "POST", "/v1/select", b'{"batch": 0}', {}),
        (422, "30 problems", "POST", "/v1/select", b'{"batch": 31}', {}),
        (422, "unknown field `size`", "POST", "/v1/select", b'{"batch": 2, "size": 1}', {}),
        (422, "missing required field `reward`", "POST", "/v1/observe", b'{"ticket": 3}', {}),
        (422, "reward must have 8 entries", "POST", "/v1/observe", observe(reward=[1.0]), {}),
        (422, "length", "POST", "/v1/observe", observe(length=[-1] * 8), {}),
        (422, "size must have 4 entries", "POST", "/v1/observe", observe(size=[2] * 5), {}),
        (422, "full must be", "GET", "/v1/state?full=maybe", b"", {}),
        (404, "unknown ticket 4", "POST", "/v1/observe", observe(ticket=4), {}),
        (410, "ticket 0 expired", "POST", "/v1/observe", observe(ticket=0), {}),
        (404, "ticket 0 is not open", "GET", "/v1/selections/0", b"", {}),
        (404, "Not Found", "GET", "/v2/select", b"", {}),
        (405, "Method Not Allowed", "GET", "/v1/select", b"", {}),
    ]
    for status, sentence, method, path, body, header in refused:
        got, headers, content = served.raw(method, path, body, **header)
        assert (got, headers["content-type"]) == (status, "application/json"), (path, body, content)
        assert sentence in json.loads(content)["error"], content
    nan = msgspec.msgpack.encode(said | {"reward": [float("nan")] * 8})
    got, _, content = served.raw("POST", "/v1/observe", nan, Content_Type="application/msgpack")
    assert got == 422
    assert b"must be finite" in content
    assert served.client.state(full=True) == before
    assert served.client.observe(**said)["status"] == "applied"


def test_a_chunked_body_is_bounded_too(serve):
    served = serve(limits={"body_bytes": 2000})
    status, _, content = served.raw("POST", "/v1/select", iter([b" " * 1500] * 10), Transfer_Encoding="chunked")
    assert status == 413, content


def test_more_requests_than_the_queue_holds_are_sent_away(serve):
    served = serve(limits={"requests": 1})
    gate, commit = threading.Event(), served.service.journal.commit

    def slow(data):
        gate.wait(30)
        commit(data)

    served.service.journal.commit = slow
    first = threading.Thread(target=served.client.select, args=(4,))
    first.start()
    while not served.service.journal.number:
        pass
    status, headers, content = served.raw("POST", "/v1/select", b'{"batch": 4}')
    gate.set()
    first.join()
    assert (status, headers["retry-after"]) == (429, "1")
    assert b"under way already" in content
    assert served.client.state()["next"] == 1


def test_nothing_is_acknowledged_that_could_not_be_written(serve):
    served = serve()

    def full(data):
        raise OSError(28, "No space left on device")

    served.service.journal.commit = full
    with pytest.raises(Refusal, match="No space left on device") as refusal:
        served.client.select(4)
    assert refusal.value.status == 503
    served.thread.join(30)
    assert not served.thread.is_alive()


def test_msgpack_says_the_same_as_json(serve):
    served = serve()
    body = msgspec.msgpack.encode({"batch": 4, "keys": True})
    kind = "application/msgpack"
    status, headers, content = served.raw("POST", "/v1/select", body, Content_Type=kind, Accept=kind)
    assert (status, headers["content-type"]) == (200, kind)
    assert msgspec.msgpack.decode(content) == served.client.selection(0)


def drive(service, steps, *, commit=True):
    """Steps whose every third feedback never comes."""
    for _ in range(steps):
        selected = service.select(Select(4))
        if selected.ticket % 3:
            said = outcome({"ticket": selected.ticket, "rollouts": selected.rollouts})
            service.observe(Observe(selected.ticket, **said))
        data = service.journal.take()
        if commit:
            service.journal.commit(data)
        if service.snapshot_due:
            service.journal.snapshot(service.capture(), service.journal.number)


@pytest.mark.parametrize("curator", ["sec", "osmd", "dapo"])
def test_recovery_is_exact(tmp_path, bank_file, curator):
    """Ten steps, another process, ten more: the state is that of twenty, with and without snapshots."""
    if curator == "dapo":  # it draws in rounds, one ticket at a time: only the first round is told here
        whole, part = (make_service(question(bank_file, curator), tmp_path / n) for n in ("whole", "part"))
        for service in (whole, part):
            selected = service.select(Select(4))
            said = {"reward": [1.0] * 8, "success": [True] * 8, "length": [3] * 8}
            reply = service.observe(Observe(selected.ticket, **said))
            assert reply.open
            assert reply.more.ticket == selected.ticket
            service.journal.commit(service.journal.take())
    else:
        whole = make_service(question(bank_file, curator), tmp_path / "whole", snapshot_every=7)
        part = make_service(question(bank_file, curator), tmp_path / "part", snapshot_every=11)
        drive(whole, 20)
        drive(part, 10)
    part.journal.close()
    part = make_service(question(bank_file, curator), tmp_path / "part")
    if curator != "dapo":
        drive(part, 10)
    np.testing.assert_equal(part.ledger.state(), whole.ledger.state())
    assert part.status() == whole.status()


def test_a_record_cut_short_is_dropped_and_everything_before_it_kept(tmp_path, bank_file):
    service = make_service(question(bank_file), tmp_path / "served")
    drive(service, 3)
    (path,) = (tmp_path / "served").glob("journal-*.log")
    before, number = path.stat().st_size, service.journal.number
    state = service.status()
    service.select(Select(2))
    service.journal.commit(service.journal.take())
    service.journal.close()
    data = path.read_bytes()
    for end in range(before, len(data)):
        path.write_bytes(data[:end])
        again = make_service(question(bank_file), tmp_path / "served")
        assert again.status() == state
        assert again.journal.number == number
        assert path.stat().st_size == before
        again.journal.close()
    path.write_bytes(data[:before] + bytes(100))  # what a power failure may leave
    again = make_service(question(bank_file), tmp_path / "served")
    assert again.status() == state
    again.journal.close()


def test_a_damaged_journal_is_refused(tmp_path, bank_file):
    service = make_service(question(bank_file), tmp_path / "served")
    drive(service, 3)
    service.journal.close()
    (path,) = (tmp_path / "served").glob("journal-*.log")
    data = bytearray(path.read_bytes())
    data[HEAD.size + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="damaged at byte 0"):
        make_service(question(bank_file), tmp_path / "served")


def test_a_missing_journal_file_is_noticed(tmp_path):
    journal = Journal(tmp_path)
    list(journal.records())
    journal.append(b"one")
    journal.commit(journal.take())
    journal.snapshot({}, 1)
    journal.append(b"two")
    journal.append(b"three")
    journal.commit(journal.take())
    journal.close()
    (path,) = tmp_path.glob("journal-*.log")
    path.write_bytes(path.read_bytes()[HEAD.size + 3 :])  # record 2 is gone
    with pytest.raises(ValueError, match="record 3 after 1"):
        list(Journal(tmp_path).records())


def test_a_folder_belongs_to_one_server_and_one_question(tmp_path, bank_file):
    service = make_service(question(bank_file), tmp_path / "served")
    with pytest.raises(ValueError, match="another process serves"):
        make_service(question(bank_file), tmp_path / "served")
    service.journal.close()
    with pytest.raises(ValueError, match=r"other settings \(curator, seed\)"):
        make_service(question(bank_file, "osmd", seed=2), tmp_path / "served")


def test_what_requests_cannot_serve_is_refused_at_the_start(tmp_path, bank_file):
    for curator, sentence in (("d3s", "says how rollouts train"), ("gain_rl", "hidden states")):
        with pytest.raises(ValueError, match=sentence):
            make_service(question(bank_file, curator), tmp_path / "served")
    assert not (tmp_path / "served").exists()


def test_tokens(tmp_path, monkeypatch):
    monkeypatch.delenv("CURBENCH_TOKEN", raising=False)
    token, made = token_of(None, tmp_path, loopback=True)
    assert made
    assert token_of(None, tmp_path, loopback=True) == (token, True)
    assert (tmp_path / "token").stat().st_mode & 0o077 == 0
    with pytest.raises(ValueError, match="other machines can reach"):
        token_of(None, tmp_path, loopback=False)
    (tmp_path / "own").write_text("short\n")
    with pytest.raises(ValueError, match="16 or more"):
        token_of(tmp_path / "own", tmp_path, loopback=False)
    monkeypatch.setenv("CURBENCH_TOKEN", TOKEN)
    assert token_of(None, tmp_path, loopback=False) == (TOKEN, False)
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "0.0.0.0", "example.org")] == [True, True, False, False]


def test_the_command_refuses_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("CURBENCH_TOKEN", raising=False)
    for arguments, sentence in (
        (["countdown/sec", "--host", "0.0.0.0"], "other machines can reach"),
        (["countdown/sec,osmd"], "one curator; got 2"),
        (["nowhere.jsonl/sec"], "neither a suite"),
    ):
        monkeypatch.setattr(sys, "argv", ["curbench", "serve", *arguments, "--dir", str(tmp_path / "served")])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 2
        assert sentence in capsys.readouterr().err


def test_banks_from_files(tmp_path, bank_file):
    bank = read_bank(bank_file)
    assert len(bank) == 30
    assert bank.stratum_name == ("s0", "s1", "s2")
    for name, content, sentence in (
        ("a.csv", "", "neither a .jsonl nor"),
        ("b.jsonl", '{"key": "a"}', "lacks stratum"),
        ("c.jsonl", '{"key": "a", "stratum": 0}\n{"key": "a", "stratum": 0}', "keys must be unique"),
        (
            "d.jsonl",
            '{"key": "a", "stratum": 0, "length": 2}\n{"key": "b", "stratum": 0}',
            "problem 1 lacks its length",
        ),
        ("e.parquet", "no", "is no bank"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(ValueError, match=sentence):
            read_bank(tmp_path / name)


def test_the_description_names_every_reply(serve):
    served = serve()
    status, _, content = served.raw("GET", "/openapi.json", Authorization=None)
    assert status == 200
    assert json.loads(content) == describe_api()
    assert served.raw("GET", "/health", Authorization=None)[0] == 200
    for path, one in describe_api()["paths"].items():
        for operation in one.values():
            assert "200" in operation["responses"], path


def test_any_request_the_description_allows_gets_a_reply_it_names(serve):
    schemathesis = pytest.importorskip("schemathesis")
    hypothesis = pytest.importorskip("hypothesis")
    served = serve()
    schema = schemathesis.openapi.from_dict(describe_api())
    named = [
        schemathesis.checks.not_a_server_error,
        schemathesis.specs.openapi.checks.status_code_conformance,
        schemathesis.specs.openapi.checks.content_type_conformance,
        schemathesis.specs.openapi.checks.response_schema_conformance,
    ]
    for operation in schema.get_all_operations():

        @hypothesis.given(case=operation.ok().as_strategy())
        @hypothesis.settings(
            max_examples=15,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        def check(case):
            header = {"Authorization": f"Bearer {TOKEN}"}
            case.call_and_validate(base_url=served.server.address, headers=header, checks=named)

        check()


def test_kills_lose_nothing():
    """The script of 100 kills, with 4."""
    command = [sys.executable, str(ROOT / "benchmarks" / "serve_kill.py"), "--rounds", "4"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [row["clients"] for row in rows] == [1, 4]
    assert sum(row["kills"] for row in rows) == 4
    assert all(row["lost"] == row["different"] == 0 for row in rows)

"""`reverie serve`: sessions, batches, limits, access, and requests made from the server's own schema."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toys import DictEnv, SpaceEnv

from reverie import checkpoint, cli
from reverie.config.presets import load_preset
from reverie.envs.spaces import make_spec
from reverie.errors import UserError
from reverie.share.export import plain_graph
from reverie.train import DreamerV2
from reverie.web.policy_schema import openapi
from reverie.web.policy_server import prepare_policy
from reverie.web.policy_sessions import Asked, Batcher, Full, Gone, Sessions

VECTOR = spaces.Box(-1, 1, (3,))
ACTIONS = spaces.Dict({"go": spaces.Discrete(3, start=1), "push": spaces.Box(-2, 2, (2,))})


def agent_for(env, **spec):
    torch.manual_seed(0)
    return DreamerV2(load_preset("debug", {"compute.mode": "reference"}), make_spec(env, **spec))


def graph_for(env, mode="eval", **spec):
    agent = agent_for(env, **spec)
    return plain_graph(agent.config, agent.spec, agent.world_model, agent.actor, mode)


@pytest.fixture(scope="module")
def graph():
    return graph_for(SpaceEnv(VECTOR, ACTIONS), "train")


class Served:
    """A server in a thread."""

    def __init__(self, graph, **options):
        options = {"host": "127.0.0.1", "port": 0, "token": False, "most": 100, "expire": 600.0} | options
        self.server = prepare_policy(graph, title="a policy", **options)
        self.url, self.token = self.server.url, self.server.token
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.stop()
        self.thread.join(30)

    def ask(self, path, values=None, method=None, body=None, **headers):
        """-> (status, JSON or text)."""
        data = body if body is not None else None if values is None else json.dumps(values).encode()
        kind = {"content-type": "application/json"} if data is not None else {}
        kind |= {key.replace("_", "-"): value for key, value in headers.items()}
        request = urllib.request.Request(self.url + path, data, kind, method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read().decode()
        try:
            return status, json.loads(text) if text else None
        except ValueError:
            return status, text


@pytest.fixture(scope="module")
def served(graph):
    with Served(graph) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(graph):
    with Served(graph, token=True) as server:
        yield server


OBS = [0.1, -0.2, 0.3]


# ---------------------------------------------------------------------------------------------------------- sessions


def test_a_session_remembers_and_another_knows_nothing_of_it(served):
    status, first = served.ask("act", {"observation": OBS, "seed": 3})
    assert (status, first["step"]) == (200, 1)
    assert set(first["action"]) == {"go", "push"}
    assert first["action"]["go"] in (1, 2, 3)
    again = [served.ask("act", {"observation": OBS, "session": first["session"]})[1] for _ in range(3)]
    assert [answer["step"] for answer in again] == [2, 3, 4]
    other = served.ask("act", {"observation": OBS, "seed": 3})[1]
    assert other["action"] == first["action"]
    assert other["session"] != first["session"]
    assert served.ask(f"sessions/{first['session']}", method="DELETE")[0] == 204
    status, gone = served.ask("act", {"observation": OBS, "session": first["session"]})
    assert status == 404
    assert "expired or never was" in gone["message"]


def play(sessions, name, looks, firsts=()):
    return [
        sessions.step([Asked(sessions.get(name), {"observation": obs}, step in firsts)])[0]
        for step, obs in enumerate(looks)
    ]


def test_actions_are_the_players():
    """In mode eval, with the same chance: over 30 steps and a new episode."""
    agent = agent_for(SpaceEnv(VECTOR, spaces.Discrete(4)))
    sessions = Sessions(plain_graph(agent.config, agent.spec, agent.world_model, agent.actor, "eval"))
    looks = np.random.default_rng(0).uniform(-1, 1, (30, 3)).astype(np.float32)
    actions = play(sessions, sessions.begin(seed=4), looks, firsts={10})
    rng, size = np.random.default_rng(4), agent.world_model.rssm.latent.num_categoricals
    agent.world_model.rssm.latent.noise = lambda *b, **_: torch.from_numpy(rng.random((*b, size), np.float32))
    player = agent.player(mode="eval")
    assert actions == [player(obs, first=step == 10) for step, obs in enumerate(looks)]


def test_sessions_that_act_in_one_batch_act_as_if_alone(graph):
    looks = np.random.default_rng(1).uniform(-1, 1, (5, 6, 3)).astype(np.float32)
    alone, together = Sessions(graph), Sessions(graph)
    expected = [play(alone, alone.begin(seed=row), looks[:, row]) for row in range(6)]
    names = [together.begin(seed=row) for row in range(6)]

    async def all_at_once():
        calls = []

        async def run(function, batch):
            calls.append(len(batch))
            return function(batch)

        batcher = Batcher(together, run)
        found = []
        for obs in looks:
            asked = [
                Asked(together.get(name), {"observation": row}, False) for name, row in zip(names, obs, strict=True)
            ]
            found.append(await asyncio.gather(*map(batcher.act, asked)))
        return found, calls

    found, calls = asyncio.run(all_at_once())
    assert max(calls) == 6
    for row in range(6):
        for step in range(5):
            assert found[step][row]["go"] == expected[row][step]["go"]
            np.testing.assert_allclose(found[step][row]["push"], expected[row][step]["push"], atol=1e-5)


def test_two_requests_of_one_session_are_two_steps(graph):
    sessions = Sessions(graph)
    session = sessions.get(sessions.begin(seed=0))

    async def both():
        async def run(function, batch):
            assert len(batch) == 1
            return function(batch)

        batcher = Batcher(sessions, run)
        asked = Asked(session, {"observation": np.zeros(3, np.float32)}, False)
        return await asyncio.gather(batcher.act(asked), batcher.act(asked))

    asyncio.run(both())
    assert session.steps == 2


def test_sessions_expire_and_are_limited(graph):
    now = [0.0]
    sessions = Sessions(graph, most=2, expire=10, clock=lambda: now[0])
    first, second = sessions.begin(), sessions.begin()
    with pytest.raises(Full, match="2 sessions already"):
        sessions.begin()
    now[0] = 8.0
    sessions.get(second)
    now[0] = 12.0
    with pytest.raises(Gone):
        sessions.get(first)
    assert sessions.get(second).steps == 0
    sessions.begin()
    sessions.held[second].busy = 1  # a request waits: it does not expire
    now[0] = 100.0
    sessions.begin()
    assert second in sessions.held


def test_numbers_that_are_not_finite_leave_a_session_as_it_was(graph):
    sessions = Sessions(graph)
    name = sessions.begin(seed=0)
    with pytest.raises(UserError, match="not finite"):
        sessions.step([Asked(sessions.get(name), {"observation": np.full(3, np.nan, np.float32)}, True)])
    assert sessions.get(name).steps == 0
    assert np.isfinite(sessions.get(name).state["deter"]).all()


# ------------------------------------------------------------------------------------------------------------ access


def test_with_a_token_nothing_is_answered_without_it(guarded):
    assert guarded.ask("act", {"observation": OBS})[0] == 403
    assert guarded.ask("openapi.json")[0] == 403
    assert guarded.ask("act", {"observation": OBS}, authorization="Bearer wrong")[0] == 403
    assert guarded.ask("act", {"observation": OBS}, authorization=f"Bearer {guarded.token}")[0] == 200


def test_pages_of_other_sites_are_refused(served):
    assert served.ask("act", {"observation": OBS}, origin="http://evil.example")[0] == 403
    assert served.ask("act", {"observation": OBS}, sec_fetch_site="cross-site")[0] == 403
    assert served.ask("status", host="evil.example")[0] == 421
    assert served.ask("act", body=json.dumps({"observation": OBS}).encode(), content_type="text/plain")[0] == 415


def test_other_addresses_than_loopback_always_have_a_token(graph):
    server = prepare_policy(graph, title="", host="0.0.0.0", port=0, token=False, most=1, expire=1)
    server.socket.close()
    assert len(server.token) > 30
    assert server.token not in server.url


# ------------------------------------------------------------------------------------------------------- wrong input


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"observation": [1, 2]}, "has shape"),
        ({"observation": [1, 2, "3"]}, "made of numbers"),
        ({"observation": [1, 2, True]}, "made of numbers"),
        ({"observation": [1, 2, 1e10]}, "must have numbers up to 1e+09"),
        ({"observation": {"a": 1}}, "has shape"),
        ({}, "there is no observation"),
        ({"observation": OBS, "reward": 1}, "unknown key 'reward'"),
        ({"observation": OBS, "first": 1}, "'first' must be of type bool"),
        ({"observation": OBS, "seed": -1}, "'seed' must be 0 to"),
        ([1], "must be a JSON object"),
    ],
)
def test_a_wrong_request_gets_a_sentence(served, values, sentence):
    status, answer = served.ask("act", values)
    assert status == 400
    assert sentence in answer["message"]
    assert answer["hint"]


def test_a_request_that_is_no_json_or_too_large_is_refused(served):
    for body in (b"{", b'{"observation": [NaN, 0, 0]}', b"\xff", b"[" * 90_000):
        assert served.ask("act", body=body)[0] == 400
    status, answer = served.ask("act", body=b" " * 500_000)
    assert status == 413
    assert "more than" in answer["message"]
    assert served.ask("nowhere")[0] == 404
    assert served.ask("act")[0] == 405


# ------------------------------------------------------------------------------------------------------- the schema


def values_of(schema):
    """Values that a schema of `policy_schema` allows: the keywords that it uses, no others."""
    kind = schema["type"]
    if kind == "object":
        needed, all_of = set(schema["required"]), schema["properties"]
        return st.fixed_dictionaries(
            {key: values_of(all_of[key]) for key in needed},
            optional={key: values_of(all_of[key]) for key in all_of if key not in needed},
        )
    if kind == "array" and "prefixItems" in schema:
        return st.tuples(*map(values_of, schema["prefixItems"])).map(list)
    if kind == "array":
        return st.lists(values_of(schema["items"]), min_size=schema["minItems"], max_size=schema["maxItems"])
    if kind == "integer":
        return st.integers(schema.get("minimum"), schema.get("maximum"))
    if kind == "number":
        return st.floats(schema.get("minimum"), schema.get("maximum"), allow_nan=False, allow_infinity=False)
    return {"boolean": st.booleans(), "string": st.text(max_size=5)}[kind]


def fits(value, schema):
    """Is a value one that the schema allows?"""
    kind = schema["type"]
    if kind == "object":
        return (
            isinstance(value, dict)
            and set(schema["required"]) <= value.keys() <= schema["properties"].keys()
            and all(fits(value[key], schema["properties"][key]) for key in value)
        )
    if kind == "array":
        items = schema.get("prefixItems") or [schema["items"]] * schema["minItems"]
        return isinstance(value, list) and len(value) == len(items) and all(map(fits, value, items))
    kinds = {"integer": int, "number": (int, float), "boolean": bool, "string": str}
    right = isinstance(value, kinds[kind]) and (kind == "boolean" or not isinstance(value, bool))
    return right and all(
        compare(value, schema[key])
        for key, compare in (("minimum", lambda a, b: a >= b), ("maximum", lambda a, b: a <= b))
        if key in schema
    )


SERVED = {
    "vector": (VECTOR, ACTIONS),
    "numbers": (spaces.MultiDiscrete([3, 4], start=[-1, 2]), spaces.MultiBinary((2, 2))),
    "nested": (DictEnv(size=4).observation_space, spaces.Tuple([spaces.Discrete(2), spaces.Box(-1, 1, (2,))])),
    "tuple": (spaces.Tuple([VECTOR, spaces.Discrete(3, start=-1)]), spaces.MultiDiscrete([3, 2])),
    "floats": (spaces.Box(0, 1, (16, 16, 1), np.float32), spaces.Box(-5, 5, (1,))),
}


@pytest.mark.parametrize("name", SERVED)
def test_what_the_schema_allows_is_answered_as_the_schema_says(name):
    with Served(graph_for(SpaceEnv(*SERVED[name]), "train"), most=10_000) as served:
        require_schema_holds(served)


def require_schema_holds(served):
    operation = served.ask("openapi.json")[1]["paths"]["/act"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    slow = [HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large]

    @settings(max_examples=25, deadline=None, database=None, suppress_health_check=slow, derandomize=True)
    @given(values_of(body), st.data())
    def hold(values, data):
        assert fits(values, body)
        status, answer = served.ask("act", values)
        refused = "session" in values  # a text that is no session, or beside a seed
        assert status in ((404, 400) if refused else (200,)), answer
        assert fits(answer, operation["responses"][str(status)]["content"]["application/json"]["schema"])
        if not refused:
            wrong = data.draw(st.sampled_from(["observation", "first", "more"]))
            broken = values | {wrong: data.draw(st.sampled_from([None, "x", [], {}, [[[]]]]))}
            status, answer = served.ask("act", broken)
            assert status == 400, (broken, answer)
            assert answer["message"]

    hold()


def test_every_observation_key_and_mask_is_in_the_schema():
    spec = make_spec(
        SpaceEnv(spaces.Dict({"body": VECTOR, "action_mask": spaces.MultiBinary(4)}), spaces.Discrete(4)),
        action_mask="action_mask",
    )
    document = openapi(spec, title="t", tokens=True)
    body = document["paths"]["/act"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]["observation"]["properties"]) == {"body", "action_mask"}
    assert document["security"] == [{"token": []}]


def test_the_page_describes_every_route(served):
    status, page = served.ask("")
    assert status == 200
    for path in ("/act", "/sessions/{session}", "/status"):
        assert path in page
    assert "<script" not in page


# -------------------------------------------------------------------------------------------------------- the command


def test_the_command_serves_until_it_is_told_to_stop(tmp_path):
    checkpoint.save_agent(tmp_path / "agent", agent_for(SpaceEnv(VECTOR, spaces.Discrete(4))))
    words = [sys.executable, "-m", "reverie", "serve", str(tmp_path / "agent"), "--port", "0", "--token", "--json"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        said = json.loads(process.stdout.readline())
        request = urllib.request.Request(
            said["url"] + "act",
            json.dumps({"observation": OBS}).encode(),
            {"content-type": "application/json", "authorization": f"Bearer {said['token']}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["action"] in range(4)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
        assert "Traceback" not in err
    finally:
        process.kill()
        process.wait()


def test_a_wrong_agent_gets_a_sentence(tmp_path, capsys):
    assert cli.main(["serve", str(tmp_path / "nowhere")]) == 2
    assert capsys.readouterr().err.startswith("error: ")

"""The client as a file: who may load it, how large it is, and that engines of mini programs can read it."""

import re
import shutil
from pathlib import Path

import pytest
from helpers.process import NODE_MODULES, ROOT, node, run

SERVE = ROOT / "src/serve"
SCRIPT = (SERVE / "oneloop.js").read_text()
TYPES = (SERVE / "oneloop.d.ts").read_text()
CONNECTOR = (SERVE / "oneloop-echo.js").read_text()
CONNECTOR_TYPES = (SERVE / "oneloop-echo.d.ts").read_text()
PATHS = [f"/{name}.{end}" for name in ["oneloop", "oneloop-echo"] for end in ["js", "mjs", "d.ts", "d.mts"]]


@pytest.mark.parametrize("path, content_type, body", [
    ("/oneloop.js", "text/javascript", SCRIPT),
    ("/oneloop.mjs", "text/javascript", SCRIPT.split("if (typeof module")[0] + "export default oneloop;\n"),
    ("/oneloop.d.ts", "application/typescript", TYPES),
    ("/oneloop.d.mts", "application/typescript", TYPES.split("export =")[0] + "export default oneloop;\n"),
    ("/oneloop-echo.js", "text/javascript", CONNECTOR),
    ("/oneloop-echo.mjs", "text/javascript", CONNECTOR.split("if (typeof module")[0] + "export default OneloopConnector;\n"),
    ("/oneloop-echo.d.ts", "application/typescript", CONNECTOR_TYPES),
])
def test_any_page_may_load_it_and_keep_it(server, path, content_type, body):
    status, headers, text = server.http(path=path)
    assert (status, text) == (200, body)
    assert headers["Content-Type"] == f"{content_type}; charset=utf-8"
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert headers["Cache-Control"] == "no-cache"
    status, headers, text = server.http(path=path, headers={"If-None-Match": headers["ETag"]})
    assert (status, text) == (304, "")
    assert headers["Access-Control-Allow-Origin"] == "*" and headers["Content-Length"] is None
    assert server.http(path=path, headers={"If-None-Match": '"another"'})[0] == 200


def test_a_setting_turns_it_off(start):
    server = start("--client-script", "false")
    for path in PATHS:
        assert server.http(path=path)[0] == 404


@pytest.mark.parametrize("name, bytes_max", [("oneloop", 7500), ("oneloop-echo", 2000)])
def test_it_is_small(name, bytes_max):
    terser = f"{NODE_MODULES}/.bin/terser"
    done = run(terser, SERVE / f"{name}.js", "--ecma", "2015", "--compress", "--mangle")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.encode()) < bytes_max


def test_engines_of_2015_can_read_it_and_it_makes_one_name():
    [found] = node("client_globals.cjs", SERVE / "oneloop.js")
    assert found == {"globals": ["oneloop"], "exported": True}


def faulty(tsc, *files):
    """The name of a file for each error that the compiler finds in it; one run takes seconds, mostly for its own types."""
    found = re.findall(r"^(?:(.*)\(\d+,\d+\): )?error TS", run(*tsc, *files).stdout, re.MULTILINE)
    return [Path(name).name for name in found]


MODES = {
    "node16": ["--module", "node16"],
    "nodenext": ["--module", "nodenext"],
    "bundler": ["--module", "esnext", "--moduleResolution", "bundler"],
}


@pytest.mark.parametrize("mode", MODES)
def test_the_module_has_types_and_loads_as_it_is(server, tmp_path, mode):
    for name in ["oneloop.mjs", "oneloop.d.mts"]:
        (tmp_path / name).write_text(server.http(path=f"/{name}")[2])
    (tmp_path / "good.mts").write_text("""
        import oneloop from "./oneloop.mjs";
        const live: oneloop.Client = oneloop("wss://a/ws", { token: "t", topics: ["room.7"] });
        live.on<{ paid: boolean }>("user.42", (data) => data.paid);
    """)
    (tmp_path / "bad.mts").write_text("""
        import oneloop from "./oneloop.mjs";
        oneloop("wss://a/ws").on("a", 5);
    """)
    tsc = [f"{NODE_MODULES}/.bin/tsc", "--noEmit", "--strict", "--target", "es2020", *MODES[mode]]
    assert faulty(tsc, tmp_path / "good.mts", tmp_path / "bad.mts") == ["bad.mts"]
    # A bundler's development server passes this on to the browser untouched.
    (tmp_path / "load.mjs").write_text('import oneloop from "./oneloop.mjs"; console.log(typeof oneloop);')
    assert run("node", tmp_path / "load.mjs").stdout == "function\n"


@pytest.mark.parametrize("mode", MODES)
def test_the_connector_has_types_that_echo_takes(server, tmp_path, mode):
    for name in ["oneloop.mjs", "oneloop.d.mts", "oneloop-echo.mjs", "oneloop-echo.d.mts"]:
        (tmp_path / name).write_text(server.http(path=f"/{name}")[2])
    modules = tmp_path / "node_modules"
    modules.mkdir()
    (modules / "laravel-echo").symlink_to(Path(NODE_MODULES) / "laravel-echo")
    start = """
        import Echo from "laravel-echo";
        import oneloop from "./oneloop.mjs";
        import OneloopConnector from "./oneloop-echo.mjs";
    """
    (tmp_path / "good.mts").write_text(start + """
        const options: OneloopConnector.Options = { client: oneloop, url: "wss://a/ws", token: async () => "t" };
        const echo = new Echo({ broadcaster: OneloopConnector, ...options });
        echo.private("orders.7").listen("OrderShipped", (data: { note: string }) => data.note);
        const connector = new OneloopConnector(options);
        connector.live.onGap(() => connector.privateChannel("a").listenToAll((event) => event.length).error((why) => why.code));
    """)
    (tmp_path / "bad.mts").write_text(start + """
        new OneloopConnector({ client: oneloop, token: "t" });
    """)
    tsc = [f"{NODE_MODULES}/.bin/tsc", "--noEmit", "--strict", "--skipLibCheck", "--target", "es2020", *MODES[mode]]
    assert faulty(tsc, tmp_path / "good.mts", tmp_path / "bad.mts") == ["bad.mts"]
    (tmp_path / "load.mjs").write_text('import Connector from "./oneloop-echo.mjs"; console.log(typeof Connector);')
    assert run("node", tmp_path / "load.mjs").stdout == "function\n"


def test_its_types_are_what_it_has(tmp_path):
    shutil.copy(SERVE / "oneloop.d.ts", tmp_path)
    (tmp_path / "good.ts").write_text("""
        import oneloop = require("./oneloop");
        const live: oneloop.Client = oneloop("wss://a/ws", { token: async (stale) => stale ? "a" : "b" });
        const off: () => void = live.on<{ paid: boolean }>("user.42", (data, { id }) => [data.paid, id.length]);
        live.onState((state, why) => state === "closed" && why.code === 4503);
        live.onGap(({ from }) => from?.length);
        live.onError(({ code, topic }) => [code, topic]);
        live.follow("room.7", async () => 7, (seats: number, { id }) => [seats, id.length])();
        live.onSubscribed(({ topic }) => topic.length);
        live.send({ typing: true }, "room.7").then((id) => id?.length);
        [live.subscribe("room.7")(), off(), live.open(), live.close(), live.cursor.length, live.sub];
    """)
    (tmp_path / "bad.ts").write_text("""
        import oneloop = require("./oneloop");
        oneloop("wss://a/ws", { tokn: "a" }).on("a", 5).state = "open";
    """)
    tsc = [f"{NODE_MODULES}/.bin/tsc", "--noEmit", "--strict", "--module", "commonjs"]
    tsc += ["--moduleResolution", "node10", "--target", "es2020"]
    assert faulty(tsc, tmp_path / "good.ts", tmp_path / "bad.ts") == ["bad.ts"] * 3
    declared = (SERVE / "oneloop.d.ts").read_text().split("interface Client {")[1]
    names = set(re.findall(r"^    (?:readonly )?(\w+)[<(:]", declared, re.MULTILINE))
    returned = SCRIPT.split("\n  open();\n  return {")[1].split("\n  };")[0]
    assert names == set(re.findall(r"^    (?:get )?(\w+)\b", returned, re.MULTILINE))

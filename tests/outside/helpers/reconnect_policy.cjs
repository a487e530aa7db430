// The client's decisions on a scripted clock, with scripted sockets: when it comes back, when it stops, whom it believes.
// Prints the name of each case that held, as one JSON line.
const assert = require("node:assert");
const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const source = fs.readFileSync(path.join(__dirname, "../../../src/serve/oneloop.js"), "utf8");

const PING = '{"op":"ping","cursor":true}';

// A world of its own for one client: time stands still until `pass`, and sockets say what they are told to.
class World {
  constructor(options) {
    this.now = 1e12;
    this.chance = 0;
    this.timers = new Map();
    this.sockets = [];
    this.states = [];
    this.heard = [];
    this.gaps = 0;
    this.asked = [];
    const world = this;
    const calls = {};
    const platform = {
      connectSocket({ url, header, fail }) {
        if (world.refuses) fail({ errMsg: "at once" });
        const on = {};
        const task = { url, header, on, sent: [], isClosed: false };
        for (const name of ["Open", "Message", "Close", "Error"]) task["on" + name] = (call) => (on[name] = call);
        task.send = ({ data, fail }) => (world.refuses ? fail({ errMsg: "at once" }) : task.sent.push(data));
        task.close = () => (task.isClosed = true);
        world.sockets.push(task);
        return task;
      },
      // The same in events of plain HTTP.
      request({ url, header, success, fail }) {
        const task = { url, header, sent: [], isClosed: false, isStream: true };
        const chunk = (text) => task.chunk({ data: new TextEncoder().encode(text).buffer });
        task.on = {
          Open() {},
          Message: ({ data }) => chunk(`data: ${data}\n\n`),
          Error: () => fail({ errMsg: "cut" }),
          Close({ code, reason = "" }) {
            if (code && code !== 1006) chunk(`event: close\ndata: ${JSON.stringify({ code, reason })}\n\n`);
            success({ statusCode: 200, data: "" });
          },
          Refuse(statusCode, text) {
            chunk(text);
            success({ statusCode, data: "" });
          },
          Piece: (bytes) => task.chunk({ data: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length) }),
        };
        task.onChunkReceived = (call) => (task.chunk = call);
        task.abort = () => (task.isClosed = true);
        world.sockets.push(task);
        return task;
      },
      onAppShow: (call) => (calls.show = call),
      offAppShow: () => (calls.show = null),
      onNetworkStatusChange: (call) => (calls.network = call),
      offNetworkStatusChange: () => (calls.network = null),
    };
    this.calls = calls;
    let number = 0;
    const context = vm.createContext({
      wx: platform,
      module: {},
      console: { error: () => this.errors++ },
      setTimeout: (call, ms) => this.timers.set(++number, { call, at: this.now + ms }) && number,
      clearTimeout: (timer) => this.timers.delete(timer),
    });
    this.errors = 0;
    context.world = this;
    vm.runInContext("Date.now = () => world.now; Math.random = () => world.chance;", context);
    vm.runInContext(source, context);
    const token = (stale) => (this.asked.push(stale), "token " + this.asked.length);
    this.live = context.module.exports("wss://h/ws", Object.assign({ token }, options));
    this.live.onState((state, why) => this.states.push([state, why]));
    this.live.onGap(() => this.gaps++);
    this.live.on("*", (data, { id }) => this.heard.push(id));
  }

  get socket() {
    return this.sockets[this.sockets.length - 1];
  }

  // Of the one timer that there is, in milliseconds from now.
  get wait() {
    assert.strictEqual(this.timers.size, 1);
    return [...this.timers.values()][0].at - this.now;
  }

  // Goes to the timer, or `late` beyond it.
  async pass(late = 0) {
    const [[key, { call, at }]] = this.timers;
    this.now = at + late;
    this.timers.delete(key);
    call();
    await this.settle();
  }

  async settle() {
    for (let n = 0; n < 20; n++) await null;
  }

  say(frame) {
    this.socket.on.Message({ data: typeof frame === "string" ? frame : JSON.stringify(frame) });
    return this.settle();
  }

  async welcome(more) {
    await this.settle();
    this.socket.on.Open({});
    await this.say({ op: "welcome", sub: "42", topics: [], ping: 25, id: "a0", resumed: false, ...more });
    assert.strictEqual(this.live.state, "open");
    return this;
  }

  close(code, reason) {
    this.socket.on.Close({ code, reason: reason && JSON.stringify(reason) });
    return this.settle();
  }
}

const opened = (options) => new World(options).welcome();

const cases = {
  async "waits double from 500 ms to 30 s, by chance down to nothing"() {
    const world = new World();
    const waits = [];
    for (world.chance of [1, 1, 1, 1, 1, 1, 1, 1, 0, 0.5]) {
      await world.settle();
      await world.close(1006);
      waits.push(world.wait);
      await world.pass();
    }
    assert.deepStrictEqual(waits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 0, 15000]);
    assert.strictEqual(world.asked.length, 1, "a token is kept while nobody refuses it");
  },

  async "a connection that lived makes waits short again, one that did not does not"() {
    const world = await opened();
    world.chance = 1;
    await world.close(4000);
    assert.strictEqual(world.wait, 500);
    await world.pass();
    await world.welcome();
    world.now += 5000;
    await world.close(4000);
    assert.strictEqual(world.wait, 1000);
    await world.pass();
    await world.welcome();
    world.now += 5001;
    await world.close(4000);
    assert.strictEqual(world.wait, 500);
  },

  async "retry is waited for, whatever else happens"() {
    for (const code of [1001, 4003]) {
      const world = await opened();
      await world.close(code, { retry: 7000 });
      assert.strictEqual(world.wait, 7000);
      world.now += 6999;
      world.calls.show({});
      world.calls.network({ isConnected: true });
      await world.settle();
      assert.strictEqual(world.sockets.length, 1);
      world.now += 1;
      world.calls.show({});
      world.calls.network({ isConnected: true });
      await world.settle();
      assert.strictEqual(world.sockets.length, 2, "one, not two");
    }
  },

  async "4500 to 4999 end it, all else does not"() {
    for (const code of [4501, 4502, 4503, 4504, 4999]) {
      const world = await opened({ token: undefined });
      await world.close(code, { reason: "word", detail: "more" });
      assert.deepStrictEqual([world.live.state, world.timers.size], ["closed", 0]);
      const why = JSON.stringify({ code, reason: "word", detail: "more" });
      assert.strictEqual(JSON.stringify(world.states.pop()[1]), why);
      world.calls.show && world.calls.show({});
      await world.settle();
      assert.strictEqual(world.sockets.length, 1);
      world.live.open();
      await world.welcome();
    }
    for (const code of [1000, 1001, 1006, 1009, 1011, 3000, 4000, 4001, 4002, 4003, 4499, 5000, undefined]) {
      const world = await opened();
      await world.close(code);
      assert.strictEqual(world.live.state, "waiting", String(code));
    }
  },

  async "a refused token is asked for once more; an old one is no second refusal"() {
    const world = await opened();
    world.now += 3.6e6;
    await world.close(4500, { reason: "expired" });
    await world.pass();
    assert.deepStrictEqual(world.asked, [false, true]);
    world.now += 60000;
    await world.close(4500, { reason: "expired" });
    await world.pass();
    assert.deepStrictEqual(world.asked, [false, true, true]);
    world.now += 59999;
    await world.close(4500, { reason: "signature" });
    assert.strictEqual(world.live.state, "closed");
  },

  async "after 4002 a stale one from somebody's cache may be refused once"() {
    const world = await opened();
    await world.close(4002);
    await world.pass();
    await world.close(4500);
    await world.pass();
    assert.deepStrictEqual(world.asked, [false, true, true]);
    await world.welcome();
    await world.close(4002);
    await world.pass();
    await world.close(4500);
    assert.strictEqual(world.live.state, "waiting");
  },

  async "a token that fails or comes too late holds nothing up"() {
    let answer;
    const world = new World({ token: () => new Promise((...both) => (answer = both)) });
    await world.settle();
    answer[1](new Error("no network"));
    await world.settle();
    assert.deepStrictEqual([world.live.state, world.sockets.length], ["waiting", 0]);
    assert.strictEqual(world.states.pop()[1].reason, "token");
    await world.pass();
    const late = answer[0];
    assert.strictEqual(world.wait, 15000);
    await world.pass();
    assert.strictEqual(world.states.pop()[1].reason, "timeout");
    await world.pass();
    late("too late");
    await world.settle();
    assert.strictEqual(world.sockets.length, 0);
    answer[0]("in time");
    await world.welcome();
    assert.strictEqual(world.socket.header.Authorization, "Bearer in time");
  },

  async "what reports after it was given up changes nothing"() {
    const world = new World();
    await world.settle();
    const old = world.socket;
    await world.pass();
    assert.ok(old.isClosed);
    await world.pass();
    old.isClosed = false;
    old.on.Open({});
    assert.ok(old.isClosed, "it opened late and is closed again");
    await world.welcome();
    old.on.Message({ data: '{"topic":"a","id":"z","data":1}' });
    old.on.Close({ code: 4503 });
    old.on.Error({});
    assert.deepStrictEqual([world.live.state, world.heard.length], ["open", 0]);
  },

  async "one socket is open at most"() {
    const world = new World();
    for (let n = 0; n < 100; n++) {
      await world.settle();
      assert.ok(world.sockets.slice(0, -1).every((socket) => socket.isClosed));
      const { on } = world.socket;
      if (world.live.state === "connecting" && n % 3) await world.welcome();
      else if (n % 5 === 0) on.Error({});
      else if (n % 7 === 0) on.Close({ code: 1006 });
      else await world.pass(n % 2 ? 0 : 1000);
      world.calls.show({});
      on.Error({});
      on.Close({ code: 1006 });
    }
    assert.ok(world.sockets.length > 10);
  },

  async "what is no JSON, or no frame, is no message and no harm"() {
    const world = await opened();
    for (const text of ["", "null", "5", "[]", '"text"', "{", '{"topic":"a"}', '{"op":"news","topic":"a","id":"z"}']) {
      await world.say(text);
    }
    world.socket.on.Message({ data: new ArrayBuffer(5) });
    assert.deepStrictEqual([world.live.state, world.heard], ["open", []]);
  },

  async "nothing comes twice, and the cursor goes along"() {
    const world = await opened();
    for (const id of ["a1", "a1", "a0", "a3", "a2"]) await world.say({ topic: "t", id, data: 1 });
    assert.deepStrictEqual(world.heard, ["a1", "a3"]);
    await world.close(1006);
    await world.pass();
    assert.ok(world.socket.url.endsWith("?since=a3"));
    await world.welcome({ id: "a3", resumed: true });
    await world.say({ topic: "t", id: "a4", data: 1 });
    assert.deepStrictEqual([world.heard.pop(), world.gaps], ["a4", 0]);
    await world.close(1006);
    await world.pass();
    await world.welcome({ id: "00", resumed: false });
    assert.deepStrictEqual([world.live.cursor, world.gaps], ["00", 1]);
    await world.say({ op: "gap", from: "00" });
    assert.strictEqual(world.gaps, 2);
  },

  async "whoever hears nothing has the cursor of the last pong"() {
    const world = await opened();
    await world.say({ op: "pong", id: "zz" });
    assert.deepStrictEqual([world.live.cursor, world.heard], ["zz", []]);
    await world.say({ op: "pong", id: "aa" });
    await world.say({ op: "sent", ref: "nobody's", id: "zzz" });
    assert.deepStrictEqual([world.live.cursor, world.heard], ["zz", []]);
  },

  async "a cursor that was kept is shown at the first time"() {
    const world = new World({ since: "kept", topics: ["b.*", "a"] });
    await world.settle();
    assert.strictEqual(world.socket.url, "wss://h/ws?topic=b.*&topic=a&since=kept");
  },

  async "an answer to a ping is whatever comes, in time"() {
    const world = await opened();
    assert.strictEqual(world.wait, 25000);
    await world.pass();
    assert.deepStrictEqual([world.socket.sent, world.wait], [[PING], 10000]);
    await world.say("pong");
    assert.strictEqual(world.wait, 25000);
    await world.pass();
    await world.say({ op: "gap", from: "a" });
    assert.strictEqual(world.wait, 25000);
    await world.pass();
    await world.pass(2001);
    assert.deepStrictEqual([world.live.state, world.wait], ["open", 10000], "it was asleep itself");
    await world.pass(2001);
    assert.deepStrictEqual([world.live.state, world.states.pop()[1].reason], ["waiting", "silent"]);
    const other = await opened();
    await other.pass();
    await other.pass(2000);
    assert.strictEqual(other.live.state, "waiting");
  },

  async "back in front it trusts no connection, and is not made to wait longer by being asked again"() {
    const world = await opened();
    world.calls.show({});
    assert.deepStrictEqual([world.socket.sent, world.wait], [[PING], 5000]);
    world.now += 3000;
    world.calls.show({});
    assert.deepStrictEqual([world.socket.sent, world.wait], [[PING], 2000]);
    await world.pass();
    assert.strictEqual(world.live.state, "waiting");
  },

  async "handlers that throw stop nobody, and those that close are obeyed"() {
    const world = await opened();
    let calls = 0;
    world.live.on("t", () => { throw new Error("one"); });
    const off = world.live.on("t", () => (calls++, off()));
    world.live.on("t", () => (calls++, world.live.close()));
    await world.say({ topic: "t", id: "a1", data: 1 });
    assert.deepStrictEqual([calls, world.errors, world.live.state, world.timers.size], [2, 1, "closed", 0]);
    const other = new World({ since: "a" });
    other.live.onState((state) => state === "connecting" || other.live.close());
    await other.settle();
    other.socket.on.Open({});
    await other.say({ op: "welcome", sub: "42", topics: [], ping: 25, id: "a0", resumed: false });
    assert.deepStrictEqual([other.live.state, other.timers.size, other.socket.isClosed], ["closed", 0, true]);
    assert.strictEqual(other.gaps, 0);
  },

  async "topics go along in the handshake, and later changes by command"() {
    const world = new World();
    const off = world.live.on("a.b", () => {});
    world.live.on("a.b", () => {});
    await world.settle();
    assert.ok(world.socket.url.endsWith("?topic=a.b"));
    const other = world.live.on("c", () => {});
    const own = world.live.on("user.42", () => {});
    await world.settle();
    assert.deepStrictEqual(world.socket.sent, []);
    await world.welcome();
    const subscribe = (topic) => JSON.stringify({ op: "subscribe", topic });
    assert.deepStrictEqual(world.socket.sent, [subscribe("c"), subscribe("user.42")]);
    off();
    other();
    own();
    await world.settle();
    assert.deepStrictEqual(world.socket.sent.slice(2), ['{"op":"unsubscribe","topic":"c"}']);
  },

  async "many topics are asked for by lists"() {
    const world = new World();
    await world.settle();
    await world.welcome();
    const topics = Array.from({ length: 130 }, (_, number) => "room." + number);
    const offs = topics.map((topic) => world.live.subscribe(topic));
    await world.settle();
    const lists = (op) => [topics.slice(0, 100), topics.slice(100)].map((part) => JSON.stringify({ op, topics: part }));
    assert.deepStrictEqual(world.socket.sent, lists("subscribe"));
    offs.forEach((off) => off());
    await world.settle();
    assert.deepStrictEqual(world.socket.sent.slice(2), lists("unsubscribe"));
  },

  async "a platform that refuses at once is asked again later, once"() {
    const world = new World();
    world.refuses = true;
    world.chance = 1;
    await world.settle();
    assert.deepStrictEqual([world.live.state, world.wait, world.socket.isClosed], ["waiting", 500, true]);
    world.refuses = false;
    await world.pass();
    await world.welcome();
    world.refuses = true;
    world.live.subscribe("a");
    world.live.subscribe("b");
    await world.settle();
    assert.deepStrictEqual([world.live.state, world.wait], ["waiting", 1000]);
    world.live.close();
    world.live.open();
    await world.settle();
    assert.strictEqual(world.wait, 500);
  },

  async "whoever listens to a pattern hears what is below it, and users' ids are no levels"() {
    const world = await opened();
    const calls = [];
    for (const topic of ["a.*", "a.b.*", "a.b", "a", "user.*", "user.x.*", "b.*"]) {
      world.live.on(topic, () => calls.push(topic));
    }
    await world.say({ topic: "a.b.c", id: "a1", data: 1 });
    await world.say({ topic: "a.b", id: "a2", data: 1 });
    await world.say({ topic: "user.x.y", id: "a3", data: 1 });
    assert.deepStrictEqual(calls, ["a.*", "a.b.*", "a.b", "a.*", "user.*"]);
  },

  async "after two handshakes that failed without a word every other attempt is for a stream"() {
    const world = new World();
    const kinds = [];
    for (let n = 0; n < 7; n++) {
      await world.settle();
      kinds.push([world.live.stream, world.socket.url.split(":")[0]]);
      await world.close(1006);
      await world.pass();
    }
    const [socket, stream] = [[false, "wss"], [true, "https"]];
    assert.deepStrictEqual(kinds, [socket, socket, stream, socket, stream, socket, stream]);
    const close = [4003, { retry: 1 }];
    const other = new World();
    for (const [code, reason] of [[1006], close, close, [1006]]) {
      await other.settle();
      assert.strictEqual(other.live.stream, false, "the server gave its reason, so it was reached");
      await other.close(code, reason);
      await other.pass();
    }
    assert.strictEqual(other.live.stream, true);
  },

  async "a stream is kept until the network changes, and WebSockets are never left once they work"() {
    const world = new World();
    for (let n = 0; n < 2; n++) {
      await world.settle();
      await world.close(1006);
      await world.pass();
    }
    await world.welcome();
    assert.strictEqual(world.socket.header.Authorization, "Bearer token 1");
    await world.close(1001, { retry: 0 });
    await world.pass();
    await world.welcome();
    assert.strictEqual(world.live.stream, true);
    world.calls.network({ isConnected: true });
    await world.close(1006);
    await world.pass();
    assert.strictEqual(world.live.stream, false);
    await world.welcome();
    for (let n = 0; n < 3; n++) {
      await world.close(1006);
      await world.pass();
      await world.welcome();
      assert.strictEqual(world.live.stream, false);
    }
    for (const stream of [true, false]) {
      const told = new World({ stream });
      for (let n = 0; n < 4; n++) {
        await told.settle();
        assert.strictEqual(told.live.stream, stream);
        await told.close(1006);
        await told.pass();
      }
    }
  },

  async "a stream is silent when two heartbeats are late, and nothing is asked of it"() {
    const world = await new World({ stream: true }).welcome();
    assert.strictEqual(world.wait, 35000);
    world.now += 20000;
    world.socket.on.Piece(new TextEncoder().encode(":\n\n"));
    assert.strictEqual(world.wait, 35000);
    world.calls.show({});
    assert.strictEqual(world.wait, 35000, "no harm was done yet");
    await world.pass();
    assert.deepStrictEqual([world.live.state, world.states.pop()[1].reason], ["waiting", "silent"]);
    assert.deepStrictEqual(world.sockets[0].sent, []);
    world.socket.on.Piece(new TextEncoder().encode("id: zz\n:\n\n"));
    assert.strictEqual(world.live.cursor, "a0", "it was given up");
    const other = new World({ stream: true });
    await other.settle();
    other.socket.on.Piece(new TextEncoder().encode("retry: 4416\n\n"));
    assert.strictEqual(other.live.cursor, "");
    await other.welcome();
    other.socket.on.Piece(new TextEncoder().encode("id: zz\n:\n\n:\n\n"));
    assert.strictEqual(other.live.cursor, "zz");
  },

  async "a stream is read whatever its pieces are, in the middle of a letter too"() {
    const texts = ["é€😀", "a\nb", "", "x".repeat(3000)];
    for (let size = 1; size < 12; size++) {
      const world = await new World({ stream: true }).welcome();
      const data = [];
      world.live.on("t", (one) => data.push(one));
      const frames = texts.map((text, n) => JSON.stringify({ topic: "t", id: "b" + n, data: text }));
      // As a payload that is formatted JSON comes.
      frames.push('{"topic":"t","id":"b9","data":{\ndata: "a": 1}}');
      const bytes = new TextEncoder().encode(frames.map((frame, n) => `id: b${n}\ndata: ${frame}\n\n:\n\n`).join(""));
      for (let at = 0; at < bytes.length; at += size) world.socket.on.Piece(bytes.slice(at, at + size));
      assert.strictEqual(JSON.stringify(data), JSON.stringify([...texts, { a: 1 }]));
    }
  },

  async "a refusal of a stream is one like any other"() {
    const refuse = async (world, status, body) => {
      await world.settle();
      world.socket.on.Refuse(status, typeof body === "string" ? body : JSON.stringify(body));
      await world.settle();
    };
    const told = (code, reason) => ({ code, reason: JSON.stringify(reason) });
    const busy = new World({ stream: true });
    await refuse(busy, 503, told(4003, { retry: 7000 }));
    assert.deepStrictEqual([busy.live.state, busy.wait], ["waiting", 7000]);
    const stale = new World({ stream: true });
    await refuse(stale, 401, told(4500, { reason: "expired" }));
    await stale.pass();
    assert.deepStrictEqual(stale.asked, [false, true]);
    const foreign = new World({ stream: true });
    await refuse(foreign, 403, told(4505, { reason: "origin" }));
    assert.deepStrictEqual([foreign.live.state, foreign.states.pop()[1].reason], ["closed", "origin"]);
    for (const text of ["", "<html>", "null", "5", "{}"]) {
      const other = new World({ stream: true });
      await refuse(other, 502, text);
      assert.strictEqual(other.live.state, "waiting", text);
    }
  },

  async "a stream takes nothing: more topics are asked for by another one, and sends are refused"() {
    const world = await new World({ stream: true, topics: ["a"] }).welcome();
    await world.say({ topic: "a", id: "a5", data: 1 });
    let code;
    world.live.send(1).catch((error) => (code = error.code));
    const off = world.live.subscribe("b");
    world.live.on("user.42", () => {});
    await world.settle();
    assert.strictEqual(code, "no_upstream");
    assert.deepStrictEqual([world.sockets.length, world.sockets[0].isClosed], [2, true]);
    assert.strictEqual(world.socket.url, "https://h/ws?topic=a&topic=b&topic=user.42&since=a5");
    await world.welcome({ id: "a5", resumed: true });
    off();
    world.live.subscribe("a");
    await world.settle();
    assert.deepStrictEqual([world.sockets.length, world.gaps, world.socket.sent], [2, 0, []]);
  },

  async "answers find their question, and the end answers the rest"() {
    const world = await opened();
    const ends = [];
    for (let n = 0; n < 3; n++) {
      world.live.send(n).then((id) => ends.push([n, id]), (error) => ends.push([n, error.code]));
    }
    const refs = world.socket.sent.map((text) => JSON.parse(text).ref);
    await world.say({ op: "error", code: "busy", ref: refs[1] });
    await world.say({ op: "sent", id: "7-0", ref: refs[0] });
    await world.say({ op: "sent", id: "8-0", ref: refs[0] });
    await world.close(1006);
    assert.deepStrictEqual(ends, [[1, "busy"], [0, "7-0"], [2, "unavailable"]]);
  },
};

async function main() {
  for (const [name, run] of Object.entries(cases)) {
    await run().catch((error) => { throw new Error(name, { cause: error }); });
    console.log(JSON.stringify(name));
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

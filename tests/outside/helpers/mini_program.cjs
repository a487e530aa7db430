// A mini program in node: the client, and stand-ins for `wx` and `uni` that behave as documented, over real WebSockets and plain
// requests. Callbacks come late, a sixth socket is refused, what is cut in the background is never reported, and the pieces of an
// answer end anywhere.
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const vm = require("node:vm");
const WebSocket = require("ws");
const { serve } = require("./repl.cjs");

const SOCKETS_MAX = 5;
const LATE_MS = 15;

const kind = process.argv[2];
const listeners = { show: new Set(), network: new Set() };
const sockets = new Set();
// For the tests: what was asked of the platform, and what happens to the program.
const world = {
  requests: [],
  refused: 0,
  most: 0,
  get sockets() {
    return sockets.size;
  },
  // The system takes the sockets of a program in the background away, and says nothing.
  hide() {
    sockets.forEach((socket) => socket.vanish());
  },
  show() {
    listeners.show.forEach((call) => later(call, { path: "pages/index", scene: 1001 }));
  },
  network(isConnected) {
    listeners.network.forEach((call) => later(call, { isConnected, networkType: isConnected ? "wifi" : "none" }));
  },
};

function later(call, ...values) {
  if (call) setTimeout(() => call(...values), LATE_MS);
}

function connectSocket(options) {
  const calls = {};
  const report = (name, event) => later((value) => calls[name] && calls[name](value), event);
  const finish = (asked, isGood, errMsg) => {
    later(asked[isGood ? "success" : "fail"], { errMsg });
    later(asked.complete, { errMsg });
  };
  const task = {};
  for (const name of ["Open", "Message", "Close", "Error"]) task[`on${name}`] = (call) => (calls[name] = call);
  const { url, header = {}, perMessageDeflate = false } = options;
  world.requests.push({ url, header });
  if (sockets.size >= SOCKETS_MAX) {
    world.refused++;
    task.send = task.close = (asked) => finish(asked, false, "fail: no such task");
    finish(options, false, "connectSocket:fail exceed max task count");
    return kind === "uni" ? promised(options, task) : task;
  }
  const socket = new WebSocket(url, { headers: header, perMessageDeflate });
  let isGone = false;
  const own = { vanish() { isGone = true; sockets.delete(own); socket.on("error", () => {}); socket.terminate(); } };
  sockets.add(own);
  world.most = Math.max(world.most, sockets.size);
  const tell = (name, event) => isGone || report(name, event);
  socket.on("open", () => tell("Open", { header: {} }));
  socket.on("message", (data, isBinary) => tell("Message", { data: isBinary ? data.buffer : String(data) }));
  socket.on("error", (error) => tell("Error", { errMsg: error.message }));
  socket.on("close", (code, reason) => {
    tell("Close", { code, reason: String(reason) });
    // Its place is free a while after all are told.
    setTimeout(() => sockets.delete(own), LATE_MS);
  });
  task.send = (asked) => {
    const isOpen = !isGone && socket.readyState === WebSocket.OPEN;
    if (isOpen) socket.send(asked.data);
    finish(asked, isOpen, isOpen ? "sendSocketMessage:ok" : "sendSocketMessage:fail not connected");
  };
  task.close = (asked) => {
    // A socket that is still connecting cannot be closed.
    const isOpen = !isGone && socket.readyState !== WebSocket.CONNECTING;
    if (isOpen) socket.close(asked.code || 1000, asked.reason);
    finish(asked, isOpen, isOpen ? "closeSocket:ok" : "closeSocket:fail");
  };
  finish(options, true, "connectSocket:ok");
  return kind === "uni" ? promised(options, task) : task;
}

// With `enableChunked` the answer comes piece by piece, as it arrives.
function request(options) {
  const { url, header = {}, enableChunked } = options;
  world.requests.push({ url, header });
  let isOver = false;
  const finish = (name, event) => {
    if (isOver) return;
    isOver = true;
    sockets.delete(own);
    later(options[name], event);
    later(options.complete, event);
  };
  const listening = [];
  const asked = http.get(url, { headers: header }, (answer) => {
    answer.on("data", (bytes) => {
      // Of one to seven bytes: in the middle of a letter, too.
      for (let at = 0, size = 1; at < bytes.length; at += size, size = 1 + (size * 5 + 2) % 7) {
        const data = new Uint8Array(bytes.subarray(at, at + size)).buffer;
        if (enableChunked && !isOver) listening.forEach((call) => later(call, { data }));
      }
    });
    answer.on("end", () => finish("success", { statusCode: answer.statusCode, header: answer.headers, data: "" }));
    answer.on("error", () => finish("fail", { errMsg: "request:fail" }));
  });
  const own = { vanish() { isOver = true; sockets.delete(own); asked.destroy(); } };
  sockets.add(own);
  asked.on("error", () => finish("fail", { errMsg: "request:fail" }));
  const task = {
    abort() { finish("fail", { errMsg: "request:fail abort" }); asked.destroy(); },
    onChunkReceived: (call) => listening.push(call),
  };
  const isAsked = options.success || options.fail || options.complete;
  return kind === "uni" && !isAsked ? Promise.resolve([null, {}]) : task;
}

// uni-app's way: a task for whoever gives a callback, else a promise.
function promised({ success, fail, complete }, task) {
  return success || fail || complete ? task : Promise.resolve(task);
}

const platform = {
  connectSocket,
  request,
  onNetworkStatusChange: (call) => listeners.network.add(call),
  offNetworkStatusChange: (call) => listeners.network.delete(call),
};
// Mini games have other names for it.
const show = kind === "game" ? "Show" : "AppShow";
platform[`on${show}`] = (call) => listeners.show.add(call);
platform[`off${show}`] = (call) => listeners.show.delete(call);

const module_ = { exports: {} };
const globals = { module: module_, console, setTimeout, clearTimeout, world, listeners };
globals[kind === "uni" ? "uni" : "wx"] = platform;
vm.createContext(globals);
vm.runInContext(fs.readFileSync(path.join(__dirname, "../../../src/serve/oneloop.js"), "utf8"), globals);
globals.oneloop = module_.exports;

serve((source) => vm.runInContext(source, globals)).then(() => process.exit());

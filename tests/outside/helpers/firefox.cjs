// A page in Firefox that has loaded the client, told what to do by lines: by WebDriver BiDi, which Firefox speaks itself.
const { spawn } = require("node:child_process");
const { mkdirSync, writeFileSync } = require("node:fs");
const { createInterface } = require("node:readline");
const WebSocket = require("ws");
const { serve } = require("./repl.cjs");

const [browserPath, profile, origin] = process.argv.slice(2);
// It asks its maker for nothing.
const preferences = {
  "app.normandy.enabled": false,
  "app.update.disabledForTesting": true,
  "browser.safebrowsing.update.enabled": false,
  "datareporting.policy.dataSubmissionEnabled": false,
  "extensions.systemAddon.update.enabled": false,
  "network.captive-portal-service.enabled": false,
  "network.connectivity-service.enabled": false,
  "services.settings.server": "data:,",
};

// Its address, which it prints on stderr.
function start() {
  mkdirSync(profile, { recursive: true });
  const lines = Object.entries(preferences).map(([name, value]) => `user_pref("${name}", ${JSON.stringify(value)});\n`);
  writeFileSync(`${profile}/user.js`, lines.join(""));
  const flags = ["--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0"];
  const browser = spawn(browserPath, flags, { stdio: ["ignore", "ignore", "pipe"] });
  const address = new Promise((resolve, reject) => {
    createInterface({ input: browser.stderr }).on("line", (line) => {
      const [, found] = line.match(/WebDriver BiDi listening on (\S+)/) || [];
      if (found) resolve(found);
    });
    browser.on("exit", (code) => reject(new Error(`Firefox ended: ${code}`)));
  });
  return { browser, address };
}

// Commands of WebDriver BiDi, each with its answer.
async function connect(address) {
  const socket = new WebSocket(`${address}/session`);
  const unanswered = new Map();
  let number = 0;
  socket.on("message", (text) => {
    const { id, type, result, message } = JSON.parse(text);
    const [resolve, reject] = unanswered.get(id) || [];
    unanswered.delete(id);
    if (type === "success") resolve(result);
    else if (type === "error" && reject) reject(new Error(message));
  });
  await new Promise((resolve, reject) => socket.on("open", resolve).on("error", reject));
  return (method, params) => new Promise((resolve, reject) => {
    unanswered.set(++number, [resolve, reject]);
    socket.send(JSON.stringify({ id: number, method, params }));
  });
}

async function main() {
  const { browser, address } = start();
  try {
    const ask = await connect(await address);
    const acceptInsecureCerts = origin.startsWith("https:");
    await ask("session.new", { capabilities: { alwaysMatch: { acceptInsecureCerts } } });
    const { context } = await ask("browsingContext.create", { type: "tab" });
    await ask("browsingContext.navigate", { context, url: `${origin}/oneloop.js`, wait: "complete" });
    const evaluate = async (source) => {
      const { exceptionDetails, result } = await ask("script.evaluate", {
        expression: `(async () => JSON.stringify(await ${source}))()`, target: { context }, awaitPromise: true,
      });
      if (exceptionDetails) throw new Error(exceptionDetails.text);
      return result.value && JSON.parse(result.value);
    };
    await evaluate(`new Promise((onload, onerror) => {
      document.head.append(Object.assign(document.createElement("script"), { src: location.href, onload, onerror }));
    }).then(() => null)`);
    await serve(evaluate);
    await ask("browser.close", {});
  } finally {
    browser.kill();
  }
}

main().then(() => process.exit(), (error) => {
  console.error(error);
  process.exit(1);
});

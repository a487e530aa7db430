// Uses the page with the keyboard alone, on a narrow screen, and prints what was seen as one JSON line.
const { execFileSync } = require("node:child_process");
const { chromium } = require("playwright-core");

const [story, browserPath, profile, url, token, command, ...words] = process.argv.slice(2);
const flags = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
// Of the smallest phones in use.
const viewport = { width: 320, height: 640 };

const stories = {
  // The page has a token of its own; `token` is one that has expired.
  async ready({ page, shows, tabTo, connectWith, publish }) {
    const subscribe = async (topic) => {
      await tabTo("#topic");
      await page.keyboard.type(topic + "\n");
    };
    await shows("\\bconnected\\b");
    const own = await page.inputValue("#token textarea");
    await subscribe("room.7");
    await subscribe("secret");
    await shows("secret: forbidden");
    const before = await page.innerText("body");
    const published = await publish();
    const after = await page.innerText("body");
    const widths = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    await connectWith(token);
    await shows("closed\\s+4500: signature");
    const refused = await page.innerText("body");
    await connectWith(own);
    await shows("\\bconnected\\b");
    await tabTo("[aria-label='Leave room.7']");
    await page.keyboard.press("Enter");
    const topics = await page.innerText("#topics");
    return { before, published, after, widths, refused, topics };
  },
  // Its box publishes on each of the channels `command` and `words`.
  async box({ page, shows, tabTo }) {
    await shows("\\bconnected\\b");
    await tabTo("#topic");
    await page.keyboard.type("room.7\n");
    await shows("room\\.7\\s+asked for here");
    const answers = [];
    for (const channel of [command, ...words]) {
      await tabTo("#channel");
      await page.keyboard.press("Control+A");
      await page.keyboard.type(channel);
      await tabTo("#data");
      await page.keyboard.press("Control+A");
      await page.keyboard.type(JSON.stringify({ on: channel }));
      await page.evaluate(() => { document.getElementById("published").textContent = ""; });
      await page.keyboard.press("Enter");
      await page.waitForFunction(() => document.getElementById("published").textContent);
      answers.push(await page.innerText("#published"));
    }
    await shows('"on":"pub.room.7"');
    return { answers, messages: await page.locator("#messages code").allInnerTexts() };
  },
  // It has none, and is given `token`.
  async key({ page, shows, connectWith, publish }) {
    await shows("paste a token");
    const before = await page.innerText("body");
    await connectWith(token);
    await shows("\\bconnected\\b");
    await publish();
    return { before, after: await page.innerText("body") };
  },
};

async function main() {
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: browserPath, headless: true, args: flags, viewport,
  });
  try {
    const page = await browser.newPage();
    const errors = [];
    const loaded = [];
    page.on("pageerror", (error) => errors.push(String(error)));
    page.on("request", (request) => loaded.push(request.url()));
    await page.goto(url);
    const shows = (source) => page.waitForFunction(
      (pattern) => new RegExp(pattern, "i").test(document.body.innerText),
      source, { timeout: 30000 },
    );
    const tabTo = async (selector) => {
      for (let n = 0; n < 30; n++) {
        if (await page.evaluate((one) => document.activeElement.matches(one), selector)) return;
        await page.keyboard.press("Tab");
      }
      throw new Error(`the keyboard does not reach ${selector}`);
    };
    const connectWith = async (token) => {
      await tabTo("#token textarea");
      await page.keyboard.press("Control+A");
      await page.keyboard.insertText(token);
      await tabTo("#token button");
      await page.keyboard.press("Enter");
    };
    const publish = async () => {
      const published = execFileSync(command, words, { encoding: "utf8" });
      await shows(Object.values(JSON.parse(words.at(-1)))[0]);
      return published;
    };
    const seen = await stories[story]({ page, shows, tabTo, connectWith, publish });
    console.log(JSON.stringify({ ...seen, errors, loaded }));
  } finally {
    await browser.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

// Opens the page in Chromium, waits until it is connected, runs the given command, waits until
// the page shows its last word's text, and prints what was seen as one JSON line.
const { execFileSync } = require("node:child_process");
const { chromium } = require("playwright-core");

const [browserPath, profile, url, command, ...words] = process.argv.slice(2);
const flags = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

async function main() {
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: browserPath, headless: true, args: flags,
  });
  try {
    const page = await browser.newPage();
    const errors = [];
    page.on("pageerror", (error) => errors.push(String(error)));
    await page.goto(url);
    const shows = (source) => page.waitForFunction(
      (pattern) => new RegExp(pattern, "i").test(document.body.innerText),
      source, { timeout: 30000 },
    );
    await shows("\\bconnected\\b");
    const before = await page.innerText("body");
    const published = execFileSync(command, words, { encoding: "utf8" });
    const payload = JSON.parse(words.at(-1));
    await shows(Object.values(payload)[0]);
    const after = await page.innerText("body");
    console.log(JSON.stringify({ before, published, after, errors }));
  } finally {
    await browser.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

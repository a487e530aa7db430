// A page in Chromium that has loaded the client, told what to do by lines.
const { chromium } = require("playwright-core");
const { serve } = require("./repl.cjs");

const [browserPath, profile, origin] = process.argv.slice(2);
const flags = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];

async function main() {
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: browserPath, headless: true, args: flags, ignoreHTTPSErrors: origin.startsWith("https:"),
  });
  try {
    const page = await browser.newPage();
    await page.goto(`${origin}/oneloop.js`);
    await page.addScriptTag({ url: `${origin}/oneloop.js` });
    await serve((source) => page.evaluate(source));
  } finally {
    await browser.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

// Lays the panels that come on stdin out as Grafana would, the first line of each row, and takes a picture of them.
const { readFileSync } = require("node:fs");
const { chromium } = require("playwright-core");

const [browserPath, profile, picture] = process.argv.slice(2);
const flags = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
const PAGE_WIDTH = 1400;
const COLUMN = (PAGE_WIDTH - 16) / 24;
const LINE = 28;
const GAP = 8;
const COLOURS = ["#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9", "#8ab8ff"];

// ---- values with their units

const scaled = (value, base, names) => {
  let power = 0;
  while (Math.abs(value) >= base && power < names.length - 1) {
    value /= base;
    power += 1;
  }
  return `${rounded(value)}${names[power]}`;
};
const rounded = (value) => String(Number(value.toPrecision(3)));
const units = {
  short: (value) => scaled(value, 1000, ["", " K", " Mil", " Bil"]),
  ops: (value) => scaled(value, 1000, [" ops/s", "K ops/s", "M ops/s"]),
  bytes: (value) => scaled(value, 1024, [" B", " KiB", " MiB", " GiB"]),
  Bps: (value) => scaled(value, 1000, [" B/s", " kB/s", " MB/s", " GB/s"]),
  percentunit: (value) => `${rounded(value * 100)}%`,
  s(value) {
    if (value === 0) return "0 s";
    if (value < 1e-3) return `${rounded(value * 1e6)} µs`;
    if (value < 1) return `${rounded(value * 1e3)} ms`;
    return value < 60 ? `${rounded(value)} s` : `${rounded(value / 60)} mins`;
  },
};

// ---- lines over time

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

// Some three steps up to the largest value, each of a round number of the unit.
function steps(largest, unit) {
  const binary = unit === "bytes" ? 1024 ** Math.floor(Math.log(Math.max(largest, 1)) / Math.log(1024)) : 1;
  const wanted = (largest || 1) / binary / 3;
  const power = 10 ** Math.floor(Math.log10(wanted));
  const step = [1, 2, 5, 10].find((one) => one * power >= wanted) * power * binary;
  return Array.from({ length: Math.ceil((largest || 1) / step - 1e-9) + 1 }, (_, n) => n * step);
}

// The points of each line with where its area begins: at zero, or upon the line below it.
function areas(lines, stacked) {
  const tops = new Map();
  return lines.map(({ points }) => points.map(([at, value]) => {
    const second = Math.round(at);
    const low = stacked ? tops.get(second) ?? 0 : 0;
    tops.set(second, low + value);
    return { at, low, high: low + value };
  }));
}

// Between two scrapes of which none answered there is no line.
function pieces(points) {
  const found = [];
  for (const point of points) {
    const last = found.at(-1)?.at(-1);
    if (last && point.at - last.at < 1.5) found.at(-1).push(point);
    else found.push([point]);
  }
  return found;
}

function curves(drawn, x, y, filling) {
  const path = (points, key) => points.map((point) => `${x(point.at).toFixed(1)},${y(point[key]).toFixed(1)}`);
  return drawn.map((points, n) => pieces(points).map((piece) => {
    const [high, low] = [path(piece, "high"), path(piece, "low").reverse()];
    const colour = COLOURS[n % COLOURS.length];
    return `<polygon points="${[...high, ...low].join(" ")}" fill="${colour}" opacity="${filling}"/>` +
      `<polyline points="${high.join(" ")}" fill="none" stroke="${colour}" stroke-width="1.3"/>`;
  }).join("")).join("");
}

function graph(panel, { begin, seconds }, width, height) {
  const [left, right, bottom] = [72, 10, 20];
  const drawn = areas(panel.lines, panel.stacked);
  const marks = steps(Math.max(0, ...drawn.flat().map(({ high }) => high)), panel.unit);
  const x = (at) => left + at / seconds * (width - left - right);
  const y = (value) => height - bottom - value / marks.at(-1) * (height - bottom - 8);
  const rows = marks.map((mark) => `<line x1="${left}" x2="${width - right}" y1="${y(mark)}" y2="${y(mark)}"/>
    <text x="${left - 8}" y="${y(mark) + 4}" text-anchor="end">${units[panel.unit](mark)}</text>`);
  const times = [];
  for (let at = 15 - begin % 15; at < seconds - 3; at += 15) {
    const time = new Date((begin + at) * 1000).toISOString().slice(11, 19);
    times.push(`<line x1="${x(at)}" x2="${x(at)}" y1="8" y2="${height - bottom}"/>
      <text x="${x(at)}" y="${height - 4}" text-anchor="middle">${time}</text>`);
  }
  return `<svg width="${width}" height="${height}">${rows.join("")}${times.join("")}
    ${curves(drawn, x, y, panel.stacked ? 0.3 : 0.1)}</svg>`;
}

// ---- panels

function timeseries(panel, when, width, height) {
  const legend = panel.lines.map((line, n) =>
    `<span><i style="background:${COLOURS[n % COLOURS.length]}"></i>${escaped(line.legend)}</span>`);
  return `<h2>${escaped(panel.title)}</h2>${graph(panel, when, width, height - 64)}
    <div class="legend">${legend.join("")}</div>`;
}

function stat(panel, { seconds }, width, height) {
  const last = panel.lines[0]?.points.at(-1)?.[1];
  const word = panel.words[String(last)];
  const text = last === undefined ? "No data" : word ?? units[panel.unit](last);
  const drawn = areas(panel.lines, false);
  const largest = Math.max(1e-9, ...drawn.flat().map(({ high }) => high));
  const below = curves(drawn, (at) => at / seconds * width, (value) => 46 - value / largest * 42, 0.2);
  return `<h2>${escaped(panel.title)}</h2><b>${text}</b>
    <svg class="below" width="${width}" height="46">${below}</svg>`;
}

// The rows, each with the first line of its panels alone, moved up to where the others were left out.
function firstLines(panels) {
  const kept = [];
  let [from, to, bottom] = [null, 0, 0];
  for (const panel of panels) {
    const { y, h } = panel.place;
    // A line begins below a row; any other one is left out.
    if (from === null || panel.type === "row" || kept.at(-1).type === "row") [from, to] = [y, bottom];
    if (y !== from) continue;
    kept.push({ ...panel, place: { ...panel.place, y: to } });
    bottom = to + h;
  }
  return kept;
}

function html({ panels, ...when }) {
  const shown = firstLines(panels);
  const height = Math.max(...shown.map(({ place }) => place.y + place.h)) * LINE + GAP;
  const boxes = shown.map((panel) => {
    const { x, y, w, h } = panel.place;
    const [width, tall] = [w * COLUMN - GAP, h * LINE - GAP];
    const style = `left:${GAP + x * COLUMN}px;top:${GAP + y * LINE}px;width:${width}px;height:${tall}px`;
    const inside = panel.type === "row" ? `<h1>⌄ ${escaped(panel.title)}</h1>`
      : (panel.type === "stat" ? stat : timeseries)(panel, when, width, tall);
    return `<section class="${panel.type}" style="${style}">${inside}</section>`;
  });
  return `<!doctype html><meta charset="utf-8"><style>
    body { margin: 0; height: ${height}px; position: relative; background: #111217; color: #ccccdc;
      font: 12px Inter, "DejaVu Sans", sans-serif; }
    section { position: absolute; box-sizing: border-box; overflow: hidden; background: #181b1f;
      outline: 1px solid #25272d; border-radius: 2px; }
    section.row { background: none; outline: none; }
    h1 { font-size: 14px; margin: 0; font-weight: 500; }
    h2 { font-size: 13px; font-weight: 500; margin: 8px 10px 4px; }
    b { display: block; text-align: center; font-size: 26px; font-weight: 500; color: #73bf69; }
    svg { display: block; font-size: 11px; fill: #9a9ba5; }
    svg.below { position: absolute; bottom: 0; }
    line { stroke: #2c2f36; }
    .legend { margin: 4px 10px; line-height: 15px; }
    .legend span { margin-right: 14px; white-space: nowrap; display: inline-block; }
    .legend i { display: inline-block; width: 13px; height: 4px; margin-right: 6px; vertical-align: 3px; border-radius: 2px; }
    </style>${boxes.join("\n")}`;
}

async function main() {
  const page = html(JSON.parse(readFileSync(0, "utf8")));
  const viewport = { width: PAGE_WIDTH, height: 800 };
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: browserPath, headless: true, args: flags, viewport,
  });
  try {
    const tab = await browser.newPage();
    await tab.setContent(page);
    await tab.screenshot({ path: picture, fullPage: true });
  } finally {
    await browser.close();
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

// Answers each line of stdin, a piece of JavaScript with values for its names, with what it came to.
const { createInterface } = require("node:readline");

exports.serve = async function serve(evaluate) {
  const say = (answer) => process.stdout.write(JSON.stringify(answer) + "\n");
  say({ value: "ready" });
  for await (const line of createInterface({ input: process.stdin })) {
    const { code, values } = JSON.parse(line);
    const source = `(({ ${Object.keys(values).join(", ")} }) => (${code}))(${JSON.stringify(values)})`;
    try {
      say({ value: await evaluate(source) });
    } catch (error) {
      say({ error: String(error && error.stack) });
    }
  }
};

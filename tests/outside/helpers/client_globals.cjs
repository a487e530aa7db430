// Parses the client as ECMAScript of 2015, and says which global names it makes, as a script and as a module.
const fs = require("node:fs");
const vm = require("node:vm");
const acorn = require("acorn");

const text = fs.readFileSync(process.argv[2], "utf8");
acorn.parse(text, { ecmaVersion: 2015 });
const page = vm.createContext({});
vm.runInContext(text, page);
const globals = vm.runInContext("Object.getOwnPropertyNames(globalThis)", page);
const before = vm.runInContext("Object.getOwnPropertyNames(globalThis)", vm.createContext({}));
const made = globals.filter((name) => !before.includes(name));
console.log(JSON.stringify({ globals: made, exported: typeof require(process.argv[2]) === "function" }));

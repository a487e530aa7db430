// A client over TLS: LIBRARY URL AUTHORITY TOKEN. Prints each message, sends one after the first, and closes after the last.
const { readFileSync } = require("node:fs");

const [library, url, authority, token] = process.argv.slice(2);
const UP = JSON.stringify({ op: "ping", padding: "x".repeat(3000) });
const protocols = ["oneloop.v1", `bearer.${token}`];

// Both ask for compression. The built-in one trusts the file named in NODE_EXTRA_CA_CERTS.
const socket = library === "ws"
  ? new (require("ws"))(url, protocols, { ca: readFileSync(authority) })
  : new WebSocket(url, protocols);
let first = true;
socket.onmessage = ({ data }) => {
  console.log(data);
  if (first) socket.send(UP);
  first = false;
  if (JSON.parse(data).data === "last") socket.close(1000);
};
socket.onerror = ({ message }) => console.error(message);
socket.onclose = ({ code, wasClean }) => process.exit(wasClean && code === 1000 ? 0 : 1);

// Shows a token in each of the four places with the `ws` package, and a refused one in each;
// prints one JSON line for each connection: how it was welcomed or how it ended.
const WebSocket = require("ws");

const [url, good, bad] = process.argv.slice(2);

const places = {
  header: (token) => new WebSocket(url, { headers: { Authorization: `Bearer ${token}` } }),
  subprotocol: (token) => new WebSocket(url, ["oneloop.v1", `bearer.${token}`]),
  query: (token) => new WebSocket(`${url}?token=${token}`),
  frame: (token) => {
    const socket = new WebSocket(url);
    socket.on("open", () => socket.send(JSON.stringify({ op: "auth", token })));
    return socket;
  },
};

function outcome(place, token) {
  return new Promise((resolve, reject) => {
    const socket = places[place](token);
    socket.on("message", (data, isBinary) => {
      socket.close();
      resolve({ place, welcome: JSON.parse(data), isBinary, protocol: socket.protocol });
    });
    socket.on("close", (code, reason) => resolve({ place, code, reason: String(reason) }));
    socket.on("unexpected-response", (_, response) => {
      let body = "";
      response.on("data", (part) => (body += part));
      response.on("end", () => resolve({ place, status: response.statusCode, body }));
    });
    socket.on("error", reject);
  });
}

async function main() {
  for (const token of [good, bad]) {
    for (const place of Object.keys(places)) {
      console.log(JSON.stringify(await outcome(place, token)));
    }
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

// Publishes with ioredis or node-redis as their users do: LIBRARY PORT CHANNEL FIRST TRANSACTED… Prints each answer.
const [library, port, channel, first, ...others] = process.argv.slice(2);

async function ioredis() {
  const Redis = require("ioredis");
  const client = new Redis({ port: Number(port), host: "127.0.0.1" });
  console.log(JSON.stringify(await client.publish(channel, first)));
  const transaction = client.multi();
  others.forEach((payload) => transaction.publish(channel, payload));
  console.log(JSON.stringify((await transaction.exec()).map(([, answer]) => answer)));
  client.disconnect();
}

async function nodeRedis() {
  const { createClient } = require("redis");
  const client = createClient({ url: `redis://127.0.0.1:${port}` });
  await client.connect();
  console.log(JSON.stringify(await client.publish(channel, first)));
  const transaction = client.multi();
  others.forEach((payload) => transaction.publish(channel, payload));
  console.log(JSON.stringify(await transaction.exec()));
  await client.close();
}

({ ioredis, "node-redis": nodeRedis })[library]().catch((error) => {
  console.error(error);
  process.exit(1);
});

// An event-loop HTTP service: answers /work/ID after up to three calls of /work/ID.N downstream, one after the other
// or at once. Meanwhile a timer calls the same downstream, through the same agent, as /work/bg-PID-N.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const { setTimeout: sleep } = require('timers/promises');

const options = {};
for (let i = 2; i < process.argv.length; i += 2) options[process.argv[i].slice(2)] = process.argv[i + 1];
const [host, port] = (options.downstream || '').split(':');
const backgroundMs = Number(options['background-ms'] ?? 15);

const SIZES = [0, 10, 1000, 20000, 100000];
const pick = (items) => items[Math.floor(Math.random() * items.length)];
const pool = new http.Agent({ keepAlive: true });

// The id of a call; its truth goes to the ledger: the id, that of its request or -, and the status that it must get.
function name(cause, number) {
  let id = cause === null ? `bg-${process.pid}-${number}` : `${cause}.${number}`;
  if (options.names === 'random') id = crypto.randomBytes(8).toString('hex');
  if (options.ledger) fs.appendFileSync(options.ledger, `${id} ${cause ?? '-'} 200\n`);
  return id;
}

function call(id) {
  return new Promise((resolve, reject) => {
    const pooled = Math.random() < 0.6;
    const body = Math.random() < 0.25 ? Buffer.alloc(pick([1, 500, 30000]), 'b') : null;
    const request = http.request(
      {
        host,
        port,
        path: `/work/${id}?pooled=${pooled}`,
        method: body ? 'POST' : 'GET',
        agent: pooled ? pool : false,
        headers: body ? { 'Content-Length': body.length } : {},
      },
      (response) => {
        response.resume();
        response.on('end', () => (response.statusCode === 200 ? resolve() : reject(new Error(`${id}: ${response.statusCode}`))));
        response.on('error', reject);
      },
    );
    request.on('error', reject);
    request.end(body);
  });
}

async function delayedCall(id) {
  await sleep(Math.random() * 3);
  await call(id);
}

const server = http.createServer(async (request, response) => {
  for await (const _ of request);
  const id = request.url.replace('/work/', '').split('?')[0];
  let calls = 0;
  if (options.downstream) {
    calls = options.calls === undefined ? Math.floor(Math.random() * 4) : Number(options.calls);
    const ids = Array.from({ length: calls }, (_, number) => name(id, number));
    if (Math.random() < 0.5) await Promise.all(ids.map(delayedCall));
    else for (const callId of ids) await delayedCall(callId);
  }
  const body = Buffer.concat([Buffer.from(`calls=${calls}\n`), Buffer.alloc(pick(SIZES), 'x')]);
  if (Math.random() < 0.5) {
    response.setHeader('Content-Length', body.length);
    response.end(body);
  } else {
    for (let at = 0; at < body.length; at += 7000) response.write(body.subarray(at, at + 7000));
    response.end();
  }
});
server.keepAliveTimeout = 0;

async function background() {
  for (let number = 0; ; number++) {
    await sleep(Math.random() * 2 * backgroundMs);
    await call(name(null, number));
  }
}

server.listen({ host: '127.0.0.1', port: 0, backlog: 128 }, () => {
  console.log(`PORT ${server.address().port}`);
  if (options.downstream && backgroundMs) background();
});

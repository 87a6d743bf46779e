// An event-loop HTTP service: answers /work/ID after up to three calls of /work/ID.N downstream, one after the other
// or at once. Meanwhile a timer calls the same downstream, through the same agent, as /work/bg-PID-N.
//
// --client http    an agent that keeps connections and opens as many as there are calls
// --client queue   an agent of four connections, for which calls queue
// --client undici  undici's pool of eight connections, for which calls queue
// --client fetch   the runtime's own fetch
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
const client = options.client ?? 'http';
const pool = new http.Agent(client === 'queue' ? { keepAlive: true, maxSockets: 4 } : { keepAlive: true });
const undiciPool = client === 'undici' && new (require('undici').Pool)(`http://${options.downstream}`, { connections: 8 });

// The id of a call; its truth goes to the ledger: the id, that of its request or -, and the status that it must get.
function name(cause, number, status = 200) {
  let id = cause === null ? `bg-${process.pid}-${number}` : `${cause}.${number}`;
  if (options.names === 'random') id = crypto.randomBytes(8).toString('hex');
  if (options.ledger) fs.appendFileSync(options.ledger, `${id} ${cause ?? '-'} ${status}\n`);
  return id;
}

// The call, before which now and then one fails that has to be tried again.
async function call(cause, number) {
  if (options.ledger && Math.random() < 0.03) await send(name(cause, `${number}-failed`, 503), 503);
  await send(name(cause, number), 200);
}

async function send(id, wanted) {
  const body = Math.random() < 0.25 ? Buffer.alloc(pick([1, 500, 30000]), 'b') : null;
  const path = `/work/${id}${wanted === 200 ? '' : '?fail=yes'}`;
  const method = body ? 'POST' : 'GET';
  const pooled = Math.random() < 0.6;
  let status;
  if (client === 'undici' && pooled) {
    const response = await undiciPool.request({ path, method, body });
    await response.body.arrayBuffer();
    status = response.statusCode;
  } else if (client === 'fetch') {
    const headers = pooled ? {} : { connection: 'close' };
    const response = await fetch(`http://${options.downstream}${path}`, { method, body, headers });
    await response.arrayBuffer();
    status = response.status;
  } else {
    status = await viaAgent(path, method, body, pooled ? pool : false);
  }
  if (status !== wanted) throw new Error(`${id}: ${status}`);
}

function viaAgent(path, method, body, agent) {
  return new Promise((resolve, reject) => {
    const headers = body ? { 'Content-Length': body.length } : {};
    const request = http.request({ host, port, path, method, agent, headers }, (response) => {
      response.resume();
      response.on('end', () => resolve(response.statusCode));
      response.on('error', reject);
    });
    request.on('error', reject);
    request.end(body);
  });
}

async function delayedCall(cause, number) {
  await sleep(Math.random() * 3);
  await call(cause, number);
}

const server = http.createServer(async (request, response) => {
  try {
    for await (const _ of request);
  } catch {
    return; // Who asked has gone.
  }
  const id = request.url.replace('/work/', '').split('?')[0];
  let calls = 0;
  if (options.downstream) {
    calls = options.calls === undefined ? Math.floor(Math.random() * 4) : Number(options.calls);
    const numbers = [...Array(calls).keys()];
    if (Math.random() < 0.5) await Promise.all(numbers.map((number) => delayedCall(id, number)));
    else for (const number of numbers) await delayedCall(id, number);
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
    await call(null, number);
  }
}

server.listen({ host: '127.0.0.1', port: 0, backlog: 128 }, () => {
  console.log(`PORT ${server.address().port}`);
  if (options.downstream && backgroundMs) background();
});

// As tls_client.py, on one thread.
'use strict';
const fs = require('fs');
const https = require('https');
const readline = require('readline');

const ca = fs.readFileSync(process.argv[2]);

function get(options) {
  return new Promise((resolve, reject) => {
    const request = https.get(options, (response) => {
      const local = response.socket.localPort;
      response.resume();
      response.on('end', () => (response.statusCode === 200 ? resolve(local) : reject(response.statusCode)));
      response.on('error', reject);
    });
    request.on('error', reject);
  });
}

async function ask(port, prefix, task, count, mode, maxVersion, lines) {
  const agent = new https.Agent({ keepAlive: mode === 'keep', maxSockets: 1 });
  for (let number = 0; number < count; number++) {
    const path = `/work/${prefix}.${task}.${number}`;
    const local = await get({ host: '127.0.0.1', port, path, agent, ca, maxVersion });
    lines.push(`${path} ${local}`);
  }
  agent.destroy();
}

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const [port, prefix, concurrency, count, mode, version] = line.split(' ');
    const [lines, tasks] = [[], []];
    const each = Math.floor(count / concurrency);
    for (let n = 0; n < concurrency; n++) tasks.push(ask(port, prefix, n, each, mode, `TLSv${version}`, lines));
    await Promise.all(tasks);
    console.log(lines.join('\n'));
    console.log('done', prefix);
  }
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});

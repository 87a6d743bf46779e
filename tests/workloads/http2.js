// Node.js's own HTTP/2: serves any path, or calls where a target is named. N of a path /N decides how an exchange ends: 404,
// 500, given up by the client, refused by the server. The client writes what it got of each to standard output:
// PATH STATUS-OR-ERROR BYTES
'use strict';
const http2 = require('http2');
const { CANCEL, REFUSED } = { CANCEL: 8, REFUSED: 7 };
const options = {};
for (let at = 2; at < process.argv.length; at += 2) options[process.argv[at].slice(2)] = process.argv[at + 1];

function serve() {
  const server = http2.createServer();
  server.on('stream', (stream, headers) => {
    stream.on('error', () => {});
    const number = Number(headers[':path'].slice(1));
    if (number % 10 === 7) return stream.close(REFUSED);
    if (number % 10 === 9) return;
    stream.additionalHeaders({ ':status': 103, link: '</x>' });
    stream.respond({ ':status': { 3: 404, 5: 500 }[number % 10] || 200 }, { waitForTrailers: number % 2 === 0 });
    stream.on('wantTrailers', () => stream.sendTrailers({ 'x-end': '1' }));
    let len = 0;
    stream.on('data', (piece) => { len += piece.length; });
    stream.on('end', () => stream.end(Buffer.alloc(number * 100)));
  });
  server.listen(0, '127.0.0.1', () => console.log('PORT', server.address().port));
}

function call() {
  const session = http2.connect(`http://${options.target}`);
  const [count, concurrency] = [Number(options.count || 100), Number(options.concurrency || 10)];
  let [next, open] = [0, 0];
  const more = () => {
    while (open < concurrency && next < count) one(next++);
    if (open === 0) session.close();
  };
  const one = (number) => {
    open += 1;
    const stream = session.request({ ':method': 'POST', ':path': `/${number}` });
    let [status, len, over] = ['-', 0, false];
    stream.on('response', (headers) => { status = headers[':status']; });
    stream.on('data', (piece) => { len += piece.length; });
    stream.on('error', () => {});
    stream.on('close', () => {
      const code = stream.rstCode;
      console.log(`/${number}`, code ? `E${code}` : status, len);
      open -= 1;
      more();
    });
    if (number % 10 === 9) setTimeout(() => stream.close(CANCEL), 20);
    stream.end('x'.repeat(number));
  };
  session.on('connect', more);
}

if (options.target) call(); else serve();

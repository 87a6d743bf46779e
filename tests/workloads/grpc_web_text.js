// Calls over grpc-web as programs in browsers do it that read answers while they come: in Base64, with fetch. The number in
// a method's name decides how a call ends; the ledger is that of grpc/main.go.
'use strict';
const TEXT = 'application/grpc-web-text';
const options = {};
for (let at = 2; at < process.argv.length; at += 2) options[process.argv[at].slice(2)] = process.argv[at + 1];

function framed(message) {
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

// Servers pad each piece that they flush.
function decode(text) {
  return Buffer.concat((text.match(/[^=]+=*/g) || []).map((piece) => Buffer.from(piece, 'base64')));
}

async function call(path) {
  const began = process.hrtime.bigint();
  const answer = await fetch(`http://${options.target}/${path}`, {
    method: 'POST',
    headers: { 'content-type': TEXT, accept: TEXT, 'x-grpc-web': '1' },
    body: framed(Buffer.alloc(20, 'x')).toString('base64'),
  });
  const body = decode(await answer.text());
  let [code, received] = [answer.headers.get('grpc-status') || '2', 0];
  for (let at = 0; at < body.length;) {
    const [flags, len] = [body[at], body.readUInt32BE(at + 1)];
    const content = body.subarray(at + 5, at + 5 + len);
    at += 5 + len;
    if (flags & 0x80) code = /grpc-status: *(\d+)/.exec(content.toString())[1];
    else received += 1;
  }
  console.log(path, code, 1, received, Number(process.hrtime.bigint() - began));
}

async function main() {
  const [count, concurrency] = [Number(options.count || 100), Number(options.concurrency || 10)];
  let next = 0;
  const caller = async () => {
    while (next < count) {
      const number = next++;
      // These are left without an answer.
      if ([9, 19].includes(number % 20)) continue;
      await call(`test.Echo/${number % 2 ? 'Server' : 'Unary'}-${number}`);
    }
  };
  await Promise.all(Array.from({ length: concurrency }, caller));
}

main();

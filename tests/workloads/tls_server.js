// An HTTPS server. Arguments: certificate, key. Prints its port.
'use strict';
const fs = require('fs');
const https = require('https');

const [cert, key] = process.argv.slice(2).map((name) => fs.readFileSync(name));
const server = https.createServer({ cert, key }, (request, response) => {
  // Now and then more than a TLS record holds.
  const length = request.url.endsWith('7') ? 40000 : (request.url.length * 37) % 3000;
  response.end(Buffer.alloc(length, 'x'));
});
server.listen(0, '127.0.0.1', 256, () => console.log('port', server.address().port));

// The stock server of the small shop: answers /stock/ITEM after a moment's thought.
'use strict';
const http = require('http');

const server = http.createServer((request, response) => {
  const item = request.url.split('/').pop();
  setTimeout(() => {
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify({ item, left: item.length }));
  }, 3);
});
server.listen(0, '127.0.0.1', () => console.log('PORT', server.address().port));

<?php
// Answers /work/ID after up to three calls of /work/ID.N downstream; with AFTER, calls once more when it has answered.

$id = explode('?', substr($_SERVER['REQUEST_URI'], strlen('/work/')))[0];
$downstream = 'http://' . $_SERVER['DOWNSTREAM'] . '/work/';
$calls = random_int(0, 3);
for ($n = 0; $n < $calls; $n++) {
    if (file_get_contents("$downstream$id.$n") === false) {
        http_response_code(500);
        exit;
    }
}
$sizes = [0, 10, 1000, 20000, 100000];
header('Content-Type: text/plain');
echo "calls=$calls\n", str_repeat('x', $sizes[array_rand($sizes)]);
if (!empty($_SERVER['AFTER'])) {
    fastcgi_finish_request();
    file_get_contents($downstream . 'bg-' . getmypid() . '-' . hrtime(true));
}

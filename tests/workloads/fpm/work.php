<?php
// A service for PHP-FPM: answers /work/ID after up to three calls of /work/ID.N, one after the other or at once.
// DOWNSTREAM is host:port, LEDGER the file for the truth: a line per call with its id, the id of its request, and the
// status that it must get. NAMES may be `random`.
declare(strict_types=1);

$cause = explode('?', substr($_SERVER['REQUEST_URI'], strlen('/work/')))[0];
file_get_contents('php://input');

function named(string $number, int $status): string
{
    global $cause;
    $id = getenv('NAMES') === 'random' ? bin2hex(random_bytes(8)) : "$cause.$number";
    file_put_contents(getenv('LEDGER'), "$id $cause $status\n", FILE_APPEND);
    return $id;
}

function call(string $id, int $wanted): CurlHandle
{
    $curl = curl_init('http://' . getenv('DOWNSTREAM') . "/work/$id" . ($wanted === 200 ? '?k=v' : '?fail=yes'));
    curl_setopt($curl, CURLOPT_RETURNTRANSFER, true);
    if (random_int(0, 3) === 0) {
        curl_setopt($curl, CURLOPT_POSTFIELDS, str_repeat('b', [1, 500, 30000][random_int(0, 2)]));
        curl_setopt($curl, CURLOPT_HTTPHEADER, ['Expect:']);
    }
    return $curl;
}

function finished(CurlHandle $curl, int $wanted): void
{
    $status = curl_getinfo($curl, CURLINFO_RESPONSE_CODE);
    if ($status !== $wanted) {
        http_response_code(500);
        exit("status $status: " . curl_error($curl));
    }
}

$calls = random_int(0, 3);
if (random_int(0, 1) === 0) {
    // At once.
    $all = curl_multi_init();
    $handles = [];
    for ($number = 0; $number < $calls; $number++) {
        $handles[] = $handle = call(named((string) $number, 200), 200);
        curl_multi_add_handle($all, $handle);
    }
    do {
        curl_multi_exec($all, $running);
        curl_multi_select($all);
    } while ($running > 0);
    foreach ($handles as $handle) {
        finished($handle, 200);
    }
} else {
    $kept = null;
    for ($number = 0; $number < $calls; $number++) {
        usleep(random_int(0, 3000));
        if (random_int(0, 32) === 0) {
            // One that fails and has to be tried again.
            $failing = call(named("$number-failed", 503), 503);
            curl_exec($failing);
            finished($failing, 503);
        }
        $curl = call(named((string) $number, 200), 200);
        if ($kept !== null && random_int(0, 1) === 0) {
            // On the connection of the one before.
            curl_setopt($kept, CURLOPT_URL, curl_getinfo($curl, CURLINFO_EFFECTIVE_URL));
            $curl = $kept;
        }
        curl_exec($curl);
        finished($curl, 200);
        $kept = $curl;
    }
}
$body = "calls=$calls\n" . str_repeat('x', [0, 10, 1000, 20000, 100000][random_int(0, 4)]);
if (random_int(0, 1) === 0) {
    header('Content-Length: ' . strlen($body));
}
echo $body;

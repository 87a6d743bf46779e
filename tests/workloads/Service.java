// An HTTP service on com.sun.net.httpserver: answers /work/ID after up to three calls of /work/ID.N downstream.
//
// --mode pool      a fixed thread pool serves; calls are made by the thread that serves
// --mode hop       calls are handed to a second pool that all requests share
// --mode fork      a work-stealing pool serves; calls are forked as its tasks, and a thread that waits for its own may
//                  meanwhile run those of other requests
// --mode virtual   a virtual thread per request serves and calls (Java 21 and later)
// Meanwhile a timer thread calls the same downstream as /work/bg-PID-N.

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ForkJoinPool;
import java.util.concurrent.ForkJoinTask;
import java.util.concurrent.ThreadLocalRandom;

public class Service {
    static final int[] SIZES = {0, 10, 1000, 20_000, 100_000};
    static final Map<String, String> OPTIONS = new HashMap<>();
    static ExecutorService callers;

    static double chance() {
        return ThreadLocalRandom.current().nextDouble();
    }

    static int pick(int... items) {
        return items[ThreadLocalRandom.current().nextInt(items.length)];
    }

    static void call(String id) {
        try {
            var url = URI.create("http://" + OPTIONS.get("downstream") + "/work/" + id + "?k=v").toURL();
            var connection = (HttpURLConnection) url.openConnection();
            if (chance() < 0.25) {
                byte[] body = new byte[pick(1, 500, 30_000)];
                Arrays.fill(body, (byte) 'b');
                connection.setDoOutput(true);
                if (chance() < 0.5) connection.setFixedLengthStreamingMode(body.length);
                try (OutputStream out = connection.getOutputStream()) {
                    out.write(body);
                }
            }
            try (InputStream in = connection.getInputStream()) {
                in.readAllBytes();
            }
            if (connection.getResponseCode() != 200) throw new IOException(id + ": " + connection.getResponseCode());
            // Closes an idle connection of the cache, so that later calls open new ones. (After a request with
            // "Connection: close" the cache would hand out a connection that the server has closed.)
            if (chance() < 0.4) connection.disconnect();
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    static void pause(double maxMs) {
        try {
            Thread.sleep(0, (int) (chance() * 999_999));
            Thread.sleep((long) (chance() * maxMs));
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    static void serve(HttpExchange exchange) throws IOException {
        try (exchange) {
            exchange.getRequestBody().readAllBytes();
            String id = exchange.getRequestURI().getPath().substring("/work/".length());
            int calls = 0;
            if (OPTIONS.containsKey("downstream")) {
                String fixed = OPTIONS.get("calls");
                calls = fixed == null ? pick(0, 1, 2, 3) : Integer.parseInt(fixed);
                if (OPTIONS.getOrDefault("mode", "").equals("fork")) forkCalls(id, calls);
                else for (int number = 0; number < calls; number++) {
                    pause(3);
                    String callId = id + "." + number;
                    if (callers == null) call(callId);
                    else CompletableFuture.runAsync(() -> call(callId), callers).join();
                }
            }
            byte[] head = ("calls=" + calls + "\n").getBytes(StandardCharsets.UTF_8);
            byte[] body = Arrays.copyOf(head, head.length + pick(SIZES));
            Arrays.fill(body, head.length, body.length, (byte) 'x');
            exchange.sendResponseHeaders(200, chance() < 0.5 ? body.length : 0);
            exchange.getResponseBody().write(body);
        } catch (RuntimeException e) {
            e.printStackTrace();
            System.exit(1);
        }
    }

    static void forkCalls(String id, int calls) {
        var tasks = new ArrayList<ForkJoinTask<?>>();
        for (int number = 0; number < calls; number++) {
            String callId = id + "." + number;
            tasks.add(ForkJoinTask.adapt(() -> {
                pause(3);
                // A task with a task of its own: what steals this one has work to be stolen in turn.
                ForkJoinTask.adapt(() -> call(callId)).fork().join();
            }).fork());
        }
        tasks.forEach(ForkJoinTask::join);
    }

    static void background() {
        long period = Long.parseLong(OPTIONS.getOrDefault("background-ms", "15"));
        long pid = ProcessHandle.current().pid();
        for (int number = 0; period > 0; number++) {
            pause(2 * period);
            call("bg-" + pid + "-" + number);
        }
    }

    static ExecutorService virtualThreads() throws ReflectiveOperationException {
        // By name, so that older Java versions can run the other modes.
        return (ExecutorService) Executors.class.getMethod("newVirtualThreadPerTaskExecutor").invoke(null);
    }

    public static void main(String[] args) throws Exception {
        for (int i = 0; i < args.length; i += 2) OPTIONS.put(args[i].substring(2), args[i + 1]);
        System.setProperty("sun.net.httpserver.nodelay", "true");
        System.setProperty("sun.net.httpserver.maxIdleConnections", "1000");
        System.setProperty("http.maxConnections", "64");
        String mode = OPTIONS.getOrDefault("mode", "pool");
        if (mode.equals("hop")) callers = Executors.newFixedThreadPool(16);
        var server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 128);
        server.setExecutor(switch (mode) {
            case "virtual" -> virtualThreads();
            case "fork" -> new ForkJoinPool(16);
            default -> Executors.newFixedThreadPool(64);
        });
        server.createContext("/work/", Service::serve);
        server.start();
        System.out.println("PORT " + server.getAddress().getPort());
        if (OPTIONS.containsKey("downstream")) new Thread(Service::background).start();
    }
}

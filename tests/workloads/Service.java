// An HTTP service on com.sun.net.httpserver: answers /work/ID after up to three calls of /work/ID.N downstream.
//
// --mode pool      a fixed thread pool serves; calls are made by the thread that serves
// --mode hop       calls are handed to a second pool that all requests share, whose results are waited for
// --mode nested    the same through two pools
// --mode fan-out   all calls at once on the second pool; all are waited for
// --mode forget    calls on the second pool that nobody waits for
// --mode queue     a bounded queue before four threads: who puts a job in waits for other requests' jobs
// --mode semaphore a task gives back what another request waits for
// --mode coalesce  requests that come while a call is on its way share its result
// --mode mixed     calls on the second pool that nobody waits for, between other work there that is waited for
// --mode handed    who submits a call waits for the result of the one that was submitted longest ago, for whomever
// --mode left      who waits through a second pool waits for a call that another task of that pool has left there, for whomever
// --mode latch     the end of any call lets every request that waits go on
// --mode refresh   requests wait for a refresh that no request causes
// --mode client    calls by java.net.http.HttpClient, which waits for threads of its own
// --mode async     the same, all at once
// --mode fork      a work-stealing pool serves; calls are forked as its tasks, and a thread that waits for its own may
//                  meanwhile run those of other requests
// --mode virtual   a virtual thread per request serves and calls (Java 21 and later)
// --server virtual the same for any mode: a virtual thread serves; calls that nobody waits for have one of their own, too
// --pool fork      a work-stealing pool calls
// --pool lanes     a pool calls whose tasks each take one job after the other from a lane's queue, as actors do
// Meanwhile a timer thread calls the same downstream as /work/bg-PID-N.
//
// --ledger FILE    the truth: a line per call, its id, the id of its request or -, and the status that it must get
// --names random   ids that tell nothing

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.io.UncheckedIOException;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.AbstractExecutorService;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.ForkJoinPool;
import java.util.concurrent.ForkJoinTask;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.Semaphore;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;

public class Service {
    static final int[] SIZES = {0, 10, 1000, 20_000, 100_000};
    static final Map<String, String> OPTIONS = new HashMap<>();
    static ExecutorService callers;
    static ExecutorService between;
    static final BlockingQueue<Runnable> JOBS = new ArrayBlockingQueue<>(2);
    static final BlockingQueue<Future<?>> LEFT = new LinkedBlockingQueue<>();
    static final Semaphore FEW = new Semaphore(4);
    static final Object SHARED = new Object();
    static Future<?> shared;
    static final Object LATCH = new Object();
    static final BlockingQueue<Future<?>> SUBMITTED = new LinkedBlockingQueue<>();
    static long turn;
    static long generation;
    static HttpClient client;

    static double chance() {
        return ThreadLocalRandom.current().nextDouble();
    }

    static int pick(int... items) {
        return items[ThreadLocalRandom.current().nextInt(items.length)];
    }

    /** The id of a call; {@code cause} is null for background work. */
    static String name(String cause, String number, int status) {
        String id = cause == null ? "bg-" + ProcessHandle.current().pid() + "-" + number : cause + "." + number;
        if (OPTIONS.getOrDefault("names", "").equals("random")) {
            id = String.format("%016x", ThreadLocalRandom.current().nextLong());
        }
        if (OPTIONS.containsKey("ledger")) {
            try {
                Files.writeString(
                    Path.of(OPTIONS.get("ledger")),
                    id + " " + (cause == null ? "-" : cause) + " " + status + "\n",
                    StandardOpenOption.CREATE,
                    StandardOpenOption.APPEND);
            } catch (IOException e) {
                throw new UncheckedIOException(e);
            }
        }
        return id;
    }

    /** The call, before which now and then one fails that has to be tried again. */
    static void call(String cause, String number) {
        if (fails()) send(name(cause, number + "-failed", 503), 503);
        send(name(cause, number, 200), 200);
    }

    static boolean fails() {
        return OPTIONS.containsKey("ledger") && chance() < 0.03;
    }

    static URI address(String id, int wanted) {
        return URI.create(
            "http://" + OPTIONS.get("downstream") + "/work/" + id + (wanted == 200 ? "?k=v" : "?fail=yes"));
    }

    static void send(String id, int wanted) {
        try {
            var url = address(id, wanted).toURL();
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
            int status = connection.getResponseCode();
            try (InputStream in = status == 200 ? connection.getInputStream() : connection.getErrorStream()) {
                if (in != null) in.readAllBytes();
            }
            if (status != wanted) throw new IOException(id + ": " + status);
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
                makeCalls(OPTIONS.getOrDefault("mode", "pool"), id, calls);
            }
            byte[] head = ("calls=" + calls + "\n").getBytes(StandardCharsets.UTF_8);
            byte[] body = Arrays.copyOf(head, head.length + pick(SIZES));
            Arrays.fill(body, head.length, body.length, (byte) 'x');
            exchange.sendResponseHeaders(200, chance() < 0.5 ? body.length : 0);
            exchange.getResponseBody().write(body);
        } catch (RuntimeException e) {
            // Where Jetty serves, a client that went away.
            if (e.getClass() == RuntimeException.class && e.getCause() instanceof IOException) return;
            e.printStackTrace();
            System.exit(1);
        }
    }

    static void makeCalls(String mode, String cause, int count) {
        switch (mode) {
            case "fork" -> forkCalls(cause, count);
            case "fan-out" -> {
                var results = new ArrayList<Future<?>>();
                for (int i = 0; i < count; i++) {
                    String number = "" + i;
                    results.add(callers.submit(() -> call(cause, number)));
                }
                results.forEach(Service::await);
            }
            case "async" -> {
                var results = new ArrayList<CompletableFuture<?>>();
                for (int i = 0; i < count; i++) {
                    String number = "" + i;
                    results.add(
                        fails()
                            ? sendAsync(cause, number + "-failed", 503)
                                .thenCompose(failed -> sendAsync(cause, number, 200))
                            : sendAsync(cause, number, 200));
                }
                results.forEach(CompletableFuture::join);
            }
            case "coalesce" -> {
                if (count > 0) await(sharedCall(cause));
            }
            default -> {
                for (int i = 0; i < count; i++) {
                    pause(3);
                    oneCall(mode, cause, "" + i);
                }
            }
        }
    }

    static void oneCall(String mode, String cause, String number) {
        switch (mode) {
            case "hop" -> CompletableFuture.runAsync(() -> call(cause, number), callers).join();
            case "nested" -> await(between.submit(() -> await(callers.submit(() -> call(cause, number)))));
            case "forget" -> callers.submit(() -> call(cause, number));
            case "handed" -> {
                SUBMITTED.add(callers.submit(() -> call(cause, number)));
                pause(3);
                await(SUBMITTED.remove());
            }
            case "left" -> {
                between.submit(() -> LEFT.add(callers.submit(() -> call(cause, number))));
                pause(3);
                await(between.submit(Service::awaitLeft));
            }
            case "mixed" -> {
                callers.submit(() -> call(cause, number));
                await(callers.submit(Service::compute));
            }
            case "semaphore" -> {
                FEW.acquireUninterruptibly();
                callers.submit(() -> {
                    try {
                        call(cause, number);
                    } finally {
                        FEW.release();
                    }
                });
            }
            case "queue" -> put(() -> call(cause, number));
            case "latch" -> {
                synchronized (LATCH) {
                    long seen = turn;
                    callers.submit(() -> {
                        call(cause, number);
                        synchronized (LATCH) {
                            turn++;
                            LATCH.notifyAll();
                        }
                    });
                    waitWhile(() -> turn == seen);
                }
            }
            case "refresh" -> {
                synchronized (LATCH) {
                    long seen = generation;
                    waitWhile(() -> generation == seen);
                }
                call(cause, number);
            }
            case "client" -> {
                if (fails()) sendSync(cause, number + "-failed", 503);
                sendSync(cause, number, 200);
            }
            default -> call(cause, number);
        }
    }

    static void awaitLeft() {
        Future<?> left = LEFT.poll();
        if (left != null) await(left);
    }

    /** Work that calls nobody. */
    static void compute() {
        if (chance() < 0.5) pause(1);
    }

    /** The call that is on its way, or one that is made for this request. */
    static Future<?> sharedCall(String cause) {
        synchronized (SHARED) {
            if (shared == null || shared.isDone()) shared = callers.submit(() -> call(cause, "0"));
            return shared;
        }
    }

    static HttpRequest request(String cause, String number, int wanted) {
        return HttpRequest.newBuilder(address(name(cause, number, wanted), wanted)).build();
    }

    static void sendSync(String cause, String number, int wanted) {
        try {
            check(client.send(request(cause, number, wanted), HttpResponse.BodyHandlers.ofByteArray()), wanted);
        } catch (IOException | InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    static CompletableFuture<?> sendAsync(String cause, String number, int wanted) {
        return client
            .sendAsync(request(cause, number, wanted), HttpResponse.BodyHandlers.ofByteArray())
            .thenAccept(response -> check(response, wanted));
    }

    static void check(HttpResponse<?> response, int wanted) {
        if (response.statusCode() != wanted) {
            throw new IllegalStateException(response.uri() + ": " + response.statusCode());
        }
    }

    static void await(Future<?> future) {
        try {
            future.get();
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }

    static void put(Runnable job) {
        try {
            JOBS.put(job);
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    /** Waits for {@link #LATCH}, which the caller holds, at most a second. */
    static void waitWhile(java.util.function.BooleanSupplier condition) {
        long end = System.nanoTime() + 1_000_000_000L;
        try {
            while (condition.getAsBoolean() && System.nanoTime() < end) LATCH.wait(100);
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    static void workOff() {
        try {
            while (true) JOBS.take().run();
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    static void refreshForEver() {
        for (long number = 0; ; number++) {
            pause(3);
            call(null, "refresh" + number);
            synchronized (LATCH) {
                generation++;
                LATCH.notifyAll();
            }
        }
    }

    static void forkCalls(String cause, int calls) {
        var tasks = new ArrayList<ForkJoinTask<?>>();
        for (int i = 0; i < calls; i++) {
            String number = "" + i;
            tasks.add(ForkJoinTask.adapt(() -> {
                pause(3);
                // A task with a task of its own: what steals this one has work to be stolen in turn.
                ForkJoinTask.adapt(() -> call(cause, number)).fork().join();
            }).fork());
        }
        tasks.forEach(ForkJoinTask::join);
    }

    static void background() {
        long period = Long.parseLong(OPTIONS.getOrDefault("background-ms", "15"));
        for (int number = 0; period > 0; number++) {
            pause(2 * period);
            call(null, "" + number);
        }
    }

    // Jobs of one lane are done in turn, by whichever thread of the pool has taken the lane.
    static final class Lanes extends AbstractExecutorService {
        final ExecutorService pool;
        final List<ArrayDeque<Runnable>> lanes = new ArrayList<>();

        Lanes(ExecutorService pool, int count) {
            this.pool = pool;
            for (int i = 0; i < count; i++) lanes.add(new ArrayDeque<>());
        }

        @Override
        public void execute(Runnable job) {
            var lane = lanes.get(ThreadLocalRandom.current().nextInt(lanes.size()));
            synchronized (lane) {
                lane.add(job);
                if (lane.size() > 1) return;
            }
            pool.execute(() -> {
                Runnable next = job;
                while (next != null) {
                    next.run();
                    synchronized (lane) {
                        lane.remove();
                        next = lane.peek();
                    }
                }
            });
        }

        @Override
        public void shutdown() {
            pool.shutdown();
        }

        @Override
        public List<Runnable> shutdownNow() {
            return pool.shutdownNow();
        }

        @Override
        public boolean isShutdown() {
            return pool.isShutdown();
        }

        @Override
        public boolean isTerminated() {
            return pool.isTerminated();
        }

        @Override
        public boolean awaitTermination(long time, TimeUnit unit) throws InterruptedException {
            return pool.awaitTermination(time, unit);
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
        boolean virtual = mode.equals("virtual") || OPTIONS.getOrDefault("server", "").equals("virtual");
        boolean forgets = virtual && mode.equals("forget");
        boolean steals = OPTIONS.getOrDefault("pool", "").equals("fork");
        callers = forgets ? virtualThreads() : steals ? new ForkJoinPool(16) : Executors.newFixedThreadPool(16);
        if (OPTIONS.getOrDefault("pool", "").equals("lanes")) callers = new Lanes(callers, 4);
        between = Executors.newFixedThreadPool(mode.equals("left") ? 2 : 16);
        client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        var server = HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 128);
        server.setExecutor(
            virtual ? virtualThreads()
                : mode.equals("fork") ? new ForkJoinPool(16)
                : Executors.newFixedThreadPool(64));
        server.createContext("/work", Service::serve);
        server.start();
        System.out.println("PORT " + server.getAddress().getPort());
        if (!OPTIONS.containsKey("downstream")) return;
        new Thread(Service::background).start();
        if (mode.equals("refresh")) new Thread(Service::refreshForEver).start();
        for (int i = 0; i < 4 && mode.equals("queue"); i++) new Thread(Service::workOff).start();
    }
}

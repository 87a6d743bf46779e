// gRPC of grpc-java on Netty, without generated code: the methods, calls and ledger of grpc/main.go.
//
// It serves, or calls where --target names a server. The number of a call decides how it ends. --concurrency 1,10 makes --count
// calls one at a time, and as many again ten at a time.

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.HandlerRegistry;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Server;
import io.grpc.ServerCall;
import io.grpc.ServerMethodDefinition;
import io.grpc.Status;
import io.grpc.netty.NettyChannelBuilder;
import io.grpc.netty.NettyServerBuilder;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetSocketAddress;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;

public final class GrpcEcho {
    static final int MESSAGES = 5;
    static final String[] KINDS = {"Unary", "Client", "Server", "Both"};

    // Messages are bytes as they are.
    static final class Raw implements MethodDescriptor.Marshaller<byte[]> {
        @Override
        public InputStream stream(byte[] message) {
            return new ByteArrayInputStream(message);
        }

        @Override
        public byte[] parse(InputStream stream) {
            try {
                return stream.readAllBytes();
            } catch (IOException error) {
                throw new IllegalStateException(error);
            }
        }
    }

    static MethodDescriptor<byte[], byte[]> method(String name, MethodDescriptor.MethodType type) {
        return MethodDescriptor.newBuilder(new Raw(), new Raw()).setType(type).setFullMethodName(name).build();
    }

    static String kind(String name) {
        return name.substring(name.indexOf('/') + 1).split("-")[0];
    }

    static int outcome(String name) {
        return Integer.parseInt(name.substring(name.indexOf('-') + 1)) % 20;
    }

    static boolean isRefused(int outcome) {
        return outcome == 3 || outcome == 13;
    }

    static boolean isGivenUp(int outcome) {
        return outcome == 9 || outcome == 19;
    }

    static final class Answering extends ServerCall.Listener<byte[]> {
        final ServerCall<byte[], byte[]> call;
        final String kind;
        byte[] last = {};

        Answering(ServerCall<byte[], byte[]> call, String name) {
            this.call = call;
            this.kind = kind(name);
            call.sendHeaders(new Metadata());
            call.request(2 * MESSAGES);
        }

        @Override
        public void onMessage(byte[] message) {
            last = message;
            if (kind.equals("Both")) {
                call.sendMessage(message);
            }
        }

        @Override
        public void onHalfClose() {
            int answers = switch (kind) {
                case "Server" -> MESSAGES;
                case "Both" -> 0;
                default -> 1;
            };
            for (int answer = 0; answer < answers; answer++) {
                call.sendMessage(last);
            }
            call.close(Status.OK, new Metadata());
        }
    }

    static ServerCall.Listener<byte[]> serve(ServerCall<byte[], byte[]> call, String name) {
        int outcome = outcome(name);
        if (isRefused(outcome)) {
            call.close(Status.NOT_FOUND.withDescription("no such thing"), new Metadata());
        } else if (outcome == 7) {
            call.close(Status.UNAVAILABLE.withDescription("not now"), new Metadata());
        } else if (!isGivenUp(outcome)) {
            return new Answering(call, name);
        }
        return new ServerCall.Listener<>() {};
    }

    static void listen() throws Exception {
        HandlerRegistry registry = new HandlerRegistry() {
            @Override
            public ServerMethodDefinition<?, ?> lookupMethod(String name, String authority) {
                return ServerMethodDefinition.create(
                    method(name, MethodDescriptor.MethodType.BIDI_STREAMING), (call, headers) -> serve(call, name));
            }
        };
        Server server = NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", 0))
            .fallbackHandlerRegistry(registry).build().start();
        System.out.println("PORT " + server.getPort());
        server.awaitTermination();
    }

    static void call(Channel channel, int number) throws InterruptedException {
        String kind = KINDS[number % KINDS.length];
        String name = "test.Echo/" + kind + "-" + number;
        int outcome = outcome(name);
        CallOptions options = CallOptions.DEFAULT;
        if (outcome == 19) {
            options = options.withDeadlineAfter(20, TimeUnit.MILLISECONDS);
        }
        MethodDescriptor.MethodType type = switch (kind) {
            case "Unary" -> MethodDescriptor.MethodType.UNARY;
            case "Client" -> MethodDescriptor.MethodType.CLIENT_STREAMING;
            case "Server" -> MethodDescriptor.MethodType.SERVER_STREAMING;
            default -> MethodDescriptor.MethodType.BIDI_STREAMING;
        };
        CountDownLatch done = new CountDownLatch(1);
        AtomicInteger received = new AtomicInteger();
        Status[] ended = new Status[1];
        long began = System.nanoTime();
        ClientCall<byte[], byte[]> call = channel.newCall(method(name, type), options);
        call.start(new ClientCall.Listener<>() {
            @Override
            public void onMessage(byte[] message) {
                received.incrementAndGet();
            }

            @Override
            public void onClose(Status status, Metadata trailers) {
                ended[0] = status;
                done.countDown();
            }
        }, new Metadata());
        call.request(2 * MESSAGES);
        int sends = kind.equals("Client") || kind.equals("Both") ? MESSAGES : 1;
        for (int send = 0; send < sends; send++) {
            call.sendMessage("x".repeat(20).getBytes());
        }
        call.halfClose();
        if (outcome == 9 && !done.await(20, TimeUnit.MILLISECONDS)) {
            call.cancel("given up", null);
        }
        done.await();
        long took = System.nanoTime() - began;
        System.out.println(name + " " + ended[0].getCode().value() + " " + sends + " " + received + " " + took);
    }

    static void makeCalls(Channel channel, int concurrency, AtomicInteger next, int end) throws InterruptedException {
        Thread[] callers = new Thread[concurrency];
        for (int caller = 0; caller < callers.length; caller++) {
            callers[caller] = new Thread(() -> {
                try {
                    for (int number = next.getAndIncrement(); number < end; number = next.getAndIncrement()) {
                        call(channel, number);
                    }
                } catch (InterruptedException error) {
                    throw new IllegalStateException(error);
                }
            });
            callers[caller].start();
        }
        for (Thread caller : callers) {
            caller.join();
        }
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> options = new HashMap<>();
        for (int at = 0; at + 1 < arguments.length; at += 2) {
            options.put(arguments[at].substring(2), arguments[at + 1]);
        }
        if (!options.containsKey("target")) {
            listen();
            return;
        }
        int count = Integer.parseInt(options.getOrDefault("count", "100"));
        ManagedChannel channel = NettyChannelBuilder.forTarget(options.get("target")).usePlaintext().build();
        AtomicInteger next = new AtomicInteger();
        int end = 0;
        for (String concurrency : options.getOrDefault("concurrency", "10").split(",")) {
            end += count;
            makeCalls(channel, Integer.parseInt(concurrency), next, end);
            next.set(end);
        }
        // What gives streams up is sent behind the program's back.
        channel.shutdown().awaitTermination(1, TimeUnit.SECONDS);
    }
}

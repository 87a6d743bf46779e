import io.netty.bootstrap.Bootstrap;
import io.netty.bootstrap.ServerBootstrap;
import io.netty.buffer.Unpooled;
import io.netty.channel.*;
import io.netty.channel.nio.NioEventLoopGroup;
import io.netty.channel.socket.SocketChannel;
import io.netty.channel.socket.nio.NioServerSocketChannel;
import io.netty.handler.codec.http.*;
import io.netty.handler.ssl.*;
import java.io.File;
import java.net.InetSocketAddress;

/** An HTTPS server on netty and its BoringSSL. Arguments: certificate, key. Prints its port. */
public class TlsNetty {
    public static void main(String[] args) throws Exception {
        SslContext ssl = SslContextBuilder.forServer(new File(args[0]), new File(args[1]))
                .sslProvider(SslProvider.OPENSSL).build();
        EventLoopGroup loops = new NioEventLoopGroup(2);
        ServerBootstrap server = new ServerBootstrap().group(loops).channel(NioServerSocketChannel.class)
                .option(ChannelOption.SO_BACKLOG, 256)
                .childHandler(new ChannelInitializer<SocketChannel>() {
                    @Override protected void initChannel(SocketChannel channel) {
                        channel.pipeline().addLast(ssl.newHandler(channel.alloc()), new HttpServerCodec(), new Answers());
                    }
                });
        Channel channel = server.bind("127.0.0.1", 0).sync().channel();
        System.out.println("port " + ((InetSocketAddress) channel.localAddress()).getPort());
        channel.closeFuture().sync();
    }

    static class Answers extends SimpleChannelInboundHandler<HttpObject> {
        private String path;

        @Override protected void channelRead0(ChannelHandlerContext context, HttpObject part) {
            if (part instanceof HttpRequest) {
                path = ((HttpRequest) part).uri();
            }
            if (part instanceof LastHttpContent) {
                byte[] body = new byte[path.length() * 37 % 3000];
                java.util.Arrays.fill(body, (byte) 'x');
                FullHttpResponse answer = new DefaultFullHttpResponse(HttpVersion.HTTP_1_1, HttpResponseStatus.OK,
                        Unpooled.wrappedBuffer(body));
                answer.headers().set("Content-Length", body.length);
                context.writeAndFlush(answer);
            }
        }
    }
}

import java.net.URI;
import java.security.cert.X509Certificate;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;

/** Asks for a URL once it gets a byte of standard input, whoever answers. */
public class TlsAsk {
    static final class Anyone implements X509TrustManager {
        public void checkClientTrusted(X509Certificate[] chain, String kind) {}

        public void checkServerTrusted(X509Certificate[] chain, String kind) {}

        public X509Certificate[] getAcceptedIssuers() {
            return new X509Certificate[0];
        }
    }

    public static void main(String[] arguments) throws Exception {
        System.out.println("ready");
        System.in.read();
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, new TrustManager[] {new Anyone()}, null);
        HttpsURLConnection connection = (HttpsURLConnection) URI.create(arguments[0]).toURL().openConnection();
        connection.setSSLSocketFactory(context.getSocketFactory());
        connection.setHostnameVerifier((name, session) -> true);
        connection.getInputStream().readAllBytes();
        System.out.println("done");
        Thread.sleep(60_000);
    }
}

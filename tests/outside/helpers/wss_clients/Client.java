import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.TrustManagerFactory;

/** A client over TLS: URL AUTHORITY TOKEN VERSION. Prints each message, sends one after the first, and closes after the last. */
public class Client implements WebSocket.Listener {
    private final CompletableFuture<Integer> end = new CompletableFuture<>();
    private final StringBuilder text = new StringBuilder();
    private boolean first = true;

    public static void main(String[] arguments) throws Exception {
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (var file = Files.newInputStream(Path.of(arguments[1]))) {
            trusted.setCertificateEntry("test", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        var managers = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        managers.init(trusted);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, managers.getTrustManagers(), null);
        var parameters = new SSLParameters(null, new String[] {"TLSv" + arguments[3]});
        Client client = new Client();
        HttpClient.newBuilder().sslContext(context).sslParameters(parameters).build().newWebSocketBuilder()
            .header("Authorization", "Bearer " + arguments[2]).buildAsync(URI.create(arguments[0]), client).join();
        System.exit(client.end.get(60, TimeUnit.SECONDS) == 1000 ? 0 : 1);
    }

    @Override
    public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean last) {
        text.append(part);
        socket.request(1);
        if (!last) {
            return null;
        }
        String message = text.toString();
        text.setLength(0);
        System.out.println(message);
        if (first) {
            first = false;
            socket.sendText("{\"op\":\"ping\",\"padding\":\"" + "x".repeat(3000) + "\"}", true);
        }
        if (message.endsWith("\"data\":\"last\"}")) {
            socket.sendClose(1000, "");
        }
        return null;
    }

    @Override
    public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
        end.complete(code);
        return null;
    }

    @Override
    public void onError(WebSocket socket, Throwable error) {
        end.completeExceptionally(error);
    }
}

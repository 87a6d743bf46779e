// An HTTPS server, and a client of one, of Go's own library.
//
// serve CERTIFICATE KEY   answers any path; prints `port N`
// ask AUTHORITY           a line of standard input asks for a round: `PORT PREFIX CONCURRENCY COUNT new|keep 1.2|1.3|h2`; for
//                         every answer it prints `PATH LOCAL-PORT`, and after the round `done PREFIX`
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"strings"
	"sync"
)

func main() {
	switch os.Args[1] {
	case "serve":
		serve(os.Args[2], os.Args[3])
	case "ask":
		ask(os.Args[2])
	}
}

func serve(certificate, key string) {
	answer := func(w http.ResponseWriter, r *http.Request) {
		w.Write(make([]byte, len(r.URL.Path)*37%3000))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("port", listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(http.ServeTLS(listener, http.HandlerFunc(answer), certificate, key))
}

func ask(authority string) {
	text, err := os.ReadFile(authority)
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var prefix, mode, version string
		var port, concurrency, count int
		fmt.Sscan(lines.Text(), &port, &prefix, &concurrency, &count, &mode, &version)
		config := &tls.Config{RootCAs: roots}
		if version == "1.2" {
			config.MaxVersion = tls.VersionTLS12
		}
		transport := &http.Transport{
			TLSClientConfig: config, ForceAttemptHTTP2: version == "h2", DisableKeepAlives: mode == "new",
			MaxIdleConnsPerHost: concurrency,
		}
		var output sync.Mutex
		var all sync.WaitGroup
		for thread := 0; thread < concurrency; thread++ {
			all.Add(1)
			go func(thread int) {
				defer all.Done()
				for number := 0; number < count/concurrency; number++ {
					path := fmt.Sprintf("/work/%s.%d.%d", prefix, thread, number)
					from := get(&http.Client{Transport: transport}, fmt.Sprintf("https://127.0.0.1:%d%s", port, path))
					output.Lock()
					fmt.Println(path, from)
					output.Unlock()
				}
			}(thread)
		}
		all.Wait()
		transport.CloseIdleConnections()
		fmt.Println("done", prefix)
	}
}

// The local port of the connection that the answer came on.
func get(client *http.Client, url string) string {
	var port string
	trace := &httptrace.ClientTrace{GotConn: func(got httptrace.GotConnInfo) {
		local := got.Conn.LocalAddr().String()
		port = local[strings.LastIndex(local, ":")+1:]
	}}
	request, err := http.NewRequest("GET", url, nil)
	if err != nil {
		log.Fatal(err)
	}
	response, err := client.Do(request.WithContext(httptrace.WithClientTrace(request.Context(), trace)))
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != 200 {
		log.Fatal(response.Status, err)
	}
	return port
}
